"""Pictures of training. Matplotlib is imported where it is used: it would slow every start."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actorcritic.runners.session import EpisodeTable
from actorcritic.statistics import smoothed_curve
from actorcritic.types import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart with any colour vision; without yellow, too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MAX_DOTS = 5_000  # in a panel: more say no more, and take long to draw
MOST_AVERAGED = 100  # episodes, as in the field's tables; a tenth of them where there are fewer
_INK, _FAINT, _GRID = "#222222", "#666666", "#E4E4E4"


def learning_curve(
    runs: Sequence[tuple[str, EpisodeTable]],
    path: Path,
    title: str,
    threshold: float | None = None,
) -> Path:
    """Draw return and episode length against environment steps, for one or several runs.

    Dots are episodes, thin lines a moving mean over each seed's episodes, the bold line the
    interquartile mean across seeds with its 95 % bootstrap interval as a band. `threshold` is a
    return to mark, such as the one from which the task counts as solved. `path` ends in .png or
    .svg, and is returned.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise UserError(f"A picture's file must end in .png or .svg; got {path}.")
    figure = Figure(figsize=(7.6, 6.4), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    lower.locator_params(axis="y", integer=True)
    _panel(upper, runs, "returns", "Return", threshold)
    _panel(lower, runs, "length", "Episode length (steps)", None)
    last = max((int(table.step.max()) for _, table in runs if len(table.step)), default=1)
    lower.set_xlim(0, 1.01 * last)  # a little more, so that a round number of steps is marked
    lower.xaxis.set_major_formatter(lambda x, _: short(x))
    lower.set_xlabel("environment steps, per seed", color=_INK, fontsize=9.5)

    figure.text(0.03, 0.952, title, fontsize=13, fontweight="bold", color=_INK)
    rows = 0
    if len(runs) > 1:
        handles, labels = upper.get_legend_handles_labels()
        columns = min(len(runs), max(1, 96 // (6 + max(map(len, labels)))))
        rows = -(-len(runs) // columns)
        figure.legend(
            handles,
            labels,
            loc="upper left",
            bbox_to_anchor=(0.018, 0.944),
            ncols=columns,
            frameon=False,
            fontsize=9.5,
            labelcolor=_INK,
            handlelength=1.6,
            columnspacing=1.6,
        )
    figure.text(0.03, 0.018, _key(runs), fontsize=7.2, color=_FAINT)
    figure.subplots_adjust(
        left=0.095, right=0.97, top=0.885 - 0.034 * rows, bottom=0.125, hspace=0.2
    )
    picture = io.BytesIO()
    # No date and no random names: the same training gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "actorcritic"}):
        figure.savefig(picture, format=kind, metadata={"Date": None} if kind == "svg" else None)
    try:
        path.write_bytes(picture.getvalue())
    except OSError as error:
        raise UserError(
            f"Could not write the picture {path}: {error.strerror}. Choose a folder that can be "
            "written to."
        ) from error
    return path


def short(x: float) -> str:
    """A number of steps as an axis shows it: 500, 20k, 1.5M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= unit:
            return f"{x / unit:g}{name}"
    return f"{x:g}"


def _panel(
    axes: Axes,
    runs: Sequence[tuple[str, EpisodeTable]],
    column: Any,
    name: str,
    threshold: float | None,
) -> None:
    shown = [np.zeros(0)]  # what the vertical axis must reach
    for i, (label, table) in enumerate(runs):
        colour = COLOURS[i % len(COLOURS)]
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
        curve = smoothed_curve(table, column, _window(runs))
        if curve.seeds.shape[0] > 1:
            axes.plot(curve.step, curve.seeds.T, color=colour, lw=0.7, alpha=0.4, zorder=3)
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
        # A few wild episodes must not flatten the curves; the curves themselves are always whole.
        usual = np.quantile(values[dots], [0.005, 0.995]) if len(dots) else np.zeros(0)
        shown += [usual, curve.seeds[np.isfinite(curve.seeds)]]
    if threshold is not None:
        axes.axhline(threshold, color=_INK, lw=0.9, ls=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"threshold {threshold:g}",
            (0, threshold),
            xytext=(4, -4),
            va="top",
            fontsize=8,
            color=_FAINT,
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            zorder=6,
            bbox={"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 0.8},
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
            color=_FAINT,
        )
        axes.set(xticks=[], yticks=[])
    axes.set_title(name, loc="left", fontsize=10, color=_INK, pad=5)
    axes.grid(color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=9, colors=_FAINT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#BBBBBB")


def _thinned(index: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, the same ones each time; a fixed stride would favour some seeds."""
    if len(index) <= most:
        return index
    return np.sort(np.random.default_rng(0).choice(index, most, replace=False))


def _window(runs: Sequence[tuple[str, EpisodeTable]]) -> int:
    """How many episodes a curve averages, the same for all: of few, a tenth, or it shows none."""
    counts = [np.unique(table.seed, return_counts=True)[1] for _, table in runs]
    fewest = min((int(c.min()) for c in counts if len(c)), default=0)
    return min(MOST_AVERAGED, max(1, fewest // 10))


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
        return f"{dots} · line: mean of {_window(runs)} episodes, one seed"
    band = " · band: 95 % interval" if most >= 3 else ""
    return (
        f"{dots} · thin: seeds, mean of {_window(runs)} episodes · "
        f"bold: interquartile mean of {across}{band}"
    )
