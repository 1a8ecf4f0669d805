"""A replay buffer that keeps each observation once, in its own dtype.

Two rings: one of observations, one of transitions that say where in the first their observation
and its successor lie. Where an observation equals the successor before it, as it does all through
an episode, it is not kept again. So nothing need be known of resets, of rows that are not valid or
of what came between two batches: an observation that differs gets room of its own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from actorcritic.core.types import Observation, Ring, Transition
from actorcritic.maths import spaces


class Stored(NamedTuple):
    """Transitions. In the buffer's ring, observations are their numbers in the other ring."""

    observation: Observation
    action: Float[Array, "... d"]
    reward: Float[Array, "..."]
    terminated: Bool[Array, "..."]
    next_observation: Observation


class Buffer(NamedTuple):
    """The latest `capacity` transitions.

    The ring of observations has room for that many in episodes of 8 steps or more. Where they are
    shorter, fewer transitions are kept: at worst, of episodes of one step, a little over half.
    """

    observations: Ring
    transitions: Ring
    kept: Int[Array, ""]  # how many of the latest transitions have their observations still
    latest: Int[Array, " B"]  # the number of each environment's latest successor; -1 without one

    @classmethod
    def empty(
        cls, space: gymnasium.Space, action_size: int, capacity: int, num_envs: int
    ) -> Buffer:
        none = jnp.zeros((), jnp.int32)
        number = jnp.zeros(capacity, jnp.int32)
        transitions = Stored(
            observation=number,
            action=jnp.zeros((capacity, action_size), jnp.float32),
            reward=jnp.zeros(capacity, jnp.float32),
            terminated=jnp.zeros(capacity, bool),
            next_observation=jnp.zeros_like(number),
        )
        return cls(
            observations=Ring(_room(space, capacity + capacity // 8 + 2 * num_envs), none),
            transitions=Ring(transitions, jnp.zeros_like(none)),
            kept=jnp.zeros_like(none),
            latest=jnp.full(num_envs, -1, jnp.int32),
        )

    @property
    def nbytes(self) -> int:
        """Also of a buffer of `jax.ShapeDtypeStruct`s."""
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(self))

    @property
    def seen(self) -> Int[Array, ""]:
        """Transitions ever stored, less whole periods of the ring."""
        return self.transitions.count

    @property
    def oldest(self) -> Int[Array, ""]:
        """The number of the first transition whose observations are still there."""
        return self.seen - self.kept

    def insert(self, batch: Transition) -> Buffer:
        """With the rows of a batch that are valid, in the order of time."""
        steps, num_envs = batch.reward.shape
        valid = jnp.ones_like(batch.terminated) if batch.valid is None else batch.valid
        room = self.observations.rows
        before, after = (
            jax.tree.map(lambda x, kept: x.astype(kept.dtype), observation, room)
            for observation in (batch.observation, batch.next_observation)
        )

        # Which observations are the successor of the row before, which is there already?
        known = jnp.concatenate([(self.latest >= 0)[None], valid[:-1]])
        previous = jax.tree.map(
            lambda x, y: jnp.concatenate([x[None], y[:-1]]),
            self.observations.at(self.latest),
            after,
        )
        fresh = valid & ~(known & _equal(before, previous))

        kept = jnp.stack([fresh, valid], axis=-1)
        pairs = jax.tree.map(lambda x, y: _flat(jnp.stack([x, y], axis=2), 3), before, after)
        observations, numbers = self.observations.append(pairs, kept.reshape(-1))
        own, successor = jnp.moveaxis(numbers.reshape(kept.shape), -1, 0)
        shared = jnp.concatenate([self.latest[None], successor[:-1]])
        rows = Stored(
            observation=jnp.where(fresh, own, shared),
            action=batch.action,
            reward=batch.reward,
            terminated=batch.terminated,
            next_observation=successor,
        )
        transitions, _ = self.transitions.append(
            jax.tree.map(lambda x: _flat(x, 2), rows), valid.reshape(-1)
        )

        # A transition's own observation lies at most 2 · num_envs before its successor, and the
        # successors' numbers rise: those that have lost one are the first of those that are left.
        there = jnp.minimum(self.kept + jnp.sum(valid, dtype=jnp.int32), transitions.capacity)
        first = jnp.arange(2 * steps * num_envs, dtype=jnp.int32)
        successors = transitions.at(transitions.count - there + first).next_observation
        lost = observations.age(successors) > observations.capacity - 2 * num_envs
        lost = lost & (first < there)
        return Buffer(
            observations,
            transitions,
            there - jnp.sum(lost, dtype=jnp.int32),
            jnp.where(valid[-1], successor[-1], -1),
        )

    def draw(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Int[Array, "..."]:
        """Numbers of transitions that are kept, uniformly and with replacement."""
        kept = jnp.maximum(self.kept, 1).astype(jnp.uint32)
        # The remainder favours no row by more than kept / 2³²; `randint` takes longer.
        return self.oldest + (jax.random.bits(key, shape) % kept).astype(jnp.int32)

    def at(self, number: Int[Array, "..."]) -> Stored:
        """The transitions of these numbers, with their observations."""
        rows = self.transitions.at(number)
        return rows._replace(
            observation=self.observations.at(rows.observation),
            next_observation=self.observations.at(rows.next_observation),
        )


def _room(space: gymnasium.Space, count: int) -> Any:
    if isinstance(space, gymnasium.spaces.Dict):
        return {name: _room(part, count) for name, part in space.spaces.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(_room(part, count) for part in space.spaces)
    return jnp.zeros((count, *(space.shape or ())), spaces.kept_dtype(space))


def _flat(x: Array, axes: int) -> Array:
    """The first axes as one."""
    return x.reshape(-1, *x.shape[axes:])


def _equal(one: Observation, other: Observation) -> Bool[Array, "T B"]:
    same = jax.tree.map(lambda x, y: (x == y).reshape(*x.shape[:2], -1).all(-1), one, other)
    return jnp.all(jnp.stack(jax.tree.leaves(same)), axis=0)
