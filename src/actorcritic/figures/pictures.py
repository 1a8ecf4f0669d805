"""Figures as SVG and PNG files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actorcritic.core import files
from actorcritic.core.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    kind = picture_kind(path)
    if kind == "svg":
        return files.write(path, svg(figure))
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return files.write(path, picture.getvalue())


def picture_kind(path: Path) -> str:
    """png or svg, by the name of the file."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise UserError(f"A picture's file must end in .png or .svg; got {path}.")
    return kind
