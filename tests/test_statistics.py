"""Statistics, against SciPy and against their own definitions."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actorcritic.core.errors import UserError
from actorcritic.figures.statistics import (
    Estimate,
    Summary,
    aggregate,
    area_under_curve,
    censored_median,
    counts,
    difference,
    interval,
    iqm,
    performance_profile,
    probability_of_improvement,
    rolling_mean,
    smoothed_curve,
    spread,
    steps_until,
    summary,
    times_sooner,
)
from actorcritic.runners.session import EpisodeTable

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
    monkeypatch.setattr("actorcritic.figures.statistics._BLOCK", 77)
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


# ---------------------------------------------------------------------------- scores of seeds

SCORES = hnp.arrays(np.float64, st.tuples(st.integers(1, 7), st.integers(1, 4)), elements=FINITE)
# Few different values, so that there are ties.
TIED = hnp.arrays(np.float64, st.integers(1, 9), elements=st.integers(0, 3).map(float))


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(481.23, 470.3, 490.0), "481.2 [470.3, 490.0]"),
        (Estimate(0.5, 0.25, 1.0), "0.500 [0.250, 1.000]"),
        (Estimate(12345.6, -3.0, 20000.0), "12,346 [-3, 20,000]"),
        (Estimate(-0.0001, -50.0, 50.0), "0.00 [-50.00, 50.00]"),
        (Estimate(500.0, np.nan, np.nan), "500.0"),
        (Estimate(0.0, 0.0, 0.0), "0.0 [0.0, 0.0]"),
    ],
)
def test_an_estimate_in_words(estimate, text):
    assert str(estimate) == text


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(20.0, 10.0, np.inf), "20 [10, more than 5,000]"),
        (Estimate(np.inf, 1234.0, np.inf), "more than 5,000 [1,234, more than 5,000]"),
        (Estimate(np.inf, np.inf, np.inf), "more than 5,000"),
        (Estimate(np.inf, np.nan, np.nan), "more than 5,000"),
    ],
)
def test_counts_say_that_a_budget_ran_out(estimate, text):
    assert estimate.text(counts(5000)) == text


@given(SCORES)
def test_aggregate_is_of_all_scores_together(x):
    estimate = aggregate(x, rng=rng(), resamples=50)
    np.testing.assert_allclose(
        estimate.value, scipy.stats.trim_mean(x, 0.25, axis=None), rtol=1e-12, atol=1e-6
    )
    if len(x) < 3:
        assert np.isnan([estimate.low, estimate.high]).all()
    else:
        assert x.min() - 1e-6 <= estimate.low <= estimate.high <= x.max() + 1e-6


def test_aggregate_of_one_task_is_the_interval():
    x = rng(2).exponential(size=10)
    low, high = interval(x, rng=rng(), resamples=20_000)
    estimate = aggregate(x, rng=rng(1), resamples=20_000)
    assert estimate.value == iqm(x)
    np.testing.assert_allclose(estimate[1:], (low, high), rtol=0.03)


def test_the_bootstrap_is_stratified():
    # Tasks whose scores do not vary: drawn within tasks they give one value, drawn from all not.
    constant = np.tile([0.0, 100.0, 300.0], (8, 1))
    assert aggregate(constant, np.mean, rng=rng()) == (400 / 3,) * 3
    # Two equal columns: drawn apart, their errors cancel; drawn together they would not.
    column = rng(3).normal(size=12)
    estimate = aggregate(np.stack([column, column], 1), np.mean, rng=rng(), resamples=20_000)
    error = column.std() / np.sqrt(12) / np.sqrt(2)
    np.testing.assert_allclose((estimate.high - estimate.low) / 2, 1.96 * error, rtol=0.05)


@given(TIED, TIED)
def test_probability_of_improvement_by_definition(x, y):
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in x for b in y]
    found = probability_of_improvement(x, y, rng=rng(), paired=False, resamples=50)
    assert found.value == pytest.approx(np.mean(pairs))
    theirs = scipy.stats.mannwhitneyu(x, y).statistic / (len(x) * len(y))
    assert found.value == pytest.approx(theirs)
    other = probability_of_improvement(y, x, rng=rng(), paired=False, resamples=50)
    assert found.value + other.value == pytest.approx(1.0)
    if min(len(x), len(y)) < 3:
        assert np.isnan(found.low)
    else:
        assert 0 <= found.low <= found.high <= 1


def test_probability_of_improvement_is_the_mean_over_tasks():
    x = np.array([[2.0, 0.0], [3.0, 1.0], [4.0, 2.0]])
    y = np.array([[0.0, 5.0], [1.0, 5.0], [1.0, 1.0]])
    # Task 1: every pair; task 2: 1/9 above (2 > 1) and one tie of nine (1 = 1).
    found = probability_of_improvement(x, y, rng=rng(), paired=False)
    assert found.value == pytest.approx((1 + 1.5 / 9) / 2)


def test_probability_of_improvement_has_the_error_of_theory():
    # Of one distribution, U/(nm) has variance (n + m + 1) / (12 n m) (Mann and Whitney 1947).
    random, n = rng(5), 30
    widths = [
        (e.high - e.low) / 2
        for _ in range(20)
        for e in [
            probability_of_improvement(
                random.normal(size=n), random.normal(size=n), rng=random, paired=False
            )
        ]
    ]
    expected = 1.96 * np.sqrt((2 * n + 1) / (12 * n * n))
    assert np.mean(widths) == pytest.approx(expected, rel=0.08)


@given(hnp.arrays(np.float64, st.tuples(st.integers(3, 8)), elements=st.floats(-100, 100)))
def test_a_paired_constant_difference_is_certain(x):
    found = difference(x + 4.0, x, rng=rng(), paired=True, resamples=100)
    np.testing.assert_allclose(found, 4.0, atol=1e-9)


def test_pairing_is_what_narrows_the_interval():
    x = rng().normal(0, 10, size=12)
    y = x - 1 + rng(1).normal(0, 0.1, size=12)
    together = difference(x, y, rng=rng(), paired=True)
    apart = difference(x, y, rng=rng(), paired=False)
    assert together.value == apart.value == iqm(x) - iqm(y)
    assert together.low > 0  # seen only with pairs
    assert apart.low < 0 < apart.high


def test_an_unpaired_difference_has_the_error_of_theory():
    x, y = rng().normal(3, 1, size=40), rng(1).normal(0, 2, size=60)
    found = difference(x, y, np.mean, rng=rng(), paired=False, resamples=10_000)
    error = np.sqrt(x.var() / 40 + y.var() / 60)
    np.testing.assert_allclose((found.high - found.low) / 2, 1.96 * error, rtol=0.05)
    np.testing.assert_allclose((found.high + found.low) / 2, x.mean() - y.mean(), atol=0.2 * error)


@pytest.mark.parametrize("paired", [False, True])
def test_coverage_of_a_difference(paired):
    """A 95 % interval of ten seeds each holds the true difference about that often."""
    random, hits = rng(4), []
    for _ in range(300):
        common = random.normal(size=10) * 5 if paired else 0.0
        x, y = common + random.normal(1, 1, size=10), common + random.normal(0, 1, size=10)
        found = difference(x, y, np.mean, rng=random, paired=paired, resamples=400)
        hits.append(found.low <= 1 <= found.high)
    assert 0.87 < np.mean(hits) < 0.98


@given(SCORES, st.lists(FINITE, min_size=1, max_size=5))
def test_a_profile_by_definition(x, thresholds):
    thresholds = sorted([*thresholds, float(x.flat[0])])  # one that is a score exactly
    found = performance_profile(x, thresholds, rng=rng(), resamples=50)
    expected = [np.mean([score > t for score in x.flat]) for t in thresholds]
    np.testing.assert_allclose(found.value, expected)
    assert (np.diff(found.value) <= 0).all()
    assert found.low.shape == found.high.shape == (len(thresholds),)
    if len(x) >= 3:
        assert (found.low <= found.high).all()
        assert (np.diff(found.low) <= 0).all()


def test_the_band_of_a_profile_is_binomial():
    x = np.arange(40.0)
    found = performance_profile(x, [9.5], rng=rng(), resamples=20_000)
    low, high = scipy.stats.binom.ppf([0.025, 0.975], 40, 0.75) / 40
    np.testing.assert_allclose([found.value[0], found.low[0], found.high[0]], [0.75, low, high])


def test_spread():
    x = rng().normal(size=9)
    found = spread(x)
    assert found.deviation == pytest.approx(scipy.stats.tstd(x))
    assert found.interquartile == pytest.approx(scipy.stats.iqr(x))
    assert np.isnan(spread(x[:1])).all()


@given(hnp.arrays(np.float64, st.integers(1, 9), elements=st.integers(1, 6).map(float)), st.data())
def test_a_censored_median_needs_no_number_for_what_is_unknown(x, data):
    never = data.draw(hnp.arrays(bool, len(x)))
    x = np.where(never, np.inf, x)
    found = censored_median(x, rng=rng(), resamples=100)
    # The least of the values that at least half of them do not exceed.
    assert found.value == min(v for v in x if (x <= v).mean() >= 0.5)
    if len(x) >= 3:
        assert set(found) <= set(x)
        assert found.low <= found.value <= found.high
    huge = censored_median(np.where(never, 1e9, x), rng=rng(), resamples=100)
    np.testing.assert_array_equal(np.where(np.array(huge) == 1e9, np.inf, huge), found)


def test_a_censored_median_by_hand():
    assert censored_median(np.array([5.0, np.inf, 3.0, np.inf]), rng=rng()).value == 5
    assert censored_median(np.array([5.0, np.inf, np.inf]), rng=rng()).value == np.inf
    assert censored_median(np.full(5, np.inf), rng=rng()) == (np.inf,) * 3
    assert np.isnan(censored_median(np.array([1.0, 2.0]), rng=rng()).low)


ESTIMATES = {
    "aggregate": lambda x, y, rng: aggregate(x, rng=rng),
    "difference": lambda x, y, rng: difference(x, y, rng=rng, paired=False),
    "paired": lambda x, y, rng: difference(x, y, rng=rng, paired=True),
    "probability": lambda x, y, rng: probability_of_improvement(x, y, rng=rng, paired=False),
    "profile": lambda x, y, rng: tuple(
        map(tuple, performance_profile(x, [-1, 0, 1], rng=rng, resamples=20))
    ),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates_repeat_with_their_generator_only_and_in_any_blocks(name, monkeypatch):
    x, y = rng().normal(size=(9, 2)), rng(1).normal(size=(9, 2))
    one = ESTIMATES[name](x, y, rng(5))
    assert ESTIMATES[name](x, y, rng(5)) == one
    assert any(ESTIMATES[name](x, y, rng(seed)) != one for seed in (6, 7, 8))
    monkeypatch.setattr("actorcritic.figures.statistics._BLOCK", 777)
    again = ESTIMATES[name](x, y, rng(5))
    # Drawn in turns, x and y have other draws in other blocks; alone or paired the same.
    if name in ("difference", "probability"):
        np.testing.assert_allclose(again, one, atol=0.1)
    else:
        assert again == one


@pytest.mark.parametrize(
    ("x", "y", "paired", "message"),
    [
        (np.zeros((0, 2)), np.zeros((3, 2)), False, "at least one seed"),
        (np.zeros((3, 2)), np.zeros((3, 1)), False, "the same tasks; got"),
        (np.zeros(3), np.zeros(4), True, "the same tasks and the same seeds; got"),
    ],
)
def test_scores_that_cannot_be_compared(x, y, paired, message):
    with pytest.raises(UserError, match=message):
        difference(x, y, rng=rng(), paired=paired)


def test_an_estimate_of_diverged_seeds_is_nan():
    x = np.array([1.0, 2.0, np.nan, 3.0, 4.0])
    assert np.isnan(aggregate(x, rng=rng())).all()


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


def by_definition(episodes: EpisodeTable, seed: int, total: int, window: int) -> float:
    """The area, step by step: a fine sum under the curve that the documentation describes."""
    mine = np.flatnonzero(episodes.seed == seed)
    mean = [episodes.returns[mine[max(0, i - window + 1) : i + 1]].mean() for i in range(len(mine))]
    x = (np.arange(200 * total) + 0.5) / 200
    return float(np.interp(x, episodes.step[mine], mean).mean())


@st.composite
def learning(draw):
    """Episodes of one seed; several may end at the same step, or after the last one counted."""
    lengths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=12))
    end = np.cumsum([lengths[0] + 1, *lengths[1:]]).tolist()
    return end, draw(st.lists(st.floats(-10, 10), min_size=len(end), max_size=len(end)))


@given(learning(), st.integers(1, 40), st.integers(1, 5))
def test_area_under_the_curve_by_definition(episodes, total, window):
    found = area_under_curve(table(episodes), [0], total, window)
    # A jump (two ends at one step) or a bend is within one step of the fine sum.
    assert found[0] == pytest.approx(by_definition(table(episodes), 0, total, window), abs=0.05)


def test_area_under_the_curve_by_hand():
    episodes = table(([10, 20, 40], [1, 3, 8]), ([20, 30], [2, 4]))
    # Up to 10: 1. To 20: from 1 to 2. To 30, half way from 2 to 5.5: 3.75.
    first = (10 * 1 + 10 * 1.5 + 10 * (2 + 3.75) / 2) / 30
    second = (20 * 2 + 10 * 2.5) / 30
    found = area_under_curve(episodes, [1, 0, 7], 30, 2)
    np.testing.assert_allclose(found, [second, first, np.nan])
    # After its last episode a seed keeps its mean.
    np.testing.assert_allclose(area_under_curve(episodes, [1], 60, 2), [(65 + 30 * 3) / 60])


@given(st.lists(st.floats(-10, 10), max_size=30), st.floats(-10, 10), st.integers(1, 8))
def test_steps_until_by_definition(returns, threshold, window):
    end = list(range(3, 3 * len(returns) + 3, 3))
    found = steps_until(table((end, returns)), [0], threshold, window)
    first = np.inf
    for count in range(window, len(returns) + 1):
        if np.mean(returns[count - window : count]) >= threshold:
            first = count
            break
    np.testing.assert_array_equal(found.episodes, [first])
    np.testing.assert_array_equal(found.steps, [3 * first])


def test_steps_until_needs_a_full_window_and_knows_its_seeds():
    episodes = table(([10, 20, 30, 40], [9, 0, 3, 5]), ([15, 25], [9, 9]), ([5], [9]))
    mixed = EpisodeTable(*(column[[4, 2, 0, 6, 1, 5, 3]] for column in episodes))
    found = steps_until(mixed, [2, 1, 0, 8], 4, 2)
    np.testing.assert_array_equal(found.steps, [np.inf, 25, 20, np.inf])
    np.testing.assert_array_equal(found.episodes, [np.inf, 2, 2, np.inf])


def test_how_many_times_sooner():
    def of(x, y, paired=False):
        x, y = np.array(x, float), np.array(y, float)
        return times_sooner(x, y, rng=np.random.default_rng(0), paired=paired)

    found = of([1, 2, 3, 4, 5], [3, 6, 9, 12, 15], paired=True)
    assert found.value == 3.0
    assert (found.low, found.high) == (3.0, 3.0)
    assert of([1, 2, 3], [5, np.inf, np.inf]).value == np.inf
    assert of([1, np.inf, np.inf], [5, 6, 7]).value == 0.0
    assert of([np.inf] * 3, [np.inf] * 3) == (1.0, 1.0, 1.0)


def test_the_smoothing_window_does_not_depend_on_what_a_run_is_shown_beside():
    one = table((list(range(1, 51)), list(range(50))))
    alone = smoothed_curve(one).seeds[0]
    np.testing.assert_allclose(alone[-1], np.mean(range(30, 50)))
    beside = EpisodeTable.join([one, one._replace(seed=one.seed + 1)])
    np.testing.assert_array_equal(smoothed_curve(beside).seeds[0], alone)
