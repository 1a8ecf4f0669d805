"""What a function returns beside its estimates: returns, weights of the policy gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.estimates.calls import (
    OUTPUTS,
)
from actorcritic.audit.estimates.examples import small_cases, table_of
from actorcritic.audit.estimates.readings import (
    NORMALISED,
    Normalised,
    Reading,
    drawn,
)
from actorcritic.audit.findings import (
    RISKY,
    Finding,
)
from actorcritic.audit.truths import (
    QUANTITIES,
    Numbers,
    Trajectory,
    n_step_returns,
    td_errors,
    vtrace_advantages,
)

if TYPE_CHECKING:
    from actorcritic.audit.estimates.audit import Audit


def beside(audit: Audit, reading: Reading) -> Iterator[tuple[str, Finding | None]]:
    """Checks beside the main output: what else it returns, and a single element."""
    if reading.normalised.name == "normalised":
        yield "normalisation-of-one-element", of_one_element(audit, reading)
    x = audit._random(reading.form)[0]
    outputs = audit.outputs(x, reading.form)
    for index, (name, _) in enumerate(outputs):
        if index == reading.output:
            continue
        role = calling.match_name(name, OUTPUTS) if name else None
        first = len(outputs) == 2 or role is not None
        if audit.kind == "advantages" and (role == "returns" or (not name and first)):
            yield from returns_beside(audit, reading, index, bool(name))
        elif audit.kind == "vtrace" and (role == "advantages" or (not name and first)):
            yield from weights_beside(audit, reading, index, bool(name))
        else:
            audit.choices.append(f"a further output {name or index + 1} was not looked at")


def of_one_element(audit: Audit, reading: Reading) -> Finding | None:
    x = drawn(7, (1, 1), audit.scope(reading.form))
    try:
        got = audit.outputs(x, reading.form)[reading.output][1]
    except (Exception, SystemExit) as error:
        audit.not_checked.append(
            f"normalisation-of-one-element: it raised {calling.one_line(error)}"
        )
        return None
    if np.isfinite(got).all():
        return None
    return Finding(
        "normalisation-of-one-element",
        "Normalising a single advantage gives a number that is not finite.",
        "One minibatch of one row turns every parameter into NaN, for good.",
        f"one step of one environment: expected a finite number, actual {got.item()}",
        "Use the population deviation, or normalise only if there is more than one element.",
        RISKY,
    )


def returns_beside(
    audit: Audit, reading: Reading, index: int, named: bool
) -> Iterator[tuple[str, Finding | None]]:
    """The returns beside the advantages: A + V."""
    xs = audit._random(reading.form)
    got = [audit.outputs(x, reading.form)[index][1] for x in xs]

    def is_(truth: Callable[[Trajectory], Numbers]) -> bool:
        return all(audit.close(x, y, truth(reading.view(x))) for x, y in zip(xs, got, strict=True))

    def raw(x: Trajectory) -> Numbers:
        return QUANTITIES[reading.quantity](x)

    if is_(lambda x: raw(x) + x.values):
        yield "returns-include-value", None
        return
    for text, truth in (
        ("TD errors", td_errors),
        ("the discounted return", n_step_returns),
        ("TD targets", lambda x: td_errors(x) + x.values),
        ("the advantages once more, normalised", lambda x: NORMALISED[1](raw(x))),
    ):
        if is_(truth):
            audit.choices.append(f"the output beside the advantages is {text}")
            return
    example = example_beside(audit, reading, index)
    finding = Finding(
        "returns-include-value",
        "The returns beside the advantages are not advantages + values.",
        "The critic is trained towards something that is not the value.",
        example,
        "returns = advantages + values, before any normalisation.",
    )
    if is_(raw):
        wrong = "The returns are the advantages again: V(s_t) was not added."
        yield (
            finding.check,
            finding._replace(
                wrong=wrong,
                effect="The critic is trained towards the advantage, whose mean is zero: it "
                "forgets the value.",
            ),
        )
    elif reading.normalised.name and is_(lambda x: reading.finish(raw(x)) + x.values):
        yield (
            finding.check,
            finding._replace(
                wrong="The returns are values + normalised advantages: they were summed "
                "after the normalisation.",
            ),
        )
    elif named:
        yield finding.check, finding
    else:
        audit.choices.append("a second output was not recognised, and not judged")


def example_beside(audit: Audit, reading: Reading, index: int) -> str:
    plain = reading._replace(normalised=Normalised())
    for x in small_cases(audit, reading.form):
        try:
            got = audit.outputs(x, reading.form)[index][1]
        except (Exception, SystemExit):
            continue
        expected = plain.raw(x) + x.values
        if not audit.close(x, got, expected):
            return table_of(audit, plain, x, expected, got)
    return "see the check"


def weights_beside(
    audit: Audit, reading: Reading, index: int, named: bool
) -> Iterator[tuple[str, Finding | None]]:
    """V-trace's advantages for the policy gradient."""
    xs = audit._random(reading.form)
    got = [audit.outputs(x, reading.form)[index][1] for x in xs]

    def blended(x: Trajectory) -> Numbers:
        """With λ, some take λ v_{s+1} + (1 − λ) V(x_{s+1}) for what follows."""
        rho = np.minimum(x.rho_clip, x.ratio)
        return x.lam * vtrace_advantages(x) + (1 - x.lam) * rho * td_errors(x)

    def is_(truth: Callable[[Trajectory], Numbers]) -> bool:
        return all(audit.close(x, y, truth(reading.view(x))) for x, y in zip(xs, got, strict=True))

    unclipped = lambda x: vtrace_advantages(x) / np.minimum(x.rho_clip, x.ratio)  # noqa: E731
    for text, truth in (
        ("", vtrace_advantages),
        ("advantages blend λ v_{s+1} + (1 − λ) V(x_{s+1})", blended),
        ("advantages are not weighed by ρ", unclipped),
        ("the second output is TD errors", td_errors),
        ("the second output is ρ, clipped", lambda x: np.minimum(x.rho_clip, x.ratio)),
    ):
        if is_(truth):
            if text:
                audit.choices.append(text)
            yield "policy-gradient-advantages", None
            return
    if named:
        yield (
            "policy-gradient-advantages",
            Finding(
                "policy-gradient-advantages",
                "The advantages are not rho_s (r_s + gamma v_{s+1} - V(x_s)).",
                "The policy is improved with another weight than the paper's: biased.",
                "see the definition in the paper, section 4.1",
                "advantage = rho * (reward + gamma * v_next - value), v_next the V-trace "
                "target of the next step, V(s') where an episode was cut, 0 after its end.",
            ),
        )
    else:
        audit.choices.append("a second output was not recognised, and not judged")
