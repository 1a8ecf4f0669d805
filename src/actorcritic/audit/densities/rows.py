"""Densities of actions as rows: the normal one, squashed or not, and every known wrong one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from actorcritic.audit.findings import (
    Fault,
)
from actorcritic.audit.losses.cases import NORMAL, WRONG_NORMALS, normal

# ------------------------------------------------------------------------------ the definitions

LEVEL = 1e-9  # the chance of a false alarm of each statistical check
MANY = 8192  # draws
Case = dict[str, Any]  # role → what is handed over


@dataclass(frozen=True)
class Point:
    """Where a density is asked for, in float64; the last axis is the action's own dimensions.

    `u` is a draw of the normal distribution and `action` what it becomes: bias + scale * tanh u.
    """

    u: np.ndarray
    action: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    scale: np.ndarray
    bias: np.ndarray

    def given(self, squashed: bool) -> np.ndarray:
        return self.action if squashed else self.u


Each = Callable[[Point], np.ndarray]  # a number for each dimension


class Reading(NamedTuple):
    """One way to compute a log-density: of `u` (or an action that is not squashed), or of it."""

    each: Each
    from_action: bool | None  # whether the number handed over is the squashed action; None: either
    said: str = ""
    fault: Fault | None = None


def normal_of(x: np.ndarray, p: Point) -> np.ndarray:
    return normal(x, p.mean, p.std)


def slope(p: Point) -> np.ndarray:
    """log d tanh(u) / du, without cancellation."""
    with np.errstate(invalid="ignore"):
        return np.asarray(2 * (math.log(2) - p.u - np.logaddexp(0, -2 * p.u)))


def squashed_of(p: Point) -> np.ndarray:
    return normal_of(p.u, p) - slope(p) - np.log(p.scale)


def _log1m_square(x: np.ndarray) -> np.ndarray:
    return np.log(np.where(np.abs(x) < 1, 1 - x**2, np.nan))


MEND = "log_prob = normal.log_prob(u) - log(scale * (1 - tanh(u)**2)), summed over dimensions"
JACOBIAN = Fault(
    "tanh-jacobian",
    "the log-probability of a squashed action lacks the change of variables by tanh",
    "Entropy and ratios are those of another variable: actions near the bounds seem far too "
    "unlikely, and an entropy bonus pushes the policy into the bounds.",
    MEND,
)
_SCALE = Fault(
    "action-scale",
    "the log-probability lacks the scale of the action, log((high − low) / 2)",
    "It is off by a constant for each dimension: a target entropy or a temperature is meant for "
    "another box.",
    MEND,
)
_SCALED = Fault(
    "scaled-action",
    "the change of variables is computed from the scaled action, not from tanh(u)",
    "1 − a² is negative or too large outside [−1, 1]: NaN, or a wrong gradient near the bounds.",
    MEND,
)
DIMENSIONS = Fault(
    "dimensions-summed",
    "",
    "The log-probability of an action is the sum over its dimensions: ratios and entropies are "
    "those of something else, the more so the more dimensions.",
    "log_prob = log_prob.sum(-1)",
)


def readings(claimed: bool, boxed: bool) -> list[Reading]:
    """Right ones first. `claimed`: it says that it squashes. `boxed`: it is given the bounds."""

    def wrong(text: str) -> Fault:
        return NORMAL._replace(wrong=text)

    plain = Reading(lambda p: normal_of(p.u, p), False, "normal, not squashed")
    at_action = Reading(lambda p: normal_of(p.action, p), True)
    right = [
        Reading(squashed_of, False, "tanh-squashed, a function of the draw before the tanh"),
        Reading(squashed_of, True, "tanh-squashed, a function of the action"),
    ]
    if boxed:
        right.append(Reading(truncated, True, "normal, truncated to the bounds"))
    faulty: list[Reading] = []
    if claimed:
        faulty += [
            Reading(lambda p: normal_of(p.u, p), None, fault=JACOBIAN),
            at_action._replace(fault=JACOBIAN),
            Reading(
                lambda p: normal_of(p.u, p) - np.log(p.scale),
                None,
                fault=JACOBIAN._replace(
                    wrong="the log-probability has the scale of the action, but not the "
                    "derivative of tanh"
                ),
            ),
        ]
    else:
        right.insert(0, plain)
    faulty += [
        Reading(lambda p: normal_of(p.u, p) - slope(p), None, fault=_SCALE),
        Reading(lambda p: squashed_of(p) + 2 * np.log(p.scale), None, fault=_SCALE._replace(
            wrong="the scale of the action is added to the log-probability, not subtracted")),
        Reading(lambda p: normal_of(p.u, p) - _log1m_square(p.action), None, fault=_SCALED),
        Reading(
            lambda p: normal_of(p.u, p) - _log1m_square(p.action) - np.log(p.scale),
            None,
            fault=_SCALED,
        ),
        Reading(lambda p: normal_of(p.action, p) - _log1m_square(p.action), None, fault=_SCALED),
        Reading(
            lambda p: normal_of(p.action, p) - slope(p) - np.log(p.scale),
            None,
            fault=_SCALED._replace(
                wrong="the normal density is taken at the scaled action, not at the draw before "
                "the tanh"
            ),
        ),
        Reading(
            lambda p: normal_of(p.action, p) - slope(p),
            None,
            fault=_SCALED._replace(
                wrong="the normal density is taken at the scaled action, not at the draw before "
                "the tanh"
            ),
        ),
        Reading(
            lambda p: normal_of(p.u, p) + slope(p) + np.log(p.scale),
            None,
            fault=JACOBIAN._replace(
                wrong="the change of variables has the wrong sign: it is added, not subtracted"
            ),
        ),
        Reading(
            lambda p: normal_of(p.u, p) + slope(p),
            None,
            fault=JACOBIAN._replace(
                wrong="the change of variables has the wrong sign: it is added, not subtracted"
            ),
        ),
    ]  # fmt: skip
    # Mistakes of the normal density itself, squashed or not.
    for text, base in _BASES:
        for extra in (_nothing, lambda p: slope(p) + np.log(p.scale)):
            faulty.append(
                Reading(lambda p, b=base, e=extra: b(p) - e(p), None, fault=wrong(text))  # type: ignore[misc]
            )
    return right + faulty


def truncated(p: Point) -> np.ndarray:
    low, high = (
        ((p.bias + sign * p.scale) - p.mean) / p.std * np.ones_like(p.u) for sign in (-1, 1)
    )
    mass = np.log(stats.norm.cdf(high) - stats.norm.cdf(low))
    return np.asarray(normal_of(p.action, p) - mass)


def _nothing(p: Point) -> np.ndarray:
    return np.zeros_like(p.u)


_BASES: list[tuple[str, Each]] = [
    (text, lambda p, w=wrong: w(p.u, p.mean, p.std))  # type: ignore[misc]
    for text, wrong in WRONG_NORMALS
]


def reduced(reading: Reading, points: list[Point], found: list[np.ndarray]) -> str:
    """How dimensions are reduced if this reading explains what was found, else ''."""
    each = []
    for p in points:
        with np.errstate(all="ignore"):
            each.append(reading.each(p))
    if not any(np.isfinite(e).any() for e in each):
        return ""
    for how, reduce in (
        ("sum", lambda e: e.sum(-1)),
        ("per dimension", lambda e: e),
        ("mean", lambda e: e.mean(-1)),
    ):
        agree = []
        for e, got in zip(each, found, strict=True):
            expected = reduce(e)
            if how == "sum" and got.shape == (*expected.shape, 1):
                got = got[..., 0]
            if how == "mean" and got.shape == (*expected.shape, 1):
                got = got[..., 0]
            if got.shape != expected.shape:
                break
            close = np.isclose(got, expected, 1e-3, 1e-3, equal_nan=True)
            agree.append(close.mean())
        if len(agree) == len(each) and min(agree) > 0.99:
            return how
    return ""
