"""The audit of losses: of the actor, of the critic, and of both together (PPO, A2C).

A loss is a sum of at most four terms: policy, value, entropy bonus, KL penalty. Each is isolated by
differences of calls in which only what no other unknown term depends on changes, less the terms
that are known, and compared with the readings of loss_rows.py: first the right ones (with their
choices), then the usual mistakes. The reading that reproduces the numbers names what the code does.
Gradients are the user's own (PyTorch, JAX), against finite differences of that reading.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
from actorcritic.audit.losses import rows as loss_rows
from actorcritic.audit.losses.calls import (
    COLUMNS,
    DATA,
    FLAT,
    GRID,
    MIXED,
    NUMBERS,
    ROLES,
    Layout,
    Measured,
    Subject,
    mappings,
    subjects,
)
from actorcritic.audit.losses.cases import Case, Reading, Rows, Term, rows_of
from actorcritic.audit.losses.rows import AXIS, BROADCAST, DEAD, SIGNS, leak

CLOSE = 2e-4  # relative: float32, and an ε of 1e-5 in a normalisation, are both within it


# ------------------------------------------------------------------------------ identification


class Sample(NamedTuple):
    """A signed sum of cases in which only one term counts, and what the function gives for it."""

    cases: tuple[tuple[float, Case], ...]
    total: float
    gradients: dict[str, np.ndarray] | None
    noise: float  # rounding, absolute
    own: frozenset[str]  # roles of it alone: their gradients are those of the first case

    def of(self, role: str) -> tuple[tuple[float, Case], ...]:
        """The cases whose gradients by a role are summed."""
        return self.cases[:1] if role in self.own and len(self.cases) > 1 else self.cases


@dataclass
class Match:
    """A term whose reading is known."""

    term: Term
    reading: Reading
    scale: float  # for one row; multiplied by rows ** power
    power: int
    flow: set[str] = field(default_factory=set)  # roles through which its gradient flows
    bent: set[str] = field(default_factory=set)  # those of them by which it is not its own
    sloped: set[str] = field(default_factory=set)  # roles by which it has one on these samples

    def factor(self, x: Case) -> float:
        return self.scale * float(rows_of(x)) ** self.power * self.term.weight(x)

    def total(self, x: Case) -> float:
        return self.factor(x) * float(np.mean(self.reading.rows(x)))

    def gradient(self, x: Case, role: str) -> np.ndarray:
        """What flows into a role: of a live one the targets are data, of another it is a leak."""
        if role not in self.flow:
            return np.zeros(np.shape(x[role]))
        return self.factor(x) * slope(self.reading.rows, x, role, role in self.term.live)


def slope(rows: Rows, x: Case, role: str, frozen: bool) -> np.ndarray:
    """The gradient of the mean, by central differences; `frozen`: with the targets as data."""
    if role not in x:
        return np.zeros(0)
    step, flat = 1e-6, np.asarray(x[role], float).ravel()
    found = np.zeros(flat.size)
    for i in range(flat.size):
        ends = []
        for sign in (1, -1):
            moved = flat.copy()
            moved[i] += sign * step
            ends.append(np.mean(rows(x.moved(role, moved.reshape(np.shape(x[role])), frozen))))
        found[i] = (ends[0] - ends[1]) / (2 * step)
    return found.reshape(np.shape(x[role]))


def _samples(
    subject: Subject, term: Term, free: set[str], alone: bool, known: list[Match], seed: int
) -> list[list[Sample]]:
    """For each of two batch sizes, some samples that isolate `term`, of which only `free` moves."""
    groups = []
    for size, count in zip(subject.layout.shapes, (4, 3), strict=True):
        rng = np.random.default_rng([seed, *size])
        group = []
        for _ in range(count):
            x = subject.draw(rng, size)
            cases: tuple[tuple[float, Case], ...] = ((1.0, x),)
            if term.strength:
                x = x | {term.strength: rng.uniform(0.5, 1.5)}
                cases = ((1.0, x), (-1.0, x | {term.strength: 0.0}))
            elif not alone:
                other = subject.draw(rng, size)
                moved = x | {r: other[r] for r in free}
                cases = ((1.0, x), (-1.0, moved))
            own = frozenset(set() if term.strength else free)
            group.append(_signed(cases, [subject(case) for _, case in cases], known, own))
        groups.append(group)
    return groups


def _signed(
    cases: tuple[tuple[float, Case], ...],
    results: list[Measured],
    known: list[Match],
    own: frozenset[str],
) -> Sample:
    total = sum(sign * r.total for (sign, _), r in zip(cases, results, strict=True))
    rest = sum(sign * match.total(x) for sign, x in cases for match in known)
    noise = 1e-6 * max(abs(r.total) for r in results) + 1e-6 * abs(rest)
    sample = Sample(cases, total - rest, None, noise, own)
    if results[0].gradients is None:
        return sample
    gradients = {}
    for role in results[0].gradients:
        summed = [
            sign * ((r.gradients or {})[role] - sum(m.gradient(x, role) for m in known))
            for (sign, x), r in zip(sample.of(role), results, strict=False)
        ]
        gradients[role] = np.sum(summed, 0)
    return sample._replace(gradients=gradients)


def _expected(rows: Rows, term: Term, sample: Sample) -> float:
    with np.errstate(all="ignore"):
        return sum(sign * term.weight(x) * float(np.mean(rows(x))) for sign, x in sample.cases)


def identify(term: Term, groups: list[list[Sample]]) -> Match | None:
    """The reading that reproduces the numbers, up to a positive factor if there is one such."""
    for faulty in (False, True):
        found = [
            match
            for reading in term.readings
            if (reading.fault is not None) is faulty
            for match in [_fits(reading, term, groups)]
            if match is not None
        ]
        for negative in (False, True):
            same = [(error, m) for error, m in found if (m.scale < 0) is negative]
            if same:
                least = min(error for error, _ in same)
                return next(m for error, m in same if error <= 10 * least + 1e-3)
    return None


def _fits(reading: Reading, term: Term, groups: list[list[Sample]]) -> tuple[float, Match] | None:
    """Whether a reading does, with its error relative to what is allowed."""
    sizes = [rows_of(group[0].cases[0][1]) for group in groups]
    scales, worst = [], 0.0
    for group in groups:
        u = np.array([s.total for s in group])
        r = np.array([_expected(reading.rows, term, s) for s in group])
        if not np.all(np.isfinite(r)) or not r @ r > 1e-16:
            return None
        scales.append(float(u @ r / (r @ r)))
        slack = CLOSE * np.linalg.norm(u) + np.linalg.norm([s.noise for s in group])
        worst = max(worst, float(np.linalg.norm(u - scales[-1] * r) / (slack + 1e-300)))
        if worst > 1 or scales[0] == 0:
            return None
    ratio = scales[0] / scales[1] if scales[1] else 0.0
    for power in range(3):
        if abs(ratio / (sizes[0] / sizes[1]) ** power - 1) < 0.02:
            return worst, Match(term, reading, scales[0] / sizes[0] ** power, power)
    return None


# ------------------------------------------------------------------------------ the terms


def terms_of(
    kind: str, roles: frozenset[str], numbers: Mapping[str, float], literals: tuple[float, ...]
) -> list[Term]:
    """The terms that a function of these roles can have, each with its readings."""

    def options(role: str, usual: tuple[float, ...]) -> tuple[float, ...]:
        """A number that it does not take: of its module, or its code, or a usual one."""
        own = (numbers[role],) if role in numbers else ()
        return tuple(dict.fromkeys((*own, *literals, *(() if own else usual))))

    gammas = options("gamma", (0.99, 0.9, 0.95, 1.0))[:6]
    lams = options("lam", ()) if literals or "lam" in numbers else ()

    def clips(role: str) -> tuple[float, ...]:
        if {"clip_range", role} & roles:
            return (NUMBERS[role],)
        return options(role, (0.2, 0.1, 0.3, 0.15, 0.25, 0.05, 0.4))

    found: list[Term] = []

    def term(name: str, used: set[str], live: tuple[str, ...], readings: list[Reading]) -> None:
        strong = f"{name}_coefficient" if f"{name}_coefficient" in roles else ""
        asked = {"policy": kind != "critic-loss", "value": kind == "critic-loss"}
        # An entropy that is handed over without a coefficient may be for the record.
        required = asked.get(name, False) or bool(strong and (name != "entropy" or given))
        if readings:
            found.append(Term(name, frozenset(used & roles), strong, live, readings, required))

    given = {"entropy"} & roles
    network = {"log_probs"} & roles or {"means", "stds", "log_stds"} & roles
    network = network or {"logits", "probs"} & roles
    acts = "log_probs" in roles or bool(network and "actions" in roles)
    new = network if "log_probs" in roles else network | {"actions"}
    step = {"rewards", "next_values", "last_value", "dones", "continues", "truncated"}
    step |= {"gamma", "lam"}
    aims = {"returns"} & roles or step
    sources = {"advantages"} & roles or {"returns", "rewards"} & roles
    inside = set() if "advantages" in roles else {*aims, "values"}
    if acts and sources:
        bounded = kind == "ppo-loss" and not {"kl_coefficient", "ref_log_probs"} & roles
        used = new | {"old_log_probs", "clip_range", "gamma"} | ({"advantages"} & roles or inside)
        readings = loss_rows.policy(roles, clips("clip_range"), gammas, lams, bounded)
        term("policy", used, _live(roles), readings)
    if "values" in roles:
        used = (aims if {"returns", "rewards"} & roles else {"advantages", "old_values"}) | {
            *("clip_range", "values", "old_values", "value_clip_range")
        }
        used |= {"advantages"} & roles if "returns" in roles and kind == "critic-loss" else set()
        readings = loss_rows.value(roles, clips("value_clip_range"), gammas, lams)
        term("value", used, ("values",), readings)
    if kind != "critic-loss" and (acts or "entropy" in roles):
        live = ("entropy",) if given else _live(roles)
        sampled = "entropy_coefficient" in roles and not given
        used = given or (new if sampled else network)
        term("entropy", set(used), live, loss_rows.entropy(roles) if network or given else [])
    if acts and ("ref_log_probs" in roles or {"kl_coefficient", "old_log_probs"} <= roles):
        term("kl", new | {"ref_log_probs", "old_log_probs"}, _live(roles), loss_rows.kl(roles))
    return found


def _live(roles: frozenset[str]) -> tuple[str, ...]:
    """From where log π comes."""
    if "log_probs" not in roles and "means" in roles:
        return tuple(r for r in ("means", "stds", "log_stds") if r in roles)
    return next(((r,) for r in ("log_probs", "logits", "probs") if r in roles), ())


# ------------------------------------------------------------------------------ the audit


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

    # -- the right loss, for examples

    def right_total(self, x: Case) -> float:
        total = 0.0
        sign = -1.0 if self.upside_down else 1.0
        for match in self.known:
            rows = match.reading.right or match.reading.rows
            power = min(match.power, 1) if match.reading.fault is not BROADCAST else 0
            scale = sign * abs(match.scale) * rows_of(x) ** power * match.term.weight(x)
            total += scale * float(np.mean(rows(x)))
        for term in self.unknown:
            right = next(r for r in term.readings if r.fault is None)
            total += sign * term.weight(x) * float(np.mean(right.rows(x)))
        return total

    # -- examples

    def example(self, term: Term, differs: Callable[[Case], list[tuple[str, Any, Any]]]) -> str:
        """The smallest simple case on which expected and actual numbers differ.

        Other terms are switched off where the function takes their coefficient.
        """
        off = {t.strength: 0.0 for t in self.terms if t is not term and t.strength}
        grid = self.subject.layout.grid
        first: tuple[Case, list[tuple[str, Any, Any]]] | None = None
        # Zero advantages silence the policy term, unless it would divide them by 0.
        divided = any("inside" in said for m in self.known for said in m.reading.said)
        quiet = {"advantages"} if divided or "advantages" not in self.subject.roles else set()
        for shape in ((1, 2), (2, 1), (2, 2)) if grid else ((1,), (2,), (3,)):
            for seed in range(10):
                x = self.simple(np.random.default_rng([seed, *shape]), shape) | off
                if term.name in ("value", "kl") and "advantages" not in term.roles | quiet:
                    x["advantages"] = np.zeros(shape)
                try:
                    rows = differs(x)
                except Exception as error:
                    rows = [("loss", "a number", calling.one_line(error))]
                if any(_apart(expected, actual) for _, expected, actual in rows):
                    return self.table(x, rows, hidden=self.silent(term))
                first = first or (x, rows)
        assert first is not None
        return self.table(*first)

    def silent(self, term: Term) -> set[str]:
        """Roles that do not matter once the other terms are switched off."""
        heard = [t for t in self.terms if t is term or not t.strength]
        roles = set[str]().union(*(t.roles for t in heard))
        return set().union(*(t.roles for t in self.terms)) - roles

    def table(
        self,
        x: Case,
        rows: list[tuple[str, Any, Any]],
        layout: Layout | None = None,
        hidden: set[str] | None = None,
    ) -> str:
        """Inputs by the user's names; then expected and actual numbers, one below the other."""
        subject = Subject(**(vars(self.subject) | {"layout": layout or self.subject.layout}))
        names = subject.matched.names
        given = [
            (names.get(role, role), value)
            for role, value in subject.shown(x).items()
            if role not in (hidden or ())
        ]
        return listing(given, rows)

    def simple(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
        """Few digits."""
        x = self.subject.everything(rng, shape)
        wide = x["log_probs"].shape
        for role in ("log_probs", "old_log_probs", "ref_log_probs"):
            x[role] = rng.choice([-0.5, -1.0, -1.5, -2.0], wide)
        for role in ("values", "old_values", "next_values", "entropy"):
            x[role] = rng.choice([0.5, 1.0, 2.0], shape)
        for role in ("returns", "rewards"):
            x[role] = rng.choice([-1.0, 0.0, 1.0, 3.0], shape)
        x["advantages"] = rng.choice([-1.0, 1.0, 2.0], shape)
        x["logits"] = rng.choice([-1.0, 0.0, 1.0], x["logits"].shape)
        x["probs"] = rng.permuted(np.broadcast_to([0.2, 0.3, 0.5], x["probs"].shape), axis=-1)
        x = x | {role: 1.0 for role in NUMBERS if role.endswith("_coefficient")}
        if "means" in x:
            x["means"] = rng.choice([-1.0, 0.0, 0.5], x["means"].shape)
            x["stds"] = np.full(x["stds"].shape, 0.5)
            x |= {"log_stds": np.log(x["stds"])}
            x["actions"] = rng.choice([0.0, 0.5, 1.0], x["actions"].shape)
        return Case({r: v for r, v in x.items() if r in self.subject.roles or r == "actions"})

    def totals(self, x: Case) -> list[tuple[str, Any, Any]]:
        return [("loss", self.right_total(x), self.subject(x).total)]

    # -- one term

    def run(self) -> None:
        self.finite()
        if self.found:
            return
        waiting = list(self.terms)
        while waiting:
            free = {t.name: self.free(t, waiting) for t in waiting}
            term = max(waiting, key=lambda t: (bool(t.strength), bool(free[t.name])))
            waiting.remove(term)
            alone = not waiting and not self.unknown
            if not (free[term.name] or term.strength or alone):
                hides = (self.unknown or waiting)[0].name
                self.not_checked.append(f"{term.name} term: the {hides} term hides it")
                continue
            self.look(term, free[term.name], alone)
        self.verdicts()
        if self.open:
            names = ", ".join(dict.fromkeys(self.open))
            self.choices.append(f"give {names} detached: gradients are not stopped inside")
        if not self.found:
            self.edges()
        if not self.subject.differentiated:
            self.not_checked.append(
                "gradients, and so what must be detached: numbers of "
                f"{self.subject.framework} carry none"
            )

    def free(self, term: Term, waiting: list[Term]) -> set[str]:
        """Its arrays that no other term depends on which is not known yet."""
        others = [t.roles for t in (*waiting, *self.unknown) if t is not term]
        return set(term.roles).difference(*others) - set(NUMBERS) - {"last_value"}

    def look(self, term: Term, free: set[str], alone: bool) -> None:
        """Which reading it is, and where its gradient goes."""
        seed = [t.name for t in self.terms].index(term.name)
        groups = _samples(self.subject, term, free, alone, self.known, seed)
        everything = [sample for group in groups for sample in group]
        if all(abs(s.total) <= 4 * s.noise for s in everything):
            self.absent(term)
            return
        match = identify(term, groups)
        if match is None:
            self.unknown.append(term)
            return
        self.known.append(match)
        if groups[0][0].gradients is None:
            return
        for role in self.subject.differentiated:
            got = np.stack([(s.gradients or {})[role] for s in groups[0]])
            if np.max(np.abs(got), initial=0) > 1e-5 * max(1e-3, abs(match.scale)):
                match.flow.add(role)
        cases = [x for sample in groups[0] for _, x in sample.cases]
        for role in term.live:
            slopes = [slope(match.reading.rows, x, role, True) for x in cases]
            if any((np.abs(each) > 1e-6).any() for each in slopes):
                match.sloped.add(role)
            if role in match.flow and self.bent(match, role, groups[0]):
                match.bent.add(role)

    def bent(self, match: Match, role: str, samples: list[Sample]) -> bool:
        """Whether a gradient that does flow is another than that of the term."""
        for sample in samples:
            own = sample.of(role)
            expected = np.asarray(sum(sign * match.gradient(x, role) for sign, x in own))
            got = (sample.gradients or {})[role]
            if role in ("probs", "logits"):  # what moves all alike does not count: Σ p = 1
                expected, got = (g - np.mean(g, -1, keepdims=True) for g in (expected, got))
            size = float(np.max(np.abs(expected), initial=0))
            if np.max(np.abs(got - expected), initial=0) > 1e-2 * size + 10 * sample.noise:
                return True
        return False

    def finite(self) -> None:
        x = self.subject.draw(np.random.default_rng(5), self.subject.layout.shapes[0])
        measured = self.subject(x)
        if not math.isfinite(measured.total):
            fault = Fault(
                "finite",
                "the loss of ordinary numbers is not finite",
                "Training stops with NaN.",
                "Look for a logarithm or a division of what may be zero or negative.",
            )
            self.fail(fault, self.table(x, [("loss", "finite", measured.total)]))
        else:
            self.hold("finite")

    def absent(self, term: Term) -> None:
        if not term.required:
            return
        fault = Fault(
            f"{term.name}-loss",
            f"the loss does not depend on its {term.name} term",
            "What it should train stays as it is.",
            "Add the term, with its coefficient, to the value that is returned first.",
        )
        self.missing += 1
        self.unknown.append(term)
        self.fail(fault, self.example(term, self.totals))
        self.unknown.remove(term)

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
            name, fault = match.term.name, match.reading.fault
            if fault is not None:
                self.fail(fault, self.example(match.term, self.totals))
            else:
                self.hold(f"{name}-loss")
                self.hold_all(match)
            if match in negative:
                self.fail(SIGNS[name], self.example(match.term, self.totals))
            else:
                self.hold(SIGNS[name].check)
            self.choices += [s for s in match.reading.said if s not in self.choices]
            self.size(match)
            if self.subject.differentiated:
                self.gradients(match)

    def hold_all(self, match: Match) -> None:
        """The names of the mistakes that were looked for and are not there."""
        for reading in match.term.readings:
            if reading.fault is not None and reading.fault is not AXIS:
                self.hold(reading.fault.check)

    def size(self, match: Match) -> None:
        name, scale = match.term.name, abs(match.scale)
        how = ("mean", "sum")[min(match.power, 1)]
        if not match.term.strength and name in ("entropy", "kl"):
            self.choices.append(f"{name}: {how}, with the weight {scale:.4g} inside")
        elif name == "value":
            half = "½ (V − R)²" if abs(scale - 0.5) < 1e-3 else "(V − R)²"
            extra = "" if min(abs(scale - 0.5), abs(scale - 1)) < 1e-3 else f" times {scale:.4g}"
            self.choices.append(f"value: {how} of {half}{extra}")
        else:
            extra = "" if abs(scale - 1) < 1e-3 else f", times {scale:.4g}"
            self.choices.append(f"{name}: {how}{extra}")

    def gradients(self, match: Match) -> None:
        term = match.term
        live = [r for r in term.live if r in self.subject.differentiated]
        # Where every row is clipped, no gradient is the right one.
        dead = [r for r in live if r not in match.flow and r in match.sloped]
        if match.reading.fault is not None and dead and term.name == "kl":
            # A detached k1 estimator is harmless but for that: one cause, one finding.
            self.found.pop(match.reading.fault.check, None)
        if dead:
            self.fail(DEAD[term.name], self.example(term, self.slopes(match, dead[0], True)))
        elif match.bent:
            role = min(match.bent)
            if term.name == "value" and self.explained_by_target(match, role):
                self.fail(leak("value", role), self.example(term, self.slopes(match, role, True)))
                return
            fault = DEAD[term.name]._replace(
                wrong=f"the gradient of the {term.name} term is not that of its value",
                effect="What is learnt is not what the reported loss measures.",
                mend="Look for a detach of a part of it, or for no_grad.",
            )
            self.fail(fault, self.example(term, self.slopes(match, min(match.bent), True)))
        elif live:
            self.hold(DEAD[term.name].check)
        for role in self.subject.differentiated:
            if role in term.live or role not in term.roles:
                continue
            fault = leak(term.name, role)
            if role not in match.flow:
                self.hold(fault.check)
            elif role in DATA and not self.strict:
                self.open.append(role)
            else:
                self.fail(fault, self.example(term, self.slopes(match, role, False)))

    def explained_by_target(self, match: Match, role: str) -> bool:
        """Whether the gradient is that of the whole term, the target's part included."""
        x = self.subject.draw(np.random.default_rng(6), self.subject.layout.shapes[0])
        got = (self.subject(x).gradients or {})[role]
        rest = sum(m.gradient(x, role) for m in self.known if m is not match)
        whole = match.factor(x) * slope(match.reading.rows, x, role, False)
        return not _apart(whole, got - rest)

    def slopes(
        self, match: Match, role: str, live: bool
    ) -> Callable[[Case], list[tuple[str, Any, Any]]]:
        """The gradient by `role`: as it should be, and as it is."""

        def rows(x: Case) -> list[tuple[str, Any, Any]]:
            gradients = self.subject(x).gradients or {}
            expected = np.zeros(np.shape(x[role]))
            for other in self.known:
                if live if other is match else role in other.flow:
                    frozen = role in other.term.live
                    expected = expected + other.factor(x) * slope(
                        other.reading.rows, x, role, frozen
                    )
            return [(f"gradient by {role}", expected, gradients[role])]

        return rows

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

    def edges(self) -> None:
        """Small batches and other shapes, where ordinary ones are right."""
        subject = self.subject
        if any("normalised inside" in said for said in self.choices):
            self.small()
        # An explicit axis shows only on arrays that have more than one.
        for layout in (GRID, COLUMNS):
            if layout is COLUMNS and "log_probs" not in subject.roles:
                continue  # logits have an axis of their own
            if subject.layout is FLAT and any(m.term.name == "policy" for m in self.known):
                self.axis(layout)
        if "values" in subject.roles and {"returns", "rewards"} & subject.roles:
            mixed = Subject(**(vars(subject) | {"layout": MIXED}))
            x = subject.draw(np.random.default_rng(9), (3,))
            with contextlib.suppress(Exception):
                if subject.layout is FLAT and _apart(mixed(x).total, self.right_total(x)):
                    self.choices.append(
                        "values [B, 1] beside targets [B] would be broadcast to [B, B]: "
                        "give equal shapes"
                    )

    def small(self) -> None:
        """Advantages that cannot be normalised: of one element, and equal ones."""
        grid = self.subject.layout.grid
        for count, what, cause in (
            (1, "one element", "the sample deviation of one is 0 / 0"),
            (3, "equal advantages", "there is no ε beside the deviation"),
        ):
            shape = (count, 1) if grid else (count,)
            x = self.simple(np.random.default_rng(0), shape)
            for role in {"advantages", "returns", "rewards", "values", "next_values", "dones"}:
                x[role] = np.full(shape, 0.5)
            total = math.nan
            with contextlib.suppress(Exception):
                total = self.subject(x).total
            if not math.isfinite(total):
                fault = Fault(
                    "normalisation-finite",
                    f"normalising the advantages of {what} gives {total}: {cause}",
                    "One such minibatch turns every parameter into NaN.",
                    "Leave a single element as it is, and divide by (std + 1e-8).",
                    RISKY,
                )
                self.fail(fault, self.table(x, [("loss", "finite", total)]))
                return
        self.hold("normalisation-finite")

    def axis(self, layout: Layout) -> None:
        """Whether advantages are normalised over everything when there is more than one axis."""
        other = Subject(**(vars(self.subject) | {"layout": layout}))
        x = other.draw(np.random.default_rng(8), layout.shapes[0])
        try:
            total = other(x).total
        except Exception:
            return
        expected = self.right_total(x)
        if not _apart(expected, total):
            self.hold(AXIS.check)
            return
        policy = next(m for m in self.known if m.term.name == "policy")
        if not any("normalised inside" in said for said in policy.reading.said):
            return
        # The rest of the loss is as it was; does one of the axes explain the policy term?
        rest = expected - policy.total(x)
        seen = x | (other.shown(x) if layout is COLUMNS else {})
        with np.errstate(all="ignore"):
            totals = [
                rest + policy.factor(x) * float(np.mean(reading.rows(seen)))
                for reading in policy.term.readings
                if reading.fault is AXIS
            ]
        if math.isnan(total) or any(not _apart(t, total) for t in totals):
            shape = (2, 2) if layout is GRID else (2,)
            x = self.simple(np.random.default_rng(0), shape)
            x["advantages"] = np.arange(1.0, 1 + math.prod(shape)).reshape(shape)
            rows = [("loss", self.right_total(x), other(x).total)]
            self.fail(AXIS, f"{layout.words}:\n" + self.table(x, rows, layout))


def _apart(expected: Any, actual: Any) -> bool:
    if isinstance(expected, str):
        return True
    expected, actual = np.asarray(expected, float), np.asarray(actual, float)
    size = max(1e-2, float(np.max(np.abs(expected), initial=0)))
    return bool(np.any(~(np.abs(actual - expected) <= 2e-3 * size)))


TRIED = 8  # ways of calling it that are audited, at most


def _audit(
    kind: str,
    function: Callable[..., Any],
    mapping: Mapping[str, str] | None,
    strict: bool,
) -> Report:
    name = calling.name_of(function)
    failed: list[str] = []
    best: Audit | None = None
    for said in mappings(function, mapping):
        matched = calling.recognise(function, ROLES, said)
        found = _best_of(kind, name, function, matched, strict, failed)
        if found is not None and (best is None or _rank(found) < _rank(best)):
            best = found
        if best is not None and not best.unknown:
            break
    if best is None:
        why = failed[0] if failed else "no framework fits"
        raise CannotCall(f"{name} failed when called with {matched.describe()}: {why}")
    return _report(name, kind, best)


def _best_of(
    kind: str,
    name: str,
    function: Callable[..., Any],
    matched: calling.Matched,
    strict: bool,
    failed: list[str],
) -> Audit | None:
    """Of the ways in which the function can be called the one that explains most."""
    best: Audit | None = None
    for count, subject in enumerate(subjects(function, matched, failed)):
        terms = terms_of(kind, subject.roles, matched.constants, calling.literals(function))
        wanted = "value" if kind == "critic-loss" else "policy"
        if wanted not in [term.name for term in terms]:
            needs = {
                "value": "values and a target (returns, or rewards and next_values)",
                "policy": "log_probs (or logits and actions, or means, deviations and actions) "
                "and advantages",
            }[wanted]
            raise CannotCall(
                f"{name}: a {kind} is a function of {needs}; recognised: "
                f"{subject.matched.describe()}. Map its other parameters by --map."
            )
        audit = Audit(subject=subject, terms=terms, strict=strict)
        audit.run()
        if subject.several and (beside := _summed(audit)) is not None:
            audit = beside
        if best is None or _rank(audit) < _rank(best):
            best = audit
        if (not audit.failures and not audit.unknown) or count + 1 == TRIED:
            break
    return best


def _summed(audit: Audit) -> Audit | None:
    """Of losses that come back side by side: their sum, if it has terms that the first lacks."""
    have = {match.term.name for match in audit.known}
    if {"policy", "value"} <= have or not {"policy", "value"} <= {t.name for t in audit.terms}:
        return None
    subject = Subject(**(vars(audit.subject) | {"summed": True}))
    beside = Audit(subject=subject, terms=audit.terms, strict=audit.strict)
    try:
        beside.run()
    except Exception:  # other outputs are no numbers to be added
        return None
    return None if beside.unknown or len(beside.known) <= len(audit.known) else beside


def _rank(audit: Audit) -> tuple[int, int]:
    """The way of calling it that explains most comes first."""
    return len(audit.unknown) + audit.missing, len(audit.failures)


def _report(name: str, kind: str, audit: Audit) -> Report:
    subject = audit.subject
    if subject.framework.name in ("jax", "torch"):
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
