"""Files of pictures and pages: SVG and PNG of a figure, written as a whole or not at all."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actorcritic.types import UserError

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


def picture_kind(path: Path) -> str:
    """png or svg, by the name of the file."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise UserError(f"A picture's file must end in .png or .svg; got {path}.")
    return kind
