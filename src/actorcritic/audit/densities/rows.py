"""Densities of actions as rows: the normal one, squashed or not, and every known wrong one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from actorcritic.audit.findings import RISKY, Fault
from actorcritic.audit.losses.cases import NORMAL, WRONG_NORMALS, normal, way_of

LEVEL = 1e-9  # the chance of a false alarm of each statistical check
MANY = 8192  # draws


class Point(NamedTuple):
    """Where a density is asked for, in float64; the last axis is the action's own dimensions.

    `u` is a draw of the normal distribution and `action` what it becomes: bias + scale * tanh u.
    """

    u: np.ndarray
    action: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


Each = Callable[[Point], np.ndarray]  # a number for each dimension


class Reading(NamedTuple):
    """One way to compute a log-density."""

    each: Each
    said: str = ""
    from_action: bool | None = None  # whether it is given the squashed action; None: either
    fault: Fault | None = None


class Match(NamedTuple):
    """A reading that gives the numbers, of the squashed action or of the draw, and how reduced."""

    reading: Reading
    squashed: bool
    how: str


# ------------------------------------------------------------------------------ the definitions


def at_u(p: Point) -> np.ndarray:
    return normal(p.u, p.mean, p.std)


def at_action(p: Point) -> np.ndarray:
    return normal(p.action, p.mean, p.std)


def nothing(p: Point) -> np.ndarray:
    return np.zeros_like(p.u)


def slope(p: Point) -> np.ndarray:
    """log d tanh(u) / du, without cancellation."""
    with np.errstate(invalid="ignore"):
        return np.asarray(2 * (math.log(2) - p.u - np.logaddexp(0, -2 * p.u)))


def scale(p: Point) -> np.ndarray:
    return np.log(p.scale)


def change(p: Point) -> np.ndarray:
    """log d action / du."""
    return slope(p) + scale(p)


def _of_scaled(p: Point) -> np.ndarray:
    """The slope of tanh, were the action not scaled."""
    return np.log(np.where(np.abs(p.action) < 1, 1 - p.action**2, np.nan))


def squashed_of(p: Point) -> np.ndarray:
    return at_u(p) - change(p)


def truncated(p: Point) -> np.ndarray:
    low, high = (((p.bias + sign * p.scale) - p.mean) / p.std + nothing(p) for sign in (-1, 1))
    return at_action(p) - np.log(stats.norm.cdf(high) - stats.norm.cdf(low))


PLAIN = Reading(at_u, "normal, not squashed", False)
SQUASHED = [
    Reading(squashed_of, "tanh-squashed, a function of the draw before the tanh", False),
    Reading(squashed_of, "tanh-squashed, a function of the action", True),
]
TRUNCATED = Reading(truncated, "normal, truncated to the bounds", True)

# ------------------------------------------------------------------------------ the mistakes

_MEND = "log_prob = normal.log_prob(u) - log(scale * (1 - tanh(u)**2)), summed over dimensions"
JACOBIAN = Fault(
    "tanh-jacobian",
    "the log-probability of a squashed action lacks the change of variables by tanh",
    "Actions near the bounds seem far too unlikely: an entropy bonus pushes the policy there.",
    _MEND,
)
_NO_SLOPE = JACOBIAN._replace(
    wrong="the log-probability has the scale of the action, but not the derivative of tanh"
)
_SIGN = JACOBIAN._replace(
    wrong="the change of variables has the wrong sign: it is added, not subtracted"
)
_NO_SCALE = Fault(
    "action-scale",
    "the log-probability lacks the scale of the action, log((high − low) / 2)",
    "It is off by a constant a dimension: a target entropy is then meant for another box.",
    _MEND,
)
_SCALE_ADDED = _NO_SCALE._replace(
    wrong="the scale of the action is added to the log-probability, not subtracted"
)
_SCALED = Fault(
    "scaled-action",
    "the change of variables is computed from the scaled action, not from tanh(u)",
    "1 − a² is negative or too large outside [−1, 1]: NaN, or a wrong gradient near the bounds.",
    _MEND,
)
_AT_SCALED = _SCALED._replace(
    wrong="the normal density is taken at the scaled action, not at the draw before the tanh"
)
# What is said of it; the normal density, less the logarithm of what changes the variable.
_OF_SQUASHING: list[tuple[Fault, Each, Each]] = [
    (JACOBIAN, at_u, nothing),
    (JACOBIAN, at_action, nothing),
    (_NO_SLOPE, at_u, scale),
]
_CHANGES: list[tuple[Fault, Each, Each]] = [
    (_NO_SCALE, at_u, slope),
    (_SCALE_ADDED, at_u, lambda p: slope(p) - scale(p)),
    (_SCALED, at_u, _of_scaled),
    (_SCALED, at_u, lambda p: _of_scaled(p) + scale(p)),
    (_SCALED, at_action, _of_scaled),
    (_AT_SCALED, at_action, change),
    (_AT_SCALED, at_action, slope),
    (_SIGN, at_u, lambda p: -change(p)),
    (_SIGN, at_u, lambda p: -slope(p)),
]
_DENSITIES: list[tuple[Fault, Each, Each]] = [
    (
        NORMAL._replace(wrong=text),
        lambda p, wrong=wrong: wrong(p.u, p.mean, p.std),  # type: ignore[misc]
        changed,
    )
    for text, wrong in WRONG_NORMALS.items()
    for changed in (nothing, change)
]


def readings(claimed: bool, boxed: bool) -> list[Reading]:
    """Right ones first. `claimed`: it says that it squashes. `boxed`: it is given the bounds."""
    right = [*([] if claimed else [PLAIN]), *SQUASHED, *([TRUNCATED] if boxed else [])]
    wrong = [*(_OF_SQUASHING if claimed else []), *_CHANGES, *_DENSITIES]
    return right + [
        Reading(lambda p, of=of, less=less: of(p) - less(p), fault=fault)  # type: ignore[misc]
        for fault, of, less in wrong
    ]


INTEGRAL = NORMAL._replace(
    check="integrates-to-one", wrong="the density does not integrate to one over all actions"
)
SATURATION = Fault(
    "saturation",
    "the log-probability is not finite where tanh is saturated",
    "One such action turns the loss and every parameter into NaN.",
    "log(1 - tanh(u)**2) = 2 * (log(2) - u - softplus(-2 * u))",
    RISKY,
)
SAMPLE_DENSITY = Fault(
    "sample-density",
    "the log-probability that comes with a sample is not that of the sample",
    "Gradients and ratios belong to another action than the one that is executed.",
    "Compute the log-probability from the draw that becomes the action.",
)
CLIPPED = Fault(
    "clipped-action",
    "",
    "The next update's ratios are wrong for every action at a bound.",
    "Store the draw itself, and clip only what the environment is given.",
)
SAMPLES = Fault(
    "samples",
    "the samples do not follow the density that comes with them",
    "The policy that acts is not the one whose log-probabilities are learnt from.",
    "action = mean + std * noise, with the same mean and std as in the log-probability",
)


_REDUCED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sum": lambda each: each.sum(-1),
    "per dimension": lambda each: each,
    "mean": lambda each: each.mean(-1),
}


def reduced(reading: Reading, points: list[Point], found: list[np.ndarray]) -> str | None:
    """How dimensions are reduced if this reading explains what was found."""

    def close(expected: np.ndarray, got: np.ndarray) -> bool:
        return bool(np.isclose(got, expected, 1e-3, 1e-3, equal_nan=True).mean() > 0.99)

    with np.errstate(all="ignore"):
        each = [reading.each(p) for p in points]
    if not any(np.isfinite(e).any() for e in each):
        return None
    return way_of(_REDUCED, each, found, close)
