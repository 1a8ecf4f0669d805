"""Prompts, preferences and questions from JSONL files: read, checked, counted.

A line that is not what it should be is a mistake of the file: a UserError says which line and what
was expected, and nothing is trained. A row that is well formed and says nothing (both answers are
the same, an answer is empty, a row comes twice) is left out, counted, and reported. Nothing is
dropped in silence.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from actorcritic.core.errors import UserError
from actorcritic.core.words import listed
from actorcritic.language.data import Source, examples, read_lines
from actorcritic.language.dpo_on_pairs import Answers
from actorcritic.language.generation import rounded
from actorcritic.language.tokens import Tokenizer, pad

MOST_BYTES = 4 << 30  # of a file
LONGEST = 2**30  # tokens: nothing is cut where it is not said

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
    repeated: int = 0  # rows that came before; they are kept, and count again

    @property
    def reasons(self) -> str:
        return listed([f"{count:,} {reason}" for reason, count in self.left_out.items()])

    def said(self, what: str) -> list[str]:
        """What somebody should know of these rows, in sentences."""
        said = []
        if self.left_out:
            said.append(
                f"Of the {what}, some are left out: {self.reasons}. {len(self.rows):,} remain."
            )
        if self.repeated:
            said.append(f"{self.repeated:,} of the {what} came before, and count again.")
        return said


# ------------------------------------------------------------------------------------ what to call


def read_prompts(source: Source) -> Checked[Prompt]:
    """Lines {"prompt": …}: a text, or a list of messages {"role", "content"}."""
    return _checked(source, _prompt_row, _prompt_problem)


def read_pairs(source: Source) -> Checked[Pair]:
    """Lines {"prompt", "chosen", "rejected"}.

    Each is a text or a list of messages {"role", "content"}. Where chosen and rejected are whole
    conversations, `prompt` may be left out: it is what they share.
    """
    return _checked(source, _pair_row, _pair_problem)


def read_questions(source: Source) -> Checked[Question]:
    """Questions in a published form: sycophancy-eval's `answer.jsonl`, or a shorter one.

    {"prompt": [{"type": "human", "content"}], "base": {"question", "correct_answer",
    "incorrect_answer", "answer": [aliases]}, "metadata": {"prompt_template"}} (Sharma et al. 2023),
    whose template says what the user claims; or {"prompt", "correct_answer", "incorrect_answer",
    "claims": "false" | "true" | "nothing"} (left out: "false").
    """
    return _checked(source, _question_row, _question_problem)


def split(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Training and evaluation: a share of the prompts, one at least, with all of their rows."""
    prompts = list(dict.fromkeys(map(_prompt_of, rows)))
    if share <= 0 or len(prompts) < 2:
        return list(rows), []
    order = np.random.default_rng([seed, 2]).permutation(len(prompts))
    count = min(max(1, round(share * len(prompts))), len(prompts) - 1)
    apart = {prompts[i] for i in order[:count]}
    return (
        [row for row in rows if _prompt_of(row) not in apart],
        [row for row in rows if _prompt_of(row) in apart],
    )


def without(rows: Checked[Row], others: Iterable[Row], what: str) -> Checked[Row]:
    """The rows whose prompt none of the others has: what was trained on is no evaluation."""
    taken = {_prompt_of(other) for other in others}
    kept = [row for row in rows.rows if _prompt_of(row) not in taken]
    left_out = rows.left_out.copy()
    if len(kept) < len(rows.rows):
        left_out[f"also in {what}"] += len(rows.rows) - len(kept)
    return Checked(kept, left_out, rows.repeated)


def _prompt_of(row: Any) -> Prompt:
    prompt: Prompt = row.prompt if isinstance(row, Pair | Question) else row
    return prompt


def _checked(
    source: Source,
    row_of: Callable[[Mapping[str, Any]], Row],
    problem_of: Callable[[Row], str | None],
) -> Checked[Row]:
    if isinstance(source, str | Path) and Path(source).is_file():
        size = Path(source).stat().st_size
        if size > MOST_BYTES:
            raise UserError(
                f"{source} has {size / 2**30:.1f} GiB; a data set is held in memory, and more than "
                f"{MOST_BYTES >> 30} GiB are refused. Split it."
            )
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    seen: set[bytes] = set()
    repeated = 0
    for where, value in read_lines(source):
        try:
            if not isinstance(value, Mapping):
                raise _Malformed(f"expected a JSON object, as {{…}}; got {type(value).__name__}")
            row = row_of(value)
        except _Malformed as error:
            raise UserError(f"{where}: {error}.") from None
        problem = problem_of(row)
        if problem is not None:
            left_out[problem] += 1
            continue
        digest = hashlib.sha256(repr(row).encode()).digest()
        repeated += digest in seen
        seen.add(digest)
        rows.append(row)
    found = Checked(rows, left_out, repeated)
    if not rows:
        what = source if isinstance(source, str | Path) else "The data"
        why = f": {found.reasons}" if left_out else "; it is empty"
        raise UserError(f"{what} has no row to learn from{why}.")
    return found


# ------------------------------------------------------------------------------------ tokens


class Answered(NamedTuple):
    """A prompt and an answer to it, as tokens."""

    prompt: list[int]
    answer: list[int]


def answered(rows: Sequence[tuple[Prompt, str]], tokenizer: Tokenizer) -> list[Answered]:
    """Prompts with their answers, which end with the token that ends an answer."""
    found, _ = examples(
        [{"prompt": as_messages(prompt), "response": answer} for prompt, answer in rows],
        tokenizer,
        LONGEST,
    )
    assert len(found) == len(rows)  # empty answers were left out before
    starts = [int(np.argmax(example.learned)) for example in found]
    return [
        Answered(example.tokens[:start].tolist(), example.tokens[start:].tolist())
        for example, start in zip(found, starts, strict=True)
    ]


def encode_pairs(
    pairs: Checked[Pair], tokenizer: Tokenizer, max_length: int
) -> tuple[list[tuple[Answered, Answered]], Checked[Pair]]:
    """The pairs as tokens, and those that are left.

    A prompt that is too long loses its beginning, the same of both sides; an answer is never cut.
    """
    rows = pairs.rows
    both = answered(
        [(pair.prompt, answer) for pair in rows for answer in (pair.chosen, pair.rejected)],
        tokenizer,
    )
    found: list[tuple[Answered, Answered]] = []
    kept, left_out = list[Pair](), pairs.left_out.copy()
    for pair, chosen, rejected in zip(rows, both[::2], both[1::2], strict=True):
        room = max_length - max(len(chosen.answer), len(rejected.answer))
        if room < 1:
            left_out[f"with an answer that does not fit into {max_length} tokens"] += 1
        elif chosen.answer == rejected.answer:
            left_out["whose answers are the same tokens"] += 1
        else:
            prompt = chosen.prompt[-room:]
            found.append((chosen._replace(prompt=prompt), rejected._replace(prompt=prompt)))
            kept.append(pair)
    if not found:
        raise UserError(f"No pair is left to learn from: {Checked(kept, left_out).reasons}.")
    return found, Checked(kept, left_out, pairs.repeated)


def arrays(rows: Sequence[Answered], fill: int) -> Answers:
    """Prompts padded on the left and answers on the right, to lengths of which there are few."""
    prompts, answers = ([row[i] for row in rows] for i in (0, 1))
    left = pad(prompts, fill, side="left", length=rounded(max(map(len, prompts))))
    right = pad(answers, fill, side="right", length=rounded(max(map(len, answers))))
    return Answers(left.tokens, left.valid, right.tokens, right.valid)  # type: ignore[arg-type]


def as_messages(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as the tokenizer and reward functions take it."""
    if isinstance(prompt, str):
        return prompt
    return [{"role": role, "content": content} for role, content in prompt]


# ------------------------------------------------------------------------------------ rows


class _Malformed(Exception):
    """What a row lacks, to be said with its line."""


def _prompt_row(data: Mapping[str, Any]) -> Prompt:
    return _prompt(_key(data, "prompt"), "prompt")


def _prompt_problem(prompt: Prompt) -> str | None:
    return None if _has_text(prompt) else "with an empty prompt"


def _pair_row(data: Mapping[str, Any]) -> Pair:
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


def _question_row(data: Mapping[str, Any]) -> Question:
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


def _key(data: Mapping[str, Any], name: str) -> Any:
    if name not in data:
        known = ", ".join(sorted(data)) or "none"
        raise _Malformed(f"there is no key '{name}'; the line has: {known[:200]}")
    return data[name]


def _text(data: Mapping[str, Any], name: str) -> str:
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
