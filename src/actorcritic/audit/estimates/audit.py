"""Audits of advantages, returns and V-trace: a function's numbers against exact definitions.

Truth is computed in float64 by explicit sums over the steps of an episode, never by a recursion.
What a function means by its parameters is found out by trial: the readings of them that people
use are tried on random trajectories, and one under which the definition holds is a convention.
Where none does, known mistakes are put into the definition one by one, then in pairs, and the one
that gives the function's very numbers is what is wrong with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

from actorcritic.audit import calling
from actorcritic.audit.calling import Framework
from actorcritic.audit.estimates.calls import COLUMNS, ENDS, Form, Outputs, Subject
from actorcritic.audit.estimates.checks import PROPERTIES, checks_of, run_checks
from actorcritic.audit.estimates.examples import small_cases, table_of
from actorcritic.audit.estimates.outputs import beside
from actorcritic.audit.estimates.readings import (
    AXES,
    NORMALISED,
    PLAIN,
    Normalised,
    Reading,
    readings,
)
from actorcritic.audit.estimates.trajectories import close
from actorcritic.audit.findings import (
    TIME_LIMITS,
    UNJUDGED,
    CannotCall,
    Fault,
    Ledger,
    Report,
)
from actorcritic.audit.mistakes import Mistake, table
from actorcritic.audit.truths import Trajectory

Samples: TypeAlias = list[tuple[Trajectory, Outputs]]  # what it gave on random trajectories
Mistakes: TypeAlias = tuple[Mistake, ...]


def report(
    kind: str,
    function: Callable[..., Any],
    *,
    mapping: Mapping[str, str] | None = None,
    layout: str | None = None,
    time_limits: str | None = None,
    seed: int = 0,
) -> Report:
    """Audit a function of this kind.

    `layout` BT says that arrays are [B, T]; `time_limits` "terminal" that they are treated as
    terminations on purpose; another `seed` is other random trajectories.
    """
    subject = Subject(function, kind, mapping, layout, time_limits, seed)
    # Trial in order: forms that cannot be told apart by running are told apart by numbers.
    tried: list[tuple[Form, Samples]] = []
    for form in subject.forms():
        tried.append((form, _samples(subject, form)))
        if right := recognised(subject, *tried[-1]):
            return _right(right)
    if not tried:
        return _without_form(subject)
    found = diagnosed(subject, tried)
    if found is None and tried[0][0].framework.name == "numpy":
        for form in subject.forms(Framework("list")):  # where + appends, and does not add up
            if right := recognised(subject, form, _samples(subject, form)):
                return _right(right)
    if found is None:
        return _unjudged(next(readings(subject, tried[0][0], 1)))
    reading, mistakes = found
    if mistakes[0].check == "time-axis" and len(subject.layouts) > 1:
        one = reading.form._replace(layout="T")
        if subject.runs(one) and (right := recognised(subject, one, _samples(subject, one))):
            # It works along the last axis: right for [T], and for batches [B, T].
            return _right(right, "time is the last axis: it takes [T], or batches [B, T]")
    return _wrong(reading, mistakes)


advantages = partial(report, "advantages")  # TD errors, n-step, GAE(λ), and returns beside them
returns = partial(report, "returns")  # Monte Carlo, n-step, λ-returns, TD targets
vtrace = partial(report, "vtrace")  # targets, and the policy gradient's advantages beside them


# ------------------------------------------------------------------------------- what it computes


def _samples(subject: Subject, form: Form) -> Samples:
    try:
        return [(x, subject.outputs(x, form)) for x in subject.random(form)]
    except (Exception, SystemExit) as error:
        raise CannotCall(
            f"{subject.name} failed on a case (called with {subject.called(form)}): "
            f"{calling.one_line(error)}"
        ) from error


def _first(
    tried: Iterable[tuple[Reading, Mistakes]], samples: Samples
) -> tuple[Reading, Mistakes] | None:
    """The first reading that gives its very numbers."""
    for reading, mistakes in tried:
        output = reading.output
        if all(close(x, y[output][1], reading.expected(x, *mistakes)) for x, y in samples):
            return reading, mistakes
    return None


def _normalised(reading: Reading, samples: Samples) -> list[Reading]:
    """The reading, with the normalisations that its numbers can have gone through."""
    y = samples[0][1][reading.output][1]
    parts = [*y.T] if reading.form.layout in COLUMNS else [y]
    centred = max(abs(part.mean()) for part in parts) < 1e-4 and reading.subject.kind != "vtrace"
    hows = [PLAIN, *NORMALISED, Normalised("centred")] if centred else [PLAIN]
    return [reading._replace(normalised=how) for how in hows]


def recognised(subject: Subject, form: Form, samples: Samples) -> Reading | None:
    """The first reading under which its numbers are right."""
    outputs = samples[0][1]
    count = 1 if any(name for name, _ in outputs) else len(outputs)
    for reading in readings(subject, form, count):
        found = _first(((one, ()) for one in _normalised(reading, samples)), samples)
        if found is not None:
            return found[0]
    return None


def diagnosed(
    subject: Subject, tried: list[tuple[Form, Samples]]
) -> tuple[Reading, Mistakes] | None:
    """A reading, and the mistakes in it that give its very numbers: one, or two."""

    def single(reading: Reading, samples: Samples) -> Iterator[tuple[Reading, Mistakes]]:
        options = _normalised(reading, samples)
        for mistake in (*reading.known(), *AXES):
            yield from ((one, (mistake,)) for one in options)

    def pairs(reading: Reading, samples: Samples) -> Iterator[tuple[Reading, Mistakes]]:
        for pair in itertools.combinations(reading.known(), 2):
            if pair[0].check != pair[1].check:
                yield reading, pair

    for attempts in (single, pairs):
        for form, samples in tried:
            for reading in readings(subject, form, 1):
                if found := _first(attempts(reading, samples), samples):
                    return found
    return None


# ------------------------------------------------------------------------------- the report


def _right(reading: Reading, *choices: str) -> Report:
    ledger = Ledger()
    if failed := run_checks(reading, ledger):
        ledger.fail(*_property(reading, failed))
    ledger.choices += choices
    beside(reading, ledger)
    return _reported(reading, ledger)


def _wrong(reading: Reading, mistakes: Mistakes) -> Report:
    ledger = Ledger()
    run_checks(reading, ledger)
    found = reading.mismatch(small_cases(reading)) or reading.mismatch(reading.random())
    example = table_of(reading, *found) if found else "only on large numbers, see the check"
    for mistake in mistakes:
        ledger.fail(mistake.fault, example)
    return _reported(reading, ledger)


def _unjudged(reading: Reading) -> Report:
    ledger = Ledger()
    fault, example = _property(reading, run_checks(reading, ledger))
    ledger.passed.clear()
    ledger.fail(fault._replace(severity=UNJUDGED), example)
    return _reported(reading, ledger)


def _property(reading: Reading, failed: list[str]) -> tuple[Fault, str]:
    """What can be said when no known mistake gives its numbers."""
    told = [name for name in failed if name in PROPERTIES and name != "definition"]
    plain = [reading.drawn(seed, chance=0.0) for seed in range(3)]
    name = told[0] if told and not reading.mismatch(plain) else "definition"
    others = [other for other in failed if other != name]
    wrong = PROPERTIES[name] + (f" These fail too: {', '.join(others)}." if others else "")
    effect = "It learns from numbers that it is not told."
    mend = f"Compare it step by step with {reading.quantity} on the case above."
    for mistake in table(reading.subject.kind, reading.form.successors):
        if mistake.check == name:
            effect, mend = mistake.effect, mistake.mend
            break
    found = reading.mismatch([*small_cases(reading), *checks_of(reading).get(name, [])])
    example = table_of(reading, *found) if found else "see the check"
    return Fault(name, wrong, effect, mend), example


def _without_form(subject: Subject) -> Report:
    """Of a function that could not be called, or whose result is the wrong shape."""
    if subject.broadcast is None:
        raise CannotCall(
            f"{subject.name} could not be called: "
            f"{subject.tried[0] if subject.tried else 'nothing could be tried'}. Tried: "
            f"{subject.matched.describe()}. If a parameter was taken for the wrong thing, add "
            "--map THEIRS=OURS."
        )
    form, error = subject.broadcast
    shape = " x ".join(map(str, error.wanted))
    fault = Fault(
        "output-shape",
        f"Its result is {error.broadcast} where the rewards are {error.wanted}: arrays of "
        "shape (N,) and (N, 1) were broadcast against each other.",
        "Every step is compared with the values of all the others; a mean over it hides that, "
        "and the critic learns the average.",
        "Give both the same shape before subtracting, as values.reshape(rewards.shape).",
    )
    ledger = Ledger()
    ledger.fail(fault, f"rewards, values, expected output: {shape}; actual: {error.broadcast}")
    return ledger.report(subject.name, subject.kind, subject.called(form))


def _reported(reading: Reading, ledger: Ledger) -> Report:
    """With the conventions that the reading shows."""
    subject, form, scope = reading.subject, reading.form, reading.scope
    said = [f"it is taken to compute {reading.quantity}"]
    for name, value in reading.assumed.items():
        if name != "lam" or (reading.has_lambda and subject.kind != "vtrace"):
            source = "of its module" if name in subject.matched.constants else "not a parameter"
            said.append(f"{name} = {value:g}, {source}")
    told_of_ends = scope.ends == "terminations" and not reading.terminal
    flag = next((role for role in ENDS if subject.sees(role)), "")
    first = subject.kind == "advantages"
    choices = {
        "its flag of row t says that observation t starts an episode": form.shifted
        or subject.sees("episode_starts"),
        "done means terminated, and truncated is beside it": form.terminations,
        "values has T + 1 rows, the last one for what follows the last step": form.longer,
        "discounts contain gamma": form.discounted,
        "it takes no value after the last step: the last step ends its episode": scope.whole,
        TIME_LIMITS: reading.terminal,
        f"it is told ends by {flag} alone: an episode that a time limit cut counts as "
        "terminated if it is flagged": told_of_ends,
        reading.normalised.describe(): reading.normalised.name,
        "the advantages are not its first output": reading.output and first,
        f"what is audited is output {reading.output + 1}": reading.output and not first,
    }
    ledger.choices[:0] = [*said, *(text for text, holds in choices.items() if holds)]
    if scope.ends == "none":
        ledger.not_checked.append("ends of episodes: the function is not told of any")
    elif scope.ends == "terminations":
        ledger.not_checked.append("time limits: the function takes no truncation flag")
    return ledger.report(subject.name, subject.kind, subject.called(form))
