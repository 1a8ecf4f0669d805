"""What studies say of variants that they trained, in words and in a table.

Something is said to be higher, fewer or lower only where a 95 % interval leaves no other choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from actorcritic.experiments.comparison import Comparison
from actorcritic.figures import statistics
from actorcritic.figures.html import Table
from actorcritic.figures.statistics import Estimate, figures


def fixed_rng() -> np.random.Generator:
    """Draws that are the same each time: a report that is made again says the same."""
    return np.random.default_rng(0)


def deviation(x: Float[np.ndarray, "... S"]) -> Any:
    """The standard deviation between seeds."""
    return np.std(x, axis=-1, ddof=1)


def ratio(
    x: Float[np.ndarray, " S"],
    y: Float[np.ndarray, " S"],
    statistic: Callable[[np.ndarray], Any],
) -> Estimate:
    """statistic(x) / statistic(y) of the same seeds, drawn together."""
    rows = fixed_rng().integers(len(x), size=(statistics.RESAMPLES, len(x)))
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(statistic(x) / statistic(y))
        drawn = statistic(x[rows]) / statistic(y[rows])
    if len(x) < statistics.FEWEST_SEEDS or not np.isfinite(value):
        return Estimate(value, np.nan, np.nan)
    # Where a draw does not tell the ratio it may be anything: that widens the interval both ways.
    low, high = (
        float(np.quantile(np.where(np.isnan(drawn), unknown, drawn), q, method="inverted_cdf"))
        for unknown, q in ((0.0, 0.025), (np.inf, 0.975))
    )
    return Estimate(value, low, high)


def side(estimate: Estimate, even: float, below: str, above: str) -> str:
    """On which side of `even` an estimate's interval is, in words."""
    if np.isnan(estimate.low):
        return "not known to differ"
    if estimate == (even, even, even):
        return "the same"
    if estimate.high < even:
        return below
    return above if estimate.low > even else "cannot be told apart"


def hundredths(x: float) -> str:
    """How to write ratios."""
    return f"{x:.2f}"


def signed(estimate: Estimate) -> str:
    """How to write differences, with their interval."""
    write = figures(*estimate)
    return estimate.text(lambda x: "+" * bool(x > 0) + write(x))


def area_gained(comparison: Comparison, label: str, other: str) -> Estimate:
    """How much more area one variant has under its learning curve than another."""
    x, y = comparison.areas[label], comparison.areas[other]
    return statistics.difference(x, y, rng=fixed_rng(), paired=comparison.paired)


def versus(comparison: Comparison, label: str, other: str) -> str:
    """One variant beside another: how fast it learned, and where it ended."""
    area, score = area_gained(comparison, label, other), comparison.against(label, other)
    return (
        f"{label} against {other}: area under the learning curve {signed(area)} "
        f"({side(area, 0, 'smaller', 'larger')}), score at the end {signed(score.difference)} "
        f"({side(score.difference, 0, 'lower', 'higher')})."
    )


def ranked(comparison: Comparison, best: str) -> str:
    """Which variants the best one is known to beat, by its score at the end."""
    words = {
        label: comparison.against(best, label).word for label in comparison.runs if label != best
    }
    lower = [label for label, word in words.items() if word == "higher"]
    near = [label for label in words if label not in lower]
    said = [f"{', '.join(lower)} lower"] if lower else []
    said += [f"{', '.join(near)} not told apart from it"] if near else []
    return f"{' and '.join(said)}."


def learning_table(name: str, title: str, comparison: Comparison) -> Table:
    """How fast and how evenly variants learned, and where they ended."""
    rows = tuple(
        (
            label,
            str(found.area),
            f"{statistics.spread(comparison.areas[label]).deviation:.1f}",
            str(found.iqm),
            f"{found.spread.deviation:.1f}",
        )
        for label, found in comparison.variants.items()
    )
    columns = ("variant", "area under curve", "its SD", "score at the end", "its SD")
    note = (
        f"Area: the mean height of a seed's learning curve, the mean of its last "
        f"{comparison.window} training returns. IQM over seeds with 95 % bootstrap intervals; SD "
        f"between seeds. Score: {comparison.score}."
    )
    return Table(name, title, columns, rows, note)


def median_seed(comparison: Comparison, label: str) -> int:
    """The seed in the middle by its score; of an even number, the lower one of the two."""
    order = np.argsort(comparison.scores[label], kind="stable")
    return comparison.seeds[label][order[(len(order) - 1) // 2]]
