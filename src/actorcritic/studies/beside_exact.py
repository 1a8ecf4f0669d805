"""Measured numbers beside their closed form: in words, in tables, in pictures.

One number is said to be larger than another only where intervals leave no other choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from actorcritic.figures import plots
from actorcritic.figures.statistics import figures
from actorcritic.lab import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Beside(NamedTuple):
    """A number that was measured, beside its closed form."""

    measured: Measured
    exact: float

    @property
    def deviations(self) -> float:
        """How many standard errors they are apart."""
        apart = abs(float(self.measured.value) - self.exact)
        # What has no error at all must be the same but for rounding.
        return apart / max(float(self.measured.error), 1e-9 * (1 + abs(self.exact)))

    @property
    def cells(self) -> tuple[str, str]:
        estimate = self.measured.estimate
        write = figures(*estimate, self.exact)
        return estimate.text(write), write(self.exact)

    def data(self) -> dict[str, float]:
        value, low, high = (float(x) for x in self.measured.estimate)
        return {"measured": value, "low": low, "high": high, "exact": self.exact}


Parts = dict[str, list[Beside]]


def parts_data(name: str, values: Sequence[float], found: Parts) -> list[dict[str, Any]]:
    """As plain JSON, a row for each of the values."""
    return [
        {name: value, **{part.replace(" ", "_"): found[part][i].data() for part in found}}
        for i, value in enumerate(values)
    ]


def agreement(found: Sequence[Beside]) -> str:
    """How many of the measured numbers agree with their closed form, in words."""
    apart = np.array([each.deviations for each in found])
    # Numbers of one sample move together: more of them are far off at once, or none is.
    return (
        f"{(apart <= 1.96).sum()} of {len(apart)} measured numbers have their closed form inside "
        f"their 95 % interval; the furthest is {apart.max():.1f} standard errors away"
        f" ({'as' if apart.max() < 4.5 else 'more than'} chance would have it)."
    )


def least_at(name: str, values: Sequence[float], found: Sequence[Beside]) -> tuple[int, str]:
    """Where the least was measured, in words, with what cannot be told apart from it."""
    measured = [each.measured for each in found]
    best = int(np.argmin([each.value for each in measured]))
    alike = [
        f"{value:g}"
        for i, value in enumerate(values)
        if i != best and more_or_less(measured[i], measured[best]) != "more than"
    ]
    tie = f" (not told apart from {', '.join(alike)})" if alike else ""
    return best, f"least at {name} = {values[best]:g}{tie}"


def more_or_less(x: Measured, y: Measured) -> str:
    """Whether x is larger than y; both were measured by themselves."""
    gap, error = x.value - y.value, np.hypot(x.error, y.error)
    if abs(gap) < 1.96 * error:
        return "cannot be told apart from"
    return "more than" if gap > 0 else "less than"


def with_formula(
    curves: Sequence[tuple[str, Float[np.ndarray, " n"], Sequence[Beside]]],
    xlabel: str,
    ylabel: str,
    **options: Any,
) -> Figure:
    """Measured curves with their 95 % bands, the closed form dashed over each."""
    series = []
    for label, x, found in curves:
        value, low, high = (
            np.array(column, float)
            for column in zip(*(each.measured.estimate for each in found), strict=True)
        )
        series.append(plots.Series(label, x, value, low, high))
    figure = plots.lines(series, xlabel, ylabel, markers=True, **options)
    dashed(figure, [(x, np.array([each.exact for each in found])) for _, x, found in curves])
    return figure


def dashed(
    figure: Figure, curves: Sequence[tuple[np.ndarray, np.ndarray]], name: str = "closed form"
) -> None:
    """Draw what was not measured over a figure's first panel."""
    axes = figure.axes[0]
    plots.overlay(
        axes, [plots.Series(name, x, y, colour=plots.INK, look="dashed") for x, y in curves]
    )
    axes.annotate(
        f"dashed: {name}",
        (1, 1.02),
        xycoords="axes fraction",
        ha="right",
        color=plots.FAINT,
        fontsize=8,
    )
