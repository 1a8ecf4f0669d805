"""What a function returns beside its estimates: returns, weights of the policy gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.estimates.examples import small_cases, table_of
from actorcritic.audit.estimates.readings import NORMALISED, Reading
from actorcritic.audit.estimates.roles import OUTPUTS
from actorcritic.audit.estimates.trajectories import close
from actorcritic.audit.findings import RISKY, Fault, Ledger
from actorcritic.audit.mistakes import CHECKS
from actorcritic.audit.truths import (
    Numbers,
    Trajectory,
    n_step_returns,
    td_errors,
    vtrace_advantages,
)

OF_ONE = Fault(
    "normalisation-of-one-element",
    "Normalising a single advantage gives a number that is not finite.",
    "One minibatch of one row turns every parameter into NaN, for good.",
    "Use the population deviation, or normalise only if there is more than one element.",
    RISKY,
)
_RETURNS = Fault(
    "returns-include-value",
    "The returns beside the advantages are not advantages + values.",
    "The critic is trained towards something that is not the value.",
    "returns = advantages + values, before any normalisation.",
)
_WEIGHTS = Fault(
    "policy-gradient-advantages",
    "The advantages are not rho_s (r_s + gamma v_{s+1} - V(x_s)).",
    "The policy is improved with another weight than the paper's: biased.",
    "advantage = rho * (reward + gamma * v_next - value), v_next the V-trace target of the next "
    "step, V(s') where an episode was cut, 0 after its end (section 4.1 of the paper).",
)


class Beside(NamedTuple):
    """What a further output may be, and what is then said: a choice, or what is wrong."""

    truth: Callable[[Reading, Trajectory], Numbers]
    choice: str = ""
    fault: Fault | None = None


def _rho(x: Trajectory) -> Numbers:
    return np.minimum(x.rho_clip, x.ratio)


_IS = "the output beside the advantages is"
# Of each kind: the output's role, the fault where none fits, and what fits, the right one first.
ROWS: dict[str, tuple[str, Fault, list[Beside]]] = {
    "advantages": (
        "returns",
        _RETURNS,
        [
            Beside(lambda r, x: r.raw(x) + x.values),
            Beside(lambda r, x: td_errors(x), f"{_IS} TD errors"),
            Beside(lambda r, x: n_step_returns(x), f"{_IS} the discounted return"),
            Beside(lambda r, x: td_errors(x) + x.values, f"{_IS} TD targets"),
            Beside(
                lambda r, x: NORMALISED[0](r.raw(x)),
                f"{_IS} the advantages once more, normalised",
            ),
            Beside(
                lambda r, x: r.raw(x),
                fault=_RETURNS._replace(
                    wrong="The returns are the advantages again: V(s_t) was not added.",
                    effect=CHECKS["returns-include-value"][0],
                ),
            ),
            Beside(
                lambda r, x: r.expected(x) + x.values,
                fault=_RETURNS._replace(
                    wrong="The returns are values + normalised advantages: they were summed "
                    "after the normalisation."
                ),
            ),
        ],
    ),
    "vtrace": (
        "advantages",
        _WEIGHTS,
        [
            Beside(lambda r, x: vtrace_advantages(x)),
            Beside(  # with λ, some take this for what follows
                lambda r, x: x.lam * vtrace_advantages(x) + (1 - x.lam) * _rho(x) * td_errors(x),
                "advantages blend λ v_{s+1} + (1 − λ) V(x_{s+1})",
            ),
            Beside(lambda r, x: vtrace_advantages(x) / _rho(x), "advantages are not weighed by ρ"),
            Beside(lambda r, x: td_errors(x), "the second output is TD errors"),
            Beside(lambda r, x: _rho(x), "the second output is ρ, clipped"),
        ],
    ),
}


def beside(reading: Reading, ledger: Ledger) -> None:
    """Checks beside the main output: what else it returns, and a single element."""
    if reading.normalised.name == "normalised":
        _of_one_element(reading, ledger)
    role, unknown, rows = ROWS.get(reading.subject.kind, ("", _RETURNS, []))
    xs = reading.random()
    found = [reading.subject.outputs(x, reading.form) for x in xs]
    for index, (name, _) in enumerate(found[0]):
        if index == reading.output:
            continue
        named = bool(name) and calling.match_name(name, OUTPUTS) == role
        if not rows or not (named or (not name and len(found[0]) == 2)):
            ledger.choices.append(f"a further output {name or index + 1} was not looked at")
            continue
        got = [outputs[index][1] for outputs in found]
        for row in rows:
            truths = [row.truth(reading, reading.view(x)) for x in xs]
            if all(map(close, xs, got, truths)):
                break
        else:
            row = Beside(rows[0].truth, "a second output was not recognised, and not judged")
            row = row._replace(fault=unknown) if named else row
        if row.fault is not None:
            ledger.fail(row.fault, _example(reading, index, rows[0]))
        elif row.choice:
            ledger.choices.append(row.choice)
        else:
            ledger.hold(unknown.check)


def _of_one_element(reading: Reading, ledger: Ledger) -> None:
    try:
        got = reading.got(reading.drawn(7, (1, 1)))
    except (Exception, SystemExit) as error:
        ledger.not_checked.append(f"{OF_ONE.check}: it raised {calling.one_line(error)}")
        return
    if np.isfinite(got).all():
        ledger.hold(OF_ONE.check)
    else:
        told = f"one step of one environment: expected a finite number, actual {got.item()}"
        ledger.fail(OF_ONE, told)


def _example(reading: Reading, index: int, right: Beside) -> str:
    for x in small_cases(reading):
        try:
            got = reading.subject.outputs(x, reading.form)[index][1]
        except (Exception, SystemExit):
            continue
        expected = right.truth(reading, reading.view(x))
        if not close(x, got, expected):
            return table_of(reading, x, expected, got)
    return "see the check"
