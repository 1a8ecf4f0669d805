"""Probe environments: each can be solved only if one part of an algorithm is right.

Every docstring states the exact value of every observation, as a function of the discount γ, so
that a test can hold a critic against it. v* is the value under the best policy, q* that of an
action. They are meant to be tried in this order: the first one that is not learned says where
the mistake lies.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec, Step

Vector = Float[Array, "1"]


class ProbeState(NamedTuple):
    observation: Vector
    length: Int[Array, ""]  # steps taken in this episode


def _spec(
    probe: object, actions: gymnasium.Space | None = None, limit: int | None = None
) -> EnvSpec:
    return EnvSpec(
        id=type(probe).__name__,
        observation_space=gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32),
        action_space=gymnasium.spaces.Discrete(2) if actions is None else actions,
        max_episode_steps=limit,
    )


def _start(observation: Vector) -> tuple[ProbeState, Vector]:
    return ProbeState(observation, jnp.zeros((), jnp.int32)), observation


def _random_sign(key: Key[Array, ""]) -> Vector:
    return jax.random.rademacher(key, (1,)).astype(float)


def _after(
    state: ProbeState,
    reward: Float[Array, ""],
    *,
    ends: bool | Bool[Array, ""] = True,
    observation: Vector | None = None,
) -> tuple[ProbeState, Step]:
    """What a step gives; by default it ends the episode and the observation stays."""
    after = ProbeState(state.observation if observation is None else observation, state.length + 1)
    terminated = jnp.asarray(ends)
    return after, Step(after.observation, reward, terminated, jnp.zeros_like(terminated))


@dataclass(frozen=True)
class ConstantReward:
    """One step, reward 1, whatever is done. v*(0) = 1. Tests: the critic's loss and optimiser."""

    @cached_property
    def spec(self) -> EnvSpec:
        return _spec(self)

    def reset(self, key: Key[Array, ""]) -> tuple[ProbeState, Vector]:
        return _start(jnp.zeros(1))

    def step(
        self, key: Key[Array, ""], state: ProbeState, action: Int[Array, ""]
    ) -> tuple[ProbeState, Step]:
        return _after(state, jnp.ones_like(state.observation[0]))


@dataclass(frozen=True)
class ObservedReward:
    """One step; the observation is −1 or +1, evenly, and so is the reward.

    v*(o) = o. Tests: that gradients reach the critic through the observation.
    """

    @cached_property
    def spec(self) -> EnvSpec:
        return _spec(self)

    def reset(self, key: Key[Array, ""]) -> tuple[ProbeState, Vector]:
        return _start(_random_sign(key))

    def step(
        self, key: Key[Array, ""], state: ProbeState, action: Int[Array, ""]
    ) -> tuple[ProbeState, Step]:
        return _after(state, state.observation[0])


@dataclass(frozen=True)
class DelayedReward:
    """Two steps, observations 0 then 1; reward 0, then 1.

    v*(0) = γ, v*(1) = 1. Tests: discounting and bootstrapping.
    """

    @cached_property
    def spec(self) -> EnvSpec:
        return _spec(self)

    def reset(self, key: Key[Array, ""]) -> tuple[ProbeState, Vector]:
        return _start(jnp.zeros(1))

    def step(
        self, key: Key[Array, ""], state: ProbeState, action: Int[Array, ""]
    ) -> tuple[ProbeState, Step]:
        second = state.length == 1
        reward = second.astype(state.observation.dtype)
        observation = jnp.ones_like(state.observation)
        return _after(state, reward, ends=second, observation=observation)


@dataclass(frozen=True)
class ActionReward:
    """One step; reward −1 for action 0 and +1 for action 1.

    v*(0) = 1, q*(0, 0) = −1, q*(0, 1) = 1; a policy that picks action 1 with probability p has
    v(0) = 2p − 1. Tests: the actor's loss and the sign of the advantage.
    """

    @cached_property
    def spec(self) -> EnvSpec:
        return _spec(self)

    def reset(self, key: Key[Array, ""]) -> tuple[ProbeState, Vector]:
        return _start(jnp.zeros(1))

    def step(
        self, key: Key[Array, ""], state: ProbeState, action: Int[Array, ""]
    ) -> tuple[ProbeState, Step]:
        return _after(state, (2 * action - 1).astype(state.observation.dtype))


@dataclass(frozen=True)
class MatchObservation:
    """One step; the observation is −1 or +1, evenly. Reward +1 for action 0 at −1 and for action
    1 at +1, reward −1 for the others.

    v*(o) = 1; a policy that picks action 1 with probability p(o) has v(o) = o (2 p(o) − 1).
    Tests: actor and critic together, both as functions of the observation.
    """

    @cached_property
    def spec(self) -> EnvSpec:
        return _spec(self)

    def reset(self, key: Key[Array, ""]) -> tuple[ProbeState, Vector]:
        return _start(_random_sign(key))

    def step(
        self, key: Key[Array, ""], state: ProbeState, action: Int[Array, ""]
    ) -> tuple[ProbeState, Step]:
        asked = state.observation[0]
        return _after(state, asked * (2 * action - 1).astype(asked.dtype))


@dataclass(frozen=True)
class EndlessReward:
    """Reward 1 for ever, cut off by the time limit alone after `max_episode_steps` steps.

    The observation is always 0. v*(0) = 1 / (1 − γ), whatever the time limit. Tests:
    bootstrapping where an episode is truncated; without it a critic learns less.
    """

    max_episode_steps: int | None = 5

    @cached_property
    def spec(self) -> EnvSpec:
        return _spec(self, limit=self.max_episode_steps)

    def reset(self, key: Key[Array, ""]) -> tuple[ProbeState, Vector]:
        return _start(jnp.zeros(1))

    def step(
        self, key: Key[Array, ""], state: ProbeState, action: Int[Array, ""]
    ) -> tuple[ProbeState, Step]:
        return _after(state, jnp.ones_like(state.observation[0]), ends=False)


@dataclass(frozen=True)
class FiniteReward:
    """The twin of `EndlessReward`: reward 1 for `steps` steps, after which it *terminates*.

    The observation is the share of the episode that is over, t / steps, so that the value is a
    function of it: v*(t / steps) = (1 − γ^(steps − t)) / (1 − γ), at γ = 1: steps − t. Tests:
    that nothing is bootstrapped past a terminal state; if it is, a critic learns more.
    """

    steps: int = 5

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"FiniteReward needs at least 1 step, not {self.steps}.")

    @cached_property
    def spec(self) -> EnvSpec:
        return _spec(self)

    def reset(self, key: Key[Array, ""]) -> tuple[ProbeState, Vector]:
        return _start(jnp.zeros(1))

    def step(
        self, key: Key[Array, ""], state: ProbeState, action: Int[Array, ""]
    ) -> tuple[ProbeState, Step]:
        over = state.length + 1
        share = over.astype(state.observation.dtype)[None] / self.steps
        reward = jnp.ones_like(share[0])
        return _after(state, reward, ends=over >= self.steps, observation=share)


@dataclass(frozen=True)
class ContinuousTarget:
    """One step, one action a in [−1, 1]; reward −(a − target)².

    v*(0) = 0, at a = target. Where actions are a ~ N(μ, σ²), and none is clipped,
    v(0) = −(μ − target)² − σ². Tests: the density of continuous actions.
    """

    target: float = 0.5

    def __post_init__(self) -> None:
        if not -1 <= self.target <= 1:
            raise UserError(f"ContinuousTarget's target must lie in [-1, 1], not {self.target}.")

    @cached_property
    def spec(self) -> EnvSpec:
        return _spec(self, gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32))

    def reset(self, key: Key[Array, ""]) -> tuple[ProbeState, Vector]:
        return _start(jnp.zeros(1))

    def step(
        self, key: Key[Array, ""], state: ProbeState, action: Float[Array, "1"]
    ) -> tuple[ProbeState, Step]:
        return _after(state, -((action[0].astype(state.observation.dtype) - self.target) ** 2))
