"""Texts, answers to prompts and chats as tokens, from JSONL files; what is left out is counted."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.words import listed
from actorcritic.language.tokens import Padded, Tokenizer, pad

LONGEST_LINE = 2**24  # bytes
TOGETHER = 1024  # examples that are tokenised at a time
FORMS = (
    '{"text": "…"}, {"prompt": "…", "response": "…"} (or "completion"), or '
    '{"messages": [{"role": "user", "content": "…"}, …]}'
)
ANSWERS = ("response", "completion")
Source: TypeAlias = str | Path | Iterable[Any]

# ------------------------------------------------------------------------------------ lines


def read_lines(source: Source) -> Iterator[tuple[str, Any]]:
    """What a file holds, each with a name for messages: "file, line 3".

    A .jsonl file holds JSON, one value a line; a .txt file one text a line. Or the things
    themselves, from Python. Empty lines are nothing. Raises UserError for what cannot be read.
    """
    if not isinstance(source, str | Path):
        for number, one in enumerate(source, 1):
            yield f"example {number:,}", one
        return
    path = Path(source)
    if path.suffix not in (".jsonl", ".json", ".txt"):
        raise UserError(
            f"{path}: data is a .jsonl file with JSON in each line, or a .txt file with a text in "
            "each line."
        )
    files.check_regular(path)
    with path.open("rb") as file:
        for number in range(1, 2**62):
            line = file.readline(LONGEST_LINE + 1)
            if not line:
                return
            where = f"{path}, line {number:,}"
            if len(line) > LONGEST_LINE:
                raise UserError(f"{where} has more than {LONGEST_LINE:,} bytes. Cut it up.")
            try:
                text = line.decode().strip()
                if text:
                    yield where, text if path.suffix == ".txt" else json.loads(text)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{where} is not JSON ({error}). Each line must be a whole JSON value."
                ) from None


def digest(source: Source) -> str:
    """A sum that is another where the data is."""
    total = hashlib.sha256()
    for _, value in read_lines(source):
        total.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")
    return total.hexdigest()


def prompts_of(source: Source) -> list[Any]:
    """Prompts: texts, {"prompt": …} with a text or messages, or {"messages": …}."""
    found = []
    for where, value in read_lines(source):
        if isinstance(value, Mapping):
            value = value.get("prompt", value.get("messages"))
        if not isinstance(value, str | list) or not value:
            raise UserError(
                f'{where} is no prompt; expected {{"prompt": "…"}}, {{"messages": […]}} or a text.'
            )
        found.append(value)
    if not found:
        raise UserError(f"{source} holds no prompt.")
    return found


# ------------------------------------------------------------------------------------ examples


class Example(NamedTuple):
    """A sequence of tokens, and which of them are learned: those of an answer."""

    tokens: Int[np.ndarray, " T"]
    learned: Bool[np.ndarray, " T"]

    @property
    def key(self) -> bytes:
        return self.tokens.tobytes()


@dataclass
class Counts:
    """What became of the lines of a data set."""

    read: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # by reason
    noted: Counter[str] = field(default_factory=Counter)  # used, but something is worth a word

    def said(self) -> list[str]:
        """In sentences, as "3 of 100 examples have an empty answer and are left out"."""
        return [
            f"{count:,} of {self.read:,} examples {reason}{end}"
            for reasons, end in ((self.left_out, " and are left out"), (self.noted, ""))
            for reason, count in sorted(reasons.items())
        ]


class Piece(NamedTuple):
    text: str
    learned: bool
    special: bool = False  # whether the tokenizer adds its special tokens
    ends: bool = False  # whether the token that ends an answer follows


def pieces_of(where: str, value: Any, tokenizer: Tokenizer) -> list[Piece]:
    """An example in pieces that are learned or not. UserError where it is of no known form."""
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, Mapping):
        raise UserError(f"{where} is {type(value).__name__}; expected {FORMS}.")
    answer = next((name for name in ANSWERS if name in value), None)
    if "messages" in value:
        return _of_chat(where, value["messages"], tokenizer)
    if "prompt" in value and answer is not None:
        prompt, response = value["prompt"], value[answer]
        if isinstance(prompt, list) or isinstance(response, list):
            if isinstance(prompt, str):
                prompt = [{"role": "user", "content": prompt}]
            if isinstance(response, str):
                response = [{"role": "assistant", "content": response}]
            return _of_chat(where, [*prompt, *response], tokenizer, after=len(prompt))
        _check_text(where, "prompt", prompt)
        _check_text(where, answer, response)
        return [Piece(prompt, False, special=True), Piece(response, True, ends=True)]
    if "text" in value:
        _check_text(where, "text", value["text"])
        return [Piece(value["text"], True, special=True, ends=True)]
    raise UserError(
        f"{where} has the keys {listed([*map(str, value)] or ['none'])}; expected {FORMS}."
    )


def _check_text(where: str, name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise UserError(f"{where}: {name} must be a text; it is {type(value).__name__}.")


def _of_chat(where: str, messages: Any, tokenizer: Tokenizer, after: int = 0) -> list[Piece]:
    """Chat messages; the assistant's are learned, from message `after` on.

    Each is what the template adds for it: the prompt of an answer ends just where generation would
    begin.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise UserError(f"{where}: messages must be a list of messages, and not empty.")
    pieces, before = list[Piece](), ""
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise UserError(
                f'{where}: a message is {{"role": "…", "content": "…"}}; got {message!r:.80}.'
            )
        whole = tokenizer.chat(messages[: i + 1], add_generation_prompt=False)
        learned = message.get("role") == "assistant" and i >= after
        if learned:
            start = tokenizer.chat(messages[:i], add_generation_prompt=True) if i else before
            if not whole.startswith(start):
                raise UserError(
                    f"{where}: the chat template of this model does not put an answer behind the "
                    "prompt for it, so that nothing says which part is the answer. Give prompt and "
                    "response as texts."
                )
            pieces += [Piece(start[len(before) :], False), Piece(whole[len(start) :], True)]
            if not message["content"].strip():
                pieces[-1] = Piece("", True)
        elif whole.startswith(before):
            pieces.append(Piece(whole[len(before) :], False))
        else:
            raise UserError(
                f"{where}: the chat template changes earlier messages after later ones."
            )
        before = whole
    if not any(piece.learned for piece in pieces):
        raise UserError(f"{where} holds no message of the assistant, so that there is no answer.")
    return pieces


def examples(source: Source, tokenizer: Tokenizer, max_length: int) -> tuple[list[Example], Counts]:
    """The examples of a data set, cut to `max_length` tokens; and what was left out, and why.

    Raises UserError for a line of no known form, and where nothing is left.
    """
    counts, found = Counts(), list[Example]()
    lines = read_lines(source)
    while part := list(islice(lines, TOGETHER)):
        counts.read += len(part)
        cut = [pieces_of(where, value, tokenizer) for where, value in part]
        flat = [piece for pieces in cut for piece in pieces]
        rows = dict(enumerate(tokenizer.encode([p.text for p in flat], special=False)))
        around = [i for i, p in enumerate(flat) if p.special]
        rows |= dict(zip(around, tokenizer.encode([flat[i].text for i in around]), strict=True))
        place = 0
        for pieces in cut:
            example = _joined(pieces, [rows[place + i] for i in range(len(pieces))], tokenizer)
            place += len(pieces)
            if any(piece.learned and not piece.text.strip() for piece in pieces):
                counts.left_out["have an empty text or answer"] += 1
            elif not example.learned[1:max_length].any():
                counts.left_out[f"have no token of their answer within {max_length} tokens"] += 1
            else:
                if len(example.tokens) > max_length:
                    counts.noted[f"are cut to {max_length} tokens"] += 1
                found.append(Example(example.tokens[:max_length], example.learned[:max_length]))
    if not found:
        what = source if isinstance(source, str | Path) else "The data"
        why = "; ".join(counts.said()) or "there is none"
        raise UserError(f"{what} holds no example to learn from: {why}.")
    return found, counts


def _joined(pieces: Sequence[Piece], rows: Sequence[list[int]], tokenizer: Tokenizer) -> Example:
    tokens, learned = list[int](), list[bool]()
    for piece, row in zip(pieces, rows, strict=True):
        if piece.ends and tokenizer.eos and row[-1:] != [tokenizer.eos[0]]:
            row = [*row, tokenizer.eos[0]]
        tokens += row
        learned += [piece.learned] * len(row)
    return Example(np.array(tokens, np.int32), np.array(learned, bool))


def packed(examples: Sequence[Example], length: int) -> list[Example]:
    """Examples one behind the other, cut into rows of this length: nothing is padding.

    A row may begin in the middle of an example, and tokens see those of the examples before them in
    their row, as in GPT-2's own training.
    """
    tokens = np.concatenate([example.tokens for example in examples])
    learned = np.concatenate([example.learned for example in examples])
    starts = range(0, len(tokens) - 1, length)
    return [Example(tokens[i : i + length], learned[i : i + length]) for i in starts]


class Sequences(NamedTuple):
    """A batch of sequences: tokens, which are no padding, and which are learned."""

    tokens: Int[Any, "B T"]
    valid: Bool[Any, "B T"]
    learned: Bool[Any, "B T"]


def sequences(rows: Sequence[Example], fill: int, most: int) -> Sequences:
    """Examples as a batch, padded on the right to a power of two (at least 32, at most `most`)."""
    longest = max(len(row.tokens) for row in rows)
    length = min(max(32, 2 ** (longest - 1).bit_length()), max(most, longest))
    batch: Padded = pad([row.tokens for row in rows], fill, side="right", length=length)
    learned = pad([row.learned for row in rows], 0, side="right", length=length).tokens
    return Sequences(batch.tokens, batch.valid, learned.astype(bool))


def held_out(
    rows: Sequence[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Rows to learn from, and rows to evaluate on: drawn from those that occur only once."""
    count = Counter(row.key for row in rows)
    once = [i for i, row in enumerate(rows) if count[row.key] == 1]
    wanted = min(round(share * len(rows)), len(once), len(rows) - 1)
    drawn = np.random.default_rng([seed, 2]).permutation(len(once))[:wanted].tolist()
    apart = {once[i] for i in drawn}
    return (
        [row for i, row in enumerate(rows) if i not in apart],
        [rows[i] for i in sorted(apart)],
    )
