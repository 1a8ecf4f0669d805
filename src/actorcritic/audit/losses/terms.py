"""What a loss is a sum of: its terms, and which reading of each gives the numbers of a function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from actorcritic.audit.losses import rows as loss_rows
from actorcritic.audit.losses.calls import NUMBERS, Measured, Subject
from actorcritic.audit.losses.cases import Case, Reading, Rows, Term, rows_of

CLOSE = 2e-4  # relative: float32, and an ε of 1e-5 in a normalisation, are both within it


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
        asked = name == ("value" if kind == "critic-loss" else "policy")
        # An entropy that is handed over without a coefficient may be for the record.
        required = asked or bool(strong and (name != "entropy" or given))
        if readings:
            found.append(Term(name, frozenset(used & roles), strong, live, readings, required))

    given = {"entropy"} & roles
    gaussian = ("means", "stds", "log_stds") if "means" in roles else ()
    sources = (("log_probs",), gaussian, ("logits", "probs"))
    live = next(filter(None, (tuple(r for r in s if r in roles) for s in sources)), ())
    acts = "log_probs" in roles or bool(live and "actions" in roles)
    network = set(live)
    new = network if "log_probs" in roles else network | {"actions"}
    step = {"rewards", "next_values", "last_value", "dones", "continues", "truncated"}
    aims = {"returns"} & roles or step | {"gamma", "lam"}
    if acts and {"advantages", "returns", "rewards"} & roles:
        bounded = kind == "ppo-loss" and not {"kl_coefficient", "ref_log_probs"} & roles
        weights = {"advantages"} & roles or {*aims, "values"}
        used = new | weights | {"old_log_probs", "clip_range", "gamma"}
        readings = loss_rows.policy(roles, clips("clip_range"), gammas, lams, bounded)
        term("policy", used, live, readings)
    if "values" in roles:
        used = {"clip_range", "values", "old_values", "value_clip_range"}
        used |= aims if {"returns", "rewards"} & roles else {"advantages"}
        used |= {"advantages"} if "returns" in roles and kind == "critic-loss" else set()
        readings = loss_rows.value(roles, clips("value_clip_range"), gammas, lams)
        term("value", used, ("values",), readings)
    if kind != "critic-loss" and (acts or given):
        used = given or (new if "entropy_coefficient" in roles else network)
        readings = loss_rows.entropy(roles) if network or given else []
        term("entropy", used, ("entropy",) if given else live, readings)
    if acts and ("ref_log_probs" in roles or {"kl_coefficient", "old_log_probs"} <= roles):
        term("kl", new | {"ref_log_probs", "old_log_probs"}, live, loss_rows.kl(roles))
    return found


# ------------------------------------------------------------------------------ what is known


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
        return self.slope(x, role, role in self.term.live)

    def slope(self, x: Case, role: str, frozen: bool) -> np.ndarray:
        return self.factor(x) * slope(self.reading.rows, x, role, frozen)


def slope(rows: Rows, x: Case, role: str, frozen: bool) -> np.ndarray:
    """The gradient of the mean, by central differences; `frozen`: with the targets as data."""
    if role not in x:
        return np.zeros(0)
    step, value = 1e-6, np.asarray(x[role], float)
    found = np.zeros(value.shape)
    for place in np.ndindex(value.shape):
        ends = []
        for sign in (1, -1):
            moved = value.copy()
            moved[place] += sign * step
            ends.append(np.mean(rows(x.moved(role, moved, frozen))))
        found[place] = (ends[0] - ends[1]) / (2 * step)
    return found


# ------------------------------------------------------------------------------ identification


class Sample(NamedTuple):
    """A signed sum of cases in which only one term counts, and what the function gives for it."""

    cases: tuple[tuple[float, Case], ...]
    total: float
    gradients: dict[str, np.ndarray]  # none of a function whose numbers carry none
    noise: float  # rounding, absolute
    own: frozenset[str]  # roles of it alone: their gradients are those of the first case

    def of(self, role: str) -> tuple[tuple[float, Case], ...]:
        """The cases whose gradients by a role are summed."""
        return self.cases[:1] if role in self.own else self.cases

    def expected(self, rows: Rows, term: Term) -> float:
        with np.errstate(all="ignore"):
            return sum(sign * term.weight(x) * float(np.mean(rows(x))) for sign, x in self.cases)


def samples(
    subject: Subject, term: Term, free: set[str], alone: bool, known: list[Match], seed: int
) -> list[list[Sample]]:
    """For each of two batch sizes, some samples that isolate `term`, of which only `free` moves."""
    groups = []
    for size, count in zip(subject.layout.shapes, (4, 3), strict=True):
        rng = np.random.default_rng([seed, *size])
        group = []
        for _ in range(count):
            x, own = subject.draw(rng, size), set[str]()
            cases: tuple[tuple[float, Case], ...] = ((1.0, x),)
            if term.strength:
                x = x | {term.strength: rng.uniform(0.5, 1.5)}
                cases = ((1.0, x), (-1.0, x | {term.strength: 0.0}))
            elif not alone:
                other, own = subject.draw(rng, size), free
                cases = ((1.0, x), (-1.0, x | {r: other[r] for r in free}))
            group.append(_less_known(cases, [subject(x) for _, x in cases], known, frozenset(own)))
        groups.append(group)
    return groups


def _less_known(
    cases: tuple[tuple[float, Case], ...],
    results: list[Measured],
    known: list[Match],
    own: frozenset[str],
) -> Sample:
    """What is left without the terms that are known."""
    total = sum(sign * r.total for (sign, _), r in zip(cases, results, strict=True))
    rest = sum(sign * match.total(x) for sign, x in cases for match in known)
    noise = 1e-6 * max(abs(r.total) for r in results) + 1e-6 * abs(rest)
    sample = Sample(cases, total - rest, {}, noise, own)
    for role in results[0].gradients:
        sample.gradients[role] = np.sum(
            [
                sign * (result.gradients[role] - sum(m.gradient(x, role) for m in known))
                for (sign, x), result in zip(sample.of(role), results, strict=False)
            ],
            axis=0,
        )
    return sample


def identify(term: Term, groups: list[list[Sample]]) -> Match | None:
    """The reading that reproduces the numbers, up to a positive factor if there is one such."""
    for faulty in (False, True):
        readings = [r for r in term.readings if (r.fault is not None) is faulty]
        found = [fit for r in readings if (fit := _fits(r, term, groups)) is not None]
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
        r = np.array([s.expected(reading.rows, term) for s in group])
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
