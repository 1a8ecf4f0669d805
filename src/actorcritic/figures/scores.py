"""Scores at the end of training: of a variant's seeds, over a setting, of a sweep's trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from actorcritic.figures.style import (
    COLOURS,
    FAINT,
    INK,
    PAPER,
    WIDTH,
    Limits,
    Panel,
    Series,
    View,
    attach,
    canvas,
    colours,
    plain_decades,
    style,
    tick,
    with_room,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FACTOR = 20.0  # between the ends of an axis from which on it is logarithmic


class Scores(NamedTuple):
    """What the seeds of a variant scored, with a summary and its interval (NaN: none)."""

    label: str
    scores: Float[np.ndarray, " S"]
    value: float
    low: float = np.nan
    high: float = np.nan


def score_intervals(
    rows: Sequence[Scores],
    xlabel: str,
    *,
    limits: Limits | None = None,
    ordered: bool = False,
    width: float = WIDTH,
) -> Figure:
    """A row for each variant: a dot a seed, the summary and its interval.

    The axis has `limits`, such as the scale of the task, or else what the scores need.
    """
    palette = colours(len(rows), ordered=ordered)
    rng = np.random.default_rng(0)
    with canvas(width, 0.75 + 0.46 * max(len(rows), 1), layout="constrained") as figure:
        axes = figure.subplots()
        for y, (row, colour) in enumerate(zip(rows, palette, strict=True)):
            scores = np.asarray(row.scores, np.float64)
            # Spread up and down, so that equal scores are seen to be several.
            spread = (
                rng.permutation(np.linspace(-0.22, 0.22, len(scores))) if len(scores) > 1 else 0
            )
            axes.plot(
                scores,
                y + spread + np.zeros(len(scores)),
                "o",
                color=colour,
                ms=4,
                mew=0,
                alpha=0.4,
            )
            if np.isfinite(row.low) and np.isfinite(row.high):
                ends = [row.low, row.high]
                axes.plot(ends, [y, y], color=colour, lw=3, solid_capstyle="round", zorder=4)
            axes.plot(row.value, y, "o", color=colour, ms=9, mec=PAPER, mew=1.5, zorder=5)
        style(axes)
        axes.grid(visible=False, axis="y")
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_yticks([])
        for y, row in enumerate(rows):
            _name_row(axes, y, _wrapped(row.label, width).split("\n"))
        axes.xaxis.set_major_formatter(tick)
        axes.locator_params(axis="x", nbins=6 if width < WIDTH else 9)
        axes.set_xlabel(xlabel, color=INK, fontsize=9.5)
        axes.margins(x=0.04)
        if limits is not None:
            axes.set_xlim(*with_room(limits))
    return figure


def scores_over_setting(
    name: str,
    values: Sequence[float],
    rows: Sequence[Scores],
    *,
    marked: float | None = None,
    mark: str = "default",
    limits: Limits | None = None,
    ylabel: str = "score",
) -> Figure:
    """A curve of scores over the values of one setting: a dot a seed, the summary, its interval.

    `marked` is a value to mark with a word. Where values are many times as large as others the axis
    is logarithmic; where there is a zero among those, they stand side by side.
    """
    order = np.argsort(values, kind="stable")
    values = [float(values[i]) for i in order]
    rows = [rows[i] for i in order]
    apart = [abs(v) for v in values if v]
    wide = len(apart) > 1 and max(apart) >= FACTOR * min(apart)
    log = wide and min(values) > 0
    side_by_side = wide and not log
    x = np.arange(len(values)) if side_by_side else np.asarray(values)
    y, low, high = (np.array([getattr(row, part) for row in rows]) for part in _ESTIMATE)
    with canvas(WIDTH, 3.4, layout="constrained") as figure:
        axes = figure.subplots()
        if log:
            axes.set_xscale("log")
        for at, row in zip(x, rows, strict=True):
            axes.plot(
                np.full(len(row.scores), at), row.scores, "o", color=FAINT, ms=4, mew=0, alpha=0.4
            )
        axes.plot(x, y, color=COLOURS[0], lw=1.6, zorder=3)
        axes.vlines(x, low, high, color=COLOURS[0], lw=3, zorder=4)
        axes.plot(x, y, "o", color=COLOURS[0], ms=9, mec=PAPER, mew=1.5, zorder=5)
        series = [Series("IQM", x, y, low, high, COLOURS[0], look="bars")]
        series += _seeds(x, rows)
        if marked in values:
            i = values.index(marked)
            only = np.where(np.arange(len(x)) == i, y, np.nan)
            axes.plot(x[i], y[i], "o", color=COLOURS[1], ms=10, mec=PAPER, zorder=6)
            _name(axes, mark, float(x[i]), float(np.nanmax([y[i], high[i], *rows[i].scores])))
            series.append(Series(mark, x, only, colour=COLOURS[1], look="dots"))
        style(axes, ylabel)
        texts = [f"{value:g}".replace("-", "−") for value in values]
        ticks: list[tuple[str, float]] = []
        if side_by_side:
            axes.set_xticks(x, texts)
            ticks = list(zip(texts, map(float, x), strict=True))
        elif log:
            plain_decades(axes.xaxis)
        else:
            axes.xaxis.set_major_formatter(tick)
        axes.margins(x=0.06)
        axes.yaxis.set_major_formatter(tick)
        if limits is not None:
            axes.set_ylim(*with_room(limits))
        axes.set_xlabel(name, color=INK, fontsize=9.5)
        attach(axes, Panel((View(tuple(series)),), ticks=tuple(ticks)))
    return figure


_ESTIMATE = ("value", "low", "high")


def _seeds(x: Float[np.ndarray, " n"], rows: Sequence[Scores]) -> list[Series]:
    """The scores of the seeds as dots: as many series as the row with most seeds has."""
    most = max(len(row.scores) for row in rows)
    padded = [
        np.pad(np.asarray(row.scores, float), (0, most - len(row.scores)), constant_values=np.nan)
        for row in rows
    ]
    return [
        Series("seeds", x, np.array(column), colour=FAINT, look="dots")
        for column in zip(*padded, strict=True)
    ]


def _name(axes: Axes, text: str, x: float, y: float) -> None:
    """A word above a point."""
    axes.annotate(
        text,
        (x, y),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=INK,
        zorder=7,
    )


def _name_row(axes: Axes, y: int, lines: Sequence[str]) -> None:
    """A name beside a row, line by line: as one text, another font would put them out of line."""
    for k, line in enumerate(lines):
        axes.annotate(
            line,
            (0, y),
            xycoords=("axes fraction", "data"),
            xytext=(-7, 12 * ((len(lines) - 1) / 2 - k)),
            textcoords="offset points",
            ha="right",
            va="center_baseline",
            fontsize=9.5,
            color=INK,
        )


def _wrapped(label: str, width: float) -> str:
    """A long name in several lines, shorter ones in a narrow picture."""
    return wrapped(label, 28 if width >= WIDTH else 24)


def sweep_scatter(
    name: str,
    values: Sequence[Any],
    scores: Float[np.ndarray, " N"],
    *,
    log: bool = False,
    best: int | None = None,
    limits: Limits | None = None,
    ylabel: str = "score",
    width: float = WIDTH,
) -> Figure:
    """The score of each trial against a hyperparameter, a number or a name.

    `best` is the trial to mark. A trial whose score is NaN is a cross at the lower edge.
    """
    scores = np.asarray(scores, np.float64)
    kinds: list[str] = []
    x = np.asarray(values)
    if x.dtype.kind not in "iuf":
        kinds = list(dict.fromkeys(str(v) for v in values))
        x = np.array([kinds.index(str(v)) for v in values])
    scored = np.flatnonzero(np.isfinite(scores))
    failed = np.flatnonzero(~np.isfinite(scores))
    with canvas(width, 3.4, layout="constrained") as figure:
        axes = figure.subplots()
        if log:
            axes.set_xscale("log")
        axes.plot(x[scored], scores[scored], "o", color=COLOURS[0], ms=6, mew=0, alpha=0.6)
        if best is not None and np.isfinite(scores[best]):
            axes.plot(x[best], scores[best], "o", color=COLOURS[1], ms=9, mec=PAPER, mew=1.5)
            _name(axes, "best", float(x[best]), scores[best])
            axes.margins(y=0.16)
        if len(failed):
            edge = axes.get_xaxis_transform()
            axes.plot(x[failed], np.full(len(failed), 0.03), "x", color=FAINT, ms=6, transform=edge)
            axes.annotate(
                "×: no score",
                (1, 1.02),
                xycoords="axes fraction",
                ha="right",
                color=FAINT,
                fontsize=8.5,
            )
        style(axes, ylabel)
        if kinds:
            axes.set_xticks(range(len(kinds)), [_wrapped(kind, width) for kind in kinds])
            axes.set_xlim(-0.5, len(kinds) - 0.5)
        else:
            if log:
                plain_decades(axes.xaxis)
            else:
                axes.xaxis.set_major_formatter(tick)
            order = scored[np.argsort(x[scored], kind="stable")]
            trials = [Series("score", x[order], scores[order], colour=COLOURS[0], look="dots")]
            if best is not None and np.isfinite(scores[best]):
                only = np.where(order == best, scores[order], np.nan)
                trials.append(Series("best", x[order], only, colour=COLOURS[1], look="dots"))
            if len(order):
                attach(axes, Panel((View(tuple(trials)),)))
        axes.yaxis.set_major_formatter(tick)
        if limits is not None:
            axes.set_ylim(*with_room(limits))
        axes.set_xlabel(name, color=INK, fontsize=9.5)
    return figure
