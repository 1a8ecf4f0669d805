"""The replay buffer against a list of transitions: what is kept, what is drawn, and its room."""

from __future__ import annotations

import collections
from functools import partial
from typing import Any

import gymnasium
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats

from actorcritic.algorithms.replay import Buffer
from actorcritic.core.types import Ring, Transition

SPACE = gymnasium.spaces.Dict(
    {
        "frame": gymnasium.spaces.Box(0, 255, (2, 2, 1), np.uint8),
        "where": gymnasium.spaces.Tuple(
            (gymnasium.spaces.Discrete(2**20), gymnasium.spaces.Box(-1e6, 1e6, (2,), np.float64))
        ),
    }
)


def observation(number: np.ndarray) -> Any:
    """Another for each number; where it is negative, one that must never be kept."""
    spoilt = np.where(number < 0, np.nan, number).astype(np.float32)
    return {
        "frame": (number[..., None, None, None] + np.arange(4).reshape(2, 2, 1)).astype(np.uint8),
        "where": (number.astype(np.int32), np.stack([spoilt, -spoilt], axis=-1)),
    }


class World:
    """Columns of experience whose observations are numbers, and all that happened in a list."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs, self.made = num_envs, 0
        self.now = np.array([self.new() for _ in range(num_envs)])
        self.happened: list[tuple[int, int, int, bool]] = []

    def new(self) -> int:
        self.made += 1
        return self.made

    def batch(self, steps: list[list[tuple[bool, bool, bool]]]) -> Transition:
        """A list [T][B] of whether a row terminated, was truncated, and is valid."""
        shape = (len(steps), self.num_envs)
        before, after, reward = (np.zeros(shape, int) for _ in range(3))
        terminated, truncated, valid = (
            np.array([[row[k] for row in step] for step in steps]).reshape(shape) for k in range(3)
        )
        for t, b in np.ndindex(shape):
            if not valid[t, b]:
                before[t, b] = after[t, b] = -1
                self.now[b] = self.new()
                continue
            before[t, b], after[t, b], reward[t, b] = self.now[b], self.new(), self.made
            self.happened.append(
                (*(int(x[t, b]) for x in (before, after, reward)), terminated[t, b])
            )
            ends = terminated[t, b] or truncated[t, b]
            self.now[b] = self.new() if ends else after[t, b]
        return jax.tree.map(
            jnp.asarray,
            Transition(
                observation(before),
                np.stack([reward, -reward], axis=-1).astype(np.float32),
                reward.astype(np.float32),
                terminated,
                truncated,
                observation(after),
                valid=None if valid.all() else valid,
            ),
        )


insert = jax.jit(Buffer.insert)


def kept(buffer: Buffer) -> list[tuple[int, int, int, bool]]:
    """All transitions that may be drawn, each checked to be whole."""
    rows = jax.tree.map(np.asarray, buffer.at(jnp.arange(buffer.oldest, buffer.seen)))
    before, after = (x["where"][0] for x in (rows.observation, rows.next_observation))
    for part, number in ((rows.observation, before), (rows.next_observation, after)):
        expected = observation(number.astype(int))
        jax.tree.map(np.testing.assert_array_equal, part, expected)
        assert part["frame"].dtype == np.uint8
    np.testing.assert_array_equal(rows.action, np.stack([rows.reward, -rows.reward], axis=-1))
    columns = before, after, rows.reward.astype(int), rows.terminated
    return list(zip(*(x.tolist() for x in columns), strict=True))


@pytest.mark.parametrize(
    ("num_envs", "steps", "capacity"), [(1, 1, 1), (1, 1, 9), (1, 4, 4), (2, 3, 17), (3, 1, 30)]
)
@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=15)
@pytest.mark.long
def test_the_latest_transitions_are_kept_and_whole(
    data: st.DataObject, num_envs: int, steps: int, capacity: int
) -> None:
    ends = st.integers(1, 6).flatmap(lambda often: st.integers(0, often).map(lambda x: x == 0))
    row = st.tuples(ends, ends, st.integers(0, 5).map(bool))
    step = st.lists(row, min_size=num_envs, max_size=num_envs)
    batches = data.draw(st.lists(st.lists(step, min_size=steps, max_size=steps), max_size=12))
    world, buffer = World(num_envs), Buffer.empty(SPACE, 2, capacity, num_envs)
    for batch in batches:
        buffer = insert(buffer, world.batch(batch))
        found = kept(buffer)
        assert found == world.happened[len(world.happened) - len(found) :]
        most = min(capacity, len(world.happened))
        assert len(found) >= most / 2  # whatever the lengths of the episodes
        assert len(found) <= most
        assert int(buffer.seen) == len(world.happened)
        drawn = np.asarray(buffer.draw(jax.random.key(len(found)), (50,)))
        if found:
            assert drawn.min() >= int(buffer.oldest)
            assert drawn.max() < int(buffer.seen)


@pytest.mark.parametrize(("num_envs", "steps"), [(1, 1), (3, 2)])
def test_each_observation_is_kept_once_and_the_buffer_fills(num_envs: int, steps: int) -> None:
    capacity, length = 96, 8
    world, buffer = World(num_envs), Buffer.empty(SPACE, 2, capacity, num_envs)
    for k in range(0, 300 // num_envs, steps):
        ends = [[(False, (k + t) % length == length - 1, True)] * num_envs for t in range(steps)]
        buffer = insert(buffer, world.batch(ends))
        if k % 47 == 46 or k > 290 // num_envs:  # episodes of 8 steps: all of them are kept
            assert kept(buffer) == world.happened[-capacity:]
    made = len({number for before, after, *_ in world.happened for number in (before, after)})
    assert int(buffer.observations.count) == made
    assert buffer.observations.capacity == 108 + 2 * num_envs


def test_a_batch_that_does_not_go_on_where_the_last_one_ended() -> None:
    """As after an interruption of the environments: no end, and yet another observation."""
    world, buffer = World(1), Buffer.empty(SPACE, 2, 8, 1)
    for _ in range(3):
        buffer = insert(buffer, world.batch([[(False, False, True)]] * 2))
        world.now[0] = world.new()
    assert kept(buffer) == world.happened


def test_draws_are_uniform_over_what_is_kept() -> None:
    world, buffer = World(1), Buffer.empty(SPACE, 2, 8, 1)
    for k in range(13):
        buffer = insert(buffer, world.batch([[(k > 4, False, True)]]))
        numbers = np.asarray(buffer.draw(jax.random.key(k), (100, 80))).ravel()
        counts = collections.Counter(numbers.tolist())
        assert sorted(counts) == list(range(int(buffer.oldest), int(buffer.seen)))
        assert k == 0 or stats.chisquare(list(counts.values())).pvalue > 1e-3
    assert len(counts) < 8  # episodes of one step, at the end


def test_a_loop_does_not_copy_the_buffer() -> None:
    """Of 4 MB of observations, a loop of a thousand inserts would otherwise move gigabytes."""
    space = gymnasium.spaces.Box(-1.0, 1.0, (1000,))
    shape = (1, 1)
    one = jnp.ones(shape)

    @partial(jax.jit, donate_argnums=0)
    def loop(buffer: Buffer) -> Buffer:
        def step(k: Any, buffer: Buffer) -> Buffer:
            x = jnp.full((1, 1, 1000), k, jnp.float32)
            batch = Transition(x, one[..., None], one, one < 0, one < 0, x + 1)
            return buffer.insert(batch)

        return jax.lax.fori_loop(0, 1000, step, buffer)

    shapes = jax.eval_shape(lambda: Buffer.empty(space, 1, 1000, 1))
    memory = loop.lower(shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 100_000
    assert memory.alias_size_in_bytes >= shapes.nbytes


def test_a_ring_keeps_the_latest_even_of_one_append() -> None:
    ring = Ring({"x": jnp.zeros(4, jnp.int32)}, jnp.int32(0))
    keep = jnp.asarray([True] * 7 + [False, True])
    ring, number = ring.append({"x": jnp.arange(9, dtype=jnp.int32)}, keep)
    assert int(ring.count) == 8
    assert number.tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 7]
    assert ring.rows["x"].tolist() == [4, 5, 6, 8]
    assert ring.at(jnp.asarray([7, 5]))["x"].tolist() == [8, 5]
