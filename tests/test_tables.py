"""Which rows of a long training are kept: enough to draw, few enough for a disk and a memory."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import actorcritic as ac
from actorcritic.runners import session
from actorcritic.runners.session import (
    EpisodeTable,
    MetricTable,
    Thinned,
    is_kept,
    tabulate,
)


def test_rows_thin_out_by_doublings():
    kept = np.flatnonzero(is_kept(np.arange(1, 41), 4)) + 1
    assert kept.tolist() == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]


def test_the_number_of_rows_is_bounded():
    """Of as many updates as the counters can count, 8,192 + 18 · 4,096 rows at most."""
    ends = 8192 * 2 ** np.arange(19)
    rows = 8192 + sum((end // 2) // (end // 8192) for end in ends[1:].tolist())
    assert ends[-1] >= 2_000_000_000
    assert rows == 8192 + 18 * 4096
    number = np.arange(1, 4 * 8192 + 1)
    assert is_kept(number, 8192).sum() == 8192 + 2 * 4096


def training(updates: int, rng: np.random.Generator) -> tuple[MetricTable, EpisodeTable]:
    """Two seeds, a step an update, and episodes that end at random."""
    seed = np.repeat([3, 5], updates)
    update = np.tile(np.arange(1, updates + 1), 2)
    values = rng.normal(size=(2 * updates, 1)).astype(np.float32)
    ended = rng.random(2 * updates) < 0.4
    returns = rng.normal(size=ended.sum())
    episodes = EpisodeTable(seed[ended], update[ended], returns, rng.integers(1, 9, ended.sum()))
    return MetricTable(seed, update, update, ("loss",), values), episodes


def part(table, rows):
    return table._replace(
        **{n: x[rows] for n, x in table._asdict().items() if isinstance(x, np.ndarray)}
    )


@given(st.lists(st.integers(0, 200), max_size=6), st.integers(0, 2**31))
def test_however_a_training_is_divided_the_same_rows_are_kept(cuts, seed):
    """Each kept row has the mean of all episodes since the kept row before, from definitions."""
    updates = 200
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "FULL_UPDATES", 16)
        patch.setattr(session, "FULL_EPISODES", 8)
        metrics, episodes = training(updates, np.random.default_rng(seed))
        thinned, reports = Thinned(), []
        edges = sorted({0, *cuts, updates})
        for low, high in pairwise(edges):
            rows = (metrics.update > low) & (metrics.update <= high)
            ended = (episodes.step > low) & (episodes.step <= high)
            report = tabulate(part(metrics, rows), part(episodes, ended), 1, 1.0)
            reports.append(thinned.of(report))
            thinned = Thinned(thinned.state)  # as after a checkpoint
        kept = MetricTable.join([report.metrics for report in reports])
        ends = EpisodeTable.join([report.episodes for report in reports])
    number = np.arange(1, updates + 1)
    rows = number[is_kept(number, 16)]
    for s in (3, 5):
        mine, all_ended = kept.seed == s, part(episodes, episodes.seed == s)
        np.testing.assert_array_equal(kept.update[mine], rows)
        starts = np.concatenate([[0], rows[:-1]])
        for name, column in (("return", all_ended.returns), ("length", all_ended.length)):
            expected = [
                np.mean(within) if len(within) else np.nan
                for low, high in zip(starts, rows, strict=True)
                for within in [column[(all_ended.step > low) & (all_ended.step <= high)]]
            ]
            found = kept.column(name)[mine]
            np.testing.assert_allclose(found, expected, rtol=1e-12)
        order = np.arange(1, len(all_ended.step) + 1)
        np.testing.assert_array_equal(
            ends.returns[ends.seed == s], all_ended.returns[is_kept(order, 8)]
        )


@pytest.mark.parametrize("stored", [True, False])
def test_long_trainings_keep_few_rows_and_nothing_twice(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "FULL_UPDATES", 16)
    monkeypatch.setattr(session, "FULL_EPISODES", 8)
    options = {"total_steps": 16 * 256, "evaluation_episodes": 0, "quiet": True}
    algorithm = ac.A2C(num_envs=2, num_steps=8, hidden_sizes=(8,))
    run = ac.train(algorithm, "CartPole-v1", out=tmp_path / "run" if stored else None, **options)
    number = np.arange(1, 257)
    np.testing.assert_array_equal(run.metrics.update, number[is_kept(number, 16)])
    assert len(run.episodes.step) < 60
    assert (run.reports == []) == stored


def test_resumed_and_extended_keeps_the_rows_of_one_that_was_asked_for_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "FULL_UPDATES", 8)
    monkeypatch.setattr(session, "FULL_EPISODES", 4)
    options = {"evaluation_episodes": 0, "quiet": True}
    algorithm = ac.A2C(num_envs=2, num_steps=8, hidden_sizes=(8,))
    whole = ac.train(
        algorithm, "CartPole-v1", out=tmp_path / "whole", total_steps=16 * 100, **options
    )
    ac.train(algorithm, "CartPole-v1", out=tmp_path / "part", total_steps=16 * 37, **options)
    resumed = ac.resume(tmp_path / "part", total_steps=16 * 100, **options)
    for one, other in zip(whole.episodes, resumed.episodes, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(whole.metrics.update, resumed.metrics.update)
    np.testing.assert_array_equal(whole.metrics.column("return"), resumed.metrics.column("return"))
