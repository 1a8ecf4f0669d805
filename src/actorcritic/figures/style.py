"""How pictures look: colours, panels, legends, numbers on an axis, and what can be looked up."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

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
ROW = 0.22  # inches, of a legend


class Series(NamedTuple):
    """A curve, with its band where it has one. Without a colour it gets the next one."""

    label: str
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"] | None = None
    high: Float[np.ndarray, " n"] | None = None
    colour: str | None = None


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


def attach(axes: Axes, series: Sequence[Series]) -> None:
    """Keep the series of a panel for `hover_of`."""
    axes.actorcritic_series = tuple(series)  # type: ignore[attr-defined]


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


def draw_lines(
    axes: Axes, series: Sequence[Series], width: float, marker: str | None = None
) -> None:
    """Curves and their bands, which a reader can look up."""
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
    attach(axes, series)


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


def wrapped(label: str) -> str:
    """A long name in several lines."""
    return "\n".join(textwrap.wrap(label, 28)) or label
