"""The log of decisions and their outcomes: one SQLite file, and the only truth.

Everything that is acknowledged is in it: a call returns after its transaction was committed. The
file is in WAL mode, so that several processes read and write it at once. With `synchronous`
"normal" a commit survives the end of its process by any signal (the operating system has the
bytes); a power failure may cost the last commits, but never harms the file. "full" waits for the
disk at every commit. Rows are only ever added; docs/decisions.md has the schema.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from actorcritic.core import files
from actorcritic.core.errors import UserError

Synchronous = Literal["normal", "full"]

APPLICATION = 0x41434443  # "ACDC" in the header: no other program's database is taken for a log
SCHEMA = 1
PATIENCE = 30.0  # seconds to wait for another process that writes
TOKEN = 8  # bytes that nobody guesses, in the id of a decision
KEPT_SNAPSHOTS = 2  # of each version that makes them
PAGES = 4000  # of 4 KiB in the WAL, before SQLite copies them into the file

TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE actions (
    number  INTEGER PRIMARY KEY,      -- from 0; never given to another name
    name    TEXT NOT NULL UNIQUE,
    active  INTEGER NOT NULL          -- 0: removed, and may be added again
);
CREATE TABLE decisions (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    token       TEXT NOT NULL,        -- the id of a decision is number-token
    time        REAL NOT NULL,        -- seconds since 1970
    context     TEXT,                 -- JSON: a text or an object; NULL where only numbers came
    vector      BLOB,                 -- float32, little-endian, where numbers came
    allowed     TEXT NOT NULL,        -- numbers of the actions it could choose from, as 0,1,3
    action      INTEGER NOT NULL REFERENCES actions,
    probability REAL NOT NULL,        -- of that action, by the policy that acted
    predicted   REAL,                 -- the critic's reward of it, before it was known
    learned     INTEGER NOT NULL      -- outcomes the policy had learned from; -1: imported
);
CREATE TABLE feedback (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,   -- the order in which is learned
    decision INTEGER NOT NULL UNIQUE REFERENCES decisions,
    time     REAL NOT NULL,
    reward   REAL NOT NULL
);
CREATE TABLE snapshots (              -- a cache: what is rebuilt from the rows above
    made_by TEXT NOT NULL,            -- versions; another version rebuilds
    learned INTEGER NOT NULL,         -- outcomes
    state   BLOB NOT NULL,            -- safetensors
    PRIMARY KEY (made_by, learned)
);
"""


class Row(NamedTuple):
    """A decision as it is written."""

    context: str | None
    vector: bytes | None
    allowed: str
    action: int
    probability: float
    predicted: float | None
    learned: int


class Outcome(NamedTuple):
    """A decision whose reward is known, as it is learned from."""

    number: int  # of the feedback
    decision: int
    context: str | None
    vector: bytes | None
    allowed: str
    action: int
    probability: float
    reward: float


class Feedback(NamedTuple):
    """What became of one piece of feedback."""

    id: str
    status: Literal["recorded", "repeated", "unknown", "contradicted"]
    reward: float  # the one that stands


class Log:
    """One connection to the file. Threads may share it; each process opens its own."""

    def __init__(self, path: str | Path, *, synchronous: Synchronous = "normal") -> None:
        if synchronous not in ("normal", "full"):
            raise UserError(f"synchronous is 'normal' or 'full', not {synchronous!r}.")
        self.path = _checked(Path(path))
        self._lock, self._closed = threading.RLock(), False
        try:
            self._connection = sqlite3.connect(
                self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise UserError(f"Could not open the log {path}: {error}.") from error
        try:
            self._prepare(synchronous)
        except sqlite3.Error as error:
            self._connection.close()
            raise UserError(
                f"{path} could not be opened as a log of decisions: {error}. Give the path of a "
                "log, or of a file that is not there yet."
            ) from error
        except UserError:
            self._connection.close()
            raise

    def _prepare(self, synchronous: Synchronous) -> None:
        run = self._connection.execute
        application, version = (
            run(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        empty = not run("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not empty and application != APPLICATION:
            raise UserError(
                f"{self.path} is a database of another program. Give the path of a log, or of a "
                "file that is not there yet."
            )
        if version > SCHEMA:
            raise UserError(
                f"{self.path} was written by a newer version of actorcritic (schema {version}; "
                f"this one knows {SCHEMA}). Update the library."
            )
        run("PRAGMA trusted_schema = OFF")
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {synchronous.upper()}")
        run(f"PRAGMA wal_autocheckpoint = {PAGES}")
        run("PRAGMA foreign_keys = ON")
        if empty:
            with self.transaction():  # another process may be doing the same
                if not run("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    for statement in TABLES.strip().split(";\n"):
                        run(statement)
                    run(f"PRAGMA application_id = {APPLICATION}")
                    run(f"PRAGMA user_version = {SCHEMA}")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise UserError(f"The log {self.path} is closed; open it again.")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; acknowledged once it is left. Only one process writes at a time."""
        with self._lock:
            self._check_open()
            if self._connection.in_transaction:  # part of a larger one
                yield
                return
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                raise UserError(
                    f"The log {self.path} cannot be written: {error}. Another process may have "
                    "held it for too long, or the file is read-only."
                ) from error
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise UserError(
                        f"The log {self.path} could not be written: {error}. Nothing of this call "
                        "was kept; free some space and try again."
                    ) from error
                raise

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            self._check_open()
            return self._connection.execute(query, values).fetchall()

    # ------------------------------------------------------------------ settings and actions

    def settings(self) -> dict[str, Any]:
        found = self.read("SELECT name, value FROM settings")
        return {name: json.loads(value) for name, value in found}

    def save_settings(self, settings: dict[str, Any]) -> None:
        with self.transaction():
            self._connection.executemany(
                "INSERT INTO settings VALUES (?, ?)",
                [(name, json.dumps(value)) for name, value in settings.items()],
            )

    def actions(self) -> list[tuple[str, bool]]:
        """Name, and whether it may be chosen; an action's number is its place."""
        found = self.read("SELECT name, active FROM actions ORDER BY number")
        return [(name, bool(active)) for name, active in found]

    def set_actions(self, names: Iterable[str], active: bool) -> None:
        """Add actions, take back removed ones, or remove them."""
        with self.transaction():
            for name in names:
                self._connection.execute(
                    "INSERT INTO actions VALUES ((SELECT count(*) FROM actions), ?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET active = excluded.active",
                    (name, int(active)),
                )

    # ------------------------------------------------------------------ decisions and feedback

    def add_decisions(self, rows: Sequence[Row], times: Sequence[float] | None = None) -> list[str]:
        """Write decisions; returns their ids."""
        now, ids = time.time(), []
        with self.transaction():
            for i, row in enumerate(rows):
                token = secrets.token_hex(TOKEN)
                when = now if times is None else times[i]
                cursor = self._connection.execute(
                    "INSERT INTO decisions VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (token, when, *row),
                )
                ids.append(f"{cursor.lastrowid}-{token}")
        return ids

    def add_feedback(
        self, rewards: Sequence[tuple[str, float]], times: Sequence[float] | None = None
    ) -> list[Feedback]:
        """Write rewards of decisions by their ids. The first one of a decision stands."""
        now, found = time.time(), []
        with self.transaction():
            for i, (id, reward) in enumerate(rewards):
                found.append(self._add_feedback(id, reward, now if times is None else times[i]))
        return found

    def _add_feedback(self, id: str, reward: float, when: float) -> Feedback:
        number = self._number(id)
        if number is None:
            return Feedback(id, "unknown", np.nan)
        # Asked first: an insertion that is ignored would use up a number of the order of learning.
        query = "SELECT reward FROM feedback WHERE decision = ?"
        known = self._connection.execute(query, (number,)).fetchone()
        if known is not None:
            return Feedback(id, "repeated" if known[0] == reward else "contradicted", known[0])
        self._connection.execute(
            "INSERT INTO feedback VALUES (NULL, ?, ?, ?)", (number, when, reward)
        )
        return Feedback(id, "recorded", reward)

    def _number(self, id: str) -> int | None:
        """The number of a decision, if there is one of this id."""
        number, _, token = id.partition("-")
        if not (id.isascii() and number.isdigit()) or len(number) > 18:
            return None
        query = "SELECT token FROM decisions WHERE number = ?"
        known = self._connection.execute(query, (int(number),)).fetchone()
        same = known is not None and secrets.compare_digest(known[0].encode(), token.encode())
        return int(number) if same else None

    def counts(self) -> tuple[int, int]:
        """Decisions, and those of them whose reward is known."""
        query = (
            "SELECT (SELECT coalesce(max(number), 0) FROM decisions), "
            "(SELECT coalesce(max(number), 0) FROM feedback)"
        )
        decisions, feedback = self.read(query)[0]
        return decisions, feedback

    def outcomes(self, after: int, until: int) -> list[Outcome]:
        """The outcomes number after + 1 to until, in the order of their feedback."""
        query = (
            "SELECT f.number, f.decision, d.context, d.vector, d.allowed, d.action, "
            "d.probability, f.reward FROM feedback f JOIN decisions d ON d.number = f.decision "
            "WHERE f.number > ? AND f.number <= ? ORDER BY f.number"
        )
        return [Outcome(*row) for row in self.read(query, (after, until))]

    def export(self) -> Iterator[dict[str, Any]]:
        """Every decision as plain JSON, in order; docs/decisions.md names the keys."""
        names, last = [name for name, _ in self.actions()], 0
        query = (
            "SELECT d.number, d.token, d.time, d.context, d.vector, d.allowed, d.action, "
            "d.probability, d.predicted, d.learned, f.reward, f.time FROM decisions d "
            "LEFT JOIN feedback f ON f.decision = d.number WHERE d.number > ? "
            "ORDER BY d.number LIMIT 1000"
        )
        while rows := self.read(query, (last,)):
            for row in rows:
                last = row[0]
                yield _as_json(row, names)

    # ------------------------------------------------------------------ snapshots

    def snapshot(self, made_by: str, most: int) -> tuple[int, bytes] | None:
        """The newest state of a learner that these versions made of at most so many outcomes."""
        query = (
            "SELECT learned, state FROM snapshots WHERE made_by = ? AND learned <= ? "
            "ORDER BY learned DESC LIMIT 1"
        )
        found = self.read(query, (made_by, most))
        return found[0] if found else None

    def save_snapshot(self, learned: int, made_by: str, state: bytes) -> None:
        with self.transaction():
            run = self._connection.execute
            run("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", (made_by, learned, state))
            run(
                "DELETE FROM snapshots WHERE made_by = ? AND learned NOT IN (SELECT learned FROM "
                "snapshots WHERE made_by = ? ORDER BY learned DESC LIMIT ?)",
                (made_by, made_by, KEPT_SNAPSHOTS),
            )


def numbers_of(allowed: str) -> list[int]:
    return [int(text) for text in allowed.split(",")]


def floats(blob: bytes) -> Float[np.ndarray, " n"]:
    return np.frombuffer(blob, "<f4")


def _as_json(row: tuple[Any, ...], names: Sequence[str]) -> dict[str, Any]:
    number, token, when, context, vector, allowed, action, probability = row[:8]
    predicted, learned, reward, told = row[8:]
    found = {
        "id": f"{number}-{token}",
        "time": when,
        "context": None if context is None else json.loads(context),
        "vector": None if vector is None else [float(x) for x in floats(vector)],
        "actions": [names[a] for a in numbers_of(allowed)],
        "action": names[action],
        "probability": probability,
        "predicted": predicted,
        "learned": learned,
        "reward": reward,
        "feedback_time": told,
    }
    return {name: value for name, value in found.items() if value is not None}


def _checked(path: Path) -> Path:
    """The path of a log that is there, or of one to be made."""
    files.refuse_link(path)
    try:
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise UserError(f"There is no folder {path.parent} for the log {path.name}.") from None
        return path
    except OSError as error:
        raise UserError(f"Could not open the log {path}: {files.reason(error)}.") from error
    if not stat.S_ISREG(kind):
        raise UserError(f"{path} is no regular file, and cannot be a log of decisions.")
    return path
