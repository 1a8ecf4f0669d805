"""A pole balanced on a cart."""

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

GRAVITY = 9.8  # m/s²
CART_MASS = 1.0  # kg
POLE_MASS = 0.1  # kg
HALF_LENGTH = 0.5  # m, from the joint to the pole's centre of mass
FORCE = 10.0  # N, the push to either side
TIME_STEP = 0.02  # s
POSITION_LIMIT = 2.4  # m
ANGLE_LIMIT = math.radians(12.0)

TOTAL_MASS = CART_MASS + POLE_MASS
POLE_SHARE = POLE_MASS / TOTAL_MASS


class CartPoleState(NamedTuple):
    """[x, x_dot, theta, theta_dot]: m and m/s of the cart from the middle of the track, rad and
    rad/s of the pole from upright, positive to the right.

    One array, because it is also the observation: XLA then computes and selects it once.
    """

    vector: Float[Array, "4"]


@dataclass(frozen=True)
class CartPole:
    """CartPole-v1: push a cart left (0) or right (1) so that its pole stays up.

    Reward 1 for every step, the one that fails included; an episode terminates when the cart is
    more than 2.4 m from the middle or the pole more than 12° from upright. The observation is
    the state, [x, x_dot, theta, theta_dot], each drawn from U(−0.05, 0.05) at the start.

    The task is that of Barto, Sutton and Anderson (1983), "Neuronlike adaptive elements that can
    solve difficult learning control problems"; the equations of motion are those of Florian
    (2007), "Correct equations for the dynamics of the cart-pole system", without friction. Held
    step for step against Gymnasium's `CartPoleEnv`, Euler integration included.
    """

    max_episode_steps: int | None = 500

    @cached_property
    def spec(self) -> EnvSpec:
        # Twice the limits, so that the observation which ends an episode is still inside.
        high = np.array([2 * POSITION_LIMIT, np.inf, 2 * ANGLE_LIMIT, np.inf], np.float32)
        return EnvSpec(
            id="CartPole-v1",
            observation_space=gymnasium.spaces.Box(-high, high, dtype=np.float32),
            action_space=gymnasium.spaces.Discrete(2),
            max_episode_steps=self.max_episode_steps,
        )

    def reset(self, key: Key[Array, ""]) -> tuple[CartPoleState, Float[Array, "4"]]:
        start = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return CartPoleState(start), start

    def step(
        self, key: Key[Array, ""], state: CartPoleState, action: Int[Array, ""]
    ) -> tuple[CartPoleState, Step]:
        x, x_dot, theta, theta_dot = state.vector
        force = jnp.where(action == 1, FORCE, -FORCE)
        sin, cos = jnp.sin(theta), jnp.cos(theta)

        # The cart's acceleration if the pole did not turn, then what the pole's turning takes off.
        push = force / TOTAL_MASS + POLE_SHARE * HALF_LENGTH * theta_dot**2 * sin
        theta_acc = (GRAVITY * sin - push * cos) / (HALF_LENGTH * (4 / 3 - POLE_SHARE * cos**2))
        x_acc = push - POLE_SHARE * HALF_LENGTH * theta_acc * cos

        x, theta = x + TIME_STEP * x_dot, theta + TIME_STEP * theta_dot
        x_dot, theta_dot = x_dot + TIME_STEP * x_acc, theta_dot + TIME_STEP * theta_acc
        after = jnp.stack([x, x_dot, theta, theta_dot])
        fallen = (jnp.abs(x) > POSITION_LIMIT) | (jnp.abs(theta) > ANGLE_LIMIT)
        return CartPoleState(after), Step(
            observation=after,
            reward=jnp.ones_like(x),
            terminated=fallen,
            truncated=jnp.zeros_like(fallen),
        )
