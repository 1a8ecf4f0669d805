"""Code of the user's, named as module:Name. It is imported only where the user names it."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from actorcritic.core.errors import UserError
from actorcritic.core.words import nearest, told

ADDRESS = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*|pettingzoo:[A-Za-z_][\w.]*"


def module(name: str, wanted: str) -> Any:
    """The module of this name, installed or in the current folder; a file below it will do."""
    if name.endswith(".py"):
        parts = Path(os.path.relpath(name.removesuffix(".py"))).parts
        if parts[0] == "..":
            raise UserError(
                f"{name} is not in the current folder {os.getcwd()} or below it. Call the command "
                "in the folder of your code."
            )
        name = ".".join(parts)
    if os.getcwd() not in sys.path and "" not in sys.path:  # an installed command lacks it
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and error.name != name:
            raise UserError(f"Importing '{name}' for '{wanted}' failed: {told(error)}.") from error
        raise UserError(
            f"There is no module '{name}' for '{wanted}', neither installed nor in {os.getcwd()}. "
            "Write 'module:Name' with the file's name without '.py'."
        ) from error
    except (Exception, SystemExit) as error:
        raise UserError(f"Importing '{name}' for '{wanted}' failed: {told(error)}.") from error


def named(text: str) -> Any:
    """What module:Name stands for; UserError with the nearest name where there is none."""
    place, _, name = text.partition(":")
    found = vars(module(place, text))
    if name not in found:
        raise UserError(f"The module '{place}' has no '{name}'.{nearest(name, found)}")
    return found[name]


def address(thing: Any) -> str | None:
    """The module:Name under which `named` finds a class or function; None where it would not."""
    place, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
    if place == "__main__":  # as another program would import it
        place = _name_of_script()
    return f"{place}:{name}" if place and is_address(f"{place}:{name}") else None


def is_address(text: object) -> bool:
    """Is this module:Name (or pettingzoo:MODULE), and to a shell nothing more than a word?"""
    return isinstance(text, str) and re.fullmatch(ADDRESS, text) is not None


def _name_of_script() -> str | None:
    script = sys.modules["__main__"]
    spec, file = getattr(script, "__spec__", None), getattr(script, "__file__", None)
    if spec is not None:
        return spec.name
    return None if file is None else os.path.splitext(os.path.basename(file))[0]
