"""Random trajectories, and what a function is taken to compute on them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from actorcritic.audit.estimates.calls import COLUMNS, Form
from actorcritic.audit.mistakes import Mistake, shifted
from actorcritic.audit.truths import (
    QUANTITIES,
    Numbers,
    Quantity,
    Trajectory,
)


def transposed(x: Trajectory, quantity: Quantity, successors: bool) -> Numbers:
    turned = {k: v.T for k, v in x._asdict().items() if np.ndim(v) == 2}
    if not successors:  # the axis run along is that of the environments
        after = np.concatenate([x.values.T[1:], x.following.T[-1:]])
        turned |= {"next_values": after, "following": after}
    return quantity(x.but(**turned)).T


# ------------------------------------------------------------------------------- trajectories


class Scope(NamedTuple):
    """What the trajectories may hold, so that the function can know what it needs to."""

    ends: str  # none, terminations, both
    whole: bool  # the last step ends the episode: there is no bootstrap to give
    open: bool  # the last step ends nothing: the flag after it cannot be given
    successors: bool  # what follows a time limit at the last step can be given


def drawn(
    seed: int,
    shape: tuple[int, int],
    scope: Scope,
    chance: float = 0.3,
    gamma: float | None = None,
    lam: float | None = None,
) -> Trajectory:
    """A random one. Numbers of one size, so that no mistake is too small to be seen."""
    rng = np.random.default_rng(seed)
    x = Trajectory(
        rewards=rng.uniform(-2, 2, shape).round(3),
        values=rng.uniform(1, 4, shape).round(3) * rng.choice([-1, 1], shape),
        next_values=rng.uniform(5, 8, shape).round(3),
        following=rng.uniform(-4, -2, shape).round(3),
        terminated=(rng.random(shape) < chance) & (scope.ends != "none"),
        truncated=(rng.random(shape) < chance) & (scope.ends == "both"),
        cut=np.zeros(shape, bool),
        gamma=float(rng.choice([0.9, 0.8, 0.7, 0.95]) if gamma is None else gamma),
        lam=float(rng.choice([0.6, 0.5, 0.85, 0.75]) if lam is None else lam),
        ratio=np.exp(rng.normal(0, 0.7, shape)).round(3),
        rho_clip=float(rng.choice([1.25, 1.5, 1.1])),
        c_clip=float(rng.choice([0.7, 0.9, 0.8])),
        n=int(rng.integers(1, shape[0] + 1)),
        before=rng.random(shape[1]) < 0.5,
    )
    return consistent(x, scope)


def consistent(x: Trajectory, scope: Scope) -> Trajectory:
    """Its rows made to agree: one end a step, and V(s_{t+1}) = values[t + 1] within episodes."""
    terminated, truncated = x.terminated.copy(), x.truncated.copy()
    if scope.whole:
        terminated[-1] = True
    if scope.open:
        terminated[-1] = False
    if scope.open or not scope.successors:
        truncated[-1] = False
    truncated = truncated & ~terminated
    following = np.concatenate([x.values[1:], x.following[-1:]])
    ended = terminated | truncated
    return x._replace(
        terminated=terminated,
        truncated=truncated,
        following=following,
        next_values=np.where(ended, x.next_values, following),
        cut=ended,
    )


SHAPES = ((5, 3), (6, 2), (5, 3), (6, 2), (5, 3), (6, 2), (5, 3), (6, 2))

# ------------------------------------------------------------------------------- readings


class Normalised(NamedTuple):
    """What was done to the advantages at the end."""

    name: str = ""
    degrees: int = 0  # 1: sample deviation
    epsilon: float = 0.0
    inside: bool = False  # ε is added to the variance, not to the deviation
    axis: int | None = None  # of a wrong normalisation

    def __call__(self, y: Numbers) -> Numbers:
        if not self.name:
            return y
        centred = y - y.mean(axis=self.axis, keepdims=True)
        if self.name == "centred":
            return centred
        if (y.size if self.axis is None else y.shape[self.axis]) <= self.degrees:
            return np.full(y.shape, np.nan)  # the deviation of one element
        with np.errstate(all="ignore"):
            spread = y.std(axis=self.axis, ddof=self.degrees, keepdims=True)
            spread = np.sqrt(spread**2 + self.epsilon) if self.inside else spread + self.epsilon
            return centred / spread

    def describe(self) -> str:
        if self.name == "centred":
            return "the mean is subtracted at the end"
        which = "sample" if self.degrees else "population"
        where = "the variance" if self.inside else "it"
        return (
            f"normalised at the end with the {which} deviation, "
            f"about {self.epsilon:g} added to {where}"
        )


NORMALISED = [
    Normalised(),
    *(
        Normalised("normalised", degrees, epsilon, inside)
        for degrees, epsilon, inside in itertools.product(
            (0, 1), (1e-8, 1e-5, 1e-4, 1e-3, 1e-2), (False, True)
        )
    ),
    Normalised("centred"),
]
WRONGLY_NORMALISED = [
    Normalised("normalised", degrees, epsilon, False, axis)
    for axis, degrees, epsilon in itertools.product((0, 1), (0, 1), (1e-8, 1e-5, 1e-3))
]


class Reading(NamedTuple):
    """What it is taken to compute."""

    form: Form
    quantity: str
    assumed: Mapping[str, float]  # γ and λ that were found in its code
    normalised: Normalised = Normalised()
    output: int = 0
    terminal: bool = False  # time limits count as terminations

    def view(self, x: Trajectory) -> Trajectory:
        x = x.but(**self.assumed)
        return x._replace(terminated=x.ended) if self.terminal else x

    def raw(self, x: Trajectory, *mistakes: Mistake) -> Numbers:
        """By definition, before any normalisation, with these mistakes in it."""
        x = self.view(x)
        for mistake in mistakes:
            x = mistake.change(x) if mistake.change else x
        with np.errstate(all="ignore"):
            y = QUANTITIES[self.quantity](x)
            for mistake in mistakes:
                y = mistake.after(x, y) if mistake.after else y
        return y

    def expected(self, x: Trajectory, *mistakes: Mistake) -> Numbers:
        return self.finish(self.raw(x, *mistakes))

    def finish(self, y: Numbers) -> Numbers:
        if self.form.layout in COLUMNS:  # it never saw more than one column
            return np.stack([self.normalised(column) for column in y.T], 1)
        return self.normalised(y)


def size_of(x: Trajectory, y: Numbers) -> float:
    parts = (x.rewards, x.values, x.next_values, x.following, y)
    finite = [np.abs(part[np.isfinite(part)]) for part in map(np.asarray, parts)]
    return max(1.0, *(float(part.max()) for part in finite if part.size))


def close(x: Trajectory, got: Numbers, expected: Numbers) -> bool:
    """Equal but for rounding, in a precision of which a function may use less than it returns."""
    if not np.isfinite(got).all():
        return False
    tolerance = 1e-5 * size_of(x, expected)
    return bool((np.abs(got - expected) <= tolerance).all())


class Sample(NamedTuple):
    x: Trajectory
    outputs: list[tuple[str, Numbers]]


PROPERTIES = {
    "termination-drops-bootstrap": "Its result depends on values after a terminal state.",
    "truncation-bootstraps": "It is wrong where a time limit cut an episode.",
    "bootstrap-from-true-successor": "Its result depends on the first value of the next episode.",
    "trace-cut-at-episode-end": "Its result depends on rewards of a later episode.",
    "returns-stop-at-episode-end": "Its result depends on rewards of a later episode.",
    "done-flag-aligned": "It is wrong on trajectories with one end.",
    "last-bootstrap-used": "It is wrong about the value after the last step.",
    "time-axis": "Environments are not kept apart.",
    "environments-independent": "Environments are not kept apart: their order matters.",
    "lambda-applied-once": "Without any end, it is wrong for some lambda of 0, 0.4 and 1.",
    "gamma-used": "Without any end, it is wrong for some gamma.",
    "definition": "Its numbers are not those of the definition.",
    "scaling": "Rewards and values four times as large do not give results four times as large.",
    "exact-values-give-zero": "With exact values its result is not what they say.",
    "potential-shaping": "Shifting rewards and values by a potential changes the advantages.",
    "episodes-apart-or-joined": "Two episodes in one batch give other results than apart.",
}


def starts(x: Trajectory) -> Numbers:
    """The rows that follow a truncation."""
    return shifted(x.truncated, 1, False)


def after_an_end(x: Trajectory) -> Numbers:
    return np.cumsum(shifted(x.ended, 1, False), 0) > 0
