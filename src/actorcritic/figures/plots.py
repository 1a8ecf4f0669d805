"""Pictures: figures of training, of comparisons and of what was learned, and their files.

Every function here returns a Matplotlib figure that `save` writes; none opens a window or keeps a
figure anywhere. What can be looked up in a panel is attached to its axes (`hover_of`) by the code
that draws it. Matplotlib is imported where it is used: it would slow every start.
"""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from actorcritic.figures.statistics import iqm, rolling_mean, smoothed_curve, smoothing_window
from actorcritic.runners.session import EpisodeTable, MetricTable
from actorcritic.types import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any colour vision; without yellow, too pale for a line,
# and with grey for black, which no dark page shows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
INK, FAINT, RULE, GRID, PAPER = "#222222", "#666666", "#BBBBBB", "#E4E4E4", "#FFFFFF"
WALL = "#8C8C8C"

MAX_DOTS = 5_000  # in a panel: more say no more, and take long to draw
MAX_FRAMES = 60
WIDTH = 7.2  # inches
ROW = 0.22  # inches, of a legend


class Series(NamedTuple):
    """A curve, with its band where it has one. Without a colour it gets the next one."""

    label: str
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"] | None = None
    high: Float[np.ndarray, " n"] | None = None
    colour: str | None = None


class Scores(NamedTuple):
    """What the seeds of a variant scored, with a summary and its interval (NaN: none)."""

    label: str
    scores: Float[np.ndarray, " S"]
    value: float
    low: float = np.nan
    high: float = np.nan


class Map(NamedTuple):
    """A number for each cell of a grid: x counts to the right, y upwards. NaN is a wall."""

    title: str
    values: Float[np.ndarray, "W H"]


class Field(NamedTuple):
    """A number for each point of a plane, such as a policy's action in each state."""

    title: str
    values: Float[np.ndarray, "Y X"]


def colours(count: int) -> list[str]:
    """A colour for each of so many variants: told apart up to seven, in their order beyond."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    # Without its ends, which are lost on a dark or on a white page.
    return [to_hex(c) for c in colormaps["viridis"](np.linspace(0.3, 0.86, count))]


def hover_of(axes: Axes) -> tuple[Series, ...]:
    """The series whose values a reader can look up in this panel."""
    return getattr(axes, "actorcritic_series", ())


# ---------------------------------------------------------------------------- files


def svg(figure: Figure, *, text: bool = False, transparent: bool = False) -> bytes:
    """The figure as SVG, the same bytes each time; `text` keeps its letters letters."""
    import matplotlib

    # No date and no random names: the same training gives the same file.
    options: Any = {"svg.hashsalt": "actorcritic", "svg.fonttype": "none" if text else "path"}
    picture = io.BytesIO()
    with matplotlib.rc_context(options):
        figure.savefig(picture, format="svg", transparent=transparent, metadata={"Date": None})
    return picture.getvalue()


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as the .png or .svg file that `path` names, and return it."""
    path = Path(path)
    kind = _kind(path)
    if kind == "svg":
        return write(path, svg(figure))
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return write(path, picture.getvalue())


def write(path: Path, data: bytes, what: str = "picture") -> Path:
    """Write the file of a picture or page: as a whole or, whatever happens, not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.saving")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"Could not write the {what} {path}: {error.strerror or error}. Free some space or "
            "choose a folder that can be written to, then try again."
        ) from error
    return path


def _kind(path: Path) -> str:
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise UserError(f"A picture's file must end in .png or .svg; got {path}.")
    return kind


# ---------------------------------------------------------------------------- training


def learning_curve(
    runs: Sequence[tuple[str, EpisodeTable]],
    path: Path,
    title: str,
    threshold: float | None = None,
) -> Path:
    """Write the picture of `returns_and_lengths`. `path` ends in .png or .svg, and is returned."""
    path = Path(path)
    _kind(path)  # before the work, not after it
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
    rows = _legend_size([label for label, _ in runs])[1]
    height = (6.4 if title else 6.1) + ROW * max(0, rows - 3)  # many names must not crush the rest
    with _figure(7.6, height) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        lower.locator_params(axis="y", integer=True)
        _panel(upper, runs, "returns", "Return", thresholds)
        _panel(lower, runs, "length", "Episode length (steps)", ())
        last = max((int(table.step.max()) for _, table in runs if len(table.step)), default=1)
        lower.set_xlim(0, 1.01 * last)  # a little more, so that a round number of steps is marked
        lower.xaxis.set_major_formatter(_tick)
        lower.set_xlabel("environment steps, per seed", color=INK, fontsize=9.5)

        top = 0.43 if title else 0.12  # inches, as the rest is: what is above the first panel
        if title:
            figure.text(0.03, 1 - 0.31 / height, title, fontsize=13, fontweight="bold", color=INK)
        if rows:
            corner = (0.018, 1 - (top - 0.07) / height)
            _legend(
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
    height = 0.3 + 1.75 * rows + ROW * _legend_size(labels)[1]
    with _figure(7.6, height, layout="constrained") as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for axes in grid[len(panels) :]:
            axes.remove()
        for i, (axes, (name, curves)) in enumerate(zip(grid, panels, strict=False)):
            _lines(axes, curves, width=1.5)
            _style(axes, name.replace("_", " "))
            axes.xaxis.set_major_formatter(_tick)
            axes.locator_params(axis="both", nbins=4)
            if name == "explained_variance":
                # An untrained critic may be at −500, and everything after it a flat line.
                bottom = min(min(np.nanmin(c.y) for c in curves), 0.0)
                axes.set_ylim(max(bottom - 0.05, -1.05), 1.05)
            axes.tick_params(labelsize=8, labelbottom=True)
            if i + columns >= len(panels):
                axes.set_xlabel("environment steps, per seed", color=INK, fontsize=8)
        _legend(figure, labels, palette)
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


# ---------------------------------------------------------------------------- comparisons


def score_intervals(rows: Sequence[Scores], xlabel: str) -> Figure:
    """A row for each variant: a dot a seed, the summary and its interval."""
    palette = colours(len(rows))
    rng = np.random.default_rng(0)
    with _figure(WIDTH, 0.75 + 0.46 * max(len(rows), 1), layout="constrained") as figure:
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
        _style(axes)
        axes.grid(visible=False, axis="y")
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_yticks(range(len(rows)), [_wrapped(row.label) for row in rows])
        axes.tick_params(axis="y", labelcolor=INK, labelsize=9.5)
        axes.set_xlabel(xlabel, color=INK, fontsize=9.5)
        axes.margins(x=0.04)
    return figure


def profile(curves: Sequence[Series], xlabel: str = "score τ") -> Figure:
    """Performance profiles: the fraction of seeds that score above each τ, a curve a variant."""
    figure = lines(curves, xlabel, "fraction of seeds above τ")
    figure.axes[0].set_ylim(-0.02, 1.02)
    return figure


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
    with _figure(WIDTH, 3.5 + ROW * _legend_size(labels)[1], layout="constrained") as figure:
        axes = figure.subplots()
        if log_x:
            axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
        _lines(axes, series, width=2.2, marker="o" if markers else None)
        _style(axes, ylabel)
        for axis, log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
            if log:
                _plain_decades(axis)
            else:
                axis.set_major_formatter(_tick)
        axes.set_xlabel(xlabel, color=INK, fontsize=9.5)
        _legend(figure, labels, [str(one.colour) for one in series])
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
    with _figure(WIDTH, 3.4, layout="constrained") as figure:
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
        _style(axes, ylabel)
        if kinds:
            axes.set_xticks(range(len(kinds)), [_wrapped(kind) for kind in kinds])
            axes.set_xlim(-0.5, len(kinds) - 0.5)
        else:
            if log:
                _plain_decades(axes.xaxis)
            else:
                axes.xaxis.set_major_formatter(_tick)
            trials = Series("score", x[scored], scores[scored], colour=COLOURS[0])
            _attach(axes, [trials] if len(scored) else [])
        axes.yaxis.set_major_formatter(_tick)
        axes.set_xlabel(name, color=INK, fontsize=9.5)
    return figure


# ---------------------------------------------------------------------------- what was learned


def action_against_state(
    fields: Sequence[Field],
    x: Float[np.ndarray, " X"],
    y: Float[np.ndarray, " Y"],
    *,
    xlabel: str,
    ylabel: str,
    label: str = "action",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Heat maps over a plane of states, side by side with one scale of colours.

    `x` and `y` are the evenly spaced coordinates of the points; `label` is what the colours say,
    between `limits`, or between the least and the greatest there is.
    """
    columns = min(len(fields), 3)
    rows = -(-len(fields) // columns)
    low, high = limits or _extent([field.values for field in fields])
    # Cells are centred on their points.
    half_x, half_y = (0.5 * (a[-1] - a[0]) / max(len(a) - 1, 1) for a in (x, y))
    extent = (x[0] - half_x, x[-1] + half_x, y[0] - half_y, y[-1] + half_y)
    with _figure(7.6, 0.5 + 2.3 * rows, layout="constrained") as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes in grid[len(fields) :]:
            axes.remove()
        image = None
        for i, (axes, field) in enumerate(zip(grid, fields, strict=False)):
            image = axes.imshow(
                field.values,
                cmap="RdBu_r",
                vmin=low,
                vmax=high,
                origin="lower",
                extent=extent,
                aspect="auto",
                interpolation="nearest",
            )
            _style(axes, field.title)
            axes.grid(visible=False)
            axes.spines["bottom"].set_visible(False)
            if i + columns >= len(fields):
                axes.set_xlabel(xlabel, color=INK, fontsize=9)
                axes.tick_params(labelbottom=True)
            if i % columns == 0:
                axes.set_ylabel(ylabel, color=INK, fontsize=9)
        if image is not None:
            _colour_bar(figure, image, list(grid[: len(fields)]), label)
    return figure


def value_maps(
    maps: Sequence[Map], *, label: str = "value", limits: tuple[float, float] | None = None
) -> Figure:
    """Values of a grid world's cells as colours and numbers, side by side with one scale.

    Side by side, such as the exact values beside the learned ones, they are read with one scale
    of colours, between `limits` or between the least and the greatest there is.
    """
    low, high = limits or _extent([one.values for one in maps])
    # Square cells of the same size in each picture, as large as the page lets them be.
    widest = max(one.values.shape[0] for one in maps)
    tallest = max(one.values.shape[1] for one in maps)
    columns = max(1, min(len(maps), 16 // widest))
    rows = -(-len(maps) // columns)
    cell = min(0.62, (WIDTH - 0.9) / columns / (widest + 0.3))
    size = (columns * cell * (widest + 0.4) + 0.9, rows * (cell * tallest + 0.35) + 0.15)
    with _figure(*size, layout="constrained") as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(maps) :]:
            axes.remove()
        mesh = None
        for axes, one in zip(grid, maps, strict=False):
            mesh = _value_map(axes, one, low, high, cell)
        _colour_bar(figure, mesh, list(grid[: len(maps)]), label)
    return figure


def value_animation(
    frames: Sequence[Sequence[Map]],
    *,
    label: str = "value",
    limits: tuple[float, float] | None = None,
    milliseconds: int = 120,
) -> bytes:
    """`value_maps` of each frame as a GIF that goes on for ever, resting at its end.

    All frames have one scale of colours. Of more than 60, so many are kept, evenly, with the last.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    if not frames:
        raise ValueError("an animation needs at least one frame")
    kept = np.unique(np.linspace(0, len(frames) - 1, MAX_FRAMES).round().astype(int))
    limits = limits or _extent([one.values for frame in frames for one in frame])
    pictures = []
    for i in kept:
        figure = value_maps(frames[i], label=label, limits=limits)
        figure.set_dpi(96)
        canvas = figure.canvas
        assert isinstance(canvas, FigureCanvasAgg)
        canvas.draw()
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    # One palette for all, of what the maps are made of: nothing flickers, frames differ by little.
    scale = colormaps["viridis"](np.linspace(0, 1, 96))[:, :3]
    greys = np.repeat(np.linspace(0, 1, 32)[:, None], 3, axis=1)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.round(255 * np.concatenate([scale, greys])).astype(int).ravel().tolist())
    coded = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    gif = io.BytesIO()
    coded[0].save(
        gif,
        "GIF",
        save_all=True,
        append_images=coded[1:],
        loop=0,
        duration=[milliseconds] * (len(coded) - 1) + [2000],
    )
    return gif.getvalue()


def _value_map(axes: Axes, one: Map, low: float, high: float, cell: float) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    values = np.ma.masked_invalid(np.asarray(one.values, np.float64).T)
    scale, norm = colormaps["viridis"].with_extremes(bad=WALL), Normalize(low, high)
    mesh = axes.pcolormesh(values, cmap=scale, norm=norm, edgecolors=PAPER, linewidth=1)
    # As long as the longest one, the numbers just fit into their cells.
    texts = {(x, y): f"{values[y, x]:.2f}" for y, x in np.argwhere(~values.mask | False)}
    longest = max(map(len, texts.values()), default=1)
    size = min(9.5, 72 * 0.92 * cell / (0.64 * longest))
    for (x, y), text in texts.items():
        red, green, blue, _ = scale(norm(values[y, x]))
        pale = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        axes.text(
            x + 0.5,
            y + 0.5,
            text.replace("-", "−"),
            ha="center",
            va="center",
            fontsize=size,
            color="#111111" if pale else "#FAFAFA",
        )
    axes.set_aspect("equal")
    axes.set_title(one.title, loc="left", fontsize=10, color=INK, pad=5)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return mesh


def _extent(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    finite = np.concatenate([np.asarray(a)[np.isfinite(a)] for a in arrays])
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _colour_bar(figure: Figure, image: Any, panels: list[Axes], label: str) -> None:
    aspect = figure.get_figheight() / 0.12  # as narrow in any picture
    bar = figure.colorbar(image, ax=panels, aspect=aspect, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8.5, colors=FAINT)
    bar.ax.yaxis.set_major_formatter(_tick)
    bar.set_label(label, color=INK, fontsize=9)


# ---------------------------------------------------------------------------- parts


def short(x: float) -> str:
    """A number of steps as an axis shows it: 500, 20k, 1.5M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= unit:
            return f"{x / unit:g}{name}"
    return f"{x:g}"


def _tick(x: float, _: Any) -> str:
    return short(x).replace("-", "−")


@contextmanager
def _figure(width: float, height: float, layout: Any = None) -> Iterator[Figure]:
    """A new figure, in which the texts that are set meanwhile are no mathematics: $ is a dollar."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(width, height), dpi=150, facecolor=PAPER, layout=layout)
        FigureCanvasAgg(figure)
        yield figure


def _empty(text: str) -> Figure:
    with _figure(WIDTH, 1.2) as figure:
        figure.text(0.5, 0.5, text, ha="center", va="center", color=FAINT)
    return figure


def _attach(axes: Axes, series: Sequence[Series]) -> None:
    axes.actorcritic_series = tuple(series)  # type: ignore[attr-defined]


def _style(axes: Axes, name: str = "") -> None:
    axes.set_title(name, loc="left", fontsize=10, color=INK, pad=5)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=9, colors=FAINT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)


def _lines(axes: Axes, series: Sequence[Series], width: float, marker: str | None = None) -> None:
    for one in series:
        if one.low is not None and one.high is not None:
            axes.fill_between(one.x, one.low, one.high, color=one.colour, alpha=0.2, lw=0, zorder=3)
        axes.plot(
            one.x,
            one.y,
            color=one.colour,
            lw=width,
            zorder=4,
            solid_capstyle="round",
            marker=marker or ("o" if np.isfinite(one.y).sum() == 1 else None),
            ms=5,
        )
    _attach(axes, series)


def _legend_size(labels: Sequence[str]) -> tuple[int, int]:
    """Columns and rows of a legend as wide as the page; a single curve needs none."""
    if len(labels) < 2:
        return 0, 0
    columns = min(len(labels), max(1, 96 // (6 + max(map(len, labels)))))
    return columns, -(-len(labels) // columns)


def _legend(figure: Figure, labels: Sequence[str], palette: Sequence[str], **place: Any) -> None:
    from matplotlib.lines import Line2D

    columns, rows = _legend_size(labels)
    if not rows:
        return
    figure.legend(
        [Line2D([], [], color=colour, lw=2.2, solid_capstyle="round") for colour in palette],
        labels,
        **({"loc": "outside upper left"} | place),  # outside: the layout makes room for it
        ncols=columns,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=1.6,
        columnspacing=1.6,
    )


def _plain_decades(axis: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers, those between decades where they are few."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(10, subs=(1.0, 3.0), numticks=9))
    axis.set_major_formatter(_tick)
    axis.set_minor_formatter(NullFormatter())


def _wrapped(label: str) -> str:
    return "\n".join(textwrap.wrap(label, 28)) or label


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
        curve = smoothed_curve(table, column, smoothing_window([table for _, table in runs]))
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
    _style(axes, name)
    _attach(axes, series)


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
    window = smoothing_window([table for _, table in runs])
    if most == 1:
        return f"{dots} · line: mean of {window} episodes, one seed"
    band = " · band: 95 % interval" if most >= 3 else ""
    return (
        f"{dots} · thin: seeds, mean of {window} episodes · "
        f"bold: interquartile mean of {across}{band}"
    )
