"""Counts of 64 bits: arithmetic against Python's, and trainings that pass 2³²."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_conformance import data_of
from test_replay import SPACE, World, kept

from actorcritic.algorithms import A2C, BC, Reinforce
from actorcritic.algorithms.replay import Buffer
from actorcritic.core import types
from actorcritic.core.counting import Count
from actorcritic.envs import CartPole
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.envs.probes import FiniteReward
from actorcritic.runners.dataset import DatasetSession
from actorcritic.runners.host import HostSession
from actorcritic.runners.seeds import CompiledSession
from actorcritic.runs import checkpoints

LARGE = st.one_of(st.integers(0, 2**62), st.integers(2**32 - 9, 2**32 + 9))


def on_device(number: int) -> Count:
    return jax.tree.map(jnp.asarray, Count.of(number))


@given(LARGE, st.integers(0, 2**31 - 1), LARGE, st.integers(1, 2**16))
def test_arithmetic_is_that_of_whole_numbers(number, more, other, divisor):
    count, total = on_device(number), on_device(other)
    assert int(count) == number
    assert int(count.plus(jnp.int32(more))) == number + more
    assert bool(count.below(total)) == (number < other)
    assert int(count.modulo(divisor)) == number % divisor
    ahead = count.plus(jnp.int32(more)).low
    assert int(Count.of(number).ahead(np.asarray(ahead))) == number + more
    if other:
        share = Count.of(number).share(Count.of(other))
        np.testing.assert_array_equal(share, count.share(total))
        np.testing.assert_allclose(share, number / other, rtol=3e-7)


def compiled():
    algorithm = A2C(num_envs=2, num_steps=8, hidden_sizes=(4,), learning_rate_schedule="linear")
    return CompiledSession(algorithm, CartPole(), [3, 5], 2**32 + 400)


def episodes():
    algorithm = Reinforce(num_envs=2, hidden_sizes=(4,))
    return CompiledSession(algorithm, FiniteReward(3), [3, 5], 2**32 + 100)


def from_data():
    algorithm = BC(batch_size=8, hidden_sizes=(4,))
    data = data_of(CartPole(), 64)
    return DatasetSession(algorithm, data, data.spec, [3, 5], 2**32 + 100)


def host():
    algorithm = A2C(num_envs=2, num_steps=8, hidden_sizes=(4,))
    return HostSession(algorithm, HostEnvironment("CartPole-v1"), [3], 2**32 + 50)


def finished(session, state, seconds=0.0):
    session.state = state
    reports = []
    while not session.finished:
        reports.append(session.advance(seconds))
    return reports


@pytest.mark.parametrize("make", [compiled, episodes, from_data, host])
def test_a_training_passes_the_words_of_its_machine(make):
    """Started a little before 2³²: it ends where it should, its rows have the right numbers, and
    it goes on bit for bit however it is divided.
    """
    begun, session = 2**32 - 60, make()
    fresh = session.state
    words = jax.tree.map(lambda x: jnp.broadcast_to(x, fresh.steps.low.shape), on_device(begun))
    state = fresh._replace(steps=words, updates=words)
    reports = finished(session, state)
    end, size = session.total_steps, 1 if make is from_data else 6 if make is episodes else 16
    made = session.state.updates.numbers - begun
    assert made.tolist() == [-(-(end - begun) // size)] * len(session.seeds)
    np.testing.assert_array_equal(session.steps, begun + made * size)
    step = np.concatenate([report.metrics.step for report in reports])
    update = np.concatenate([report.metrics.update for report in reports])
    np.testing.assert_array_equal(step - begun, (update - begun) * size)
    assert step.max() == session.steps.max()
    assert len(step) > 2
    ended = np.concatenate([report.episodes.step for report in reports])
    assert make is from_data or begun < ended.min() <= ended.max() <= step.max()
    if make is not host:
        again = make()
        finished(again, state, seconds=0.2)  # in longer stretches
        assert checkpoints.hashes(again.state) == checkpoints.hashes(session.state)


@pytest.mark.long
@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_buffer_forgets_how_many_rows_there_were_and_nothing_else(num_envs, monkeypatch):
    """Numbers begin again after a period: the same transitions are kept, and the same are drawn."""
    rng, capacity = np.random.default_rng(0), 17
    world = World(num_envs)
    batches = [
        world.batch([[(u < 0.2, u > 0.9, v < 0.9) for u, v in step] for step in steps])
        for steps in rng.random((60, 2, num_envs, 2)).tolist()
    ]

    def grown():
        insert, buffer, found = jax.jit(lambda b, x: b.insert(x)), empty, []
        for k, batch in enumerate(batches):
            buffer = insert(buffer, batch)
            found.append((kept(buffer), buffer.at(buffer.draw(jax.random.key(k), (9,)))))
        return found, int(buffer.seen)

    empty = Buffer.empty(SPACE, 2, capacity, num_envs)
    expected, seen = grown()
    monkeypatch.setattr(types, "PERIOD", 2)  # as short as it may be: two rounds of the ring
    found, count = grown()
    assert count < 4 * capacity < seen
    for (these, drawn), (others, expected_draws) in zip(found, expected, strict=True):
        assert these == others
        jax.tree.map(np.testing.assert_array_equal, drawn, expected_draws)
    assert len(found[-1][0]) > 8


def test_a_ring_of_many_rows_never_leaves_its_integers():
    ring = types.Ring(jnp.zeros(7), jnp.int32(0))
    assert ring.period <= 2**29 < 2 * ring.period
    append = jax.jit(lambda ring: ring.append(jnp.arange(3.0), jnp.ones(3, bool))[0])
    before = types.Ring(ring.rows, jnp.int32(2 * ring.period - 2))
    after = append(before)
    assert int(after.count) == ring.period + 1
    np.testing.assert_array_equal(after.rows, [2, 0, 0, 0, 0, 0, 1])  # number 2·period lies at 0
