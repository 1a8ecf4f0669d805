"""Statistics, against SciPy and against their own definitions."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actorcritic.runners.session import EpisodeTable
from actorcritic.statistics import Summary, interval, iqm, rolling_mean, smoothed_curve, summary
from actorcritic.types import UserError

FINITE = st.floats(-1e6, 1e6)
VECTORS = hnp.arrays(np.float64, st.integers(1, 40), elements=FINITE)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def table(*seeds: tuple[list[int], list[float]]) -> EpisodeTable:
    return EpisodeTable.join(
        [
            EpisodeTable(
                np.full(len(end), seed), np.array(end), np.array(r, float), np.diff(end, prepend=0)
            )
            for seed, (end, r) in enumerate(seeds)
        ]
    )


# ---------------------------------------------------------------------------- IQM


@given(VECTORS)
def test_iqm_is_scipys_trimmed_mean(x):
    np.testing.assert_allclose(iqm(x), scipy.stats.trim_mean(x, 0.25), rtol=1e-12, atol=1e-6)


@given(hnp.arrays(np.float64, (3, 5, 4), elements=FINITE), st.sampled_from([None, 0, 1, 2, -1]))
def test_iqm_along_an_axis(x, axis):
    expected = scipy.stats.trim_mean(x, 0.25, axis=axis)
    np.testing.assert_allclose(iqm(x, axis=axis), expected, rtol=1e-12, atol=1e-6)


@given(VECTORS, st.randoms())
def test_iqm_does_not_see_the_order_nor_outliers(x, random):
    shuffled = x.copy()
    random.shuffle(shuffled)
    assert iqm(shuffled) == iqm(x)
    if len(x) >= 4:
        outlier = x.copy()
        outlier[np.argmax(x)] = 1e300
        assert iqm(outlier) == iqm(x)


def test_iqm_does_not_hide_nan():
    assert np.isnan(iqm(np.array([1.0, 2.0, 3.0, np.nan])))
    bad = np.array([[1.0, np.nan], [2.0, 1.0]])
    np.testing.assert_array_equal(iqm(bad, axis=0), [1.5, np.nan])


# ---------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("statistic", [iqm, np.mean, np.median])
@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_interval_agrees_with_scipy(statistic, confidence):
    x = rng(3).exponential(size=12)
    low, high = interval(x, statistic, confidence, 20_000, rng=rng())
    theirs = scipy.stats.bootstrap(
        (x,),
        lambda x, axis: (
            scipy.stats.trim_mean(x, 0.25, axis) if statistic is iqm else statistic(x, axis=axis)
        ),
        confidence_level=confidence,
        n_resamples=20_000,
        method="percentile",
        rng=rng(1),
    ).confidence_interval
    np.testing.assert_allclose([low, high], theirs, rtol=0.03)


def test_interval_of_curves_draws_whole_seeds():
    curves = rng().normal(size=(6, 9))
    curves[:, 4] = curves[:, 0]  # equal columns have equal intervals only if drawn together
    low, high = interval(curves, rng=rng(1), resamples=200)
    assert low.shape == high.shape == (9,)
    assert (low[4], high[4]) == (low[0], high[0])
    alone = interval(curves[:, 2], rng=rng(1), resamples=200)
    np.testing.assert_allclose(alone, (low[2], high[2]))


def test_interval_is_the_same_however_it_is_divided_into_blocks(monkeypatch):
    x, scores = rng().normal(size=10), rng().normal(size=(2, 30))
    one = interval(x, rng=rng(5)), interval(scores, rng=rng(5), stratified=True)
    monkeypatch.setattr("actorcritic.statistics._BLOCK", 77)
    assert one == (interval(x, rng=rng(5)), interval(scores, rng=rng(5), stratified=True))


def test_interval_repeats_with_its_generator_only():
    x = rng().normal(size=10)
    assert interval(x, rng=rng(5)) == interval(x, rng=rng(5))
    assert interval(x, rng=rng(5)) != interval(x, rng=rng(6))


def test_stratified_keeps_the_seeds():
    # Two seeds far apart, each of one score: episodes tell nothing of what seeds would give.
    scores = np.array([[0.0] * 10, [100.0] * 10])
    assert interval(scores, np.mean, rng=rng(), stratified=True) == (50.0, 50.0)
    low, high = interval(scores.mean(1), np.mean, rng=rng())
    assert (low, high) == (0.0, 100.0)


def test_stratified_agrees_with_the_standard_error():
    scores = rng(2).normal(size=(2, 200)) * [[1.0], [3.0]]
    low, high = interval(scores, np.mean, rng=rng(), stratified=True, resamples=5000)
    error = np.sqrt((scores.var(axis=1) / 200).sum()) / 2
    np.testing.assert_allclose((high - low) / 2, 1.96 * error, rtol=0.05)
    np.testing.assert_allclose((high + low) / 2, scores.mean(), atol=0.1 * error)


@pytest.mark.parametrize(("seeds", "least", "most"), [(3, 0.65, 0.85), (10, 0.88, 0.97)])
def test_coverage(seeds, least, most):
    """The intervals hold the truth about as often as the documentation says."""
    random = rng(4)
    hits = [
        low <= 0 <= high
        for _ in range(400)
        for low, high in [interval(random.normal(size=seeds), resamples=400, rng=random)]
    ]
    assert least < np.mean(hits) < most


# ---------------------------------------------------------------------------- summaries


def test_summary_over_seeds():
    returns = rng().normal(100, 5, size=(10, 20)) + rng(1).normal(0, 10, size=(10, 1))
    s = summary(returns)
    scores = returns.mean(1)
    assert (s.num_seeds, s.num_episodes, s.over) == (10, 20, "seeds")
    assert s.mean == pytest.approx(scores.mean())
    assert s.iqm == pytest.approx(scipy.stats.trim_mean(scores, 0.25))
    assert (s.low, s.high) == interval(scores, rng=rng(0))
    assert summary(returns) == s
    assert summary(returns, rng(7)) != s


@pytest.mark.parametrize("seeds", [1, 2])
def test_summary_of_too_few_seeds_is_over_episodes(seeds):
    returns = rng().normal(100, 5, size=(seeds, 50))
    s = summary(returns)
    assert s.over == "episodes"
    assert s.low < s.iqm < s.high
    assert s.mean == pytest.approx(returns.mean())


@pytest.mark.parametrize(
    ("returns", "text"),
    [
        (
            np.full((10, 100), 500.0),
            "IQM 500.0 (95 % interval 500.0–500.0, over 10 seeds × 100 episodes)",
        ),
        (
            np.full((1, 100), -120.0),
            "IQM -120.0 (95 % interval -120.0 to -120.0, over 100 episodes of "
            "1 seed; other seeds may differ by more)",
        ),
        (
            np.full((2, 9), 0.5),
            "IQM 0.5000 (95 % interval 0.5000–0.5000, over 9 episodes each of "
            "2 seeds; other seeds may differ by more)",
        ),
        (np.full((1, 1), 12.0), "IQM 12.00 (1 seed × 1 episode; too few for an interval)"),
        (np.zeros((3, 1)), "IQM 0.0 (95 % interval 0.0–0.0, over 3 seeds × 1 episode)"),
        (np.full((2, 1), 123456.0), "IQM 123,456 (2 seeds × 1 episode; too few for an interval)"),
    ],
)
def test_summary_in_words(returns, text):
    assert str(summary(returns)) == text


def test_figures_share_their_decimals():
    s = Summary(498.2, 498.23, 495.14, 500.0, 10, 100, "seeds")
    assert str(s) == "IQM 498.2 (95 % interval 495.1–500.0, over 10 seeds × 100 episodes)"


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_summary_of_nothing(shape):
    with pytest.raises(UserError, match=r"shape \[seeds, episodes\]"):
        summary(np.zeros(shape))


def test_summary_of_diverged_runs_is_nan():
    returns = np.ones((5, 4))
    returns[0, 0] = np.nan
    assert np.isnan([summary(returns).iqm, summary(returns).low]).all()


# ---------------------------------------------------------------------------- curves


@given(VECTORS, st.integers(1, 50))
def test_rolling_mean_by_definition(x, window):
    expected = [x[max(0, i - window + 1) : i + 1].mean() for i in range(len(x))]
    np.testing.assert_allclose(rolling_mean(x, window), expected, rtol=1e-9, atol=1e-6)


def test_rolling_mean_recovers_from_what_is_not_finite():
    x = np.array([np.nan, 1e300, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(rolling_mean(x, 2)[3:], [1.5, 2.5])
    assert rolling_mean(np.zeros(0), 5).shape == (0,)


def test_smoothed_curve_by_hand():
    episodes = table(([10, 20, 40], [1, 3, 8]), ([20, 30], [2, 4]))
    curve = smoothed_curve(episodes, window=2, points=4)
    np.testing.assert_array_equal(curve.step, [10, 20, 30, 40])
    np.testing.assert_allclose(curve.seeds, [[1, 2, 3.75, 5.5], [np.nan, 2, 3, 3]])
    np.testing.assert_allclose(curve.iqm, [np.nan, 2, 3.375, 4.25])
    assert np.isnan(curve.low).all()  # two seeds allow no interval over seeds
    lengths = smoothed_curve(episodes, "length", window=1, points=4)
    np.testing.assert_allclose(lengths.seeds[0], [10, 10, 15, 20])


def test_smoothed_curve_band():
    seeds = [(list(range(1, 301)), list(rng(s).normal(s, 1, 300))) for s in range(5)]
    curve = smoothed_curve(table(*seeds), points=50)
    assert curve.seeds.shape == (5, 50)
    assert (curve.low <= curve.iqm).all()
    assert (curve.iqm <= curve.high).all()
    np.testing.assert_array_equal(curve.low, smoothed_curve(table(*seeds), points=50).low)


def test_smoothed_curve_does_not_need_rows_in_order():
    episodes = table(([10, 20, 40], [1, 3, 8]), ([20, 30], [2, 4]))
    mixed = EpisodeTable(*(column[[3, 1, 4, 0, 2]] for column in episodes))
    both = smoothed_curve(mixed, window=2), smoothed_curve(episodes, window=2)
    for a, b in zip(*both, strict=True):
        np.testing.assert_array_equal(a, b)


def test_smoothed_curve_of_little():
    empty = smoothed_curve(EpisodeTable.join([]))
    assert empty.seeds.shape == (0, 0)
    assert len(empty.step) == len(empty.iqm) == len(empty.low) == 0
    single = smoothed_curve(table(([7], [3.0])))
    np.testing.assert_array_equal(single.iqm, 3.0)
