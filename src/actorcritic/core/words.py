"""How things are said: names that were meant, lists in a sentence, text from strangers."""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

LIBRARY = str(Path(__file__).resolve().parent.parent)
MOST_DIGITS = 18  # of a whole number: larger ones count nothing here


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as " Did you mean 'gamma'?", or nothing when no known name is near."""
    by_lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f" Did you mean '{by_lower[found[0]]}'?" if found else ""


def printable(text: object) -> str:
    """The text without characters that command a terminal: names may come from a stranger's run.

    Line breaks and tabs stay.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in str(text))


def shown(value: Any) -> str:
    """A hyperparameter's value, as the command line takes it: 0.001, 64x64, True, None."""
    if isinstance(value, list | tuple):
        return "x".join(map(str, value)) or "none"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)


def rounded(value: Any) -> str:
    """The same, of a number that was drawn: three figures say where it lies."""
    return f"{value:.3g}" if isinstance(value, float) else shown(value)


def listed(names: Sequence[str]) -> str:
    """ "a", "a and b", or "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def whole(text: str) -> int:
    """The whole number that a text stands for: 100000, 100_000 or 1e5. ValueError if it is none."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(text) from None
    if not number.is_finite() or number.adjusted() > MOST_DIGITS or number != int(number):
        raise ValueError(text)
    return int(number)


def told(error: BaseException) -> str:
    """An exception of the user's code in a line, with the place in that code it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not f.filename.startswith(("<", LIBRARY))]
    theirs = [f for f in theirs if "site-packages" not in f.filename] or frames
    where = [f" ({os.path.basename(f.filename)}, line {f.lineno})" for f in theirs[-1:]]
    if isinstance(error, SyntaxError):  # its text says where
        where = []
    text = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    return f"{type(error).__name__}: {text}{''.join(where)}"
