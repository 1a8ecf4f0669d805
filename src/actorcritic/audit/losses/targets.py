"""Targets and advantages as losses compute them inside: right and wrong, and how normalised."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from actorcritic.audit import mistakes
from actorcritic.audit.findings import TIME_LIMITS, Fault
from actorcritic.audit.losses.cases import Case, Rows, shape_of
from actorcritic.audit.truths import QUANTITIES, Trajectory

# ------------------------------------------------------------------------------ targets


class Target(NamedTuple):
    """What the critic is to predict, where a function computes it itself."""

    value: Rows
    said: tuple[str, ...] = ()
    fault: Fault | None = None
    weight: Rows | None = None  # of each row of the policy term, where it is not 1


def _once(value: Rows) -> Rows:
    """Computed once a case, and where its targets are fixed."""

    def remembered(x: Case) -> np.ndarray:
        x = x.fixed
        whole = x if x.window is None else x.window
        if id(value) not in whole.memo:
            with np.errstate(all="ignore"):
                whole.memo[id(value)] = value(whole)
        found = whole.memo[id(value)]
        return found if x.index is None else found.ravel()[x.index]

    remembered.kept = value  # type: ignore[attr-defined]  # alive, so that no id is another's
    return remembered


def trajectory(x: Case, gamma: float | None, lam: float | None) -> Trajectory:
    """The rows as steps, [T] as [T, 1]; without a value of what follows, the last one ends."""

    def wide(role: str) -> np.ndarray:
        return np.asarray(x[role], float).reshape(shape[0], -1)

    shape = np.shape(x["rewards"])
    rewards = wide("rewards")
    values = wide("values") if "values" in x else np.zeros(rewards.shape)
    ends = wide("dones") if "dones" in x else np.zeros(rewards.shape)
    if "continues" in x and "dones" not in x:
        ends = 1 - wide("continues")
    truncated = wide("truncated") > 0 if "truncated" in x else np.zeros(rewards.shape, bool)
    terminated = (ends > 0) & ~truncated
    last = np.broadcast_to(np.asarray(x.get("last_value", 0.0), float), rewards[0].shape)
    following = np.concatenate([values[1:], last[None]])
    return Trajectory(
        rewards=rewards,
        values=values,
        next_values=wide("next_values") if "next_values" in x else following,
        following=following,
        terminated=terminated,
        truncated=truncated,
        cut=terminated | truncated,
        gamma=float(x["gamma"]) if gamma is None else gamma,
        lam=float(x.get("lam", 1.0)) if lam is None else lam,
        ratio=np.ones(rewards.shape),
    )


WHOLE = "the return to the end of the episode or batch"
LAMBDA = "generalised advantages, plus V"
_COMPUTED = {
    "the TD target": "the TD target is computed inside",
    WHOLE: "discounted returns are computed inside",
    LAMBDA: "λ-returns are computed inside (generalised advantages + V)",
}


def targets(
    roles: frozenset[str], gammas: tuple[float, ...], lams: tuple[float, ...]
) -> list[Target]:
    """Right ones first."""
    if "returns" in roles:
        return [Target(lambda x: x["returns"])]
    if {"advantages", "old_values"} <= roles:
        return [Target(lambda x: x["advantages"] + x["old_values"], ("the target is A + V_old",))]
    if "rewards" not in roles:
        return []
    successors = "next_values" in roles
    quantities = [WHOLE] if not successors or "last_value" in roles or "window" in roles else []
    quantities += ["the TD target"] if successors or "values" in roles else []
    if successors or "values" in roles:
        quantities += [LAMBDA] if "lam" in roles or lams else []
    if successors and WHOLE not in quantities:
        quantities.append(WHOLE)
    right, wrong = [], []
    for quantity in quantities:
        for gamma in (None,) if "gamma" in roles else gammas:
            for lam in (None,) if "lam" in roles or quantity != LAMBDA else lams:
                found = list(_computed(quantity, gamma, lam, roles))
                right += [t for t in found if not t.fault]
                wrong += [t for t in found if t.fault]
    return right + wrong


_WEIGHTED = "each step is weighted by γ^t, as the gradient of the discounted return is"


def _powers(gamma: float | None) -> Rows:
    """γ^t, along the first axis."""

    def weight(x: Case) -> np.ndarray:
        shape = shape_of(x)
        power = float(x["gamma"] if gamma is None else gamma) ** np.arange(shape[0])
        return np.broadcast_to(power.reshape(-1, *([1] * (len(shape) - 1))), shape)

    return weight


def _computed(
    quantity: str, gamma: float | None, lam: float | None, roles: frozenset[str]
) -> Iterator[Target]:
    words = _COMPUTED[quantity]
    for name, number in (("γ", gamma), ("λ", lam)):
        words += "" if number is None else f", {name} = {number:g}"
    truth = QUANTITIES[quantity]

    def of(change: Callable[[Trajectory], Trajectory], mistake: mistakes.Mistake | None) -> Rows:
        def value(x: Case) -> np.ndarray:
            found = change(trajectory(x, gamma, lam))
            y = mistake.applied(found, truth) if mistake else truth(found)
            return np.asarray(y).reshape(np.shape(x["rewards"]))

        return _once(value)

    plain = of(lambda x: x, None)
    yield Target(plain, (words,))
    if quantity == WHOLE:
        yield Target(plain, (words, _WEIGHTED), weight=_powers(gamma))
    if "truncated" in roles:
        as_ends = of(lambda x: x._replace(terminated=x.ended), None)
        yield Target(as_ends, (words, TIME_LIMITS))
    known = mistakes.table("returns", "next_values" in roles)
    beside = {"returns-include-value"}
    beside |= set() if "gamma" in roles else {"gamma-used", "gamma-in-the-trace"}
    if "lam" not in roles:
        beside |= {"lambda-applied-once", "gamma-in-the-trace"}
    if not {"dones", "continues"} & roles:
        beside |= {"returns-stop-at-episode-end", "termination-drops-bootstrap"}
        beside |= {"done-flag-aligned"}
    for mistake in known:
        if mistake.check not in beside:
            yield Target(of(lambda x: x, mistake), (words,), mistake.fault)


def advantages(
    roles: frozenset[str], gammas: tuple[float, ...], lams: tuple[float, ...]
) -> list[Target]:
    if "advantages" in roles:
        return [Target(lambda x: x["advantages"])]
    aims = targets(roles, gammas, lams)
    if "returns" in roles:
        aims += [
            aims[0]._replace(weight=_powers(gamma), said=(_WEIGHTED,))
            for gamma in ((None,) if "gamma" in roles else gammas)
        ]
    found = []
    if "values" in roles:
        said = "the advantage is computed inside, as target − values"
        for t in aims:
            found.append(t._replace(value=minus_values(t.value), said=(*t.said, said)))
            if "old_values" in roles and "returns" not in roles:
                found.append(t._replace(value=_minus_old_values(t.value), said=(*t.said, said)))
    bare = [t for t in aims if not t.fault]
    one_step = "next_values" in roles and "values" in roles
    fault = Fault(
        "advantage-baseline",
        "the TD target stands where the advantage belongs",
        "Without the baseline V(s) every gradient carries the value of the state: its "
        "variance is many times larger.",
        "advantage = target - values",
    )
    if one_step:
        return found + [t._replace(fault=fault) for t in bare]
    said = "the return itself, without a baseline"
    found += [t._replace(said=(*t.said, said)) for t in bare]
    if "values" not in roles:
        found += [t for t in aims if t.fault]
    return [t for t in found if not t.fault] + [t for t in found if t.fault]


def _minus_old_values(value: Rows) -> Rows:
    return lambda x: value(x) - x["old_values"]


def minus_values(value: Rows) -> Rows:
    return lambda x: value(x) - x["values"]


# ------------------------------------------------------------------------------ normalisation

Norm = Callable[[np.ndarray], np.ndarray]


def _std(a: np.ndarray, degrees: int, axis: int | None = None) -> np.ndarray:
    with warnings.catch_warnings():  # of one element it is NaN, which is what is looked for
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.std(a, ddof=degrees, axis=axis, keepdims=True))


def along(axis: int | None, degrees: int, e: float = 1e-8) -> Norm:
    """Normalised along an axis of many (the wrong one whichever it is), or over all (None)."""
    return lambda a: (a - a.mean(axis, keepdims=True)) / (_std(a, degrees, axis) + e)


def _divided(degrees: int) -> Norm:
    return lambda a: a / (_std(a, degrees) + 1e-8)


NORMALISED = "normalised inside"


@functools.cache
def normalisations() -> tuple[tuple[str, Norm], ...]:
    """In words, and as a function; as it is first."""
    found: list[tuple[str, Norm]] = [("", lambda a: a)]
    for words, degrees in (("population", 0), ("sample", 1)):
        said = f"{NORMALISED} ({words} deviation)"
        found += [(said, along(None, degrees, e)) for e in (1e-8, 1e-4, 1e-3, 1e-2)]
        found.append((f"divided inside by the {words} deviation, not centred", _divided(degrees)))
    return (*found, ("centred inside, not divided", lambda a: a - a.mean()))
