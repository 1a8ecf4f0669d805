"""Warnings: each comes once and says what was seen; a healthy training hears nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from actorcritic.core.types import EnvSpec
from actorcritic.runners.session import MetricTable
from actorcritic.runs.diagnosis import Diagnosis, Finding, solved_from, uniform_entropy

UPDATES, STEPS = 400, 100  # updates of the training, environment steps of an update
HEALTHY = {
    "approx_kl": 0.02,
    "clip_fraction": 0.15,
    "entropy": 0.6,
    "explained_variance": 0.7,
    "gradient_norm": 30.0,
    "policy_loss": -0.01,
    "value_loss": 40.0,
}


def table(seeds: int = 1, **changes) -> MetricTable:
    """A whole training; a change is a value, or values of its last updates."""
    update = np.tile(np.arange(1, UPDATES + 1), seeds)
    rng = np.random.default_rng(0)
    columns = []
    for name, usual in HEALTHY.items():
        column = usual * (1 + 0.3 * rng.standard_normal(UPDATES))
        change = np.atleast_1d(changes.get(name, np.zeros(0)))
        column[UPDATES - len(change) :] = change
        if name in changes and np.ndim(changes[name]) == 0:
            column[:] = changes[name]
        columns.append(np.tile(column, seeds))
    seed = np.repeat(np.arange(seeds), UPDATES)
    return MetricTable(seed, update, update * STEPS, tuple(HEALTHY), np.stack(columns, -1))


def rows(table: MetricTable, index) -> MetricTable:
    seed, update, step, names, values = table
    return MetricTable(seed[index], update[index], step[index], names, values[index])


def diagnosis() -> Diagnosis:
    return Diagnosis(UPDATES * STEPS, max_entropy=np.log(2), max_grad_norm=0.5)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"explained_variance": -0.83}, "critic", "explained_variance is -0.83"),
        ({"entropy": 0.003}, "entropy", "entropy is 0.003"),
        ({"approx_kl": 0.35}, "kl", "approx_kl is 0.35"),
        ({"clip_fraction": 0.7}, "clipping", "clip_fraction is 70%"),
        ({"gradient_norm": 1500.0}, "gradient", "gradient_norm is 1,500"),
    ],
)
def test_each_is_told_once_a_seed(change, kind, words):
    whole, looks = table(seeds=2, **change), diagnosis()
    found = looks.look(whole)
    assert [(f.kind, f.seed) for f in found] == [(kind, 0), (kind, 1)]
    for seed, finding in enumerate(found):
        assert finding.text.startswith(f"Seed {seed}: ")
        assert f"{words} (median of updates 22 to 41, up to step 4,100)" in finding.text
        assert " try " in finding.text.lower()
        assert "{" not in finding.text
    later = whole._replace(update=whole.update + UPDATES, step=whole.step + UPDATES * STEPS)
    assert looks.look(later) == []


def test_a_healthy_training_hears_nothing():
    assert diagnosis().look(table(seeds=3)) == []


def with_returns(table: MetricTable, returns) -> MetricTable:
    names = ("return", *table.names[1:])
    values = table.values.copy()
    values[:, 0] = returns
    return table._replace(names=names, values=values)


def test_a_critic_is_not_blamed_where_returns_are_at_their_best():
    """On a solved CartPole all returns are equal and explained_variance is far below 0."""
    bad = table(explained_variance=-5.0)
    progress = np.linspace(0, 1, UPDATES)
    ended = np.arange(UPDATES) % 3 == 0  # in other updates no episode ended
    solved = np.where(ended, np.minimum(500, 20 + 5000 * progress), np.nan)
    assert diagnosis().look(with_returns(bad, solved)) == []
    for returns in (np.full(UPDATES, -200.0), np.full(UPDATES, np.nan), 500 - 480 * progress):
        assert [f.kind for f in diagnosis().look(with_returns(bad, returns))] == ["critic"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_divergence_is_told_at_once(bad):
    first = rows(table(seeds=2), [0, 1, UPDATES])
    first.values[1, -1] = bad
    looks = diagnosis()
    (finding,) = looks.diverged(first)
    assert finding[:2] == ("diverged", 0)
    assert f"at update 2 (step 200): value_loss is {bad:g}." in finding.text
    assert "learning_rate" in finding.text
    assert looks.diverged(first) == []
    assert looks.look(first) == []


def test_updates_in_which_no_episode_ended_are_no_divergence():
    healthy = table()
    names = ("return", "length", *healthy.names[2:])
    values = healthy.values.copy()
    values[:, :2] = np.nan
    told = diagnosis()
    assert told.diverged(healthy._replace(names=names, values=values)) == []
    assert told.look(healthy._replace(names=names, values=values)) == []


def test_passing_trouble_is_not_told():
    trouble = table()
    column = trouble.names.index("explained_variance")
    trouble.values[:20, column] = -50.0  # before the critic has learnt anything
    trouble.values[100:109, column] = -50.0  # shorter than half a window
    trouble.values[200::3, column] = -50.0  # single updates, as small batches make them
    assert diagnosis().look(trouble) == []


def test_a_low_entropy_is_right_at_the_end():
    assert diagnosis().look(table(entropy=np.full(UPDATES // 2, 0.001))) == []
    assert len(diagnosis().look(table(entropy=np.full(UPDATES * 4 // 5, 0.001)))) == 1


def test_small_batches_are_judged_over_a_share_of_the_training():
    """Of many updates, 20 bad ones in a row are noise: so A2C looks on a solved CartPole."""
    trouble = table()
    trouble.values[100:120, trouble.names.index("explained_variance")] = -5.0
    assert len(diagnosis().look(trouble)) == 1
    assert Diagnosis(10 * UPDATES * STEPS).look(trouble) == []


def test_what_is_not_known_is_not_judged():
    bad = table(entropy=0.0, gradient_norm=1e6)
    assert {f.kind for f in diagnosis().look(bad)} == {"entropy", "gradient"}
    assert Diagnosis(UPDATES * STEPS).look(bad) == []
    few = MetricTable(bad.seed, bad.update, bad.step, ("policy_loss",), bad.values[:, :1])
    assert diagnosis().look(few) == []


@pytest.mark.parametrize(
    ("space", "entropy"),
    [
        (spaces.Discrete(2), np.log(2)),
        (spaces.MultiDiscrete([2, 3]), np.log(6)),
        (spaces.MultiBinary((2, 2)), np.log(16)),
        (spaces.Box(-1, 1), None),
    ],
)
def test_uniform_entropy(space, entropy):
    assert uniform_entropy(space) == (None if entropy is None else pytest.approx(entropy))


def test_diagnosis_of_an_algorithm():
    discrete = EnvSpec("id", spaces.Box(-1, 1), spaces.Discrete(2))
    continuous = EnvSpec("id", spaces.Box(-1, 1), spaces.Box(-1, 1))
    bad = table(entropy=0.0, gradient_norm=1500.0)

    def kinds(algorithm, spec):
        return {f.kind for f in Diagnosis.of(algorithm, spec, UPDATES * STEPS).look(bad)}

    assert kinds(SimpleNamespace(max_grad_norm=0.5), discrete) == {"entropy", "gradient"}
    assert kinds(SimpleNamespace(max_grad_norm=100.0), continuous) == set()
    assert kinds(object(), discrete) == {"entropy"}


@given(st.lists(st.integers(0, UPDATES), max_size=30).map(sorted), st.integers(0, 2**31))
def test_chunks_make_no_difference(cuts, seed):
    whole = table(seeds=2)
    rng = np.random.default_rng(seed)
    level = np.cumsum(rng.normal(0, 0.2, size=(2 * UPDATES, 1)), axis=0)
    whole.values[:] = rng.normal(level, 0.3, size=whole.values.shape)
    whole.values[rng.random(2 * UPDATES) < 0.001] = np.nan
    whole = with_returns(whole, np.where(rng.random(2 * UPDATES) < 0.5, level[::-1, 0], np.nan))
    expected = diagnosis().look(whole)
    looks, found = diagnosis(), []
    for start, end in zip([0, *cuts], [*cuts, UPDATES], strict=True):
        found += looks.look(rows(whole, (whole.update > start) & (whole.update <= end)))
    assert sorted(found) == sorted(expected)


def test_only_what_windows_need_is_kept():
    looks = diagnosis()
    for start in range(0, UPDATES, 7):
        looks.look(rows(table(), slice(start, start + 7)))
    assert all(len(column) < 25 for kept in looks._recent.values() for column in kept)


def test_finding_is_a_tuple():
    assert Finding("kl", 0, "text", 3, 96) == ("kl", 0, "text", 3, 96)


def test_a_task_that_is_solved_needs_no_exploration():
    names, n = ("entropy", "return"), 400
    step = np.arange(1, n + 1) * 100

    def texts(returns):
        values = np.stack([np.full(n, 1e-4), np.full(n, returns)], axis=1)
        table = MetricTable(np.zeros(n, int), np.arange(1, n + 1), step, names, values)
        return Diagnosis(n * 100, max_entropy=0.69, solved=475.0).look(table)

    assert [finding.kind for finding in texts(100.0)] == ["entropy"]
    assert texts(480.0) == []
    assert solved_from("CartPole-v1") == 475.0
    assert solved_from("no-such-thing") is None
