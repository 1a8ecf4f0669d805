"""Curves against environment steps or another number: of training, its diagnostics, any series."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actorcritic.figures.pictures import picture_kind, save
from actorcritic.figures.statistics import (
    WINDOW,
    Curve,
    aggregate,
    iqm,
    rolling_mean,
    smoothed_curve,
)
from actorcritic.figures.style import (
    FAINT,
    INK,
    PAPER,
    ROW,
    WIDTH,
    Limits,
    Panel,
    Series,
    View,
    attach,
    canvas,
    colours,
    draw_lines,
    legend,
    legend_size,
    on_scale,
    plain_decades,
    style,
    tick,
    with_room,
)
from actorcritic.runners.session import FULL_EPISODES, EpisodeTable, MetricTable, some_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_DOTS = 5_000  # in a panel: more say no more, and take long to draw
CROWDED = 5  # curves in a panel: of more, it has no dots and no curves of seeds
MOST_SEEDS = 60  # in a panel that a page draws: of more, it has the curves of variants alone
MOST_MARKS = 60  # on a line: of more, it has none
CHOICE_POINTS = 100  # of a curve that is drawn only when it is asked for
STEPS, EPISODES = "environment steps, per seed", "episodes, per seed"
UPDATES = "updates, per seed"  # of a training from a data set

Runs = Sequence[tuple[str, EpisodeTable]]


def lines(
    series: Sequence[Series],
    xlabel: str,
    ylabel: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = False,
    limits: Limits | None = None,
) -> Figure:
    """Curves with their bands in one panel, whose vertical axis may have `limits`."""
    palette = colours(len(series))
    series = [one._replace(colour=one.colour or c) for one, c in zip(series, palette, strict=True)]
    if markers:
        series = [one._replace(look="marked") for one in series]
    labels = [one.label for one in series]
    with canvas(WIDTH, 3.5 + ROW * legend_size(labels)[1], layout="constrained") as figure:
        axes = figure.subplots()
        if log_x:
            axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
        draw_lines(axes, series, width=2.2)
        style(axes, ylabel)
        for axis, log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
            if log:
                plain_decades(axis)
            else:
                axis.set_major_formatter(tick)
        if limits is not None:
            axes.set_ylim(*with_room(limits))
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
    runs: Runs,
    path: Path,
    title: str,
    threshold: float | None = None,
    *,
    across: str = STEPS,
    evaluations: EpisodeTable | None = None,
) -> Path:
    """Write the picture of `returns_and_lengths`. `path` ends in .png or .svg, and is returned.

    `evaluations` are those of a single run while it trained; they are drawn over its curve.
    """
    path = Path(path)
    picture_kind(path)  # before the work, not after it
    thresholds = () if threshold is None else (threshold,)
    figure = returns_and_lengths(runs, title, thresholds, across=across)
    if evaluations is not None:
        found = evaluated("evaluations", evaluations, np.unique(evaluations.seed).tolist(), INK)
        if found is not None:
            _mark_evaluations(figure, found)
    return save(figure, path)


def evaluated(
    label: str, table: EpisodeTable, seeds: Sequence[int], colour: str | None = None
) -> Series | None:
    """The IQM over seeds of the mean return of each evaluation, where all of them were evaluated.

    With 95 % bands. None where there was no evaluation.
    """
    found = []
    for step in np.unique(table.step):
        now = some_rows(table, table.step == step)
        if np.isin(seeds, now.seed).all():
            means = np.array([now.returns[now.seed == seed].mean() for seed in seeds])
            found.append((step, *aggregate(means, rng=np.random.default_rng(0))))
    if not found:
        return None
    x, y, low, high = np.array(found, float).T
    return Series(label, x, y, low, high, colour)


def _mark_evaluations(figure: Figure, found: Series) -> None:
    """Evaluations over the panel of returns, and what they are below."""
    axes = figure.axes[0]
    many = len(found.x) > MOST_MARKS
    axes.plot(
        found.x,
        found.y,
        color=found.colour,
        lw=1.1,
        marker=None if many else "o",
        ms=3.6,
        mfc=PAPER,
        zorder=7,
    )
    low, high = axes.get_ylim()
    room = 0.06 * (high - low)
    axes.set_ylim(min(low, found.y.min() - room), max(high, found.y.max() + room))
    what = "dark line" if many else "circles"
    key = figure.texts[-1]
    key.set_text(f"{what}: evaluations, deterministic\n{key.get_text()}")


def returns_and_lengths(
    runs: Runs,
    title: str = "",
    thresholds: Sequence[float] = (),
    *,
    window: int = WINDOW,
    seconds: Mapping[str, float] | None = None,
    ordered: bool = False,
    across: str = STEPS,
) -> Figure:
    """Return against environment steps, of one or several runs; episode length where it says more.

    Dots are episodes, thin lines a mean of each seed's last `window` episodes, the bold line the
    interquartile mean across seeds with its 95 % bootstrap interval as a band; of more than five
    runs, there is the bold line with its band only. `thresholds` are
    returns to mark, such as the one from which the task counts as solved. `ordered` runs, as those
    of a setting's values, have ever lighter colours.

    `across` says what the steps are, where they are not the environment's.

    With `seconds`, which are those of training for one step of each run (NaN: not known), a page
    can also draw the curves against episodes and seconds, and smoother or less so.
    """
    tables = [table for _, table in runs]
    named: list[tuple[Any, str]] = [("returns", "Return")]
    if _lengths_say_more(tables):
        named.append(("length", "Episode length (steps)"))
    palette = colours(len(runs), ordered=ordered)
    rows = legend_size([label for label, _ in runs])[1]
    height = (6.1 if len(named) == 2 else 4.1) + (0.3 if title else 0.0)
    height += ROW * max(0, rows - 3)  # many names must not crush the rest
    with canvas(7.6, height) as figure:
        panels = figure.subplots(len(named), 1, sharex=True, squeeze=False).ravel()
        for axes, (column, name) in zip(panels, named, strict=True):
            marked = thresholds if column == "returns" else ()
            curves = _draw(axes, runs, column, name, marked, window, palette)
            views = _views(runs, column, window, palette, curves, seconds, across)
            attach(axes, Panel(tuple(views), tuple((f"threshold {t:g}", t) for t in marked)))
            if column == "length":
                axes.locator_params(axis="y", integer=True)
        last = max((int(table.step.max()) for table in tables if len(table.step)), default=1)
        # A little more, so that a round number of steps is marked.
        panels[-1].set_xlim(0, 1.01 * last)
        panels[-1].xaxis.set_major_formatter(tick)
        panels[-1].set_xlabel(across, color=INK, fontsize=9.5)

        top = 0.43 if title else 0.12  # inches, as the rest is: what is above the first panel
        if title:
            figure.text(0.03, 1 - 0.31 / height, title, fontsize=13, fontweight="bold", color=INK)
        if rows:
            corner = (0.018, 1 - (top - 0.07) / height)
            legend(
                figure,
                [label for label, _ in runs],
                palette,
                loc="upper left",
                bbox_to_anchor=corner,
            )
            top += ROW * rows
        figure.text(0.03, 0.115 / height, _key(runs, window), fontsize=7.2, color=FAINT)
        figure.subplots_adjust(
            left=0.095,
            right=0.97,
            top=1 - (top + 0.305) / height,
            bottom=0.8 / height,
            hspace=0.2,
        )
    return figure


def _lengths_say_more(tables: Sequence[EpisodeTable]) -> bool:
    """Whether episodes' lengths are neither all alike nor the returns once more, up to a sign."""
    told = [table for table in tables if len(table.step)]
    lengths = np.concatenate([table.length for table in told]) if told else np.zeros(0)
    if len(lengths) == 0 or np.ptp(lengths) == 0:
        return False
    returns = np.concatenate([table.returns for table in told])
    known = np.isfinite(returns)
    if not known.any():
        return True
    # Apart by one at most: a task may give nothing for the step that ends it.
    apart = (returns - lengths)[known], (returns + lengths)[known]
    return min(map(np.ptp, apart)) > 1


def _draw(
    axes: Axes,
    runs: Runs,
    column: Any,
    name: str,
    thresholds: Sequence[float],
    window: int,
    palette: Sequence[str],
) -> list[Curve]:
    """A panel of one column of the tables; its curves."""
    shown = [np.zeros(0)]  # what the vertical axis must reach
    curves, crowded = [], len(runs) > CROWDED
    for (label, table), colour in zip(runs, palette, strict=True):
        values = np.asarray(getattr(table, column), np.float64)
        dots = _thinned(np.flatnonzero(np.isfinite(values)), MAX_DOTS // len(runs))
        if not crowded:
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
        curve = smoothed_curve(table, column, window)
        if curve.seeds.shape[0] > 1 and not crowded:
            axes.plot(
                curve.step[::2], curve.seeds.T[::2], color=colour, lw=0.7, alpha=0.4, zorder=3
            )
        light = 0.12 if crowded else 0.22
        axes.fill_between(
            curve.step, curve.low, curve.high, color=colour, alpha=light, lw=0, zorder=4
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
        curves.append(curve)
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
        low, high = on_scale(extent.min(), extent.max())
        room = 0.06 * (high - low) or 1.0
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
    return curves


def _views(
    runs: Runs,
    column: Any,
    window: int,
    palette: Sequence[str],
    curves: Sequence[Curve],
    seconds: Mapping[str, float] | None,
    steps: str,
) -> Iterator[View]:
    """The curves as drawn; with `seconds`, also against episodes, and more or less smooth."""
    tables = [table for _, table in runs]
    with_seeds = sum(len(curve.seeds) for curve in curves) <= MOST_SEEDS

    def view(curves: Sequence[Curve], across: str, window: int) -> View:
        series = []
        for (label, table), curve, colour in zip(runs, curves, palette, strict=True):
            rate = (seconds or {}).get(label, np.nan) if across == steps else np.nan
            whole = Series(
                label, curve.step, curve.iqm, curve.low, curve.high, colour, seconds=rate
            )
            series.append(whole)
            if with_seeds and len(curve.seeds) > 1:
                every = slice(None, None, -(-len(curve.step) // CHOICE_POINTS))
                series += [
                    Series(
                        f"{label}, seed {seed}",
                        curve.step[every],
                        each[every],
                        colour=colour,
                        look="thin",
                        part_of=label,
                        seconds=rate,
                    )
                    for seed, each in zip(np.unique(table.seed), curve.seeds, strict=True)
                ]
        smoothing = "none" if window == 1 else f"mean of {window} episodes"
        return View(tuple(series), across, smoothing, _key(runs, window, dots=False))

    yield view(curves, steps, window)
    if seconds is None:
        return
    fewest = _fewest_episodes(tables)
    windows = [w for w in sorted({1, window, 5 * window}) if w == window or w <= fewest // 2]
    by_episode = _against_episodes(tables, fewest)
    for across, told in ((steps, tables), (EPISODES, by_episode)):
        for w in windows if told else ():
            if (across, w) != (steps, window):
                found = [smoothed_curve(table, column, w, CHOICE_POINTS) for table in told]
                yield view(found, across, w)


def _fewest_episodes(tables: Sequence[EpisodeTable]) -> int:
    """How many episodes the seed with the fewest finished."""
    return min((int(_ended(table).min()) for table in tables if len(table.seed)), default=0)


def _ended(table: EpisodeTable) -> np.ndarray:
    return np.unique(table.seed, return_counts=True)[1]


def _against_episodes(tables: Sequence[EpisodeTable], fewest: int) -> list[EpisodeTable]:
    """The tables with an episode's number in the place of its step, as far as each seed of it went.

    Empty where numbers are not known, because long tables keep not all of the rows, or too few.
    """
    if fewest < 3 or any(
        _ended(table).max() >= FULL_EPISODES for table in tables if len(table.seed)
    ):
        return []
    told = []
    for table in tables:
        number = np.zeros(len(table.seed), np.int64)
        for seed in np.unique(table.seed):
            mine = np.flatnonzero(table.seed == seed)
            mine = mine[np.argsort(table.step[mine], kind="stable")]
            number[mine] = 1 + np.arange(len(mine))
        last = _ended(table).min() if len(table.seed) else 0
        told.append(some_rows(table._replace(step=number), number <= last))
    return told


def _thinned(index: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, the same ones each time; a fixed stride would favour some seeds."""
    if len(index) <= most:
        return index
    return np.sort(np.random.default_rng(0).choice(index, most, replace=False))


def _key(runs: Runs, window: int, *, dots: bool = True) -> str:
    """What dots, lines and bands are, as far as the picture has them; a page has no dots."""
    seeds = [len(np.unique(table.seed)) for _, table in runs if len(table.seed)]
    if not seeds:
        return ""
    most, least = max(seeds), min(seeds)
    across = f"{most} seeds" if most == least else f"{least} to {most} seeds"
    mean = "unsmoothed" if window == 1 else f"mean of the last {window} episodes"
    crowded = dots and len(runs) > CROWDED
    said = []
    if dots and not crowded:
        sample = any(len(table.step) > MAX_DOTS // len(runs) for _, table in runs)
        said.append("dots: episodes" + " (a sample)" * sample)
    if most == 1:
        return " · ".join([*said, f"line: {mean}, one seed"])
    if not crowded:
        said.append(f"thin: seeds, {mean.replace('the last', 'their last')}")
    said.append(f"bold: interquartile mean of {across}" + f", {mean}" * crowded)
    if most >= 3:
        said.append("band: 95 % interval")
    return " · ".join(said)


# ---------------------------------------------------------------------------- diagnostics


# Of what updates report, first what says most about how the training went.
_DIAGNOSTICS = (
    "approx_kl",
    "staleness",
    "behaviour_kl",
    "rho_clipped",
    "entropy",
    "explained_variance",
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


def diagnostics(
    runs: Sequence[tuple[str, MetricTable]],
    most: int = 9,
    *,
    seconds: Mapping[str, float] | None = None,
    ordered: bool = False,
    across: str = STEPS,
) -> Figure:
    """What updates reported, one panel a metric: interquartile means over each variant's seeds.

    Each seed's metrics are smoothed with a moving mean over a thirtieth of its rows first. The
    panels are of the metrics that say most, up to so many, that any of the runs has and that do
    not stay the same. `seconds`, `ordered` and `across` are as in `returns_and_lengths`.
    """
    found = {name for _, table in runs if len(table.seed) for name in table.names}
    known = [name for name in _DIAGNOSTICS if name in found]
    names = [*known, *sorted(found - {*_DIAGNOSTICS, *_NO_DIAGNOSTICS})]
    palette = colours(len(runs), ordered=ordered)
    panels: list[tuple[str, list[Series]]] = []
    for name in names:
        if len(panels) == most or not any(_changes(table, name) for _, table in runs):
            continue
        curves = []
        for (label, table), colour in zip(runs, palette, strict=True):
            x, y = _metric_curve(table, name) if name in table.names else (np.zeros(0),) * 2
            if len(x):
                rate = (seconds or {}).get(label, np.nan)
                curves.append(Series(label, x, y, colour=colour, seconds=rate))
        panels.append((name, curves))
    if not panels:
        return _empty("updates reported nothing that changed")

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
                axes.set_xlabel(across, color=INK, fontsize=8)
        legend(figure, labels, palette)
    return figure


def _changes(table: MetricTable, name: str) -> bool:
    """Whether a metric is other at some time than at another, of any seed."""
    if name not in table.names:
        return False
    values = table.column(name)
    for seed in np.unique(table.seed):
        mine = values[(table.seed == seed) & np.isfinite(values)]
        if len(mine) and np.ptp(mine) > 1e-6 * np.abs(mine).max():
            return True
    return False


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
