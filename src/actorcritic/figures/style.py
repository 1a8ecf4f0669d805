"""How pictures look: colours, panels, legends, numbers on an axis, and what a panel shows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any colour vision; without yellow, too pale for a line,
# and with grey for black, which no dark page shows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
INK, FAINT, RULE, GRID, PAPER = "#222222", "#666666", "#BBBBBB", "#E4E4E4", "#FFFFFF"

WIDTH = 7.2  # inches
NARROW = 4.0  # for a phone: there, small letters are then 11 px high
ROW = 0.22  # inches, of a legend


Limits = tuple[float, float]  # of an axis


class Series(NamedTuple):
    """A curve, with its band where it has one. Without a colour it gets the next one."""

    label: str
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"] | None = None
    high: Float[np.ndarray, " n"] | None = None
    colour: str | None = None
    look: Literal["line", "marked", "dashed", "thin", "dots", "bars"] = "line"
    part_of: str = (
        ""  # the curve with which it is shown and hidden, where it has no name of its own
    )
    seconds: float = np.nan  # of training for one environment step, where x are steps


class View(NamedTuple):
    """One way to look at a panel: against which axis, how smooth."""

    series: tuple[Series, ...]
    across: str = ""  # the horizontal axis, where it is not the one that is drawn
    smoothing: str = ""
    note: str = ""  # what lines and bands are


class Panel(NamedTuple):
    """What a panel shows, for a page that draws it again; the first view is the one drawn."""

    views: tuple[View, ...]
    marks: tuple[tuple[str, float], ...] = ()  # lines across, such as a threshold
    ticks: tuple[tuple[str, float], ...] = ()  # of the horizontal axis, where they are no scale


def colours(count: int, *, ordered: bool = False) -> list[str]:
    """A colour for each of so many variants: told apart up to seven, ever lighter beyond.

    Those that are `ordered`, as the values of a setting are, become ever lighter at any number.
    """
    if count <= len(COLOURS) and not ordered:
        return list(COLOURS[:count])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    # Without its ends, which are lost on a dark or on a white page.
    return [to_hex(c) for c in colormaps["viridis"](np.linspace(0.3, 0.86, count))]


def panel_of(axes: Axes) -> Panel | None:
    """What this panel shows; None where it is no set of curves."""
    return getattr(axes, "actorcritic_panel", None)


def attach(axes: Axes, panel: Panel) -> None:
    """Keep what a panel shows for `panel_of`."""
    axes.actorcritic_panel = panel  # type: ignore[attr-defined]


def overlay(axes: Axes, series: Sequence[Series]) -> None:
    """Draw more curves over those that a panel has, and keep them with it."""
    for one in series:
        dashes = (0, (4, 3)) if one.look == "dashed" else "solid"
        axes.plot(one.x, one.y, color=one.colour, lw=1.1, ls=dashes, zorder=6)
    panel = panel_of(axes)
    assert panel is not None
    views = (view._replace(series=(*view.series, *series)) for view in panel.views)
    attach(axes, panel._replace(views=tuple(views)))


@contextmanager
def canvas(width: float, height: float, layout: Any = None) -> Iterator[Figure]:
    """A new figure, in which the texts that are set meanwhile are no mathematics: $ is a dollar."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(width, height), dpi=150, facecolor=PAPER, layout=layout)
        FigureCanvasAgg(figure)
        yield figure


def style(axes: Axes, name: str = "") -> None:
    """A panel with its name above it: a grid, one line below, small grey numbers."""
    axes.set_title(name, loc="left", fontsize=10, color=INK, pad=5)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=9, colors=FAINT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)


def draw_lines(axes: Axes, series: Sequence[Series], width: float) -> None:
    """Curves and their bands."""
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
            marker="o" if one.look == "marked" or np.isfinite(one.y).sum() == 1 else None,
            ms=5,
        )
    attach(axes, Panel((View(tuple(series)),)))


def with_room(limits: Limits) -> Limits:
    """A little more at both ends, so that what lies there is whole."""
    low, high = limits
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room


def on_scale(low: float, high: float) -> Limits:
    """Ends of an axis of returns, from or to zero where that is near, or what is shown is small.

    Small beside its distance to zero, it would be noise that looks large: 499.9 beside 500.
    """
    far = max(abs(low), abs(high))
    to_zero = max(low, -high, 0.0)
    if high - low < 0.25 * far or to_zero < 0.25 * (high - low):
        return min(low, 0.0), max(high, 0.0)
    return low, high


def legend_size(labels: Sequence[str]) -> tuple[int, int]:
    """Columns and rows of a legend as wide as the page; a single curve needs none."""
    if len(labels) < 2:
        return 0, 0
    columns = min(len(labels), max(1, 96 // (6 + max(map(len, labels)))))
    return columns, -(-len(labels) // columns)


def legend(figure: Figure, labels: Sequence[str], palette: Sequence[str], **place: Any) -> None:
    """The names of curves above the panels, where there are several."""
    from matplotlib.lines import Line2D

    columns, rows = legend_size(labels)
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


def short(x: float) -> str:
    """A number of steps as an axis shows it: 500, 20k, 1.5M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= unit:
            return f"{x / unit:g}{name}"
    return f"{x:g}"


def tick(x: float, _: Any) -> str:
    """As Matplotlib asks for the text of a tick."""
    return short(x).replace("-", "−")


def plain_decades(axis: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers, those between decades where they are few."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(10, subs=(1.0, 3.0), numticks=9))
    axis.set_major_formatter(tick)
    axis.set_minor_formatter(NullFormatter())


def wrapped(label: str, width: int = 28) -> str:
    """A long name in several lines."""
    return "\n".join(textwrap.wrap(label, width)) or label
