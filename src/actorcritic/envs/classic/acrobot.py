"""Two links hung from a pivot, driven at the joint between them."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from actorcritic.core.types import EnvSpec, Step
from actorcritic.envs.classic.angles import wrap

# Both links are alike.
MASS = 1.0  # kg
LENGTH = 1.0  # m
CENTRE = 0.5  # m, from a link's upper joint to its centre of mass
INERTIA = 1.0  # kg·m², about the centre of mass
GRAVITY = 9.8  # m/s²
TIME_STEP = 0.2  # s
TORQUE = 1.0  # N·m
MAX_SPEED_1 = 4 * math.pi  # rad/s
MAX_SPEED_2 = 9 * math.pi  # rad/s
GOAL_HEIGHT = 1.0  # m above the pivot

Scalar = Float[Array, ""]


class AcrobotState(NamedTuple):
    theta1: Scalar  # rad, the first link from hanging straight down, in [−π, π]
    theta2: Scalar  # rad, the second link from the line of the first, in [−π, π]
    theta1_dot: Scalar  # rad/s
    theta2_dot: Scalar  # rad/s


def derivative(state: AcrobotState, torque: Scalar) -> AcrobotState:
    """d(state)/dt: Sutton and Barto, "Reinforcement Learning", the acrobot's equations of motion.

    d and phi are the book's names: the two rows of the mass matrix that act on the first joint's
    acceleration, and the gravity and Coriolis terms.
    """
    theta1, theta2, theta1_dot, theta2_dot = state
    sin2, cos2 = jnp.sin(theta2), jnp.cos(theta2)
    coupling = MASS * LENGTH * CENTRE

    d1 = MASS * (LENGTH**2 + 2 * CENTRE**2) + 2 * INERTIA + 2 * coupling * cos2
    d2 = MASS * CENTRE**2 + INERTIA + coupling * cos2
    phi2 = MASS * CENTRE * GRAVITY * jnp.sin(theta1 + theta2)
    phi1 = (
        -coupling * sin2 * theta2_dot * (theta2_dot + 2 * theta1_dot)
        + MASS * (CENTRE + LENGTH) * GRAVITY * jnp.sin(theta1)
        + phi2
    )
    ratio = d2 / d1
    theta2_acc = (torque + ratio * phi1 - coupling * sin2 * theta1_dot**2 - phi2) / (
        MASS * CENTRE**2 + INERTIA - ratio * d2
    )
    theta1_acc = -(d2 * theta2_acc + phi1) / d1
    return AcrobotState(theta1_dot, theta2_dot, theta1_acc, theta2_acc)


def runge_kutta(state: AcrobotState, torque: Scalar) -> AcrobotState:
    """The state one time step later: one classic fourth-order Runge–Kutta step."""

    def ahead(slope: AcrobotState, time: float) -> AcrobotState:
        return jax.tree.map(lambda value, rate: value + time * rate, state, slope)

    k1 = derivative(state, torque)
    k2 = derivative(ahead(k1, TIME_STEP / 2), torque)
    k3 = derivative(ahead(k2, TIME_STEP / 2), torque)
    k4 = derivative(ahead(k3, TIME_STEP), torque)
    slope = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
    return ahead(slope, TIME_STEP)


def observe(state: AcrobotState) -> Float[Array, "6"]:
    return jnp.stack(
        [
            jnp.cos(state.theta1),
            jnp.sin(state.theta1),
            jnp.cos(state.theta2),
            jnp.sin(state.theta2),
            state.theta1_dot,
            state.theta2_dot,
        ]
    )


@dataclass(frozen=True)
class Acrobot:
    """Acrobot-v1: swing the free end 1 m above the pivot; torque −1 (0), 0 (1) or +1 (2) N·m.

    Reward −1 a step and 0 for the step that gets there, which terminates. The observation is
    [cos theta1, sin theta1, cos theta2, sin theta2, theta1_dot, theta2_dot]; at the start each
    of the four state variables is drawn from U(−0.1, 0.1).

    The task is that of Sutton (1996), "Generalization in reinforcement learning: successful
    examples using sparse coarse coding", with the equations of Sutton and Barto's book (the
    paper prints them with a term missing). Held step for step against Gymnasium's `AcrobotEnv`.
    """

    max_episode_steps: int | None = 500

    @cached_property
    def spec(self) -> EnvSpec:
        high = np.array([1, 1, 1, 1, MAX_SPEED_1, MAX_SPEED_2], np.float32)
        return EnvSpec(
            id="Acrobot-v1",
            observation_space=gymnasium.spaces.Box(-high, high, dtype=np.float32),
            action_space=gymnasium.spaces.Discrete(3),
            max_episode_steps=self.max_episode_steps,
        )

    def reset(self, key: Key[Array, ""]) -> tuple[AcrobotState, Float[Array, "6"]]:
        state = AcrobotState(*jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1))
        return state, observe(state)

    def step(
        self, key: Key[Array, ""], state: AcrobotState, action: Int[Array, ""]
    ) -> tuple[AcrobotState, Step]:
        torque = TORQUE * (action - 1).astype(state.theta1.dtype)
        moved = runge_kutta(state, torque)
        after = AcrobotState(
            wrap(moved.theta1),
            wrap(moved.theta2),
            jnp.clip(moved.theta1_dot, -MAX_SPEED_1, MAX_SPEED_1),
            jnp.clip(moved.theta2_dot, -MAX_SPEED_2, MAX_SPEED_2),
        )
        observation = observe(after)
        cos1, sin1, cos2, sin2 = observation[:4]
        # The free end's height above the pivot: −cos θ1 − cos(θ1 + θ2), for links of 1 m.
        height = -cos1 - (cos1 * cos2 - sin1 * sin2)
        reached = height > GOAL_HEIGHT
        return after, Step(
            observation=observation,
            reward=jnp.where(reached, jnp.zeros_like(torque), -1.0),
            terminated=reached,
            truncated=jnp.zeros_like(reached),
        )
