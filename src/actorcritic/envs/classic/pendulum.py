"""A pendulum to be swung up and held upright."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from actorcritic.core.types import EnvSpec, Step
from actorcritic.envs.classic.angles import wrap

MASS = 1.0  # kg
LENGTH = 1.0  # m
TIME_STEP = 0.05  # s
MAX_SPEED = 8.0  # rad/s
MAX_TORQUE = 2.0  # N·m

Scalar = Float[Array, ""]


class PendulumState(NamedTuple):
    theta: Scalar  # rad from upright; counts full turns, so it is not confined to [−π, π]
    theta_dot: Scalar  # rad/s


def observe(state: PendulumState) -> Float[Array, "3"]:
    return jnp.stack([jnp.cos(state.theta), jnp.sin(state.theta), state.theta_dot])


@dataclass(frozen=True)
class Pendulum:
    """Pendulum-v1: a torque in [−2, 2] N·m on a rod that turns about one end.

    Reward −(theta² + 0.1 theta_dot² + 0.001 torque²), the state being the one *before* the step
    and theta measured from upright in [−π, π]. Nothing terminates. The observation is
    [cos theta, sin theta, theta_dot]; at the start theta ~ U(−π, π), theta_dot ~ U(−1, 1). The
    torque is clipped to its bounds. `gravity` (m/s²) is what Gymnasium calls `g`: with 0 the
    rod stays wherever it is left, which makes the task easy.

    Gymnasium's `PendulumEnv` is the task's own source and cites no paper; this one is held
    against it step for step.
    """

    gravity: float = 10.0
    max_episode_steps: int | None = 200

    @cached_property
    def spec(self) -> EnvSpec:
        high = np.array([1.0, 1.0, MAX_SPEED], np.float32)
        return EnvSpec(
            id="Pendulum-v1",
            observation_space=gymnasium.spaces.Box(-high, high, dtype=np.float32),
            action_space=gymnasium.spaces.Box(-MAX_TORQUE, MAX_TORQUE, (1,), np.float32),
            max_episode_steps=self.max_episode_steps,
        )

    def reset(self, key: Key[Array, ""]) -> tuple[PendulumState, Float[Array, "3"]]:
        turn, speed = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        state = PendulumState(math.pi * turn, speed)
        return state, observe(state)

    def step(
        self, key: Key[Array, ""], state: PendulumState, action: Float[Array, "1"]
    ) -> tuple[PendulumState, Step]:
        theta, theta_dot = state
        torque = jnp.clip(action[0].astype(theta.dtype), -MAX_TORQUE, MAX_TORQUE)
        cost = wrap(theta) ** 2 + 0.1 * theta_dot**2 + 0.001 * torque**2

        # A rod about its end: moment of inertia m·l²/3, the weight acting at l/2.
        inertia = MASS * LENGTH**2 / 3
        weight = MASS * self.gravity * LENGTH / 2 * jnp.sin(theta)
        theta_dot = theta_dot + TIME_STEP * (weight + torque) / inertia
        theta_dot = jnp.clip(theta_dot, -MAX_SPEED, MAX_SPEED)
        after = PendulumState(theta + TIME_STEP * theta_dot, theta_dot)

        never = jnp.zeros_like(cost, dtype=bool)
        return after, Step(observe(after), -cost, terminated=never, truncated=never)
