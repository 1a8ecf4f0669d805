"""The vocabulary that algorithms, environments and runners share.

An algorithm never sees an environment: it sees an `EnvSpec` once, observations in `act`, and a
batch of transitions in `update`. Runners own every loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

import gymnasium
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

# A pytree: one observation, or a batch with leading axes, as its space describes it.
Observation: TypeAlias = Any
Action = Array  # discrete actions count from 0; continuous ones are as sampled, not yet clipped
Metrics = dict[str, Float[Array, ""]]


class UserError(Exception):
    """A mistake that the user can mend. The command line prints its text, never a traceback."""


@dataclass(frozen=True, eq=False)
class EnvSpec:
    """What an algorithm may know of an environment.

    `max_episode_steps` is the time limit: the runner sets `truncated` once an episode has
    lasted that many steps. None means that episodes end only where the environment ends them.
    """

    id: str
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    max_episode_steps: int | None = None

    # Gymnasium's spaces can be compared but not hashed, and JAX needs both of a static field.
    @cached_property
    def _hash(self) -> int:
        return hash((self.id, repr(self.observation_space), repr(self.action_space)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, EnvSpec)
            and self.id == other.id
            and self.max_episode_steps == other.max_episode_steps
            and self.observation_space == other.observation_space
            and self.action_space == other.action_space
        )


class Transition(NamedTuple):
    """A batch of experience; every leaf has leading axes [T, B] (time, environment).

    `next_observation` is the true successor of `observation`, never the observation after a
    reset. `terminated` means that the task ended (the successor is worth 0), `truncated` that
    the episode was cut short (the successor keeps its value).
    """

    observation: Observation
    action: Action
    reward: Float[Array, "T B"]
    terminated: Bool[Array, "T B"]
    truncated: Bool[Array, "T B"]
    next_observation: Observation
    extras: Any = ()  # what `act` returned beside the action: the algorithm's own NamedTuple
    valid: Bool[Array, "T B"] | None = None  # False: not experience (padding, a reset row)

    def cleared(self) -> Transition:
        """The same, with nothing but zeros and ends in rows that are not valid: not even NaN."""
        valid = self.valid
        if valid is None:
            return self

        def kept(x: Array) -> Array:
            rows = valid.reshape(valid.shape + (1,) * (x.ndim - valid.ndim))
            return jnp.where(rows, x, jnp.zeros_like(x))

        observation, reward, after = jax.tree.map(
            kept, (self.observation, self.reward, self.next_observation)
        )
        return self._replace(
            observation=observation,
            reward=reward,
            next_observation=after,
            terminated=self.terminated | ~valid,
        )


class Step(NamedTuple):
    """What one step of a compiled environment gives, before any reset."""

    observation: Observation
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]  # for reasons other than `max_episode_steps`, which is the runner's


@runtime_checkable
class Environment(Protocol):
    """An environment inside a JAX program: a frozen, hashable dataclass.

    `step` never resets; the runner does, and it also applies `spec.max_episode_steps`.
    """

    @property
    def spec(self) -> EnvSpec: ...

    def reset(self, key: Key[Array, ""]) -> tuple[Any, Observation]:
        """Start an episode: returns (state, observation)."""
        ...

    def step(self, key: Key[Array, ""], state: Any, action: Action) -> tuple[Any, Step]:
        """One step; `action` is executable: inside the bounds of the action space."""
        ...


@runtime_checkable
class Algorithm(Protocol):
    """A frozen dataclass and a pytree whose float fields are leaves (see `hyperparameters`).

    Each update learns from `num_steps` steps of `num_envs` environments, or, where
    `whole_episodes` is true, from one complete episode of each, of at most `num_steps` steps.
    """

    name: ClassVar[str]
    num_envs: int
    num_steps: int

    @property
    def whole_episodes(self) -> bool: ...

    def init(self, key: Key[Array, ""], spec: EnvSpec) -> Any:
        """A fresh learner: one pytree with everything that learning changes."""
        ...

    def act(
        self, learner: Any, observation: Observation, key: Key[Array, ""], *, explore: bool = True
    ) -> tuple[Action, Any]:
        """Actions for a batch of observations [B, ...], and extras to store beside them."""
        ...

    def update(
        self, learner: Any, batch: Transition, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Any, Metrics]:
        """Learn from a batch; `progress` is the share of the training done when it began."""
        ...
