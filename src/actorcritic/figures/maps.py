"""What was learned, as colours: values of a grid's cells, actions over a plane of states."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from actorcritic.figures.style import FAINT, INK, PAPER, WIDTH, canvas, style, tick

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WALL = "#8C8C8C"
MAX_FRAMES = 60


class Map(NamedTuple):
    """A number for each cell of a grid: x counts to the right, y upwards. NaN is a wall."""

    title: str
    values: Float[np.ndarray, "W H"]


class Field(NamedTuple):
    """A number for each point of a plane, such as a policy's action in each state."""

    title: str
    values: Float[np.ndarray, "Y X"]


def action_against_state(
    fields: Sequence[Field],
    x: Float[np.ndarray, " X"],
    y: Float[np.ndarray, " Y"],
    *,
    xlabel: str,
    ylabel: str,
    label: str = "action",
    limits: tuple[float, float] | None = None,
    width: float = WIDTH,
) -> Figure:
    """Heat maps over a plane of states, side by side with one scale of colours.

    `x` and `y` are the evenly spaced coordinates of the points; `label` is what the colours say,
    between `limits`, or between the least and the greatest there is.
    """
    columns = min(len(fields), 3 if width >= WIDTH else 2)
    rows = -(-len(fields) // columns)
    low, high = limits or _extent([field.values for field in fields])
    # Cells are centred on their points.
    half_x, half_y = (0.5 * (a[-1] - a[0]) / max(len(a) - 1, 1) for a in (x, y))
    extent = (x[0] - half_x, x[-1] + half_x, y[0] - half_y, y[-1] + half_y)
    with canvas(width, 0.5 + 2.2 * rows, layout="constrained") as figure:
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
            style(axes, field.title)
            axes.grid(visible=False)
            axes.spines["bottom"].set_visible(False)
            axes.tick_params(labelbottom=i + columns >= len(fields))
            axes.locator_params(nbins=5)
        figure.supxlabel(xlabel, color=INK, fontsize=9)
        figure.supylabel(ylabel, color=INK, fontsize=9)
        if image is not None:
            _colour_bar(figure, image, list(grid[: len(fields)]), label)
    return figure


def value_maps(
    maps: Sequence[Map],
    *,
    label: str = "value",
    limits: tuple[float, float] | None = None,
    width: float = WIDTH,
) -> Figure:
    """Values of a grid world's cells as colours and numbers, side by side with one scale.

    Side by side, such as the exact values beside the learned ones, they are read with one scale
    of colours, between `limits` or between the least and the greatest there is.
    """
    low, high = limits or _extent([one.values for one in maps])
    # Square cells of the same size in each picture, as large as the page lets them be.
    widest = max(one.values.shape[0] for one in maps)
    tallest = max(one.values.shape[1] for one in maps)
    columns = max(1, min(len(maps), int(2.25 * width) // widest))
    rows = -(-len(maps) // columns)
    cell = min(0.62, (width - 0.9) / columns / (widest + 0.3))
    size = (columns * cell * (widest + 0.4) + 0.9, rows * (cell * tallest + 0.35) + 0.15)
    with canvas(*size, layout="constrained") as figure:
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
    bar.ax.yaxis.set_major_formatter(tick)
    bar.set_label(label, color=INK, fontsize=9)
