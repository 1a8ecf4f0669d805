"""What a decision is about, as numbers: hashed words of a text or of a dict, or a vector.

Nothing is downloaded. A word, or a pair of neighbouring words, counts +1 or −1 at one of `size`
places, both told by a hash (the signed hashing of Weinberger et al. 2009): inner products of texts
are kept without bias, and a new word needs no new place.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from actorcritic.core.errors import UserError

# A text, a dict of texts, numbers and booleans, or a vector.
Context: TypeAlias = str | Mapping[str, Any] | Sequence[float] | np.ndarray

MOST_CHARACTERS = 32_768  # of a text, and of the JSON of a dict
MOST_WORDS = 2_000  # that are hashed; what follows says little more
MOST_KEYS = 1_000
_WORD = re.compile(r"\d+|[^\W\d_]+|[^\w\s]")
_MIX = 0x9E3779B1  # spreads the bits of CRC-32, whose low bits are alike for like words


def check(context: Any, size: int) -> tuple[str | None, bytes | None]:
    """The context as a log keeps it: JSON, or float32 numbers. UserError where it is none."""
    if isinstance(context, str):
        if len(context) > MOST_CHARACTERS:
            raise UserError(
                f"A text has at most {MOST_CHARACTERS:,} characters; got {len(context):,}."
            )
        try:
            context.encode()
        except UnicodeEncodeError:
            raise UserError("The text holds half of a surrogate pair, and is no text.") from None
        return json.dumps(context, ensure_ascii=False), None
    if isinstance(context, Mapping):
        return _checked_dict(context), None
    return None, vector(context, size).tobytes()


def vector(context: Any, size: int) -> Float[np.ndarray, " size"]:
    """A vector of the right size in float32. UserError where it is none."""
    try:
        numbers = np.asarray(context)
    except ValueError:
        numbers = np.asarray(None)
    if numbers.dtype.kind not in "iuf" or numbers.shape != (size,):
        what = f"numbers of the shape {list(numbers.shape)}"
        if numbers.dtype.kind not in "iuf":
            what = type(context).__name__
        raise UserError(
            f"Expected a text, a dict, or a vector of {size} numbers; got {what}. The size of "
            "vectors is set where a log is made: Decider(…, features=SIZE)."
        )
    with np.errstate(over="ignore"):
        numbers = numbers.astype("<f4")
    if not np.isfinite(numbers).all():
        raise UserError("The vector has numbers that are not finite (in float32).")
    return numbers


def _checked_dict(context: Mapping[str, Any]) -> str:
    if not context or len(context) > MOST_KEYS:
        raise UserError(f"A dict of features has 1 to {MOST_KEYS:,} keys, not {len(context):,}.")
    for key, value in context.items():
        number = isinstance(value, int | float) and abs(value) < 1e300  # which NaN is not
        if not isinstance(key, str) or not (number or isinstance(value, str) or value is None):
            raise UserError(
                "A dict of features has texts as keys, and texts, finite numbers, booleans or None "
                f"as values; got {key!r}: {str(value)[:60]!r}."
            )
    text = json.dumps(dict(context), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError("The dict holds half of a surrogate pair, and is no text.") from None
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"A dict has at most {MOST_CHARACTERS:,} characters; got {len(text):,}.")
    return text


def hashed(context: str | Mapping[str, Any], size: int) -> Float[np.ndarray, " size"]:
    """The features of a text or dict.

    Of a text: the square roots of the counts of its words and pairs of words, at unit length. Of a
    dict: asinh of each number, 1 for each other value, over the root of the number of keys.
    """
    weights: dict[str, float] = {}
    if isinstance(context, str):
        words = ["^", *words_of(context)]
        for word in words[1:]:
            weights[word] = weights.get(word, 0.0) + 1
        for pair in pairwise(words):
            name = " ".join(pair)
            weights[name] = weights.get(name, 0.0) + 1
        weights = {name: math.sqrt(count) for name, count in weights.items()}
        length = math.sqrt(sum(w * w for w in weights.values())) or 1.0
    else:
        length = math.sqrt(len(context))
        for key, value in context.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                weights[f"{key}#"] = math.asinh(value)
            else:
                weights[f"{key}={value}"] = 1.0
    found = np.zeros(size, np.float32)
    crc = zlib.crc32
    for name, weight in weights.items():
        h = (crc(name.encode()) * _MIX) & 0xFFFFFFFF
        found[(h >> 1) % size] += weight if h & 0x80000000 else -weight
    found /= np.float32(length)
    return found


def words_of(text: str) -> list[str]:
    """Words in lower case, numbers and signs; of a number only how many digits it has."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).lower())[:MOST_WORDS]
    return [f"#{len(word)}" if word.isdigit() else word for word in words]


def numbers_of(context: str | None, blob: bytes | None, size: int) -> Float[np.ndarray, " size"]:
    """The features of what a log keeps."""
    if blob is not None:
        return np.frombuffer(blob, "<f4")
    assert context is not None
    return hashed(json.loads(context), size)
