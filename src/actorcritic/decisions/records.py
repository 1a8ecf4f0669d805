"""Decisions as lines of JSON: written from a log, and read from anywhere into one.

A line has `action`, `probability` and `context` (a text or an object) or `vector`; `actions`, those
that were allowed; `reward` or `success`, where it is known; `time`, in seconds since 1970. Other
keys are not read.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.decisions import features
from actorcritic.decisions.agent import MOST_ACTIONS, reward_of
from actorcritic.decisions.evaluation import Logged
from actorcritic.decisions.log import Log, Row, numbers_of

LONGEST_LINE = 2_000_000  # bytes
MOST_LINES = 10_000_000
AT_ONCE = 1_000  # rows of a transaction


class Record(NamedTuple):
    """A decision that was made elsewhere, checked."""

    context: str | None  # JSON
    vector: Any
    actions: tuple[str, ...] | None
    action: str
    probability: float
    reward: float | None
    time: float


def export(log: Log, path: Path) -> Path:
    """Every decision of a log as a line of JSON; the file appears whole or not at all."""
    import secrets

    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.saving")
    files.refuse_link(path)
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            for row in log.export():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        files.remove(temporary)
        raise UserError(f"Could not write {path}: {files.reason(error)}.") from error
    return path


def read(path: Path, tell: Callable[[int], None] = lambda line: None) -> Iterator[Record]:
    """The records of a file, line by line. UserError names the first line that is none."""
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind):
            raise UserError(f"{path} is no regular file.")
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"Could not read {path}: {files.reason(error)}.") from error
    with file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE or number > MOST_LINES:
                raise UserError(
                    f"{path} has a line of more than {LONGEST_LINE:,} bytes, or more than "
                    f"{MOST_LINES:,} lines."
                )
            if line.strip():
                try:
                    yield _record(json.loads(line, parse_constant=_refuse))
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}, line {number}, is no JSON: {error}.") from None
                except UserError as error:
                    raise UserError(f"{path}, line {number}: {error}") from None
            tell(number)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _record(row: Any) -> Record:
    if not isinstance(row, dict):
        raise UserError(f"Expected an object, got {type(row).__name__}.")
    for name in ("action", "probability"):
        if name not in row:
            raise UserError(f"'{name}' is missing. A record has action, probability and context.")
    probability, action = row["probability"], row["action"]
    number = isinstance(probability, int | float) and not isinstance(probability, bool)
    if not number or not 0 < probability <= 1:
        raise UserError(
            f"probability is that of the action by the policy that acted, above 0 and up to 1; got "
            f"{probability!r}. Without it nothing can be evaluated."
        )
    actions = row.get("actions")
    if actions is not None and (
        not isinstance(actions, list) or not all(isinstance(a, str) for a in actions)
    ):
        raise UserError("actions is a list of names: those that were allowed.")
    if not isinstance(action, str) or (actions is not None and action not in actions):
        raise UserError(f"action is a name, one of those allowed; got {action!r}.")
    reward = None
    if row.get("reward") is not None or row.get("success") is not None:
        reward = reward_of(row.get("success"), row.get("reward"))
    when = row.get("time", 0.0)
    if isinstance(when, bool) or not isinstance(when, int | float) or not abs(when) < 1e15:
        raise UserError(f"time is a number of seconds; got {when!r}.")
    context, vector = row.get("context"), row.get("vector")
    if context is None and vector is None:
        raise UserError("A record has a context (a text or an object) or a vector (numbers).")
    text = None
    if context is not None:
        if not isinstance(context, str | dict):
            raise UserError("context is a text or an object; numbers are a vector.")
        text, _ = features.check(context, 1)
    if vector is not None:
        size = len(vector) if isinstance(vector, list) else 1
        vector = features.vector(vector, max(size, 1)).tobytes()
    kept = None if actions is None else tuple(dict.fromkeys(actions))
    return Record(text, vector, kept, action, float(probability), reward, float(when))


def write(log: Log, records: list[Record], size: int) -> None:
    """Put records into a log. Those without `actions` were free to choose any that occurs."""
    every = list(
        dict.fromkeys(
            name for record in records for name in (*(record.actions or ()), record.action)
        )
    )
    if len(every) > MOST_ACTIONS:
        raise UserError(f"The records name {len(every):,} actions; a log has {MOST_ACTIONS:,}.")
    for record in records:
        if record.vector is not None and len(record.vector) != 4 * size:
            raise UserError(
                f"A record has a vector of {len(record.vector) // 4} numbers, others of {size}."
            )
    numbers = {name: i for i, name in enumerate(every)}
    log.set_actions(every, True)
    for first in range(0, len(records), AT_ONCE):
        part = records[first : first + AT_ONCE]
        with log.transaction():
            ids = log.add_decisions([_row(record, numbers) for record in part], times_of(part))
            known = [(id, r) for id, r in zip(ids, part, strict=True) if r.reward is not None]
            log.add_feedback(
                [(id, r.reward) for id, r in known if r.reward is not None],
                times_of([r for _, r in known]),
            )


def times_of(records: list[Record]) -> list[float]:
    return [record.time for record in records]


def _row(record: Record, numbers: dict[str, int]) -> Row:
    allowed = sorted(numbers[name] for name in record.actions or numbers)
    text = ",".join(map(str, allowed))
    action = numbers[record.action]
    return Row(record.context, record.vector, text, action, record.probability, None, -1)


def as_arrays(log: Log, size: int, after: int, until: int) -> tuple[Logged, np.ndarray]:
    """The outcomes of a log as arrays; and where vectors were given. Features are not scaled."""
    outcomes = log.outcomes(after, until)
    count, n = len(log.actions()), len(outcomes)
    x, allowed = np.zeros((n, size), np.float32), np.zeros((n, count), bool)
    for i, outcome in enumerate(outcomes):
        x[i] = features.numbers_of(outcome.context, outcome.vector, size)
        allowed[i, numbers_of(outcome.allowed)] = True
    logged = Logged(
        x,
        allowed,
        np.array([o.action for o in outcomes], np.int64),
        np.array([o.probability for o in outcomes]),
        np.array([o.reward for o in outcomes]),
    )
    return logged, np.array([o.vector is not None for o in outcomes], bool)
