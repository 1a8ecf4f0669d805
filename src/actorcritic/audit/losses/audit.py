"""The audit of losses: of the actor, of the critic, and of both together (PPO, A2C).

A loss is a sum of at most four terms: policy, value, entropy bonus, KL penalty. Each is isolated by
differences of calls in which only what no other unknown term depends on changes, less the terms
that are known, and compared with the readings of rows.py: first the right ones (with their
choices), then the usual mistakes. The reading that reproduces the numbers names what the code does.
Gradients are the user's own (PyTorch, JAX), against finite differences of that reading.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.findings import (
    RISKY,
    UNJUDGED,
    CannotCall,
    Fault,
    Ledger,
    Report,
    listing,
)
from actorcritic.audit.losses.calls import (
    COLUMNS,
    DATA,
    FLAT,
    GRID,
    MIXED,
    NUMBERS,
    ROLES,
    Subject,
    mappings,
    subjects,
)
from actorcritic.audit.losses.cases import Case, Term, rows_of
from actorcritic.audit.losses.rows import AXIS, BROADCAST, DEAD, SIGNS, leak
from actorcritic.audit.losses.targets import NORMALISED
from actorcritic.audit.losses.terms import Match, Sample, identify, samples, slope, terms_of

FINITE = Fault(
    "finite",
    "the loss of ordinary numbers is not finite",
    "Training stops with NaN.",
    "Look for a logarithm or a division of what may be zero or negative.",
)
ABSENT = Fault(
    "",
    "",
    "What it should train stays as it is.",
    "Add the term, with its coefficient, to the value that is returned first.",
)
NORMALISATION = Fault(
    "normalisation-finite",
    "",
    "One such minibatch turns every parameter into NaN.",
    "Leave a single element as it is, and divide by (std + 1e-8).",
    RISKY,
)
Compared = list[tuple[str, Any, Any]]  # a name, what is expected, and what came


@dataclass(kw_only=True)
class Audit(Ledger):
    """The state of one audit: what was recognised, and what was found."""

    subject: Subject
    terms: list[Term]
    strict: bool
    known: list[Match] = field(default_factory=list)
    upside_down: bool = False  # an objective, to be maximised, and named so
    unknown: list[Term] = field(default_factory=list)
    missing: int = 0  # terms that the loss does not depend on
    open: list[str] = field(default_factory=list)  # data whose gradient is not stopped inside

    def run(self) -> None:
        x = self.subject.draw(np.random.default_rng(5))
        total = self.subject(x).total
        if not math.isfinite(total):
            self.fail(FINITE, self.table(x, [("loss", "finite", total)]))
            return
        self.hold(FINITE.check)
        waiting = list(self.terms)
        while waiting:
            free = {t.name: self.free(t, waiting) for t in waiting}
            term = max(waiting, key=lambda t: (bool(t.strength), bool(free[t.name])))
            waiting.remove(term)
            alone = not waiting and not self.unknown
            if free[term.name] or term.strength or alone:
                self.look(term, free[term.name], alone)
            else:
                hides = (self.unknown or waiting)[0].name
                self.not_checked.append(f"{term.name} term: the {hides} term hides it")
        self.verdicts()
        if not self.found:
            self.edges()
        if not self.subject.differentiated:
            self.not_checked.append(
                "gradients, and so what must be detached: numbers of "
                f"{self.subject.framework} carry none"
            )

    @property
    def rank(self) -> tuple[int, int]:
        """The way of calling it that explains most comes first."""
        return len(self.unknown) + self.missing, len(self.failures)

    # -- one term

    def free(self, term: Term, waiting: list[Term]) -> set[str]:
        """Its arrays that no other term depends on which is not known yet."""
        others = [t.roles for t in (*waiting, *self.unknown) if t is not term]
        return set(term.roles).difference(*others) - set(NUMBERS) - {"last_value"}

    def look(self, term: Term, free: set[str], alone: bool) -> None:
        """Which reading it is, and where its gradient goes."""
        seed = [t.name for t in self.terms].index(term.name)
        groups = samples(self.subject, term, free, alone, self.known, seed)
        if all(abs(s.total) <= 4 * s.noise for group in groups for s in group):
            if term.required:
                self.missing += 1
                wrong = f"the loss does not depend on its {term.name} term"
                fault = ABSENT._replace(check=f"{term.name}-loss", wrong=wrong)
                self.unknown.append(term)
                self.fail(fault, self.example(term, self.totals))
                self.unknown.remove(term)
            return
        match = identify(term, groups)
        if match is None:
            self.unknown.append(term)
            return
        self.known.append(match)
        for role in self.subject.differentiated:
            flow = max(np.max(np.abs(s.gradients[role]), initial=0) for s in groups[0])
            if flow > 1e-5 * max(1e-3, abs(match.scale)):
                match.flow.add(role)
        cases = [x for sample in groups[0] for _, x in sample.cases]
        for role in term.live if self.subject.differentiated else ():
            if any((np.abs(slope(match.reading.rows, x, role, True)) > 1e-6).any() for x in cases):
                match.sloped.add(role)
            if role in match.flow and any(_bent(match, role, s) for s in groups[0]):
                match.bent.add(role)

    # -- what it comes to

    def verdicts(self) -> None:
        self.known.sort(key=lambda match: self.terms.index(match.term))
        for term in self.unknown:
            self.unrecognised(term)
        negative = [m for m in self.known if m.scale < 0]
        named = re.search(
            r"objective|utility|gain|maximi[sz]e", calling.name_of(self.subject.function)
        )
        if negative and len(negative) == len(self.known) and named:
            self.upside_down = True
            self.choices.append("an objective, to be maximised: its name says so")
            negative = []
        for match in self.known:
            name, reading = match.term.name, match.reading
            if reading.fault is not None:
                self.fail(reading.fault, self.example(match.term, self.totals))
            else:  # nor are the mistakes that were looked for
                faults = [r.fault for r in match.term.readings if r.fault not in (None, AXIS)]
                self.hold(f"{name}-loss", *(fault.check for fault in faults if fault))
            if match in negative:
                self.fail(SIGNS[name], self.example(match.term, self.totals))
            else:
                self.hold(SIGNS[name].check)
            self.choices += [*reading.said, _size(match)]
            if self.subject.differentiated:
                self.gradients(match)
        if self.open:
            names = ", ".join(dict.fromkeys(self.open))
            self.choices.append(f"give {names} detached: gradients are not stopped inside")

    def gradients(self, match: Match) -> None:
        """Whether the gradient that the term is for is there and its own, and no other is."""
        term = match.term
        live = [r for r in term.live if r in self.subject.differentiated]
        # Where every row is clipped, no gradient is the right one.
        dead = [r for r in live if r not in match.flow and r in match.sloped]
        if match.reading.fault is not None and dead and term.name == "kl":
            # A detached k1 estimator is harmless but for that: one cause, one finding.
            self.found.pop(match.reading.fault.check, None)
        fault, role = DEAD[term.name], dead[0] if dead else min(match.bent, default="")
        if role and not dead:
            fault = fault._replace(
                wrong=f"the gradient of the {term.name} term is not that of its value",
                effect="What is learnt is not what the reported loss measures.",
                mend="Look for a detach of a part of it, or for no_grad.",
            )
            if term.name == "value" and self.explained_by_target(match, role):
                fault = leak("value", role)
        if role:
            self.fail(fault, self.example(term, self.slopes(match, role, True)))
        elif live:
            self.hold(fault.check)
        for other in self.subject.differentiated:
            if other in term.live or other not in term.roles:
                continue
            fault = leak(term.name, other)
            if other not in match.flow:
                self.hold(fault.check)
            elif other in DATA and not self.strict:
                self.open.append(other)
            else:
                self.fail(fault, self.example(term, self.slopes(match, other, False)))

    def explained_by_target(self, match: Match, role: str) -> bool:
        """Whether the gradient is that of the whole term, the target's part included."""
        x = self.subject.draw(np.random.default_rng(6))
        rest = sum(m.gradient(x, role) for m in self.known if m is not match)
        got = self.subject(x).gradients[role] - rest
        return not _apart(match.slope(x, role, False), got)

    def unrecognised(self, term: Term) -> None:
        """No reading fits: it is not judged, and what was tried is told."""
        right = [r for r in term.readings if r.fault is None]
        said = dict.fromkeys(text for r in right for text in r.said if "deviation" not in text)
        tried = "; ".join(list(said)[:6])
        fault = Fault(
            f"{term.name}-loss",
            f"the {term.name} term agrees with no definition that is known here, and with no "
            "known mistake",
            f"Nothing is said of it. Tried: {len(right)} right readings and "
            f"{len(term.readings) - len(right)} wrong ones"
            + (f" (among the right: {tried})." if tried else "."),
            "If a parameter was taken for the wrong thing, say what it is with --map THEIRS=OURS. "
            f"The plain form: {SIGNS[term.name].mend}",
            UNJUDGED,
        )
        self.fail(fault, self.example(term, self.totals))

    # -- examples

    def example(self, term: Term, differs: Callable[[Case], Compared]) -> str:
        """The smallest simple case on which expected and actual numbers differ.

        Other terms are switched off where the function takes their coefficient.
        """
        off = {t.strength: 0.0 for t in self.terms if t is not term and t.strength}
        heard = [t.roles for t in self.terms if t is term or not t.strength]
        hidden = set().union(*(t.roles for t in self.terms)).difference(*heard)
        # Zero advantages silence the policy term, unless it would divide them by 0.
        divided = any("inside" in said for m in self.known for said in m.reading.said)
        quiet = {"advantages"} if divided or "advantages" not in self.subject.roles else set()
        first = ""
        for shape in ((1, 2), (2, 1), (2, 2)) if self.subject.layout.grid else ((1,), (2,), (3,)):
            for seed in range(10):
                x = self.subject.simple(np.random.default_rng([seed, *shape]), shape) | off
                if term.name in ("value", "kl") and "advantages" not in term.roles | quiet:
                    x["advantages"] = np.zeros(shape)
                try:
                    rows = differs(x)
                except Exception as error:
                    rows = [("loss", "a number", calling.one_line(error))]
                table = self.table(x, rows, hidden=hidden)
                if any(_apart(expected, actual) for _, expected, actual in rows):
                    return table
                first = first or table
        return first

    def table(
        self,
        x: Case,
        rows: Compared,
        subject: Subject | None = None,
        hidden: frozenset[str] | set[str] = frozenset(),
    ) -> str:
        """Inputs by the user's names; then expected and actual numbers, one below the other."""
        names = self.subject.matched.names
        shown = (subject or self.subject).shown(x).items()
        return listing([(names.get(r, r), v) for r, v in shown if r not in hidden], rows)

    def totals(self, x: Case) -> Compared:
        return [("loss", self.right_total(x), self.subject(x).total)]

    def right_total(self, x: Case) -> float:
        total = 0.0
        for match in self.known:
            rows = match.reading.right or match.reading.rows
            power = min(match.power, 1) if match.reading.fault is not BROADCAST else 0
            scale = abs(match.scale) * rows_of(x) ** power * match.term.weight(x)
            total += scale * float(np.mean(rows(x)))
        for term in self.unknown:
            right = next(r for r in term.readings if r.fault is None)
            total += term.weight(x) * float(np.mean(right.rows(x)))
        return -total if self.upside_down else total

    def slopes(self, match: Match, role: str, live: bool) -> Callable[[Case], Compared]:
        """The gradient by `role`: as it should be, and as it is."""

        def rows(x: Case) -> Compared:
            expected = np.zeros(np.shape(x[role]))
            for other in self.known:
                if live if other is match else role in other.flow:
                    expected = expected + other.slope(x, role, role in other.term.live)
            return [(f"gradient by {role}", expected, self.subject(x).gradients[role])]

        return rows

    # -- small batches and other shapes, where ordinary ones are right

    def edges(self) -> None:
        subject = self.subject
        if any(NORMALISED in said for said in self.choices):
            self.small()
        if subject.layout is not FLAT:
            return
        policy = next((m for m in self.known if m.term.name == "policy"), None)
        if policy is not None:
            # An explicit axis shows only on arrays that have more than one.
            self.axis(policy, replace(subject, layout=GRID))
            if "log_probs" in subject.roles:  # logits have an axis of their own
                self.axis(policy, replace(subject, layout=COLUMNS))
        if "values" in subject.roles and {"returns", "rewards"} & subject.roles:
            x = subject.draw(np.random.default_rng(9), (3,))
            with contextlib.suppress(Exception):
                if _apart(replace(subject, layout=MIXED)(x).total, self.right_total(x)):
                    self.choices.append(
                        "values [B, 1] beside targets [B] would be broadcast to [B, B]: "
                        "give equal shapes"
                    )

    def small(self) -> None:
        """Advantages that cannot be normalised: of one element, and equal ones."""
        for count, what in (
            (1, "one element gives {}: the sample deviation of one is 0 / 0"),
            (3, "equal advantages gives {}: there is no ε beside the deviation"),
        ):
            shape = (count, 1) if self.subject.layout.grid else (count,)
            x = self.subject.simple(np.random.default_rng(0), shape)
            for role in {"advantages", "returns", "rewards", "values", "next_values", "dones"}:
                x[role] = np.full(shape, 0.5)
            total = math.nan
            with contextlib.suppress(Exception):
                total = self.subject(x).total
            if not math.isfinite(total):
                wrong = f"normalising the advantages of {what.format(total)}"
                table = self.table(x, [("loss", "finite", total)])
                self.fail(NORMALISATION._replace(wrong=wrong), table)
                return
        self.hold(NORMALISATION.check)

    def axis(self, policy: Match, other: Subject) -> None:
        """Whether advantages are normalised over everything when there is more than one axis."""
        x = other.draw(np.random.default_rng(8))
        try:
            total = other(x).total
        except Exception:
            return
        expected = self.right_total(x)
        if not _apart(expected, total):
            self.hold(AXIS.check)
            return
        if not any(NORMALISED in said for said in policy.reading.said):
            return
        # The rest of the loss is as it was; does one of the axes explain the policy term?
        rest = expected - policy.total(x)
        seen = x | other.shown(x) if other.layout.columns else x
        readings = [r for r in policy.term.readings if r.fault is AXIS]
        with np.errstate(all="ignore"):
            parts = [policy.factor(x) * float(np.mean(r.rows(seen))) for r in readings]
        if math.isnan(total) or any(not _apart(rest + part, total) for part in parts):
            shape = (2, 2) if other.layout.grid else (2,)
            x = self.subject.simple(np.random.default_rng(0), shape)
            x["advantages"] = np.arange(1.0, 1 + math.prod(shape)).reshape(shape)
            table = self.table(x, [("loss", self.right_total(x), other(x).total)], other)
            self.fail(AXIS, f"{other.layout.words}:\n{table}")


def _bent(match: Match, role: str, sample: Sample) -> bool:
    """Whether a gradient that does flow is another than that of the term."""
    expected = np.asarray(sum(sign * match.gradient(x, role) for sign, x in sample.of(role)))
    got = sample.gradients[role]
    if role in ("probs", "logits"):  # what moves all alike does not count: Σ p = 1
        expected, got = (g - np.mean(g, -1, keepdims=True) for g in (expected, got))
    size = float(np.max(np.abs(expected), initial=0))
    return bool(np.max(np.abs(got - expected), initial=0) > 1e-2 * size + 10 * sample.noise)


def _size(match: Match) -> str:
    """Mean or sum, and the weight."""
    name, scale = match.term.name, abs(match.scale)
    how = ("mean", "sum")[min(match.power, 1)]
    if not match.term.strength and name in ("entropy", "kl"):
        return f"{name}: {how}, with the weight {scale:.4g} inside"
    if name != "value":
        return f"{name}: {how}" + ("" if abs(scale - 1) < 1e-3 else f", times {scale:.4g}")
    half = "½ (V − R)²" if abs(scale - 0.5) < 1e-3 else "(V − R)²"
    times = "" if min(abs(scale - 0.5), abs(scale - 1)) < 1e-3 else f" times {scale:.4g}"
    return f"value: {how} of {half}{times}"


def _apart(expected: Any, actual: Any) -> bool:
    if isinstance(expected, str):
        return True
    expected, actual = np.asarray(expected, float), np.asarray(actual, float)
    size = max(1e-2, float(np.max(np.abs(expected), initial=0)))
    return bool(np.any(~(np.abs(actual - expected) <= 2e-3 * size)))


# ------------------------------------------------------------------------------ ways of calling it

TRIED = 8  # that are audited, at most
_NEEDS = {
    "value": "values and a target (returns, or rewards and next_values)",
    "policy": "log_probs (or logits and actions, or means, deviations and actions) and advantages",
}


def _audit(
    kind: str, function: Callable[..., Any], mapping: Mapping[str, str] | None, strict: bool
) -> Report:
    name, wanted = calling.name_of(function), "value" if kind == "critic-loss" else "policy"
    failed: list[str] = []
    best: Audit | None = None
    for said in mappings(function, mapping):
        matched = calling.recognise(function, ROLES, said)
        for count, subject in enumerate(subjects(function, matched, failed), 1):
            terms = terms_of(kind, subject.roles, matched.constants, calling.literals(function))
            if wanted not in [term.name for term in terms]:
                raise CannotCall(
                    f"{name}: a {kind} is a function of {_NEEDS[wanted]}; recognised: "
                    f"{matched.describe()}. Map its other parameters by --map."
                )
            audit = _of(subject, terms, strict)
            if best is None or audit.rank < best.rank:
                best = audit
            if (not audit.failures and not audit.unknown) or count == TRIED:
                break
        if best is not None and not best.unknown:
            break
    if best is None:
        why = failed[0] if failed else "no framework fits"
        raise CannotCall(f"{name} failed when called with {matched.describe()}: {why}")
    return _report(name, kind, best)


def _of(subject: Subject, terms: list[Term], strict: bool) -> Audit:
    """Of losses that come back side by side: their sum, if it has terms that the first lacks."""
    audit = Audit(subject=subject, terms=terms, strict=strict)
    audit.run()
    both = {"policy", "value"}
    have = {match.term.name for match in audit.known}
    if not subject.several or both <= have or not both <= {t.name for t in terms}:
        return audit
    beside = Audit(subject=replace(subject, summed=True), terms=terms, strict=strict)
    with contextlib.suppress(Exception):  # other outputs may be no numbers to be added
        beside.run()
        if not beside.unknown and len(beside.known) > len(audit.known):
            return beside
    return audit


def _report(name: str, kind: str, audit: Audit) -> Report:
    subject = audit.subject
    missed = [r for r in DATA if r in subject.roles and r not in subject.differentiated]
    if missed and subject.differentiated:
        audit.not_checked.append(
            f"whether gradients through {', '.join(missed)} are stopped: the function takes "
            "them only without gradients"
        )
    called = f"{subject.words}: {subject.matched.describe()}"
    if subject.matched.takes_case:
        called += f" (it uses {', '.join(sorted(subject.roles))})"
    if note := calling.note(subject.function):
        called += f"; {note}"
    return audit.report(name, kind, called)


def actor_loss(
    function: Callable[..., Any], *, mapping: Mapping[str, str] | None = None, strict: bool = False
) -> Report:
    """Audit −log π A, with or without an entropy bonus, a ratio, or advantages computed inside.

    `strict` asks that the function itself stops gradients through data that it is handed.
    """
    return _audit("actor-loss", function, mapping, strict)


def critic_loss(
    function: Callable[..., Any], *, mapping: Mapping[str, str] | None = None, strict: bool = False
) -> Report:
    """Audit (V − target)², clipped or not, the target given or computed as one-step TD."""
    return _audit("critic-loss", function, mapping, strict)


def ppo_loss(
    function: Callable[..., Any], *, mapping: Mapping[str, str] | None = None, strict: bool = False
) -> Report:
    """Audit PPO's loss: clipped surrogate, value, entropy, KL penalty, as far as it has them."""
    return _audit("ppo-loss", function, mapping, strict)
