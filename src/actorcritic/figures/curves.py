"""Curves against environment steps or another number: of training, its diagnostics, any series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actorcritic.figures.pictures import picture_kind, save
from actorcritic.figures.statistics import WINDOW, iqm, rolling_mean, smoothed_curve
from actorcritic.figures.style import (
    FAINT,
    INK,
    PAPER,
    ROW,
    WIDTH,
    Series,
    attach,
    canvas,
    colours,
    draw_lines,
    legend,
    legend_size,
    plain_decades,
    style,
    tick,
)
from actorcritic.runners.session import EpisodeTable, MetricTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_DOTS = 5_000  # in a panel: more say no more, and take long to draw


def lines(
    series: Sequence[Series],
    xlabel: str,
    ylabel: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = False,
) -> Figure:
    """Curves with their bands in one panel."""
    palette = colours(len(series))
    series = [one._replace(colour=one.colour or c) for one, c in zip(series, palette, strict=True)]
    labels = [one.label for one in series]
    with canvas(WIDTH, 3.5 + ROW * legend_size(labels)[1], layout="constrained") as figure:
        axes = figure.subplots()
        if log_x:
            axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
        draw_lines(axes, series, width=2.2, marker="o" if markers else None)
        style(axes, ylabel)
        for axis, log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
            if log:
                plain_decades(axis)
            else:
                axis.set_major_formatter(tick)
        axes.set_xlabel(xlabel, color=INK, fontsize=9.5)
        legend(figure, labels, [str(one.colour) for one in series])
    return figure


def profile(curves: Sequence[Series], xlabel: str = "score τ") -> Figure:
    """Performance profiles: the fraction of seeds that score above each τ, a curve a variant."""
    figure = lines(curves, xlabel, "fraction of seeds above τ")
    figure.axes[0].set_ylim(-0.02, 1.02)
    return figure


# ---------------------------------------------------------------------------- training


def learning_curve(
    runs: Sequence[tuple[str, EpisodeTable]],
    path: Path,
    title: str,
    threshold: float | None = None,
) -> Path:
    """Write the picture of `returns_and_lengths`. `path` ends in .png or .svg, and is returned."""
    path = Path(path)
    picture_kind(path)  # before the work, not after it
    thresholds = () if threshold is None else (threshold,)
    return save(returns_and_lengths(runs, title, thresholds), path)


def returns_and_lengths(
    runs: Sequence[tuple[str, EpisodeTable]], title: str = "", thresholds: Sequence[float] = ()
) -> Figure:
    """Return and episode length against environment steps, for one or several runs.

    Dots are episodes, thin lines a moving mean over each seed's episodes, the bold line the
    interquartile mean across seeds with its 95 % bootstrap interval as a band. `thresholds` are
    returns to mark, such as the one from which the task counts as solved.
    """
    rows = legend_size([label for label, _ in runs])[1]
    height = (6.4 if title else 6.1) + ROW * max(0, rows - 3)  # many names must not crush the rest
    with canvas(7.6, height) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        lower.locator_params(axis="y", integer=True)
        _panel(upper, runs, "returns", "Return", thresholds)
        _panel(lower, runs, "length", "Episode length (steps)", ())
        last = max((int(table.step.max()) for _, table in runs if len(table.step)), default=1)
        lower.set_xlim(0, 1.01 * last)  # a little more, so that a round number of steps is marked
        lower.xaxis.set_major_formatter(tick)
        lower.set_xlabel("environment steps, per seed", color=INK, fontsize=9.5)

        top = 0.43 if title else 0.12  # inches, as the rest is: what is above the first panel
        if title:
            figure.text(0.03, 1 - 0.31 / height, title, fontsize=13, fontweight="bold", color=INK)
        if rows:
            corner = (0.018, 1 - (top - 0.07) / height)
            legend(
                figure,
                [label for label, _ in runs],
                colours(len(runs)),
                loc="upper left",
                bbox_to_anchor=corner,
            )
            top += ROW * rows
        figure.text(0.03, 0.115 / height, _key(runs), fontsize=7.2, color=FAINT)
        figure.subplots_adjust(
            left=0.095,
            right=0.97,
            top=1 - (top + 0.305) / height,
            bottom=0.8 / height,
            hspace=0.2,
        )
    return figure


def _panel(
    axes: Axes,
    runs: Sequence[tuple[str, EpisodeTable]],
    column: Any,
    name: str,
    thresholds: Sequence[float],
) -> None:
    shown = [np.zeros(0)]  # what the vertical axis must reach
    series = []
    for (label, table), colour in zip(runs, colours(len(runs)), strict=True):
        values = np.asarray(getattr(table, column), np.float64)
        dots = _thinned(np.flatnonzero(np.isfinite(values)), MAX_DOTS // len(runs))
        axes.plot(
            table.step[dots],
            values[dots],
            ".",
            color=colour,
            ms=2.2,
            mew=0,
            zorder=2,
            alpha=0.28 if len(runs) == 1 else 0.16,
            rasterized=True,  # one image in an SVG, in place of thousands of circles
        )
        curve = smoothed_curve(table, column)
        if curve.seeds.shape[0] > 1:
            axes.plot(
                curve.step[::2], curve.seeds.T[::2], color=colour, lw=0.7, alpha=0.4, zorder=3
            )
        axes.fill_between(
            curve.step, curve.low, curve.high, color=colour, alpha=0.22, lw=0, zorder=4
        )
        # A mean of one point only (a single episode) makes no line, so it gets a marker.
        single = len(curve.step) == 0 or curve.step[0] == curve.step[-1]
        axes.plot(
            curve.step,
            curve.iqm,
            color=colour,
            lw=2.2,
            zorder=5,
            solid_capstyle="round",
            marker="o" if single else None,
            label=label,
            clip_on=not single,
        )
        series.append(Series(label, curve.step, curve.iqm, curve.low, curve.high, colour))
        # A few wild episodes must not flatten the curves; the curves themselves are always whole.
        usual = np.quantile(values[dots], [0.005, 0.995]) if len(dots) else np.zeros(0)
        shown += [usual, curve.seeds[np.isfinite(curve.seeds)]]
    for threshold in thresholds:
        axes.axhline(threshold, color=INK, lw=0.9, ls=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"threshold {threshold:g}",
            (0, threshold),
            xytext=(4, -4),
            va="top",
            fontsize=8,
            color=FAINT,
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            zorder=6,
            bbox={"facecolor": PAPER, "alpha": 0.75, "lw": 0, "pad": 0.8},
        )
        shown.append(np.array([threshold]))
    extent = np.concatenate(shown)
    if len(extent):
        low, high = extent.min(), extent.max()
        room = 0.06 * (high - low) or max(1.0, 0.05 * abs(high))
        axes.set_ylim(low - room, high + room)
    if not any(len(table.step) for _, table in runs):
        axes.text(
            0.5,
            0.5,
            "no episode finished",
            transform=axes.transAxes,
            ha="center",
            va="center",
            color=FAINT,
        )
        axes.set(xticks=[], yticks=[])
    style(axes, name)
    attach(axes, series)


def _thinned(index: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, the same ones each time; a fixed stride would favour some seeds."""
    if len(index) <= most:
        return index
    return np.sort(np.random.default_rng(0).choice(index, most, replace=False))


def _key(runs: Sequence[tuple[str, EpisodeTable]]) -> str:
    """What dots, lines and bands are, as far as the picture has them."""
    seeds = [len(np.unique(table.seed)) for _, table in runs if len(table.seed)]
    if not seeds:
        return ""
    most, least = max(seeds), min(seeds)
    across = f"{most} seeds" if most == least else f"{least} to {most} seeds"
    dots = "dots: episodes"
    if any(len(table.step) > MAX_DOTS // len(runs) for _, table in runs):
        dots += " (a sample)"
    if most == 1:
        return f"{dots} · line: mean of the last {WINDOW} episodes, one seed"
    band = " · band: 95 % interval" if most >= 3 else ""
    return (
        f"{dots} · thin: seeds, mean of their last {WINDOW} episodes · "
        f"bold: interquartile mean of {across}{band}"
    )


# ---------------------------------------------------------------------------- diagnostics


# Of what updates report, first what says most about how the training went.
_DIAGNOSTICS = (
    "entropy",
    "explained_variance",
    "approx_kl",
    "clip_fraction",
    "value_loss",
    "policy_loss",
    "gradient_norm",
    "policy_gradient_norm",
    "temperature",
    "q_value",
    "accepted",
    "line_search_steps",
    "epochs",
    "learning_rate",
)
_NO_DIAGNOSTICS = ("return", "length", "steps_per_second")
_GRID_POINTS = 150


def diagnostics(runs: Sequence[tuple[str, MetricTable]], most: int = 9) -> Figure:
    """What updates reported, one panel a metric: interquartile means over each variant's seeds.

    Each seed's metrics are smoothed with a moving mean over a thirtieth of its rows first. The
    panels are of the metrics that say most, up to so many, that any of the runs has.
    """
    found = {name for _, table in runs if len(table.seed) for name in table.names}
    known = [name for name in _DIAGNOSTICS if name in found]
    names = [*known, *sorted(found - {*_DIAGNOSTICS, *_NO_DIAGNOSTICS})]
    palette = colours(len(runs))
    panels = []
    for name in names:
        curves = [
            Series(label, *curve, colour=colour)
            for (label, table), colour in zip(runs, palette, strict=True)
            if name in table.names and len((curve := _metric_curve(table, name))[0])
        ]
        if curves:
            panels.append((name, curves))
    panels = panels[:most]
    if not panels:
        return _empty("no metrics were reported")

    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    labels = [label for label, _ in runs]
    height = 0.3 + 1.75 * rows + ROW * legend_size(labels)[1]
    with canvas(7.6, height, layout="constrained") as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for axes in grid[len(panels) :]:
            axes.remove()
        for i, (axes, (name, curves)) in enumerate(zip(grid, panels, strict=False)):
            draw_lines(axes, curves, width=1.5)
            style(axes, name.replace("_", " "))
            axes.xaxis.set_major_formatter(tick)
            axes.locator_params(axis="both", nbins=4)
            if name == "explained_variance":
                # An untrained critic may be at −500, and everything after it a flat line.
                bottom = min(min(np.nanmin(c.y) for c in curves), 0.0)
                axes.set_ylim(max(bottom - 0.05, -1.05), 1.05)
            axes.tick_params(labelsize=8, labelbottom=True)
            if i + columns >= len(panels):
                axes.set_xlabel("environment steps, per seed", color=INK, fontsize=8)
        legend(figure, labels, palette)
    return figure


def _metric_curve(table: MetricTable, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and the interquartile mean over the seeds that have a number there."""
    values = table.column(name)
    curves = []
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(0), np.zeros(0)
    grid = np.linspace(table.step[finite].min(), table.step[finite].max(), _GRID_POINTS)
    for seed in np.unique(table.seed):
        rows = np.flatnonzero((table.seed == seed) & finite)
        if len(rows):
            smooth = rolling_mean(values[rows], max(1, len(rows) // 30))
            # After its last row a seed has no value, unlike a score, which stays what it was.
            curves.append(np.interp(grid, table.step[rows], smooth, left=np.nan, right=np.nan))
    return grid, iqm(np.stack(curves), axis=0)


def _empty(text: str) -> Figure:
    with canvas(WIDTH, 1.2) as figure:
        figure.text(0.5, 0.5, text, ha="center", va="center", color=FAINT)
    return figure
