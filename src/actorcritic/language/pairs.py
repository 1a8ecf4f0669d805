"""Preferences as tokens, ready to be learned from: read, checked, split, put into batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from actorcritic.language import data
from actorcritic.language.dpo_on_pairs import Answers
from actorcritic.language.model import Model
from actorcritic.language.preferences import (
    Answered,
    Checked,
    Pair,
    arrays,
    encode_pairs,
    read_pairs,
    split,
    without,
)
from actorcritic.language.reward_model import Both
from actorcritic.language.training import PairSettings
from actorcritic.runs.console import warn


class Data(NamedTuple):
    """Pairs as tokens, to learn from and to evaluate on."""

    rows: list[tuple[Answered, Answered]]
    apart: list[tuple[Answered, Answered]]
    pairs: list[Pair]
    pairs_apart: list[Pair]


def pairs_of(
    model: Model,
    source: data.Source,
    evaluation: data.Source | None,
    settings: PairSettings,
) -> Data:
    """Pairs, checked; what is left out is said."""
    found = read_pairs(source)
    if evaluation is None:
        train, held_out = split(found.rows, settings.evaluation_share, settings.seed)
        if settings.evaluation_share > 0 and not held_out:
            warn("No prompt could be held out to evaluate on: all pairs are of one prompt.")
        apart: Checked[Pair] = Checked(held_out)
    else:
        train, apart = found.rows, without(read_pairs(evaluation), found.rows, "the training data")
    longest = min(settings.max_length, model.config.max_positions)
    rows, kept = encode_pairs(
        Checked(train, found.left_out, found.repeated), model.tokenizer, longest
    )
    tell("pairs", kept)
    rows_apart, kept_apart = list[tuple[Answered, Answered]](), Checked[Pair]([])
    if apart.rows:
        rows_apart, kept_apart = encode_pairs(apart, model.tokenizer, longest)
        tell("evaluation pairs", kept_apart)
    return Data(rows, rows_apart, kept.rows, kept_apart.rows)


def batch_of(rows: Sequence[tuple[Answered, Answered]], fill: int) -> Both:
    """A batch of pairs; both sides have the same lengths."""
    together = arrays([pair[0] for pair in rows] + [pair[1] for pair in rows], fill)
    count = len(rows)
    chosen, rejected = (
        Answers(*(x[part] for x in together))
        for part in (
            slice(None, count),
            slice(count, None),
        )
    )
    return Both(chosen, rejected)


def in_parts(
    rows: Sequence[Any], size: int, of: Callable[[Sequence[Any]], Float[np.ndarray, "k n"]]
) -> Float[np.ndarray, "k n"]:
    """What `of` gives for batches of `size` rows, one behind the other; the last is filled up."""
    found = []
    for start in range(0, len(rows), size):
        part = list(rows[start : start + size])
        count = len(part)
        found.append(np.asarray(of(part + [part[0]] * (size - count)))[:, :count])
    return np.concatenate(found, 1)


def tell(what: str, rows: Checked[Any]) -> None:
    """Say what was left out, and what is there twice."""
    for text in rows.said(what):
        warn(text)
