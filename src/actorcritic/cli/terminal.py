"""What is written to a terminal, whichever characters it knows, and before the first answer."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterator

from actorcritic.core.words import printable


def say(text: object, *, error: bool = False) -> None:
    """Print what may hold names from a stranger's run: they must not command the terminal."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


@contextlib.contextmanager
def loading(quiet: bool) -> Iterator[None]:
    """Say at once that something happens: to import JAX takes a second."""
    if quiet:
        yield
        return
    moving = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    print("Loading JAX …", file=sys.stderr, end="" if moving else "\n", flush=True)
    yield
    if moving:
        print("\r\033[K", file=sys.stderr, end="", flush=True)


# ------------------------------------------------------------------------------------ characters

# What stands for a character that is neither a Greek letter, part of a box, nor of a simpler form.
SIMPLER = {"−": "-", "–": "-", "—": "-", "‑": "-", "×": "x", "·": "*", "→": "->", "←": "<-"}
SIMPLER |= {"≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "±": "+-", "∞": "inf", "∈": "in"}
SIMPLER |= {"’": "'", "‘": "'", "“": '"', "”": '"', "²": "^2", "³": "^3", "∂": "d", "λ": "lambda"}
SIMPLER |= {"∫": "integral ", "√": "sqrt ", "█": "#", "•": "*"}


def speak_plainly() -> None:
    """Let stdout and stderr write characters that their encoding lacks in a simpler form."""
    codecs.register_error("simpler", _simpler)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # replaced by something that is no text file
            stream.reconfigure(errors="simpler")  # type: ignore[union-attr]


def _simpler(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(map(simpler, text)), error.end


def simpler(character: str) -> str:
    """ASCII that can be read in the place of a character."""
    if character in SIMPLER:
        return SIMPLER[character]
    name = unicodedata.name(character, "")
    if name.startswith("GREEK "):
        return name.split(" WITH ")[0].rpartition(" ")[2].lower()
    if name.startswith("BOX DRAWINGS "):
        if "AND" in name:
            return "+"
        return "|" if "VERTICAL" in name else "-"
    parts = unicodedata.normalize("NFKD", character)
    return "".join(c for c in parts if c.isascii()) or "?" * (not unicodedata.combining(character))
