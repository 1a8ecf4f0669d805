"""A data set in a picture: returns and lengths of its episodes, and the actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from actorcritic.figures.style import FAINT, INK, canvas, colours, style, tick

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BINS = 40
MOST_DIMENSIONS = 6  # of an action that are drawn


def recorded(
    title: str,
    returns: Float[np.ndarray, " E"],
    lengths: Int[np.ndarray, " E"],
    actions: np.ndarray,
    *,
    discrete: bool,
) -> Figure:
    """Returns in the order of recording and how they are spread; lengths; actions [N, d].

    Numbers that are not finite are left out.
    """
    with canvas(8.4, 6.2, layout="constrained") as figure:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
        (order, spread), (length, action) = figure.subplots(2, 2)
        known = np.isfinite(returns)
        colour = colours(1)[0]
        order.plot(np.flatnonzero(known), returns[known], ".", ms=3, color=colour, mew=0)
        _name(order, "Return of each episode", "episode, in the order of recording")
        _histogram(spread, returns[known], colour)
        _name(spread, "Returns", "return")
        _histogram(length, lengths.astype(float), colour)
        _name(length, "Lengths", "steps of an episode")
        columns = actions.reshape(len(actions), -1)[:, :MOST_DIMENSIONS]
        for k, (column, each) in enumerate(zip(columns.T, colours(columns.shape[1]), strict=True)):
            x = column[np.isfinite(column)]
            if discrete:
                value, count = np.unique(x, return_counts=True)
                width = 0.8 / columns.shape[1]
                action.bar(value + (k + 0.5) * width - 0.4, count, width, color=each)
                action.set_xticks(value if len(value) <= 20 else value[:: len(value) // 10])
            else:
                count, edges = np.histogram(x, MOST_BINS)
                action.stairs(count, edges, color=each, lw=1.6, label=f"dimension {k}")
        if not discrete and columns.shape[1] > 1:
            action.legend(fontsize=7, frameon=False)
        more = actions.reshape(len(actions), -1).shape[1] - columns.shape[1]
        _name(action, "Actions" + f" ({more} more dimensions are not drawn)" * (more > 0), "action")
    return figure


def _histogram(axes: Axes, x: np.ndarray, colour: str) -> None:
    if len(x) and np.ptp(x) > 0:
        axes.hist(x, min(MOST_BINS, max(5, len(x) // 4)), color=colour)
    elif len(x):
        axes.bar([x[0]], [len(x)], width=max(1.0, 0.02 * abs(x[0])), color=colour)


def _name(axes: Axes, name: str, below: str) -> None:
    style(axes, name)
    axes.xaxis.set_major_formatter(tick)
    axes.set_xlabel(below, color=FAINT, fontsize=8.5)
