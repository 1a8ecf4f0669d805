"""One HTML page of pictures and tables. It knows pages, not reinforcement learning.

The page is one file without anything outside it: it opens from a disk, from a phone, from a mail.
Its pictures are the figures of `plots`: in the page as SVG whose ink follows the reader's light or
dark setting, beside the page as PNG and SVG files for papers and slides. Panels of curves are drawn
again by the browser (uPlot, which the page carries; `page.js`): there they fit any screen, and can
be zoomed, smoothed, and taken away. Without JavaScript, and on paper, the SVG stays.
"""

from __future__ import annotations

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.figures import plots

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MOST_VALUES = 200  # of a curve in a page: finer than a pointer can tell


class Table(NamedTuple):
    """Cells as they are to be read. A column whose every cell is a number is set to the right."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


class Picture(NamedTuple):
    """A figure of `plots`. Readers who cannot see it are given its title and note.

    One that is no set of curves needs a second drawing, `plots.NARROW`, to be read on a phone.
    """

    name: str  # of its files
    title: str
    figure: Figure
    note: str = ""
    narrow: Figure | None = None


class Animation(NamedTuple):
    """A GIF, such as `plots.value_animation` gives."""

    name: str
    title: str
    gif: bytes
    note: str = ""


class Section(NamedTuple):
    title: str
    verdict: str  # in one sentence
    remarks: tuple[str, ...] = ()
    pictures: tuple[Picture | Animation, ...] = ()
    tables: tuple[Table, ...] = ()
    details: tuple[Table, ...] = ()  # folded away until asked for


def write(
    path: Path,
    title: str,
    sections: Sequence[Section],
    *,
    command: str | None,
    versions: Mapping[str, str],
    summary: Sequence[str] = (),
) -> Path:
    """Write the page, and its pictures beside it in the folder `<stem>-pictures`.

    `summary` says what was compared, `command` how to make the page again. The page appears as
    its last file and whole, or not at all.
    """
    import jinja2

    path = Path(path)
    if path.suffix.lower() != ".html":
        raise UserError(f"A report's file must end in .html; got {path}.")
    folder = path.with_name(f"{path.stem}-pictures")
    files.refuse_link(folder)
    files.make_folder(folder if any(section.pictures for section in sections) else path.parent)
    names: set[str] = set()
    shown = [
        {
            **section._asdict(),
            "pictures": [
                _shown(picture, folder / _file_name(f"{section.title}-{picture.name}", names))
                for picture in section.pictures
            ],
            "tables": [_cells(table) for table in section.tables],
            "details": [_cells(table) for table in section.details],
        }
        for section in sections
    ]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    live = any(picture.get("chart") for section in shown for picture in section["pictures"])
    page = environment.from_string(_part("page.html.jinja")).render(
        title=title,
        style=_part("page.css"),
        script=_part("page.js"),
        charts=_library() if live else None,
        summary=summary,
        sections=shown,
        command=command,
        versions=versions,
        folder=folder.name if any(section.pictures for section in sections) else None,
    )
    files.write(path, page)
    return path


def _part(name: str) -> Markup:
    """A file of the page, as it is."""
    from markupsafe import Markup

    return Markup(resources.files("actorcritic.figures").joinpath(name).read_text("utf-8"))


def _library() -> dict[str, Markup]:
    """uPlot as a page carries it, with its licence, which has to go with every copy."""
    return {
        "licence": _part("uplot/LICENSE"),
        "style": _part("uplot/uPlot.min.css"),
        "script": _part("uplot/uPlot.iife.min.js"),
    }


# ---------------------------------------------------------------------------- tables

# What may be among the digits and signs of a number: an exponent, a unit, an interval's "to".
_IN_NUMBERS = re.compile(r"(?<=\d)e[+-]?\d+|(?<=\d)[kMG]\b|\bto\b|\bnan\b|\binf\b", re.IGNORECASE)


def _cells(table: Table) -> dict[str, Any]:
    """A table for the template, with which of its columns are numbers."""
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(f"table {table.name!r}: the row {row} does not fit {table.columns}")
    columns = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    numeric = [any(map(_has_digit, c)) and all(map(_is_number, c)) for c in columns]
    return {**table._asdict(), "numeric": numeric}


def _has_digit(cell: str) -> bool:
    return any(character.isdigit() for character in cell)


def _is_number(cell: str) -> bool:
    return not any(character.isalpha() for character in _IN_NUMBERS.sub("", cell))


# ---------------------------------------------------------------------------- pictures


def _file_name(text: str, taken: set[str]) -> str:
    """The text as a name for files and elements, on any system and no other's."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].rstrip("-") or "picture"
    name, i = plain, 1
    while name in taken:
        name, i = f"{plain}-{i + 1}", i + 1
    taken.add(name)
    return name


def _shown(picture: Picture | Animation, stem: Path) -> dict[str, Any]:
    """A picture for the template; its files are written, as `stem` and an ending."""
    from markupsafe import Markup

    shown: dict[str, Any] = {"id": stem.name, "title": picture.title, "note": picture.note}
    if isinstance(picture, Animation):
        files.write(stem.with_suffix(".gif"), picture.gif)
        return shown | {"gif": _uri(picture.gif, "gif"), "still": _uri(_still(picture.gif), "png")}
    for ending in (".png", ".svg"):
        plots.save(picture.figure, stem.with_suffix(ending))
    svg = Markup(_inline(picture.figure, stem.name))
    panels = [panel for axes in picture.figure.axes if (panel := _panel(axes)) is not None]
    # A label may hold tags: written so, it cannot end the element that it stands in.
    chart = json.dumps({"panels": panels}, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        chart = chart.replace(character, f"\\u{ord(character):04x}")
    narrow = picture.narrow and Markup(_inline(picture.narrow, f"{stem.name}-narrow"))
    return shown | {
        "svg": svg,
        "width": picture.figure.get_figwidth(),
        "narrow": None if panels else narrow,
        "chart": Markup(chart) if panels else None,
    }


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _still(gif: bytes) -> bytes:
    """The last frame, for paper and for readers who asked their system for less motion."""
    from PIL import Image

    picture = io.BytesIO()
    with Image.open(io.BytesIO(gif)) as image:
        image.seek(getattr(image, "n_frames", 1) - 1)
        image.convert("RGB").save(picture, "PNG")
    return picture.getvalue()


# Colours of the figures that follow the page's: light or dark.
_VARIABLES = {
    plots.INK.lower(): "var(--ink)",
    plots.FAINT.lower(): "var(--faint)",
    plots.GRID.lower(): "var(--grid)",
    plots.RULE.lower(): "var(--rule)",
    plots.PAPER.lower(): "var(--paper)",
    plots.COLOURS[0].lower(): "var(--blue)",  # the one that is too dark for a dark page
}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FONT = re.compile(r"(font(?:-size)?:[^;]*?)([\d.]+)px")
_LONG_DECIMAL = re.compile(r"-?\d+\.\d{3,}")


def _inline(figure: Figure, name: str) -> str:
    """The figure as an SVG element for the page: its own ids, the page's ink and font."""
    root = ElementTree.fromstring(plots.svg(figure, text=True, transparent=True))
    for parent in list(root.iter()):
        parent.tag = parent.tag.rpartition("}")[2]  # HTML knows SVG without its namespaces
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)  # the style would be the whole page's
        attributes = {
            key.rpartition("}")[2]: _attribute(key.rpartition("}")[2], value, name)
            for key, value in parent.attrib.items()
        }
        parent.attrib.clear()
        parent.attrib.update(attributes)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(key: str, value: str, name: str) -> str:
    """An attribute of Matplotlib's SVG as the page has it."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value[1:]}" if value.startswith("#") else value
    value = value.replace("url(#", f"url(#{name}-")
    if key == "style":
        value = _COLOUR.sub(lambda found: _VARIABLES.get(found[0], found[0]), value)
        # Smaller on a phone, text is set larger: the page says how much.
        value = _FONT.sub(r"\1calc(\2px * var(--type))", value)
    if key in ("d", "transform", "x", "y", "points"):
        value = _LONG_DECIMAL.sub(lambda found: f"{float(found[0]):.2f}", value)
    return " ".join(value.split())


# ---------------------------------------------------------------------------- panels of curves


def _panel(axes: Axes) -> dict[str, Any] | None:
    """What the browser draws again: the curves, and the axes as they are in the figure."""
    panel = plots.panel_of(axes)
    if panel is None or not any(view.series for view in panel.views):
        return None
    across = next((a.get_xlabel() for a in _same_x(axes) if a.get_xlabel()), "")
    xs: dict[tuple[float | int | None, ...], int] = {}  # many curves share one
    views = [
        {
            "across": view.across or across,
            "smoothing": view.smoothing,
            "note": view.note,
            "series": [_values(one, xs) for one in view.series if np.isfinite(one.y).any()],
        }
        for view in panel.views
    ]
    return {
        "name": axes.get_title("left"),
        "log": [axes.get_xscale() == "log", axes.get_yscale() == "log"],
        "limits": {
            "x": [_rounded(v, 8) for v in axes.get_xlim()],
            "y": [_rounded(v, 8) for v in axes.get_ylim()],
        },
        "marks": panel.marks,
        "ticks": panel.ticks,
        "views": views,
        "xs": list(xs),
    }


def _same_x(axes: Axes) -> list[Axes]:
    """The panel and those that share its horizontal axis: only the lowest ones name it."""
    return [axes, *axes.get_shared_x_axes().get_siblings(axes)]


def _values(series: plots.Series, xs: dict[tuple[float | int | None, ...], int]) -> dict[str, Any]:
    """A curve as plain JSON; its x go into `xs`, and by number."""
    x = np.asarray(series.x, np.float64)
    kept = np.flatnonzero(np.isfinite(x))
    kept = kept[np.argsort(x[kept], kind="stable")]
    if len(kept) > MOST_VALUES:
        kept = kept[np.linspace(0, len(kept) - 1, MOST_VALUES).round().astype(int)]

    def column(name: str, figures: int) -> list[float | int | None]:
        return [_rounded(v, figures) for v in np.asarray(getattr(series, name), np.float64)[kept]]

    colour = str(series.colour)
    values: dict[str, Any] = {
        "label": series.label,
        "colour": _VARIABLES.get(colour.lower(), colour),
        "look": series.look,
        "x": xs.setdefault(tuple(column("x", 7)), len(xs)),
        "y": column("y", 5),
    }
    if series.part_of:
        values["part"] = series.part_of
    if np.isfinite(series.seconds):
        values["seconds"] = _rounded(series.seconds, 5)
    band = series.low, series.high
    if all(ends is not None and np.isfinite(ends).any() for ends in band):
        values |= {"low": column("low", 5), "high": column("high", 5)}
    return values


def _rounded(value: float, figures: int) -> float | int | None:
    """A number as short as JSON can hold it; None in place of what JSON has no word for."""
    if not np.isfinite(value):
        return None
    short = float(f"{value:.{figures}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
