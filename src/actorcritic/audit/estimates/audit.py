"""Audits of advantages, returns and V-trace: a function's numbers against exact definitions.

Truth is computed in float64 by explicit sums over the steps of an episode, never by a recursion.
What a function means by its parameters is found out by trial: the readings of them that people
use are tried on random trajectories, and one under which the definition holds is a convention.
Where none does, known mistakes are put into the definition one by one, then in pairs, and the one
that gives the function's very numbers is what is wrong with it.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.calling import Framework
from actorcritic.audit.estimates.calls import (
    COLUMNS,
    ENDS,
    FLAGS,
    LAYOUTS,
    N_ROLES,
    OUTPUTS,
    ROLES,
    VTRACE_ROLES,
    Form,
    Subject,
    WrongShape,
    column_of,
    given_of,
    told_apart,
)
from actorcritic.audit.estimates.checks import checks_of, run_checks
from actorcritic.audit.estimates.examples import small_cases, table_of
from actorcritic.audit.estimates.outputs import beside
from actorcritic.audit.estimates.readings import (
    NORMALISED,
    PROPERTIES,
    SHAPES,
    WRONGLY_NORMALISED,
    Normalised,
    Reading,
    Sample,
    Scope,
    close,
    drawn,
    transposed,
)
from actorcritic.audit.findings import (
    TIME_LIMITS,
    UNJUDGED,
    CannotCall,
    Finding,
    Ledger,
    Report,
)
from actorcritic.audit.mistakes import Mistake, table
from actorcritic.audit.truths import (
    QUANTITIES,
    Numbers,
    Trajectory,
)
from actorcritic.core.errors import UserError

_HINTS_BATCH_FIRST = re.compile(
    r"[\[(]\s*(B|N|batch|batch_size|num_envs|n_envs|envs)\s*,\s*(T|time|steps|num_steps|L)\b", re.I
)


class Audit:
    """One audit: how to call it, what it computes, which checks hold, what is wrong."""

    def __init__(
        self,
        function: Callable[..., Any],
        kind: str,
        roles: Mapping[str, tuple[str, ...]],
        mapping: Mapping[str, str] | None,
        layout: str | None,
        time_limits: str | None,
        seed: int,
    ) -> None:
        if layout not in (None, *LAYOUTS):
            raise UserError(f"layout is one of {', '.join(LAYOUTS)}; got '{layout}'.")
        if time_limits not in (None, "terminal", "bootstrap"):
            raise UserError(f"time_limits is terminal or bootstrap; got '{time_limits}'.")
        self.kind, self.function, self.time_limits = kind, function, time_limits
        self.seed = 1000 * seed
        self.matched = calling.recognise(function, roles, told_apart(function, mapping))
        self.layouts = [layout] if layout else list(LAYOUTS)
        self.layouts.sort(key=["TB", "T", "TV", "T1", "BT", "S"].index)
        text = inspect.getdoc(function) or ""
        if layout is None and _HINTS_BATCH_FIRST.search(text):
            self.layouts = ["BT"]
        self.tried: list[str] = []
        self.broadcast: tuple[Form, WrongShape] | None = None
        self.subject = Subject(function, self.matched, kind, self._seen())
        self.choices: list[str] = []
        self.not_checked: list[str] = []

    # --- how to call it

    def _seen(self) -> frozenset[str]:
        if not self.matched.takes_case:
            matched = self.matched
            return frozenset(matched.names)
        x = drawn(0, SHAPES[0], Scope("none", False, False, True))
        for framework, layout, flags in itertools.product(
            calling.frameworks(self.function), self.layouts, ("float", "bool")
        ):
            form = Form(True, framework=framework, layout=layout, flags=flags)
            given = given_of(x, form)
            given |= {"next_value": given["last_value"], "next_done": given["last_done"]}
            if layout != "TB":
                given = {k: column_of(k, v, 0, form) for k, v in given.items()}
            try:
                read = calling.call(self.function, self.matched, given, framework).read
            except Exception as error:
                self.tried.append(calling.one_line(error))
                continue
            return frozenset(read)
        raise CannotCall(
            f"{calling.name_of(self.function)} failed on a case object: {self.tried[0]}"
        )

    @property
    def sees(self) -> Callable[..., bool]:
        return self.subject.sees

    def scope(self, form: Form) -> Scope:
        ends = "terminations" if self.sees(*ENDS) else "none"
        if self.sees("truncated") or (
            self.sees("terminated") and self.sees("dones", "masks", "episode_starts")
        ):
            ends = "both"
        last = self.sees("last_value", "next_value") or self.sees("next_values") or form.longer
        knows_last = not self.sees("episode_starts") or self.sees("last_done", "dones", "next_done")
        return Scope(ends, not last, not knows_last, form.successors)

    def forms(self, framework: Framework | None = None) -> Iterator[Form]:
        """Ways of calling it that mean different things, each in the first way that runs."""
        next_values = self.matched.names.get("next_values", "s")
        ambiguous = not next_values.endswith("s") and not self.sees("last_value")
        successors = [True, False] if ambiguous else [True]
        successors = successors if self.sees("next_values") else [False]
        bootstraps = self.sees("next_values", "last_value", "next_value")
        longer = [False, True] if self.sees("values") and not bootstraps else [False]
        starts = self.sees("last_done", "next_done") and self.sees("dones", "masks")
        shifted = [True, False] if starts else [False]
        discounted = [False]
        if self.sees("discounts"):
            discounted = [False, True] if self.sees("gamma") else [True, False]
        both = self.sees("truncated") and self.sees("dones", "masks")
        terminations = [False, True] if both and not self.sees("terminated") else [False]
        # The first framework in which it runs at all is its own: others may run by accident, as
        # JAX does when an index is out of bounds.
        for tried in [framework] if framework else self._frameworks():
            known: Form | None = None
            for meaning in itertools.product(successors, longer, shifted, discounted, terminations):
                looks = [] if known is None else [known[6:]]
                for look in itertools.chain(looks, self._looks()):
                    form = Form(*meaning, tried, *look)
                    if self._runs(form):
                        known = form
                        yield form
                        break
            if known is not None or self.broadcast is not None:
                return

    def _frameworks(self) -> list[Framework]:
        return calling.frameworks(self.function, self.matched)

    def _looks(self) -> Iterator[tuple[str, str, str]]:
        for layout in self.layouts:
            if layout == "S" and not self.sees("next_values"):
                continue
            for flag in ("float", "bool") if self.sees(*FLAGS) else ("float",):
                for last in ("float", "one", "0-d") if layout == "T" else ("float",):
                    yield layout, flag, last

    def _runs(self, form: Form) -> bool:
        """Whether it gives arrays of the right shape, on trajectories with and without ends."""
        if self.broadcast and form.layout in ("T1", "S"):
            return False
        try:
            for chance in (0.0, 0.4):
                self.outputs(drawn(1, SHAPES[0], self.scope(form), chance), form)
        except WrongShape as error:
            if error.broadcast and self.broadcast is None:
                self.broadcast = (form, error)
            self.tried.append(f"{error} ({form.framework}, {LAYOUTS[form.layout]})")
        except ImportError as error:
            self.tried.append(calling.one_line(error))
        except (Exception, SystemExit) as error:
            text = f"{form.framework}, {LAYOUTS[form.layout]}"
            self.tried.append(f"{calling.one_line(error)} ({text})")
        else:
            return True
        return False

    def outputs(self, x: Trajectory, form: Form) -> list[tuple[str, Numbers]]:
        found = self.subject.results(x, form)
        wanted = {"advantages": "advantages", "returns": "returns", "vtrace": "returns"}[self.kind]
        # The one whose name says it comes first, else the order is theirs.
        return sorted(found, key=lambda item: calling.match_name(item[0], OUTPUTS) != wanted)

    def called(self, form: Form) -> str:
        note = calling.note(self.function)
        taken = f"the case's {', '.join(sorted(self.subject.seen))}"
        words = taken if self.matched.takes_case else self.matched.describe()
        return "; ".join(
            part for part in (f"{form.framework}, {LAYOUTS[form.layout]}", words, note) if part
        )

    # --- what it computes

    def assumptions(self) -> list[dict[str, float]]:
        """γ, λ and clips that it is not given: from its module, its code, or the usual ones."""
        constants = self.matched.constants
        literals = calling.literals(self.function)  # γλ may be there as one number
        options: dict[str, tuple[float, ...]] = {}
        if not self.sees("gamma") and not self.sees("discounts"):
            options["gamma"] = tuple(dict.fromkeys((*literals, 1.0, 0.99)))
        if not self.sees("lam"):
            folded = [a / b for a, b in itertools.permutations(literals, 2) if a < b]
            options["lam"] = (1.0,) if self.kind == "vtrace" else (*literals, *folded, 1.0)
        if self.kind == "vtrace":
            for clip in ("rho_clip", "c_clip"):
                if not self.sees(clip):
                    options[clip] = tuple(dict.fromkeys((1.0, *literals)))
        options |= {role: (constants[role],) for role in options if role in constants}
        names = list(options)
        return [
            dict(zip(names, values, strict=True)) for values in itertools.product(*options.values())
        ]

    def quantities(self) -> list[str]:
        has_lambda = self.sees("lam") or "lam" in self.matched.constants
        if self.kind == "vtrace":
            return ["V-trace targets", "V-trace targets minus V"]
        if self.kind == "advantages":
            rest = "the return to the end of the episode or batch, minus V"
            gae = "generalised advantages"
            return [gae] if has_lambda else ["the TD error", rest, gae]
        if has_lambda:
            return ["the λ-return"]
        if self.sees("n"):
            return ["the n-step return"]
        whole = "the return to the end of the episode or batch"
        one = ["the TD target"] if self.sees("next_values") or self.sees("values") else []
        # What an unfinished last episode would have brought need not be asked of Monte Carlo.
        complete = self.sees("next_values") and self.sees("truncated") and not self.sees("values")
        one += ["the Monte Carlo return of complete episodes"] if complete else []
        first = [whole, *one]
        return [*first, "the λ-return"] if calling.literals(self.function) and one else first

    def readings(self, form: Form, outputs: int) -> Iterator[Reading]:
        terminal = self.scope(form).ends == "both" and (
            not form.successors or self.time_limits == "terminal"
        )
        for quantity, assumed in itertools.product(self.quantities(), self.assumptions()):
            for output in range(outputs):
                yield Reading(form, quantity, assumed, Normalised(), output, terminal)

    def trajectory(self, seed: int, *what: Any, **options: Any) -> Trajectory:
        return drawn(self.seed + seed, *what, **options)

    def close(self, x: Trajectory, got: Numbers, expected: Numbers) -> bool:
        return close(x, got, expected)

    def samples(self, form: Form) -> list[Sample]:
        scope = self.scope(form)
        kept = []
        for seed, shape in enumerate(SHAPES):
            x = self.trajectory(seed + 10, shape, scope)
            try:
                kept.append(Sample(x, self.outputs(x, form)))
            except (Exception, SystemExit) as error:
                raise CannotCall(
                    f"{calling.name_of(self.function)} failed on a case "
                    f"(called with {self.called(form)}): {calling.one_line(error)}"
                ) from error
        return kept

    def agrees(self, reading: Reading, samples: list[Sample], *mistakes: Mistake) -> bool:
        return all(
            self.close(s.x, s.outputs[reading.output][1], reading.expected(s.x, *mistakes))
            for s in samples
        )

    def _normalisations(self, reading: Reading, samples: list[Sample]) -> list[Normalised]:
        """Those that its numbers can have gone through."""
        y = samples[0].outputs[reading.output][1]
        columns = reading.form.layout in COLUMNS
        means = [abs(part.mean()) for part in ([*y.T] if columns else [y])]
        return NORMALISED if max(means) < 1e-4 and self.kind != "vtrace" else NORMALISED[:1]

    def recognised(self, forms: list[tuple[Form, list[Sample]]]) -> Reading | None:
        """The first reading under which its numbers are right."""
        for form, samples in forms:
            named = any(name for name, _ in samples[0].outputs)
            outputs = 1 if named else len(samples[0].outputs)
            for reading in self.readings(form, outputs):
                for normalised in self._normalisations(reading, samples):
                    tried = reading._replace(normalised=normalised)
                    if self.agrees(tried, samples):
                        return tried
        return None

    # --- what is wrong with it

    def diagnosed(
        self, forms: list[tuple[Form, list[Sample]]]
    ) -> tuple[Reading, tuple[Mistake, ...]] | None:
        """A reading, and the mistakes in it that give its very numbers: one, or two."""
        for form, samples in forms:
            for reading in self.readings(form, 1):
                options = self._normalisations(reading, samples)
                for mistake in self._all_mistakes(reading, samples):
                    for normalised in options:
                        tried = reading._replace(normalised=normalised)
                        if self.agrees(tried, samples, mistake):
                            return tried, (mistake,)
        for form, samples in forms:
            for reading in self.readings(form, 1):
                known = self._known(reading)
                for pair in itertools.combinations(known, 2):
                    if pair[0].check != pair[1].check and self.agrees(reading, samples, *pair):
                        return reading, pair
        return None

    def _known(self, reading: Reading) -> list[Mistake]:
        """The known mistakes, without those in a γ or λ that is not known itself."""
        told = {
            role: self.sees(role) or role in self.matched.constants for role in ("gamma", "lam")
        }
        told["gamma"] |= self.sees("discounts")
        beside = set()
        if not told["lam"]:
            beside |= {"lambda-applied-once", "gamma-in-the-trace"}
        if not told["gamma"]:
            beside |= {"gamma-used", "gamma-in-the-trace"}
        known = table(self.kind, reading.form.successors)
        return [mistake for mistake in known if mistake.check not in beside]

    def _all_mistakes(self, reading: Reading, samples: list[Sample]) -> list[Mistake]:
        quantity = QUANTITIES[reading.quantity]
        swapped = Mistake(
            "time-axis",
            "Time and environment axes are swapped: it sums along the environments.",
            "Rewards of one environment are credited to another.",
            "Arrays here are [T, B]: run over the first axis. (If yours are [B, T] on purpose, "
            "say layout BT.)",
            None,
            lambda x, y: transposed(x, quantity, reading.form.successors),
        )
        which = {0: "each environment", 1: "each time step"}
        over = [
            Mistake(
                "normalisation-axis",
                f"It normalises over the wrong axis: {which[n.axis or 0]} by itself.",
                "Differences between environments or times, which the advantage is there to show, "
                "are erased.",
                "Subtract the mean and divide by the deviation of the whole batch.",
                None,
                lambda x, y, n=n: n(y),  # type: ignore[misc]
            )
            for n in WRONGLY_NORMALISED
        ]
        out = samples[0].outputs[reading.output][1]
        centred = min(abs(out.mean(0)).max(), abs(out.mean(1)).max()) < 1e-4
        columns = reading.form.layout in COLUMNS
        known = self._known(reading)
        return [*known, *([] if columns else [swapped]), *(over if centred else [])]

    def mismatch(
        self, reading: Reading, xs: Iterable[Trajectory]
    ) -> tuple[Trajectory, Numbers, Numbers] | None:
        """The first of these on which it is wrong, with what was expected and what it gave."""
        for x in xs:
            try:
                got = self.outputs(x, reading.form)[reading.output][1]
            except (Exception, SystemExit):
                continue
            expected = reading.expected(x)
            if not np.isfinite(expected).all():
                continue
            if not self.close(reading.view(x), got, expected):
                return x, expected, got
        return None

    def example(self, reading: Reading) -> str:
        """The smallest trajectory on which it is wrong."""
        found = self.mismatch(reading, small_cases(self, reading.form))
        if found is None:
            found = self.mismatch(reading, self._random(reading.form))
        if found is None:
            return "only on large numbers, see the check"
        return table_of(self, reading, *found)

    def _random(self, form: Form) -> list[Trajectory]:
        return [
            self.trajectory(seed + 10, shape, self.scope(form)) for seed, shape in enumerate(SHAPES)
        ]

    # --- the checks

    # --- the report

    def report(self) -> Report:
        # Trial in order: forms that cannot be told apart by running are told apart by numbers.
        forms: list[tuple[Form, list[Sample]]] = []
        for form in self.forms():
            forms.append((form, self.samples(form)))
            reading = self.recognised(forms[-1:])
            if reading is not None:
                return self._right(reading)
        if not forms:
            if self.broadcast is not None:
                return self._broadcast(*self.broadcast)
            raise CannotCall(
                f"{calling.name_of(self.function)} could not be called: "
                f"{self.tried[0] if self.tried else 'nothing could be tried'}. "
                f"Tried: {self.matched.describe()}. If a parameter was taken for the wrong "
                "thing, add --map THEIRS=OURS."
            )
        found = self.diagnosed(forms)
        if (
            found is None and forms[0][0].framework.name == "numpy"
        ):  # where + adds up, and does not append
            for form in self.forms(Framework("list")):
                if reading := self.recognised([(form, self.samples(form))]):
                    return self._right(reading)
        if found is not None and found[1][0].check == "time-axis" and len(self.layouts) > 1:
            one = replace_layout(found[0].form, "T")
            if self._runs(one) and (reading := self.recognised([(one, self.samples(one))])):
                # It works along the last axis: right for [T], and for batches [B, T].
                self.choices.append("time is the last axis: it takes [T], or batches [B, T]")
                return self._right(reading)
        return self._wrong(forms, found)

    def _right(self, reading: Reading) -> Report:
        held, failed = run_checks(self, reading)
        findings = [self._property(reading, failed)] if failed else []
        for name, finding in beside(self, reading):
            if finding is None:
                held.append(name)
            else:
                findings.append(finding)
        return self._reported(reading, held, findings)

    def _wrong(
        self,
        forms: list[tuple[Form, list[Sample]]],
        found: tuple[Reading, tuple[Mistake, ...]] | None,
    ) -> Report:
        if found is None:
            reading = next(self.readings(forms[0][0], 1))
            held, failed = run_checks(self, reading)
            finding = self._property(reading, failed or ["definition"])
            return self._reported(reading, [], [finding._replace(severity=UNJUDGED)])
        reading, mistakes = found
        held, _ = run_checks(self, reading)
        example = self.example(reading)
        named = {m.check for m in mistakes}
        findings = [m.fault.on(example) for m in mistakes]
        return self._reported(reading, [name for name in held if name not in named], findings)

    def _property(self, reading: Reading, failed: list[str]) -> Finding:
        """What can be said when no known mistake gives its numbers."""
        plain = [drawn(i, SHAPES[0], self.scope(reading.form), 0.0) for i in range(3)]
        order = [name for name in failed if name in PROPERTIES and name != "definition"]
        name = "definition" if self.mismatch(reading, plain) or not order else order[0]
        known = {m.check: m for m in reversed(table(self.kind, reading.form.successors))}
        wrong = PROPERTIES.get(name, PROPERTIES["definition"])
        others = [other for other in failed if other != name]
        if others:
            wrong += f" (These fail too: {', '.join(others)}.)"
        effect = (
            known[name].effect if name in known else "It learns from numbers that it is not told."
        )
        mend = (
            known[name].mend
            if name in known
            else f"Compare it step by step with {reading.quantity} on the case above."
        )
        xs = checks_of(self, reading).get(name, [])
        found = self.mismatch(reading, [*small_cases(self, reading.form), *xs])
        example = table_of(self, reading, *found) if found else "see the check"
        return Finding(name, wrong, effect, example, mend)

    def _broadcast(self, form: Form, error: WrongShape) -> Report:
        shape = " x ".join(map(str, error.wanted))
        finding = Finding(
            "output-shape",
            f"Its result is {error.broadcast} where the rewards are {error.wanted}: arrays of "
            "shape (N,) and (N, 1) were broadcast against each other.",
            "Every step is compared with the values of all the others; a mean over it hides that, "
            "and the critic learns the average.",
            f"rewards, values: {shape}; expected output: {shape}; actual: {error.broadcast}",
            "Give both the same shape before subtracting, as values.reshape(rewards.shape).",
        )
        ledger = Ledger(found={finding.check: finding})
        return ledger.report(calling.name_of(self.function), self.kind, self.called(form))

    def _reported(self, reading: Reading, held: list[str], findings: list[Finding]) -> Report:
        form, scope = reading.form, self.scope(reading.form)
        said = [f"it is taken to compute {reading.quantity}"]
        for name, value in reading.assumed.items():
            relevant = name != "lam" or "λ" in reading.quantity or reading.quantity[0] == "g"
            if relevant and not (name == "lam" and self.kind == "vtrace"):
                source = "of its module" if name in self.matched.constants else "not a parameter"
                said.append(f"{name} = {value:g}, {source}")
        if form.shifted or self.sees("episode_starts"):
            said.append("its flag of row t says that observation t starts an episode")
        if form.terminations:
            said.append("done means terminated, and truncated is beside it")
        if form.longer:
            said.append("values has T + 1 rows, the last one for what follows the last step")
        if form.discounted:
            said.append("discounts contain gamma")
        if scope.whole:
            said.append("it takes no value after the last step: the last step ends its episode")
        if reading.terminal:
            said.append(TIME_LIMITS)
        elif scope.ends == "terminations":
            flag = next(role for role in ENDS if self.sees(role))
            said.append(
                f"it is told ends by {flag} alone: an episode that a time limit cut counts as "
                "terminated if it is flagged"
            )
        if reading.normalised.name:
            said.append(reading.normalised.describe())
        if reading.output:
            said.append(
                "the advantages are not its first output"
                if self.kind == "advantages"
                else f"what is audited is output {reading.output + 1}"
            )
        if scope.ends == "none":
            self.not_checked.append("ends of episodes: the function is not told of any")
        elif scope.ends == "terminations":
            self.not_checked.append("time limits: the function takes no truncation flag")
        ledger = Ledger(
            found={finding.check: finding for finding in findings},
            choices=[*said, *self.choices],
            not_checked=self.not_checked,
        )
        ledger.hold(*held)
        return ledger.report(calling.name_of(self.function), self.kind, self.called(form))


def replace_layout(form: Form, layout: str) -> Form:
    """The same call with arrays of another layout."""
    return form._replace(layout=layout)


def advantages(
    function: Callable[..., Any],
    *,
    mapping: Mapping[str, str] | None = None,
    layout: str | None = None,
    time_limits: str | None = None,
    seed: int = 0,
) -> Report:
    """Audit advantages: TD errors, n-step, GAE(λ), with returns beside them if there are any.

    `layout` BT says that arrays are [B, T]; `time_limits` "terminal" that they are treated as
    terminations on purpose; another `seed` is other random trajectories.
    """
    return Audit(function, "advantages", ROLES, mapping, layout, time_limits, seed).report()


def returns(
    function: Callable[..., Any],
    *,
    mapping: Mapping[str, str] | None = None,
    layout: str | None = None,
    time_limits: str | None = None,
    seed: int = 0,
) -> Report:
    """Audit returns: Monte Carlo, n-step, λ-returns, TD targets. Options as of `advantages`."""
    return Audit(function, "returns", N_ROLES, mapping, layout, time_limits, seed).report()


def vtrace(
    function: Callable[..., Any],
    *,
    mapping: Mapping[str, str] | None = None,
    layout: str | None = None,
    time_limits: str | None = None,
    seed: int = 0,
) -> Report:
    """Audit V-trace targets, with the policy gradient's advantages if it returns them."""
    return Audit(function, "vtrace", VTRACE_ROLES, mapping, layout, time_limits, seed).report()
