"""Trajectories on which a function is tried: random ones, of what it can be told."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from actorcritic.audit.truths import Numbers, Trajectory

SHAPES = 4 * ((5, 3), (6, 2))


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
    truncated &= ~terminated
    ended = terminated | truncated
    following = np.concatenate([x.values[1:], x.following[-1:]])
    return x.but(
        terminated=terminated,
        truncated=truncated,
        following=following,
        next_values=np.where(ended, x.next_values, following),
        cut=ended,
    )


def close(x: Trajectory, got: Numbers, expected: Numbers) -> bool:
    """Equal but for rounding, in a precision of which a function may use less than it returns."""
    parts = (x.rewards, x.values, x.next_values, x.following, expected, np.ones(1))
    size = max(np.abs(part[np.isfinite(part)]).max(initial=0.0) for part in parts)
    return bool(np.isfinite(got).all() and (np.abs(got - expected) <= 1e-5 * size).all())
