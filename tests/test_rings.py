"""Rings in checkpoints: only what is filled, only what is new, and bit for bit there and back."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actorcritic.algorithms import SAC
from actorcritic.core.errors import UserError
from actorcritic.core.types import Ring
from actorcritic.envs import Pendulum
from actorcritic.runners.seeds import CompiledSession
from actorcritic.runs import checkpoints

CAPACITY = 10


class State(NamedTuple):
    ring: Ring
    updates: jax.Array


def empty(seeds: int = 2) -> State:
    rows = {
        "frame": jnp.zeros((seeds, CAPACITY, 2, 3), jnp.uint8),
        "reward": jnp.zeros((seeds, CAPACITY)),
    }
    return State(Ring(rows, jnp.zeros(seeds, jnp.int32)), jnp.int32(0))


def grown(state: State, number: int) -> State:
    """With so many more rows; the second seed gets one fewer."""

    def append(ring: Ring, kept: jax.Array) -> Ring:
        value = ring.count + jnp.arange(number, dtype=jnp.int32)
        frame = jnp.broadcast_to(value.reshape(-1, 1, 1), (number, 2, 3)).astype(jnp.uint8)
        return ring.append({"frame": frame, "reward": value.astype(jnp.float32)}, kept)[0]

    if number == 0:
        return state
    kept = np.ones((2, number), bool)
    kept[1, -1] = False
    return State(jax.vmap(append)(state.ring, jnp.asarray(kept)), state.updates + 1)


def save(folder: Path, state: State, since: Path | None = None) -> Path:
    return checkpoints.save(folder, state, {"update": int(state.updates)}, since=since)


def load(folder: Path, like=None):
    warnings: list[str] = []
    state, _ = checkpoints.load(folder, like or empty(), warnings.append, partial=like is not None)
    return state, warnings


def segments(folder: Path) -> set[str]:
    return {path.name for path in (folder / checkpoints.RINGS).iterdir()}


@given(st.lists(st.integers(0, 25), min_size=1, max_size=6), st.sampled_from([1, 40, 10**6]))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.long
def test_whatever_was_appended_between_saves_comes_back(tmp_path, growth, segment):
    """Also where the ring has come round, once or several times, in segments of any size."""
    shutil.rmtree(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "SEGMENT", segment)
        state, since = empty(), None
        for number in growth:
            state = grown(state, number)
            since = save(tmp_path, state, since)
            found, warnings = load(tmp_path)
            assert warnings == []
            assert checkpoints.hashes(found) == checkpoints.hashes(state)


def test_only_what_is_new_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SEGMENT", 10)  # one row each
    state = grown(empty(), 6)
    since = save(tmp_path, state)
    before = segments(tmp_path)
    assert len(before) == 6  # the second seed's rows are the first one's
    written = []
    real = checkpoints.files.write_new

    def write_new(path: Path, data: bytes) -> None:
        written.append(path)
        real(path, data)

    monkeypatch.setattr(checkpoints.files, "write_new", write_new)
    read = []
    rows = checkpoints._rows
    monkeypatch.setattr(checkpoints, "_rows", lambda *a: read.append(a[2:4]) or rows(*a))
    save(tmp_path, grown(state, 2), since)
    assert len(segments(tmp_path) - before) == 2
    assert len([path for path in written if path.parent.name == checkpoints.RINGS]) == 2
    # Nothing else left the device either: two rows of the first seed, three of the second.
    assert set(read) == {(5, 6), (6, 7), (7, 8)}


def test_segments_that_no_checkpoint_names_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SEGMENT", 10)
    state, since = empty(), None
    for _ in range(6):
        state = grown(state, 7)
        since = save(tmp_path, state, since)
    assert len(segments(tmp_path)) <= 2 * 2 * CAPACITY
    assert checkpoints.hashes(load(tmp_path)[0]) == checkpoints.hashes(state)
    assert not [name for name in segments(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_a_damaged_segment_is_found_and_the_checkpoint_before_it_taken(damage, tmp_path):
    first = grown(empty(), 3)
    since = save(tmp_path, first)
    old = segments(tmp_path)
    save(tmp_path, grown(first, 4), since)
    for name in segments(tmp_path) - old:
        path = tmp_path / checkpoints.RINGS / name
        data = bytearray(path.read_bytes())
        if damage == "gone":
            path.unlink()
            continue
        data[-1] ^= 1
        path.write_bytes(bytes(data[:-5]) if damage == "cut" else bytes(data))
    state, warnings = load(tmp_path)
    assert checkpoints.hashes(state) == checkpoints.hashes(first)
    assert "damaged" in warnings[0]


def test_a_kill_at_any_moment_leaves_a_checkpoint(tmp_path, monkeypatch):
    """Each call that changes the disk is the last one, once."""
    state = grown(empty(), 3)
    later = grown(state, 4)
    names = ("write_new", "sync")
    for stop in range(12):
        folder = tmp_path / str(stop)
        since = save(folder, state)
        made = 0

        def limited(name, stop=stop):
            real = getattr(checkpoints.files, name)

            def call(*arguments):
                nonlocal made
                made += 1
                if made > stop:
                    raise KeyboardInterrupt
                return real(*arguments)

            return call

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(checkpoints.files, name, limited(name))
            patch.setattr(checkpoints.files, "remove", lambda path: None)  # killed, not tidied
            patch.setattr(checkpoints, "_remove_segments", lambda folder: None)
            with contextlib.suppress(KeyboardInterrupt):
                save(folder, later, since)
        found, warnings = load(folder)
        assert warnings == []
        assert checkpoints.hashes(found) in (checkpoints.hashes(state), checkpoints.hashes(later))
        save(folder, later)
        assert checkpoints.hashes(load(folder)[0]) == checkpoints.hashes(later)


def test_what_is_not_asked_for_is_not_read(tmp_path):
    save(tmp_path, grown(empty(), 3))
    shutil.rmtree(tmp_path / checkpoints.RINGS)

    class Counter(NamedTuple):
        updates: jax.Array

    state, warnings = load(tmp_path, Counter(jnp.int32(0)))
    assert int(state.updates) == 1
    assert warnings == []


def test_segments_are_not_written_through_a_link(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / checkpoints.RINGS).symlink_to(elsewhere)
    with pytest.raises(UserError, match="rings is a link"):
        save(folder, grown(empty(), 3))
    assert os.listdir(elsewhere) == []


def test_a_large_buffer_costs_what_is_in_it(tmp_path):
    """A million rows of room, of which 300 are filled."""
    algorithm = SAC(num_steps=10, hidden_sizes=(8,), batch_size=8, learning_starts=10)
    assert algorithm.buffer_size == 1_000_000
    session = CompiledSession(algorithm, Pendulum(), [0], 300)
    while not session.finished:
        session.advance(1.0)
    saved = checkpoints.save(tmp_path, session.state, {"update": 30})
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert size < 200_000
    found, _ = checkpoints.load(tmp_path, session.shapes, print)
    assert checkpoints.hashes(found) == checkpoints.hashes(session.state)
    assert saved.is_dir()


@pytest.mark.long
def test_a_training_resumed_after_the_buffer_went_round_is_the_uninterrupted_one(tmp_path):
    """Saved often, so that each checkpoint shares segments with the one before it."""
    algorithm = SAC(
        num_steps=10, hidden_sizes=(8,), batch_size=8, learning_starts=10, buffer_size=64
    )

    def session():
        return CompiledSession(algorithm, Pendulum(), [0], 400)

    straight = session()
    while not straight.finished:
        straight.advance(1.0)
    folder, since, resumed = tmp_path, None, session()
    for until in (50, 70, 130, 200, 330, 400):
        while int(resumed.steps[0]) < until:
            resumed.advance(1.0, until=np.array([until]))
        since = checkpoints.save(folder, resumed.state, {"update": until}, since=since)
        resumed = session()  # another process, as it were: everything is read again
        resumed.state, _ = checkpoints.load(folder, resumed.shapes, print)
        since = checkpoints.newest(folder)
    assert checkpoints.hashes(resumed.state) == checkpoints.hashes(straight.state)
