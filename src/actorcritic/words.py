"""How things are said: names that were meant, lists in a sentence, text from strangers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
