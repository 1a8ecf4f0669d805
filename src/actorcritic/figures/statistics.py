"""Honest statistics of few seeds: the interquartile mean and bootstrap intervals.

After Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical
precipice". Every random draw comes from a generator that the caller can name. Scores are [S]
(seeds) or [S, M] (seeds, tasks); of several tasks, each has its seeds drawn by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from actorcritic.core.errors import UserError
from actorcritic.runners.session import EpisodeTable

Statistic = Callable[..., Any]  # of an array and an `axis`, as np.mean is
Writer = Callable[[float], str]

RESAMPLES = 2000
FEWEST_SEEDS = 3  # with fewer there is no interval over seeds
# A learning curve, and "reached", is the mean of a seed's last 20 training returns: of every run,
# whatever it is shown beside, so that the same run gives the same numbers everywhere.
WINDOW = 20


def iqm(x: Float[np.ndarray, "..."], axis: int | None = None) -> Any:
    """Interquartile mean: the mean of what is left without the lowest and the highest quarter.

    ⌊n/4⌋ values are left out at each end, as `scipy.stats.trim_mean(x, 0.25)` does; with fewer
    than four values it is the mean. It moves less with outliers than the mean and is surer than
    the median. Where any value is NaN, so is the result.
    """
    x = np.sort(np.asarray(x), axis)
    x = x.reshape(-1) if axis is None else np.moveaxis(x, axis, -1)
    n = x.shape[-1]
    # Sorting puts NaN last, where it would be trimmed away as if it had been a high score.
    bad = np.isnan(x[..., -1:]).any(-1)
    return np.where(bad, np.nan, x[..., n // 4 : n - n // 4].mean(-1))[()]


def interval(
    x: Float[np.ndarray, "S *rest"],
    statistic: Statistic = iqm,
    confidence: float = 0.95,
    resamples: int = 2000,
    *,
    rng: np.random.Generator,
    stratified: bool = False,
) -> tuple[Any, Any]:
    """Bootstrap percentile interval of `statistic(x, axis=0)`: (low, high).

    Rows (seeds) are drawn with replacement, all their columns together: with scores [S] the
    interval is two numbers, with curves [S, G] it is two curves [G].

    `stratified` takes scores [S, E] (seed, episode), keeps the seeds and draws the E episodes of
    each with replacement, then takes the statistic of the seeds' means. It says how far these
    S agents are known, and nothing of what other seeds would give.

    Intervals of very few seeds are too narrow: of normally distributed scores, the 95 % interval
    of the IQM was measured to hold the true value in 75 % of cases with 3 seeds, 87 % with 4,
    91 % with 5, and 93 to 94 % with 8 to 20.
    """
    x = np.asarray(x, np.float64)
    drawn = (_resampled_within if stratified else _resampled)(x, statistic, resamples, rng)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


class Summary(NamedTuple):
    """What S seeds × E episodes scored. A seed's score is the mean return of its episodes."""

    mean: float  # over the seeds' scores, as `iqm` is
    iqm: float
    low: float  # 95 % bootstrap interval of the IQM; NaN where the data allow none
    high: float
    num_seeds: int
    num_episodes: int  # of each seed
    over: Literal["seeds", "episodes"]  # what was resampled, so what the interval speaks of

    def __str__(self) -> str:
        s, e = _count(self.num_seeds, "seed"), _count(self.num_episodes, "episode")
        point, low, high = _alike(self.iqm, self.low, self.high)
        if np.isnan(self.low):
            return f"IQM {point} ({s} × {e}; too few for an interval)"
        dash = " to " if "-" in low + high else "–"
        between = f"95 % interval {low}{dash}{high}"
        if self.over == "seeds":
            return f"IQM {point} ({between}, over {s} × {e})"
        each = "" if self.num_seeds == 1 else "each "
        return f"IQM {point} ({between}, over {e} {each}of {s}; other seeds may differ by more)"


def summary(returns: Float[np.ndarray, "S E"], rng: np.random.Generator | None = None) -> Summary:
    """Summarise the returns of E episodes of each of S seeds.

    With three seeds or more the interval is over seeds; with fewer it is over the episodes of
    the seeds there are (see `interval`). Without `rng` the draws are the same each time.
    """
    returns = np.asarray(returns, np.float64)
    if 0 in returns.shape:
        raise UserError(
            "A summary needs returns of shape [seeds, episodes], at least one of each; got shape "
            f"{list(returns.shape)}. Evaluate at least one episode."
        )
    rng = np.random.default_rng(0) if rng is None else rng
    scores = returns.mean(axis=1)
    seeds, episodes = returns.shape
    low = high = np.nan
    if seeds >= 3:
        low, high = interval(scores, rng=rng)
    elif episodes > 1:
        low, high = interval(returns, rng=rng, stratified=True)
    over: Literal["seeds", "episodes"] = "seeds" if seeds >= 3 else "episodes"
    return Summary(
        float(scores.mean()), float(iqm(scores)), float(low), float(high), seeds, episodes, over
    )


def rolling_mean(x: Float[np.ndarray, " n"], window: int) -> Float[np.ndarray, " n"]:
    """Mean of each value and the `window - 1` before it, or of as many as there are."""
    x = np.asarray(x, np.float64)
    start = np.cumsum(x[: window - 1]) / np.arange(1, len(x[: window - 1]) + 1)
    if len(x) < window:
        return start
    # Windows, not differences of one long cumulative sum: a NaN or a huge value passes by.
    return np.concatenate([start, np.lib.stride_tricks.sliding_window_view(x, window).mean(-1)])


class Curve(NamedTuple):
    """Smoothed learning curves of S seeds on a common grid of G environment steps."""

    step: Float[np.ndarray, " G"]
    seeds: Float[np.ndarray, "S G"]  # NaN before a seed's first episode ended
    iqm: Float[np.ndarray, " G"]  # across seeds; NaN until each has finished an episode
    low: Float[np.ndarray, " G"]  # 95 % bootstrap interval over seeds; NaN with fewer than three
    high: Float[np.ndarray, " G"]


def smoothed_curve(
    table: EpisodeTable,
    column: Literal["returns", "length"] = "returns",
    window: int = WINDOW,
    points: int = 200,
    rng: np.random.Generator | None = None,
) -> Curve:
    """Mean over each seed's last `window` episodes against its environment steps.

    Each seed's means are interpolated onto a grid from the first to the last end of an episode;
    after its last episode, a seed keeps the mean it has. A table without episodes gives S = G = 0.
    """
    seeds = np.unique(table.seed)
    if not len(seeds):
        return Curve(np.zeros(0), np.zeros((0, 0)), *(np.zeros(0) for _ in range(3)))
    grid = np.linspace(table.step.min(), table.step.max(), points)
    curves = np.empty((len(seeds), points))
    for row, seed in zip(curves, seeds, strict=True):
        step, mine = _episodes_of(table, seed, column)
        row[:] = np.interp(grid, step, rolling_mean(mine, window), left=np.nan)
    low = high = np.full(points, np.nan)
    if len(seeds) >= 3:
        rng = np.random.default_rng(0) if rng is None else rng
        low, high = interval(curves, resamples=1000, rng=rng)
    return Curve(grid, curves, iqm(curves, axis=0), low, high)


# ---------------------------------------------------------------------------- scores of seeds


class Estimate(NamedTuple):
    """A number of S seeds, and its 95 % bootstrap interval over seeds."""

    value: Any  # a float; of a profile, an array
    low: Any  # NaN with fewer than three seeds
    high: Any

    def __str__(self) -> str:
        return self.text(figures(*self))

    def text(self, write: Writer) -> str:
        """Such as "481.2 [470.3, 490.0]", each number as `write` has it (`figures`, `counts`)."""
        if not np.isfinite(self.low):  # no interval, or nothing but infinity
            return write(self.value)
        return f"{write(self.value)} [{write(self.low)}, {write(self.high)}]"


def figures(*numbers: float) -> Writer:
    """How to write numbers alike: four figures in the largest, as many decimals in each."""
    largest = max((abs(x) for x in numbers if np.isfinite(x)), default=0.0)
    decimals = 3 - int(np.floor(np.log10(largest))) if largest > 0 else 1
    decimals = min(max(decimals, 0), 6)
    return lambda x: f"{x:z,.{decimals}f}"


def counts(most: float) -> Writer:
    """How to write whole numbers, of which those that are infinite passed `most` unreached."""
    return lambda x: f"more than {most:,.0f}" if np.isinf(x) else f"{x:,.0f}"


def aggregate(
    scores: Float[np.ndarray, "S *M"],
    statistic: Statistic = iqm,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Estimate:
    """A statistic of all scores together, as rliable aggregates, with its interval.

    The bootstrap is stratified: within each task, seeds are drawn with replacement.
    """
    return _estimate(lambda x: statistic(_flat(x), axis=-1), [scores], rng, resamples)


def difference(
    x: Float[np.ndarray, "S *M"],
    y: Float[np.ndarray, "K *M"],
    statistic: Statistic = iqm,
    *,
    rng: np.random.Generator,
    paired: bool,
    resamples: int = RESAMPLES,
) -> Estimate:
    """`statistic(x) - statistic(y)`. `paired`: row for row the same seeds, drawn together."""

    def subtracted(x: np.ndarray, y: np.ndarray) -> Any:
        return statistic(_flat(x), axis=-1) - statistic(_flat(y), axis=-1)

    return _estimate(subtracted, [x, y], rng, resamples, paired)


def probability_of_improvement(
    x: Float[np.ndarray, "S *M"],
    y: Float[np.ndarray, "K *M"],
    *,
    rng: np.random.Generator,
    paired: bool,
    resamples: int = RESAMPLES,
) -> Estimate:
    """P(X > Y) + P(X = Y) / 2 over all pairs of a seed of each; of tasks, the mean.

    It is the Mann-Whitney statistic over S·K. `paired` does not change it, but the interval: then
    rows are the same seeds and are drawn together. Where each x is above each y the interval is
    [1, 1]: nothing in the data speaks for less, which with few seeds is not to be certain.
    """

    def above(x: np.ndarray, y: np.ndarray) -> Any:
        x, y = x[..., :, None, :], y[..., None, :, :]
        return ((x > y) + 0.5 * (x == y)).mean((-3, -2, -1))

    pairs = max(1, len(x) * len(y) * np.asarray(x)[0].size)
    return _estimate(above, [x, y], rng, resamples, paired, numbers=pairs)


def performance_profile(
    scores: Float[np.ndarray, "S *M"],
    thresholds: Sequence[float] | Float[np.ndarray, " T"],
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The fraction of scores above (>, not at) each of T thresholds: three curves [T].

    As rliable's run-score distribution. The band holds at each threshold by itself, not for the
    whole curve at once.
    """

    def above(x: np.ndarray) -> Any:
        return np.stack([(x > t).mean((-2, -1)) for t in thresholds], -1)

    return _estimate(above, [scores], rng, resamples)


class Spread(NamedTuple):
    """How far seeds differ."""

    deviation: float  # standard deviation with n - 1; NaN of one seed
    interquartile: float  # range between the quartiles


def spread(scores: Float[np.ndarray, " S"]) -> Spread:
    """Standard deviation and interquartile range between seeds."""
    scores = np.asarray(scores, np.float64)
    if len(scores) < 2:
        return Spread(np.nan, np.nan)
    low, high = np.quantile(scores, [0.25, 0.75])
    return Spread(float(scores.std(ddof=1)), float(high - low))


def censored_median(
    x: Float[np.ndarray, " S"], *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Estimate:
    """The median of values some of which are infinite: what was not reached, and when is unknown.

    It is the least value that half of the seeds do not exceed (`inverted_cdf`, as Kaplan and
    Meier's median), and the ends of its interval are quantiles of the same kind: nothing is
    interpolated, so that infinity stays what it is.
    """

    return _estimate(_censored_median, [x], rng, resamples, method="inverted_cdf")


def _censored_median(x: Float[np.ndarray, "*R S M"]) -> Any:
    return np.quantile(x[..., 0], 0.5, axis=-1, method="inverted_cdf")


def times_sooner(
    x: Float[np.ndarray, " S"],
    y: Float[np.ndarray, " K"],
    *,
    rng: np.random.Generator,
    paired: bool,
    resamples: int = RESAMPLES,
) -> Estimate:
    """How many times sooner x is there than y: the median of y over that of x (`censored_median`).

    Infinite where half of y never gets there, 0 where half of x does not, 1 where neither does.
    """

    def ratio(x: np.ndarray, y: np.ndarray) -> Any:
        a, b = _censored_median(x), _censored_median(y)
        with np.errstate(invalid="ignore"):
            return np.where(np.isinf(a) & np.isinf(b), 1.0, b / a)

    return _estimate(ratio, [x, y], rng, resamples, paired, method="inverted_cdf")


# ---------------------------------------------------------------------------- learning curves


def area_under_curve(
    table: EpisodeTable, seeds: Sequence[int], total_steps: int, window: int = WINDOW
) -> Float[np.ndarray, " S"]:
    """The mean height of each seed's smoothed return over environment steps 0 to `total_steps`.

    The curve runs straight from the end of an episode to that of the next, through the mean of the
    last `window` returns (of as many as there are). Before the first end it has the first
    episode's return, after the last one the last mean; what ended past `total_steps` is cut
    off. NaN of a seed without an episode.
    """
    areas = np.full(len(seeds), np.nan)
    for i, seed in enumerate(seeds):
        step, returns = _episodes_of(table, seed)
        if len(step):
            mean = rolling_mean(returns, window)
            inside = int(np.searchsorted(step, total_steps))
            last = np.interp(total_steps, step[: inside + 1], mean[: inside + 1])
            x = np.concatenate([[0], step[:inside], [total_steps]])
            y = np.concatenate([mean[:1], mean[:inside], [last]])
            areas[i] = np.trapezoid(y, x) / total_steps
    return areas


class Reached(NamedTuple):
    """When each seed first reached a threshold; infinite where it never did."""

    steps: Float[np.ndarray, " S"]  # environment steps of that seed
    episodes: Float[np.ndarray, " S"]


def steps_until(
    table: EpisodeTable, seeds: Sequence[int], threshold: float, window: int = WINDOW
) -> Reached:
    """Steps and episodes until the mean of a seed's last `window` returns is `threshold` or more.

    The window has to be full: no seed is there before its `window`-th episode.
    """
    reached = Reached(np.full(len(seeds), np.inf), np.full(len(seeds), np.inf))
    for i, seed in enumerate(seeds):
        step, returns = _episodes_of(table, seed)
        there = np.flatnonzero(rolling_mean(returns, window)[window - 1 :] >= threshold)
        if len(there):
            reached.episodes[i] = there[0] + window
            reached.steps[i] = step[there[0] + window - 1]
    return reached


# ---------------------------------------------------------------------------- parts

_BLOCK = 2**20  # numbers drawn at a time, so that long evaluations do not fill the memory


def _blocks(resamples: int, numbers: int) -> list[int]:
    size = max(1, _BLOCK // max(1, numbers))
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _resampled(
    x: Float[np.ndarray, "S *rest"], statistic: Statistic, resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "R *rest"]:
    rows = len(x)
    columns = np.ascontiguousarray(np.moveaxis(x, 0, -1))  # a drawn column then sorts in cache
    return np.concatenate(
        [
            statistic(np.moveaxis(columns[..., index], -2, 0), axis=-1)
            for count in _blocks(resamples, x.size)
            for index in [rng.integers(rows, size=(count, rows))]
        ]
    )


def _resampled_within(
    x: Float[np.ndarray, "S E"], statistic: Statistic, resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, " R"]:
    means = np.stack(
        [
            np.concatenate(
                [
                    row[rng.integers(len(row), size=(count, len(row)))].mean(-1)
                    for count in _blocks(resamples, len(row))
                ]
            )
            for row in x
        ]
    )
    return statistic(means, axis=0)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _alike(*numbers: float) -> list[str]:
    return list(map(figures(*numbers), numbers))


def _episodes_of(
    table: EpisodeTable, seed: int, column: str = "returns"
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Steps and returns (or another column) of one seed's episodes, in the order they ended."""
    mine = np.flatnonzero(table.seed == seed)
    mine = mine[np.argsort(table.step[mine], kind="stable")]
    values = getattr(table, column)[mine]
    return table.step[mine].astype(np.float64), values.astype(np.float64)


def _flat(x: Float[np.ndarray, "*R S M"]) -> Float[np.ndarray, "*R SM"]:
    return x.reshape(*x.shape[:-2], -1)


def _estimate(
    statistic: Callable[..., Any],
    scores: Sequence[Float[np.ndarray, "S *M"]],
    rng: np.random.Generator,
    resamples: int,
    paired: bool = False,
    method: Any = "linear",
    numbers: int | None = None,
) -> Estimate:
    """A statistic of arrays [..., S, M], each seed drawn with replacement within its task.

    `numbers` is the size of the largest array that the statistic makes of one draw.
    """
    arrays = [np.asarray(x, np.float64) for x in scores]
    shapes = [x.shape for x in arrays]
    if any(0 in shape for shape in shapes):
        raise UserError(f"An estimate needs at least one seed and one task; got shapes {shapes}.")
    if len({shape if paired else shape[1:] for shape in shapes}) > 1:
        raise UserError(
            f"Scores to compare need the same tasks{' and the same seeds' * paired}; got shapes "
            f"{shapes}."
        )
    arrays = [x[:, None] if x.ndim == 1 else x for x in arrays]
    value = statistic(*arrays)
    if min(map(len, arrays)) < FEWEST_SEEDS:
        return Estimate(value, *2 * (np.full(np.shape(value), np.nan)[()],))
    drawn = []
    for count in _blocks(resamples, numbers or max(x.size for x in arrays)):
        sample, index = [], None
        for x in arrays:
            if index is None or not paired:
                index = rng.integers(len(x), size=(count, *x.shape))
            sample.append(np.take_along_axis(x[None], index, axis=1))
        drawn.append(statistic(*sample))
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975], axis=0, method=method)
    return Estimate(value, low, high)
