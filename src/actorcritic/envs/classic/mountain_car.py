"""A car too weak for the hill, which must first roll back to gain speed."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from actorcritic.core.types import EnvSpec, Step

# Units are the task's own: the time step is 1.
GRAVITY = 0.0025
MIN_POSITION, MAX_POSITION = -1.2, 0.6
MAX_SPEED = 0.07
FORCE = 0.001  # of the car with three actions
POWER = 0.0015  # of the car with continuous actions, at full throttle
GOAL = 0.5  # position, for three actions
CONTINUOUS_GOAL = 0.45


class CarState(NamedTuple):
    """[position, velocity]; the valley's floor is at position −π/6.

    One array, because it is also the observation: XLA then computes and selects it once.
    """

    vector: Float[Array, "2"]


OBSERVATION_SPACE = gymnasium.spaces.Box(
    np.array([MIN_POSITION, -MAX_SPEED], np.float32),
    np.array([MAX_POSITION, MAX_SPEED], np.float32),
    dtype=np.float32,
)


def start(key: Key[Array, ""]) -> tuple[CarState, Float[Array, "2"]]:
    """At rest near the valley's floor: position ~ U(−0.6, −0.4)."""
    position = jax.random.uniform(key, minval=-0.6, maxval=-0.4)
    vector = jnp.stack([position, jnp.zeros_like(position)])
    return CarState(vector), vector


def drive(
    state: CarState, acceleration: Float[Array, ""], goal: float, goal_velocity: float
) -> tuple[CarState, Bool[Array, ""]]:
    """One time step on the hill sin(3 · position), and whether the goal is reached.

    The wall on the left stops the car dead.
    """
    position, velocity = state.vector
    velocity = velocity + acceleration - GRAVITY * jnp.cos(3 * position)
    velocity = jnp.clip(velocity, -MAX_SPEED, MAX_SPEED)
    position = jnp.clip(position + velocity, MIN_POSITION, MAX_POSITION)
    velocity = jnp.where((position <= MIN_POSITION) & (velocity < 0), 0.0, velocity)
    reached = (position >= goal) & (velocity >= goal_velocity)
    return CarState(jnp.stack([position, velocity])), reached


@dataclass(frozen=True)
class MountainCar:
    """MountainCar-v0: push left (0), not at all (1) or right (2) until position 0.5 is reached.

    Reward −1 a step, the last one included; reaching the goal at `goal_velocity` or faster
    terminates. The observation is [position, velocity]; the car starts at rest, its position
    drawn from U(−0.6, −0.4).

    The task is that of Moore (1990), "Efficient memory-based learning for robot control", in
    the form of Sutton and Barto's book. Held step for step against Gymnasium's `MountainCarEnv`.
    """

    goal_velocity: float = 0.0
    max_episode_steps: int | None = 200

    @cached_property
    def spec(self) -> EnvSpec:
        return EnvSpec(
            id="MountainCar-v0",
            observation_space=OBSERVATION_SPACE,
            action_space=gymnasium.spaces.Discrete(3),
            max_episode_steps=self.max_episode_steps,
        )

    def reset(self, key: Key[Array, ""]) -> tuple[CarState, Float[Array, "2"]]:
        return start(key)

    def step(
        self, key: Key[Array, ""], state: CarState, action: Int[Array, ""]
    ) -> tuple[CarState, Step]:
        push = FORCE * (action - 1).astype(state.vector.dtype)
        after, reached = drive(state, push, GOAL, self.goal_velocity)
        return after, Step(
            observation=after.vector,
            reward=-jnp.ones_like(push),
            terminated=reached,
            truncated=jnp.zeros_like(reached),
        )


@dataclass(frozen=True)
class MountainCarContinuous:
    """MountainCarContinuous-v0: a throttle in [−1, 1] drives the car to position 0.45.

    Reward −0.1 · action² a step and 100 more for the step that reaches the goal at
    `goal_velocity` or faster, which terminates. Observation and start as in `MountainCar`. The
    throttle is clipped to its bounds; the reward, as in Gymnasium, takes the action as it came.

    The task is that of Moore (1990), "Efficient memory-based learning for robot control", with
    a continuous action. Held step for step against Gymnasium's `Continuous_MountainCarEnv`,
    which rounds its state to float32 after each step.
    """

    goal_velocity: float = 0.0
    max_episode_steps: int | None = 999

    @cached_property
    def spec(self) -> EnvSpec:
        return EnvSpec(
            id="MountainCarContinuous-v0",
            observation_space=OBSERVATION_SPACE,
            action_space=gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32),
            max_episode_steps=self.max_episode_steps,
        )

    def reset(self, key: Key[Array, ""]) -> tuple[CarState, Float[Array, "2"]]:
        return start(key)

    def step(
        self, key: Key[Array, ""], state: CarState, action: Float[Array, "1"]
    ) -> tuple[CarState, Step]:
        throttle = action[0].astype(state.vector.dtype)
        push = POWER * jnp.clip(throttle, -1.0, 1.0)
        after, reached = drive(state, push, CONTINUOUS_GOAL, self.goal_velocity)
        return after, Step(
            observation=after.vector,
            reward=jnp.where(reached, 100.0, 0.0) - 0.1 * throttle**2,
            terminated=reached,
            truncated=jnp.zeros_like(reached),
        )
