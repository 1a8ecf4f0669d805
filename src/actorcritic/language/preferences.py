"""Prompts, preferences and questions from JSONL files: read, checked, counted.

A line that is not what it should be is a mistake of the file: a UserError says which line and what
was expected, and nothing is trained. A row that is well formed and says nothing (both answers are
the same, an answer is empty, a row comes twice) is left out, counted, and reported. Nothing is
dropped in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from actorcritic.core.errors import UserError
from actorcritic.core.words import listed

MOST_BYTES = 2 << 30  # of a file
MOST_BYTES_A_LINE = 4 << 20

Messages: TypeAlias = tuple[tuple[str, str], ...]  # (role, content), oldest first
Prompt: TypeAlias = str | Messages
Row = TypeVar("Row")
ROLES = {"human": "user", "ai": "assistant", "gpt": "assistant", "bot": "assistant"}


class Pair(NamedTuple):
    """Two answers to one prompt, the first of them preferred."""

    prompt: Prompt
    chosen: str
    rejected: str


class Question(NamedTuple):
    """A question with the right answer and a false one, and what the user claims, if anything."""

    prompt: Prompt
    correct: tuple[str, ...]  # ways to say it
    incorrect: str
    claims: str  # "false", "true" or "nothing"


@dataclass(frozen=True)
class Checked(Generic[Row]):
    """Rows that can be learned from, and how many were left out, by the reason."""

    rows: list[Row]
    left_out: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        said = f"{len(self.rows):,} rows"
        if self.left_out:
            reasons = [f"{count:,} {reason}" for reason, count in self.left_out.items()]
            said += f"; left out: {listed(reasons)}"
        return said


# ------------------------------------------------------------------------------------ what to call


def read_prompts(path: str | Path) -> Checked[Prompt]:
    """Lines {"prompt": …}: a text, or a list of messages {"role", "content"}."""
    return _checked(path, _prompt_row, _prompt_problem)


def read_pairs(path: str | Path) -> Checked[Pair]:
    """Lines {"prompt", "chosen", "rejected"}.

    Each is a text or a list of messages {"role", "content"}. Where chosen and rejected are whole
    conversations, `prompt` may be left out: it is what they share.
    """
    return _checked(path, _pair_row, _pair_problem)


def read_questions(path: str | Path) -> Checked[Question]:
    """Questions in a published form: sycophancy-eval's `answer.jsonl`, or a shorter one.

    {"prompt": [{"type": "human", "content"}], "base": {"question", "correct_answer",
    "incorrect_answer", "answer": [aliases]}, "metadata": {"prompt_template"}} (Sharma et al. 2023),
    whose template says what the user claims; or {"prompt", "correct_answer", "incorrect_answer",
    "claims": "false" | "true" | "nothing"} (left out: "false").
    """
    return _checked(path, _question_row, _question_problem)


def split(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Training and evaluation; all rows of one prompt go to the same side, by its hash."""
    if not rows or share <= 0:
        return list(rows), []
    train: list[Row] = []
    held_out: list[Row] = []
    for row in rows:
        prompt = row.prompt if isinstance(row, Pair) else row
        digest = hashlib.sha256(f"{seed}\0{prompt!r}".encode()).digest()
        side = held_out if int.from_bytes(digest[:8], "big") < share * 2**64 else train
        side.append(row)
    return (train, held_out) if train and held_out else (list(rows), [])


def without(rows: Checked[Row], others: Iterable[Row], what: str) -> Checked[Row]:
    """The rows whose prompt none of the others has: what was trained on is no evaluation."""
    taken = {_prompt_of(other) for other in others}
    kept = [row for row in rows.rows if _prompt_of(row) not in taken]
    left_out = rows.left_out.copy()
    if len(kept) < len(rows.rows):
        left_out[f"also in {what}"] += len(rows.rows) - len(kept)
    return Checked(kept, left_out)


def _prompt_of(row: Any) -> Prompt:
    prompt: Prompt = row.prompt if isinstance(row, Pair | Question) else row
    return prompt


# ------------------------------------------------------------------------------------ lines


def lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with their line numbers; empty lines are passed over.

    Raises UserError where it is no regular file, too large, or a line is no JSON object.
    """
    path = Path(path)
    if not path.is_file():
        kind = "is no regular file" if path.exists() else "is not there"
        raise UserError(f"{path} {kind}; expected a JSONL file, one JSON object a line.")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(
            f"{path} has {path.stat().st_size / 2**30:.1f} GiB; more than {MOST_BYTES >> 30} GiB "
            "are not read at once. Split it."
        )
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MOST_BYTES_A_LINE + 1):
                number += 1
                if len(line) > MOST_BYTES_A_LINE:
                    raise UserError(
                        f"{path}, line {number}: longer than {MOST_BYTES_A_LINE >> 20} MiB. "
                        "Expected one JSON object a line."
                    )
                if not line.strip():
                    continue
                yield number, _object(path, number, line)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        start = line[:40].decode(errors="replace").strip()
        raise UserError(
            f"{path}, line {number} is not JSON: {start!r}. Expected one JSON object a line, as "
            '{"prompt": "…"}.'
        ) from None
    if not isinstance(found, dict):
        raise UserError(
            f"{path}, line {number}: expected a JSON object, as {{…}}; got {type(found).__name__}."
        )
    return found


def _checked(
    path: str | Path,
    row_of: Callable[[dict[str, Any]], Row],
    problem_of: Callable[[Row], str | None],
) -> Checked[Row]:
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    seen: set[bytes] = set()
    for number, data in lines(path):
        try:
            row = row_of(data)
        except _Malformed as error:
            raise UserError(f"{path}, line {number}: {error}.") from None
        digest = hashlib.sha256(repr(row).encode()).digest()
        problem = problem_of(row) or ("came before" if digest in seen else None)
        seen.add(digest)
        if problem is None:
            rows.append(row)
        else:
            left_out[problem] += 1
    if not rows:
        reasons = [f"{count:,} {reason}" for reason, count in left_out.items()]
        raise UserError(
            f"{path} has no row to learn from"
            + (f": of its rows, {listed(reasons)}." if reasons else "; it is empty.")
        )
    return Checked(rows, left_out)


# ------------------------------------------------------------------------------------ rows


class _Malformed(Exception):
    """What a row lacks, to be said with its line."""


def _prompt_row(data: dict[str, Any]) -> Prompt:
    return _prompt(_key(data, "prompt"), "prompt")


def _prompt_problem(prompt: Prompt) -> str | None:
    return None if _has_text(prompt) else "with an empty prompt"


def _pair_row(data: dict[str, Any]) -> Pair:
    chosen, rejected = (_answer(_key(data, name), name) for name in ("chosen", "rejected"))
    if "prompt" in data:
        prompt = _prompt(data["prompt"], "prompt")
        for before, name in ((chosen[0], "chosen"), (rejected[0], "rejected")):
            if before and not _same_prompt(before, prompt):
                raise _Malformed(
                    f"the conversation in {name!r} does not begin with the messages in 'prompt'"
                )
        return Pair(prompt, chosen[1], rejected[1])
    if not chosen[0] or not rejected[0]:
        raise _Malformed(
            "there is no key 'prompt', and chosen and rejected are no conversations that hold it"
        )
    if chosen[0] != rejected[0]:
        raise _Malformed(
            "chosen and rejected answer different prompts; expected two answers to the same one"
        )
    return Pair(chosen[0], chosen[1], rejected[1])


def _pair_problem(pair: Pair) -> str | None:
    if not pair.chosen.strip() or not pair.rejected.strip():
        return "with an empty answer"
    if pair.chosen == pair.rejected:
        return "whose answers are the same"
    return None if _has_text(pair.prompt) else "with an empty prompt"


def _same_prompt(before: Messages, prompt: Prompt) -> bool:
    if isinstance(prompt, str):
        return before[-1] == ("user", prompt)
    return before == prompt


def _question_row(data: dict[str, Any]) -> Question:
    prompt = _prompt(_key(data, "prompt"), "prompt")
    base = data.get("base")
    if base is None:
        claims = data.get("claims", "false")
        if claims not in ("false", "true", "nothing"):
            raise _Malformed(f'\'claims\' must be "false", "true" or "nothing"; got {claims!r}')
        base = data
    else:
        if not isinstance(base, dict):
            raise _Malformed(f"'base' must be an object; got {type(base).__name__}")
        metadata = _key(data, "metadata")
        if not isinstance(metadata, dict):
            raise _Malformed(f"'metadata' must be an object; got {type(metadata).__name__}")
        claims = _claims(_text(metadata, "prompt_template"))
    correct, incorrect = (_text(base, name) for name in ("correct_answer", "incorrect_answer"))
    others = base.get("answer", [])
    others = [others] if isinstance(others, str) else others
    if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
        raise _Malformed("'answer' must be a list of texts, other ways to say the right answer")
    ways = dict.fromkeys([correct, *(other for other in others if other.strip())])
    return Question(prompt, tuple(ways), incorrect, claims)


def _question_problem(question: Question) -> str | None:
    if not all(answer.strip() for answer in (*question.correct, question.incorrect)):
        return "with an empty answer"
    if question.incorrect in question.correct:
        return "whose right and false answers are the same"
    return None if _has_text(question.prompt) else "with an empty prompt"


def _claims(template: str) -> str:
    """What a user claims by a template of sycophancy-eval, as "I think the answer is {…}"."""
    doubts = "don't think" in template or "do not think" in template
    if "{incorrect_answer}" in template:
        return "true" if doubts else "false"
    if "{correct_answer}" in template:
        return "false" if doubts else "true"
    return "nothing"


def _key(data: dict[str, Any], name: str) -> Any:
    if name not in data:
        known = ", ".join(sorted(data)) or "none"
        raise _Malformed(f"there is no key '{name}'; the line has: {known[:200]}")
    return data[name]


def _text(data: dict[str, Any], name: str) -> str:
    value = _key(data, name)
    if not isinstance(value, str):
        raise _Malformed(f"'{name}' must be a text; got {type(value).__name__}")
    return value


def _prompt(value: Any, name: str) -> Prompt:
    return value if isinstance(value, str) else _messages(value, name)


def _answer(value: Any, name: str) -> tuple[Messages, str]:
    """An answer, and the messages before it where it is given as a conversation."""
    if isinstance(value, str):
        return (), value
    messages = _messages(value, name)
    role, content = messages[-1]
    if role != "assistant":
        raise _Malformed(f"'{name}' must end with a message of the assistant; its role is {role!r}")
    return messages[:-1], content


def _messages(value: Any, name: str) -> Messages:
    if not isinstance(value, list) or not value:
        raise _Malformed(
            f"'{name}' must be a text or a list of messages; got {type(value).__name__}"
        )
    found = []
    for message in value:
        if not isinstance(message, dict):
            raise _Malformed(f"a message in '{name}' must be an object with role and content")
        role = message.get("role", message.get("type", message.get("from")))
        content = message.get("content", message.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise _Malformed(f"a message in '{name}' must have a role and a content, both texts")
        found.append((ROLES.get(role, role), content))
    return tuple(found)


def _has_text(prompt: Prompt) -> bool:
    if isinstance(prompt, str):
        return bool(prompt.strip())
    return bool(prompt[-1][1].strip())
