"""Targets and advantages as losses compute them inside: right and wrong, and how normalised."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from actorcritic.audit import mistakes
from actorcritic.audit.findings import TIME_LIMITS, Fault
from actorcritic.audit.losses.cases import Case, Rows, shape_of
from actorcritic.audit.truths import QUANTITIES, Trajectory

Norm = Callable[[np.ndarray], np.ndarray]


class Target(NamedTuple):
    """What the critic is to predict, where a function computes it itself."""

    value: Rows
    said: tuple[str, ...] = ()
    fault: Fault | None = None
    weight: Rows | None = None  # of each row of the policy term, where it is not 1

    def less(self, role: str, fixed: bool = False) -> Target:
        """`fixed`: what is subtracted is data."""
        return self._replace(value=lambda x: self.value(x) - (x.fixed if fixed else x)[role])

    def through(self, norm: Norm) -> Target:
        return self._replace(value=lambda x: norm(self.value(x)))

    def saying(self, words: str) -> Target:
        return self._replace(said=(*self.said, words))


def _once(value: Rows) -> Rows:
    """Computed once a case, and where its targets are fixed."""

    def remembered(x: Case) -> np.ndarray:
        x = x.fixed
        whole = x if x.window is None else x.window
        if value not in whole.memo:
            with np.errstate(all="ignore"):
                whole.memo[value] = value(whole)
        found = whole.memo[value]
        return found if x.index is None else found.ravel()[x.index]

    return remembered


def trajectory(x: Case, gamma: float | None, lam: float | None) -> Trajectory:
    """The rows as steps, [T] as [T, 1]; without a value of what follows, the last one ends."""
    steps = np.shape(x["rewards"])[0]
    zeros = np.zeros_like(x["rewards"], dtype=float).reshape(steps, -1)

    def wide(role: str) -> np.ndarray:
        return np.asarray(x[role], float).reshape(steps, -1) if role in x else zeros

    values = wide("values")
    ends = 1 - wide("continues") if "continues" in x and "dones" not in x else wide("dones")
    truncated = wide("truncated") > 0
    last = np.broadcast_to(np.asarray(x.get("last_value", 0.0), float), zeros[:1].shape)
    following = np.concatenate([values[1:], last])
    return Trajectory(
        rewards=wide("rewards"),
        values=values,
        next_values=wide("next_values") if "next_values" in x else following,
        following=following,
        terminated=(ends > 0) & ~truncated,
        truncated=truncated,
        cut=(ends > 0) | truncated,
        gamma=float(x["gamma"]) if gamma is None else gamma,
        lam=float(x.get("lam", 1.0)) if lam is None else lam,
        ratio=np.ones_like(zeros),
    )


ONE, LAMBDA = "the TD target", "generalised advantages, plus V"
WHOLE = "the return to the end of the episode or batch"
_COMPUTED = {
    ONE: "the TD target is computed inside",
    WHOLE: "discounted returns are computed inside",
    LAMBDA: "λ-returns are computed inside (generalised advantages + V)",
}
_WEIGHTED = "each step is weighted by γ^t, as the gradient of the discounted return is"
_INSIDE = "the advantage is computed inside, as target − values"
_BARE = "the return itself, without a baseline"
_NO_BASELINE = Fault(
    "advantage-baseline",
    "the TD target stands where the advantage belongs",
    "Every gradient carries the value of the state: its variance is many times larger.",
    "advantage = target - values",
)


def targets(
    roles: frozenset[str], gammas: tuple[float, ...], lams: tuple[float, ...]
) -> list[Target]:
    """What values are to predict: the likeliest first, and right ones before mistakes in them."""
    if "returns" in roles:
        return [Target(lambda x: x["returns"])]
    if {"advantages", "old_values"} <= roles:
        return [Target(lambda x: x["advantages"] + x["old_values"], ("the target is A + V_old",))]
    if "rewards" not in roles:
        return []
    successors = "next_values" in roles
    quantities = [WHOLE] if not successors or {"last_value", "window"} & roles else []
    if successors or "values" in roles:
        quantities += [ONE, *([LAMBDA] if "lam" in roles or lams else [])]
    if WHOLE not in quantities:
        quantities.append(WHOLE)
    return [
        target
        for quantity in quantities
        for gamma in ((None,) if "gamma" in roles else gammas)
        for lam in ((None,) if "lam" in roles or quantity != LAMBDA else lams)
        for target in _computed(quantity, gamma, lam, roles)
    ]


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

    def of(quantity: Callable[[Trajectory], np.ndarray]) -> Rows:
        return _once(
            lambda x: np.asarray(quantity(trajectory(x, gamma, lam))).reshape(
                np.shape(x["rewards"])
            )
        )

    plain = of(truth)
    yield Target(plain, (words,))
    if quantity == WHOLE:
        yield Target(plain, (words, _WEIGHTED), weight=_powers(gamma))
    if "truncated" in roles:
        yield Target(of(lambda x: truth(x.but(terminated=x.ended))), (words, TIME_LIMITS))
    unseen = {"returns-include-value"}
    if "gamma" not in roles:
        unseen |= {"gamma-used", "gamma-in-the-trace"}
    if "lam" not in roles:
        unseen |= {"lambda-applied-once", "gamma-in-the-trace"}
    if not {"dones", "continues"} & roles:
        unseen |= {"returns-stop-at-episode-end", "termination-drops-bootstrap"}
        unseen |= {"done-flag-aligned"}
    for mistake in mistakes.table("returns", "next_values" in roles):
        if mistake.check not in unseen:
            yield Target(of(partial(mistake.applied, quantity=truth)), (words,), mistake.fault)


def advantages(
    roles: frozenset[str], gammas: tuple[float, ...], lams: tuple[float, ...]
) -> list[Target]:
    """What weighs log π: given, or a target, with a baseline or without."""
    if "advantages" in roles:
        return [Target(lambda x: x["advantages"])]
    aims = targets(roles, gammas, lams)
    if "returns" in roles:
        aims += [
            aims[0]._replace(weight=_powers(gamma), said=(_WEIGHTED,))
            for gamma in ((None,) if "gamma" in roles else gammas)
        ]
    right = [t for t in aims if not t.fault]
    if "values" not in roles:
        return [*(t.saying(_BARE) for t in right), *(t for t in aims if t.fault)]
    found = []
    for t in aims:
        found.append(t.less("values").saying(_INSIDE))
        if "old_values" in roles and "returns" not in roles:
            found.append(t.less("old_values").saying(_INSIDE))
    if "next_values" in roles:
        return found + [t._replace(fault=_NO_BASELINE) for t in right]
    return found + [t.saying(_BARE) for t in right]


# ------------------------------------------------------------------------------ normalisation

NORMALISED = "normalised inside"


def along(axis: int | None, degrees: int, e: float = 1e-8, centred: bool = True) -> Norm:
    """Normalised along an axis of many (the wrong one whichever it is), or over all (None)."""

    def norm(a: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():  # of one element it is NaN, which is what is looked for
            warnings.simplefilter("ignore", RuntimeWarning)
            deviation = np.std(a, ddof=degrees, axis=axis, keepdims=True)
        return np.asarray((a - a.mean(axis, keepdims=True) * centred) / (deviation + e))

    return norm


def as_it_is(a: np.ndarray) -> np.ndarray:
    return a


@functools.cache
def normalisations() -> tuple[tuple[str, Norm], ...]:
    """In words, and as a function; as it is first."""
    found: list[tuple[str, Norm]] = [("", as_it_is)]
    for words, degrees in (("population", 0), ("sample", 1)):
        said = f"{NORMALISED} ({words} deviation)"
        found += [(said, along(None, degrees, e)) for e in (1e-8, 1e-4, 1e-3, 1e-2)]
        said = f"divided inside by the {words} deviation, not centred"
        found.append((said, along(None, degrees, centred=False)))
    return (*found, ("centred inside, not divided", lambda a: a - a.mean()))


def normalised(found: Iterable[Target]) -> list[Target]:
    """Right targets, themselves normalised."""
    return [
        t.through(norm).saying(f"returns {words}")
        for t in found
        if not t.fault
        for words, norm in normalisations()[1:]
    ]
