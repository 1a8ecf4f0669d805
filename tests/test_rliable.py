"""The statistics of several seeds and tasks, against the authors' own package, rliable.

rliable draws from NumPy's global generator, so that the ends of two intervals differ by chance. An
end is a quantile q of R draws; its standard error is sqrt(q (1 - q) / R) / f, with f the density
there: for normal draws, q = 2.5 % and R = 20,000, that is 1.9 % of their standard deviation. Four
times the error of a difference of two is 11 % of it, and the interval is 3.92 of it long.
"""

import numpy as np
import pytest

from actorcritic.figures.statistics import (
    aggregate,
    iqm,
    performance_profile,
    probability_of_improvement,
)

RESAMPLES = 20_000
pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def rliable():
    pytest.importorskip("rliable", reason="the extra package rliable is not installed")
    from rliable import library, metrics

    return library, metrics


@pytest.fixture(autouse=True)
def _the_same_draws_every_time():
    np.random.seed(0)


def scores(seeds: int, tasks: int, shift: float = 0.0, kind: int = 0) -> np.ndarray:
    random = np.random.default_rng(kind)
    return random.normal(shift, 1, size=(seeds, tasks)) + np.arange(tasks) / 2


def assert_close(ours, low, high):
    tolerance = 0.11 * (high - low) / 3.92
    assert abs(ours.low - low) < tolerance
    assert abs(ours.high - high) < tolerance


@pytest.mark.parametrize(("seeds", "tasks"), [(10, 1), (10, 5), (5, 3)])
def test_aggregate_iqm(rliable, seeds, tasks):
    library, metrics = rliable
    x = scores(seeds, tasks)
    point, interval = library.get_interval_estimates(
        {"x": x}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=RESAMPLES
    )
    ours = aggregate(x, iqm, rng=np.random.default_rng(1), resamples=RESAMPLES)
    assert ours.value == pytest.approx(point["x"][0], rel=1e-12)
    assert_close(ours, *interval["x"][:, 0])


@pytest.mark.parametrize("tasks", [1, 4])
def test_probability_of_improvement(rliable, tasks):
    library, metrics = rliable
    x, y = scores(12, tasks, 0.5), scores(9, tasks, kind=1)
    x, y = x.round(0), y.round(0)  # ties count half
    reps = 4000  # each is a rank test for every task
    point, interval = library.get_interval_estimates(
        {"x,y": (x, y)},
        lambda x, y: np.array([metrics.probability_of_improvement(x, y)]),
        reps=reps,
    )
    ours = probability_of_improvement(
        x, y, rng=np.random.default_rng(1), paired=False, resamples=RESAMPLES
    )
    assert ours.value == pytest.approx(point["x,y"][0], rel=1e-12)
    low, high = interval["x,y"][:, 0]
    wider = np.sqrt((1 / reps + 1 / RESAMPLES) / (2 / RESAMPLES))
    tolerance = wider * 0.11 * (high - low) / 3.92
    np.testing.assert_allclose(ours[1:], (low, high), rtol=0, atol=tolerance)


def test_performance_profile(rliable):
    library, _ = rliable
    x = scores(10, 4).round(1)
    thresholds = np.concatenate([np.linspace(-2, 4, 9), x[:2, 0]])  # two are scores exactly
    point, bands = library.create_performance_profile({"x": x}, thresholds, reps=RESAMPLES)
    ours = performance_profile(x, thresholds, rng=np.random.default_rng(1), resamples=RESAMPLES)
    np.testing.assert_allclose(ours.value, point["x"], rtol=1e-12)
    # Fractions of 40 scores: an end may fall on the next of them.
    np.testing.assert_allclose(np.stack(ours[1:]), bands["x"], rtol=0, atol=1 / 40 + 1e-9)
    assert (np.stack(ours[1:]) == bands["x"]).mean() > 0.7
