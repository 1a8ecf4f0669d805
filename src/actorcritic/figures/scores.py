"""Scores at the end of training: of a variant's seeds, of a sweep's trials."""

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
    Series,
    attach,
    canvas,
    colours,
    plain_decades,
    style,
    tick,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Scores(NamedTuple):
    """What the seeds of a variant scored, with a summary and its interval (NaN: none)."""

    label: str
    scores: Float[np.ndarray, " S"]
    value: float
    low: float = np.nan
    high: float = np.nan


def score_intervals(rows: Sequence[Scores], xlabel: str) -> Figure:
    """A row for each variant: a dot a seed, the summary and its interval."""
    palette = colours(len(rows))
    rng = np.random.default_rng(0)
    with canvas(WIDTH, 0.75 + 0.46 * max(len(rows), 1), layout="constrained") as figure:
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
        axes.set_yticks(range(len(rows)), [wrapped(row.label) for row in rows])
        axes.tick_params(axis="y", labelcolor=INK, labelsize=9.5)
        axes.set_xlabel(xlabel, color=INK, fontsize=9.5)
        axes.margins(x=0.04)
    return figure


def sweep_scatter(
    name: str,
    values: Sequence[Any],
    scores: Float[np.ndarray, " N"],
    *,
    log: bool = False,
    best: int | None = None,
    ylabel: str = "score",
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
    with canvas(WIDTH, 3.4, layout="constrained") as figure:
        axes = figure.subplots()
        if log:
            axes.set_xscale("log")
        axes.plot(x[scored], scores[scored], "o", color=COLOURS[0], ms=6, mew=0, alpha=0.6)
        if best is not None and np.isfinite(scores[best]):
            axes.plot(x[best], scores[best], "o", color=COLOURS[1], ms=9, mec=PAPER, mew=1.5)
            axes.annotate(
                "best",
                (float(x[best]), scores[best]),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=INK,
            )
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
                fontsize=8,
            )
        style(axes, ylabel)
        if kinds:
            axes.set_xticks(range(len(kinds)), [wrapped(kind) for kind in kinds])
            axes.set_xlim(-0.5, len(kinds) - 0.5)
        else:
            if log:
                plain_decades(axes.xaxis)
            else:
                axes.xaxis.set_major_formatter(tick)
            trials = Series("score", x[scored], scores[scored], colour=COLOURS[0])
            attach(axes, [trials] if len(scored) else [])
        axes.yaxis.set_major_formatter(tick)
        axes.set_xlabel(name, color=INK, fontsize=9.5)
    return figure
