"""The vocabulary that algorithms, environments and runners share.

An algorithm never sees an environment: it sees an `EnvSpec` once, observations in `act`, and a
batch of transitions in `update`. Runners own every loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import gymnasium
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from actorcritic.core.errors import UserError

# A pytree: one observation, or a batch with leading axes, as its space describes it.
Observation: TypeAlias = Any
Action = Array  # discrete actions count from 0; continuous ones are as sampled, not yet clipped
Metrics = dict[str, Float[Array, ""]]


ACTION_SPACES: tuple[type, ...] = (
    gymnasium.spaces.Discrete,
    gymnasium.spaces.MultiDiscrete,
    gymnasium.spaces.MultiBinary,
    gymnasium.spaces.Box,
)


class Agent(NamedTuple):
    """One of the agents of an environment. Agents of one team learn together.

    Where agents differ, the spaces of an EnvSpec are those of all of them, padded: `features` and
    `actions` are how many numbers of an observation, and how many choices (or numbers) of an
    action, are this one's own.
    """

    name: str
    team: str = ""
    features: int | None = None
    actions: int | None = None


@dataclass(frozen=True, eq=False)
class EnvSpec:
    """What an algorithm may know of an environment.

    `max_episode_steps` is the time limit: the runner sets `truncated` once an episode has
    lasted that many steps. None means that episodes end only where the environment ends them.

    Of several `agents`, the spaces are those of one. Batches then have a column for each agent of
    each environment: [B·N], the agents of the first environment first.
    """

    id: str
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    max_episode_steps: int | None = None
    agents: tuple[Agent, ...] = ()

    @property
    def columns(self) -> int:
        """How many columns of a batch an environment has: one for each agent."""
        return len(self.agents) or 1

    @property
    def first_team(self) -> tuple[int, ...]:
        """The agents whose returns stand for an episode's: those of the first agent's team."""
        if not self.agents:
            return (0,)
        return tuple(k for k, agent in enumerate(self.agents) if agent.team == self.agents[0].team)

    # Gymnasium's spaces can be compared but not hashed, and JAX needs both of a static field.
    @cached_property
    def _hash(self) -> int:
        spaces = repr(self.observation_space), repr(self.action_space)
        return hash((self.id, *spaces, self.agents))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, EnvSpec)
            and self.id == other.id
            and self.max_episode_steps == other.max_episode_steps
            and self.agents == other.agents
            and self.observation_space == other.observation_space
            and self.action_space == other.action_space
        )


class Extras(NamedTuple):
    """What is recorded beside an action, for `update` to have again."""

    draw: Array | None = None  # what the policy drew, where its action does not tell: before tanh
    log_prob: Float[Array, "..."] | None = None  # of the draw, by the policy that acted
    own: Any = ()  # whatever else an algorithm wants


class Decision(NamedTuple):
    """What `act` returns for a batch of observations."""

    action: Action  # as the policy drew it, not yet clipped
    extras: Extras = Extras()


class Collects(NamedTuple):
    """What a runner gathers for one update of an algorithm.

    `num_steps` steps of each of `num_envs` environments; or with `whole_episodes` one complete
    episode of each, of at most `num_steps` steps.
    """

    num_envs: int
    num_steps: int
    whole_episodes: bool = False
    discount: float | Float[Array, ""] | None = None  # γ of `Transition.reward_sum`

    def longest(self, spec: EnvSpec) -> int:
        """T of a batch. Whole episodes need no more room than the environment's time limit."""
        if self.whole_episodes and spec.max_episode_steps is not None:
            return min(self.num_steps, spec.max_episode_steps)
        return self.num_steps


class Transition(NamedTuple):
    """A batch of experience; every leaf has leading axes [T, B] (time, environment).

    Where an environment has N agents, B stands for B·N: a column for each agent of each.

    Columns are contiguous in time: row t + 1 of a column follows row t, or begins the next episode
    where row t ended one. `next_observation` is the true successor of `observation`, never the
    observation after a reset. `terminated` means that the task ended (the successor is worth 0),
    `truncated` that the episode was cut short (the successor keeps its value). Rows that were drawn
    from a data set are [1, B]: columns of one row each, which say nothing of each other.
    """

    observation: Observation
    action: Action
    reward: Float[Array, "T B"]
    terminated: Bool[Array, "T B"]
    truncated: Bool[Array, "T B"]
    next_observation: Observation
    extras: Extras = Extras()  # what `act` returned beside the action
    valid: Bool[Array, "T B"] | None = None  # False: not experience (padding, a reset row)
    # Σ γ^k r_{t-k} over the episode so far; only where the algorithm asked for it (`Collects`).
    reward_sum: Float[Array, "T B"] | None = None

    def steps(self, columns: int) -> Any:
        """Environment steps: rows in which any of an environment's `columns` is experience."""
        if self.valid is None:
            return self.reward.size // columns
        return self.valid.reshape(len(self.valid), -1, columns).any(-1).sum()

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


PERIOD = 2**29  # about; of the numbers of a ring's rows


@partial(jax.tree_util.register_dataclass, data_fields=["rows", "count"], meta_fields=[])
@dataclass(frozen=True)
class Ring:
    """The latest of all rows that were ever appended: row number k lies at k % capacity.

    `count` and numbers have 32 bits for any number of rows: at 2·`period` the count falls by a
    period, and two numbers that differ by one stand for the same row. `age` knows.

    Places that no row has come to yet are zero, and none changes but by `append`. Where a learner
    keeps much, it keeps it in such rings: a checkpoint then holds the rows that are filled, and to
    save it again costs what was appended since.
    """

    rows: PyTree  # leaves [capacity, ...]
    count: Int[Array, ""]  # rows ever appended, less whole periods

    @property
    def capacity(self) -> int:
        return int(jax.tree.leaves(self.rows)[0].shape[0])

    @property
    def period(self) -> int:
        return self.capacity * max(2, PERIOD // self.capacity)

    def append(self, rows: PyTree, kept: Bool[Array, " N"]) -> tuple[Ring, Int[Array, " N"]]:
        """With those of the rows [N, ...] that are kept, in their order; and each one's number."""
        number = self.count + jnp.cumsum(kept, dtype=jnp.int32) - 1
        count, capacity, period = number[-1] + 1, self.capacity, self.period
        place = jnp.where(kept & (number >= count - capacity), number % capacity, capacity)
        rows = jax.tree.map(lambda room, x: room.at[place].set(x, mode="drop"), self.rows, rows)
        return Ring(rows, jnp.where(count >= 2 * period, count - period, count)), number

    def age(self, number: Int[Array, "..."]) -> Int[Array, "..."]:
        """How many rows were appended from this one on, of one that is not a period old."""
        return (self.count - number) % self.period

    def at(self, number: Int[Array, "..."]) -> PyTree:
        """The rows of these numbers [...], if they are still there."""
        place = number % self.capacity
        return jax.tree.map(lambda room: room[place], self.rows)


class Step(NamedTuple):
    """What one step of a compiled environment gives, before any reset.

    Where the environment has N agents, each part has a leading axis [N]. An agent that is out
    stays terminated (or truncated); the episode ends when all are out.
    """

    observation: Observation
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]  # for reasons other than `max_episode_steps`, which is the runner's
    valid: Bool[Array, ""] | None = None  # False: not there to act, out already or not yet in


@runtime_checkable
class Environment(Protocol):
    """An environment inside a JAX program: a frozen, hashable dataclass.

    `step` never resets; the runner does, and it also applies `spec.max_episode_steps`. Where
    `spec.agents` are several, observations and actions have a leading axis [N].
    """

    @property
    def spec(self) -> EnvSpec: ...

    def reset(self, key: Key[Array, ""]) -> tuple[Any, Observation]:
        """Start an episode: returns (state, observation)."""
        ...

    def step(self, key: Key[Array, ""], state: Any, action: Action) -> tuple[Any, Step]:
        """One step; `action` is executable: inside the bounds of the action space."""
        ...


Learner = TypeVar("Learner")
Actor = TypeVar("Actor")
Batch = TypeVar("Batch", contravariant=True)


@runtime_checkable
class Algorithm(Protocol[Learner, Actor, Batch]):
    """A frozen dataclass and a pytree whose float fields are leaves (see `hyperparameters`).

    A class that inherits from this one gets what has a default here.
    """

    name: ClassVar[str]
    action_spaces: ClassVar[tuple[type, ...]] = ACTION_SPACES  # that it is for

    @property
    def collects(self) -> Collects | None:
        """What a runner gathers for an update; None where `update` learns from data or text."""
        return None

    @property
    def draws(self) -> int | None:
        """Rows of a data set that an update learns from; None where it learns from none.

        The runner draws them uniformly and with replacement, and gives them as a `Transition`
        whose leaves lead with [1, draws].
        """
        return None

    def init(self, key: Key[Array, ""], spec: EnvSpec) -> Learner:
        """A fresh learner: one pytree with everything that learning changes."""
        ...

    def actor(self, learner: Learner) -> Actor:
        """What acting needs, and no more: it travels to other processes and is what is loaded."""
        ...

    def behaviour(self, learner: Learner) -> Any:
        """What acts to collect the next batch, and is given to `act` in the place of an actor.

        It is the actor of now, but where staleness is part of the algorithm: then an older one, or
        one for each of several workers, among whom the columns of the batch are divided in order.
        """
        return self.actor(learner)

    def act(
        self, actor: Actor, observation: Observation, key: Key[Array, ""], *, explore: bool = True
    ) -> Decision:
        """Actions for a batch of observations [B, ...], and what to record beside them."""
        ...

    def update(
        self, learner: Learner, batch: Batch, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        """Learn from a batch; `progress` is the share of the training done when it began."""
        ...

    def check(self, spec: EnvSpec) -> None:
        """Raise UserError where hyperparameters do not fit each other, or the environment."""

    def remember(self, learner: Learner, batch: Transition) -> Learner | None:
        """The learner with recorded experience [T, 1] in its memory, not yet learned from.

        None where it keeps no experience.
        """
        return None

    def notes(self, spec: EnvSpec) -> list[str]:
        """What is allowed on this environment, but seldom meant."""
        return []

    def spread(self, axis: str, over: int, spec: EnvSpec) -> Any:
        """The part that one of `over` devices does of every update, or None to do it on one.

        `axis` is the mesh axis to average over. An algorithm offers this by its exact class: what
        a subclass computes from a whole batch, nobody can spread for it.
        """
        return None


@runtime_checkable
class Asynchronous(Protocol):
    """What an algorithm has beside `Algorithm` if workers need not wait for each other.

    A worker acts with a snapshot, prepares what it collected with it, and sends that. The learner,
    who may have learned from others in between, absorbs it.
    """

    def worker(self) -> Any:
        """The algorithm as one of the workers runs it, and as the learner keeps it for them.

        Staleness is then no part of it: it happens.
        """
        ...

    def snapshot(self, learner: Any) -> Any:
        """What a worker takes with it: it acts with this, and `prepare` has it again."""
        ...

    def prepare(
        self, snapshot: Any, batch: Transition, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> Any:
        """What a worker sends of a batch [T, B] that it collected with a snapshot."""
        ...

    def absorb(
        self, learner: Any, sent: Any, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Any, Metrics]:
        """Learn from what a worker sent."""
        ...


WITH_DEFAULT = (
    *("action_spaces", "collects", "draws", "behaviour"),
    *("check", "notes", "remember", "spread"),
)


def check_protocol(algorithm: Any) -> None:
    """UserError where something is not an `Algorithm`: what is missing, and what to write."""
    if isinstance(algorithm, type):
        raise UserError(
            f"An algorithm is an object, and {algorithm.__name__} is a class; write "
            f"{algorithm.__name__}()."
        )
    kind = type(algorithm).__name__
    asked = ("name", "init", "actor", "act", "update", *WITH_DEFAULT)
    # What a class inherits from the protocol itself is there only where it is a default.
    required = asked[: -len(WITH_DEFAULT)]
    empty = [getattr(Algorithm, name) for name in required if hasattr(Algorithm, name)]
    missing = [
        name
        for name in asked
        if not hasattr(algorithm, name) or getattr(type(algorithm), name, ()) in empty
    ]
    if missing:
        raise UserError(
            f"{kind} is not an algorithm: it lacks {', '.join(missing)}. Inherit from "
            "actorcritic.Algorithm, which says what they are and has defaults of "
            f"{', '.join(WITH_DEFAULT)}."
        )
    if not hasattr(algorithm, "__dataclass_fields__") or jax.tree.leaves(algorithm) == [algorithm]:
        raise UserError(
            f"{kind} must be a frozen dataclass that is a pytree: put @hyperparameters (of "
            "actorcritic) above the class."
        )
    collects = algorithm.collects
    if collects is not None and not isinstance(collects, Collects):
        raise UserError(
            f"{kind}.collects is {collects!r}; expected Collects(num_envs, num_steps) or None."
        )
    draws = algorithm.draws
    if draws is not None and (type(draws) is not int or draws < 1 or collects is not None):
        raise UserError(
            f"{kind}.draws is {draws!r}; expected a whole number of rows of a data set, or None. "
            "Where an algorithm draws rows, its `collects` is None."
        )
