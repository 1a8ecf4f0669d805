"""Where the numbers of a training go: CSV files, TensorBoard, Weights & Biases.

Each sink has `write(report)`, called after every stretch of training, and `close()`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.words import printable
from actorcritic.runners.session import EpisodeTable, Logged, MetricTable, Report, is_episodic

METRICS, EPISODES = "metrics.csv", "episodes.csv"
EVALUATIONS, LOGGED = "evaluations.csv", "logged.csv"  # only where there is something for them
SPEED = "speed.csv"  # what depends on the clock: nothing else in the tables does
NO_WANDB = 'Weights & Biases is not installed. Run: pip install "actorcritic[wandb]"'
TABLES = (METRICS, EPISODES, EVALUATIONS, LOGGED)
MOST_WRITERS, FLUSH_SECONDS = 64, 5.0  # of TensorBoard
LARGEST = 2**30  # bytes of a table that is read; those of the longest trainings are far smaller


class Sink(Protocol):
    """A place where the numbers of a training go."""

    def write(self, report: Report) -> None: ...

    def close(self) -> None: ...


# ---------------------------------------------------------------------------- CSV


class CsvWriter:
    """Appends updates to `metrics.csv`, finished episodes to `episodes.csv`, rates to `speed.csv`.

    Nothing is held back: what `write` was given is in the files when it returns. Metrics are
    kept to float32's precision, returns to float64's. Which rows there are in long trainings is
    for `session.Thinned` to say.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self._time = 0.0, 0  # seconds and steps since the latest row of speed

    def write(self, report: Report) -> None:
        updates, episodes = report.metrics, report.episodes
        values = updates.values
        _append(
            self._folder / METRICS,
            ("seed", "update", "step", *updates.names),
            "%d,%d,%d" + ",%.9g" * len(updates.names) + "\n",
            [updates.seed, updates.update, updates.step, *values.astype(np.float32).T],
        )
        _append(
            self._folder / EPISODES,
            ("seed", "step", "return", "length"),
            "%d,%d,%r,%d\n",
            [episodes.seed, episodes.step, episodes.returns.astype(float), episodes.length],
        )
        if report.evaluations is not None:
            table = report.evaluations
            _append(
                self._folder / EVALUATIONS,
                ("seed", "step", "return", "length"),
                "%d,%d,%r,%d\n",
                [table.seed, table.step, table.returns.astype(float), table.length],
            )
        if report.logged:
            rows = [np.array(column, object) for column in zip(*report.logged, strict=True)]
            rows[2] = np.array([_quoted(name) for name in rows[2]], object)
            _append(self._folder / LOGGED, ("seed", "step", "name", "value"), "%d,%d,%s,%r\n", rows)
        seconds, gained = self._time[0] + report.seconds, self._time[1] + report.gained
        self._time = seconds, gained
        if len(updates.step) and seconds:
            row = [[updates.step.max()], [seconds], [gained / seconds]]
            _append(self._folder / SPEED, _SPEED, "%d,%.6g,%.6g\n", [np.array(x) for x in row])
            self._time = 0.0, 0

    def close(self) -> None:
        """Nothing is open between writes."""


def settle(folder: Path) -> None:
    """Put each table in order: one seed after the other, the rows of each as they were written.

    While several seeds are trained, theirs take turns by the clock.
    """
    for name in TABLES:
        path = Path(folder) / name
        if path.exists():
            header, body = _text(path)
            seeds = _parsed(path, body, [header.split(",").index("seed")])[0] if body else []
            if (np.diff(seeds) < 0).any():
                rows = body.splitlines(keepends=True)
                order = np.argsort(seeds, kind="stable").tolist()
                files.write(path, f"{header}\n{''.join(rows[k] for k in order)}")


def sync(folder: Path) -> None:
    """Force the tables to disk: a checkpoint that is written next stands for all their rows."""
    for name in TABLES:
        with contextlib.suppress(FileNotFoundError), files.regular(folder / name) as file:
            os.fsync(file.fileno())


def has_a_line(path: Path) -> bool:
    """Whether a table has a whole line, and not only a piece of its first one."""
    with files.regular(path) as file:
        return b"\n" in file.readline(2**20)


def read_metrics(path: Path) -> MetricTable:
    """Read back what `CsvWriter` wrote; `values` are float32."""
    names, columns = _read(path, "seed", "update", "step")
    seed, update, step = columns[:3].astype(np.int64)
    return MetricTable(seed, update, step, tuple(names[3:]), columns[3:].T.astype(np.float32))


def read_speed(path: Path) -> np.ndarray:
    """Per stretch of training: the step that it came to, its seconds, its steps a second."""
    return _read(path, *_SPEED)[1]


def read_episodes(path: Path) -> EpisodeTable:
    """Read back what `CsvWriter` wrote."""
    _, (seed, step, returns, length) = _read(path, "seed", "step", "return", "length")
    seed, step, length = (column.astype(np.int64) for column in (seed, step, length))
    return EpisodeTable(seed, step, returns, length)


def truncate_after(
    folder: Path, seeds: Sequence[int], updates: Sequence[int], steps: Sequence[int]
) -> None:
    """Drop what a checkpoint does not know of from both files of a folder.

    `updates` and `steps` are what each of `seeds` had made when it was written; rows beyond them,
    and of other seeds, go. A file is replaced as a whole or not at all; a missing one stays so.
    """
    for name in TABLES:
        column, last = ("update", updates) if name == METRICS else ("step", steps)
        path = Path(folder) / name
        if path.exists():
            header, body = _text(path)
            rows = body.splitlines(keepends=True)
            keep = _until(path, header, body, column, dict(zip(seeds, last, strict=True)))
            files.write(path, f"{header}\n{''.join(compress(rows, keep))}")


def _until(path: Path, header: str, body: str, column: str, last: Mapping[int, int]) -> list[bool]:
    """Which rows have a seed of `last`, and in `column` no more than its number there."""
    names = _names(path, header)
    if not {"seed", column} <= set(names):
        raise UserError(
            f"Expected the columns seed and {column} in {path}; got {header or 'none'!r}. Restore "
            "the file from a copy, or remove it."
        )
    if not body:
        return []
    seed, count = _parsed(path, body, [names.index("seed"), names.index(column)])
    keep = np.zeros(len(seed), bool)
    for one, until in last.items():
        keep |= (seed == one) & (count <= until)
    return keep.tolist()


def _quoted(name: str) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([" ".join(name.split())])
    return line.getvalue()


_SPEED = ("step", "seconds", "steps_per_second")
_BLOCK = 8192  # rows formatted at a time


def _append(path: Path, names: Sequence[str], template: str, columns: Sequence[np.ndarray]) -> None:
    """Append rows; the file is made, and a line that a crash cut short removed, as needed."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(names)
    header = line.getvalue().encode()
    try:
        with files.opened(path) as file:
            there = file.readline()
            if not there.endswith(b"\n"):  # a new file, or one cut short at once
                file.seek(0)
                file.truncate()
                file.write(header)
            elif there != header:
                raise UserError(
                    f"{path} has the columns {there.decode(errors='replace').strip()}, and this "
                    f"training reports {header.decode().strip()}. Choose another folder for it."
                )
            _drop_partial_line(file)
            for start in range(0, len(columns[0]), _BLOCK):
                block = [column[start : start + _BLOCK].tolist() for column in columns]
                rows, width = len(block[0]), len(block)
                flat: list[Any] = [None] * (rows * width)
                for i, column in enumerate(block):
                    flat[i::width] = column
                file.write(((template * rows) % tuple(flat)).encode())
    except OSError as error:
        raise UserError(
            f"Could not write {path}: {error.strerror}. Free some space or mend the folder, then "
            "resume."
        ) from error


def _drop_partial_line(file: Any) -> None:
    """Leave the file's position at its end, after its last complete line."""
    end = file.seek(0, io.SEEK_END)
    while end:  # backwards, because these files grow long
        start = max(0, end - 4096)
        file.seek(start)
        complete = file.read(end - start).rfind(b"\n")
        if complete >= 0:
            file.seek(start + complete + 1)
            break
        end = start
    file.truncate()


def _text(path: Path) -> tuple[str, str]:
    """Header and complete rows of a CSV file."""
    if not path.exists():
        raise UserError(
            f"Expected {path}, which a training writes; it is missing. Name the folder of a run."
        )
    text = files.text(path, LARGEST)
    header, _, body = text[: text.rfind("\n") + 1].partition("\n")
    return header, body


def _names(path: Path, header: str) -> list[str]:
    try:
        return next(csv.reader([header]), [])
    except csv.Error as error:
        raise UserError(f"{path} is damaged: {error}. Restore it from a copy.") from error


def _parsed(path: Path, body: str, columns: Sequence[int] | None = None) -> np.ndarray:
    """The numbers of the rows, one array a column."""
    try:
        return np.loadtxt(
            io.StringIO(body), delimiter=",", ndmin=2, usecols=columns, comments=None
        ).T
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}. Remove the line, or restore the file from a copy."
        ) from error


def _read(path: Path, *expected: str) -> tuple[list[str], np.ndarray]:
    path = Path(path)
    header, body = _text(path)
    names = [printable(name) for name in _names(path, header)]
    if tuple(names[: len(expected)]) != expected:
        raise UserError(
            f"Expected the columns {','.join(expected)} in {path}; got {header or 'none'!r}. Name "
            "a file that a training wrote."
        )
    columns = _parsed(path, body) if body else np.zeros((len(names), 0))
    if len(columns) != len(names):
        raise UserError(
            f"{path} is damaged: its rows have {len(columns)} numbers for {len(names)} columns. "
            "Restore it from a copy."
        )
    return names, columns


# ---------------------------------------------------------------------------- TensorBoard, W&B


def _averages(report: Report) -> dict[int, tuple[int, dict[str, float]]]:
    """Per seed: its last step, and the mean of each number over the report.

    One point a report: a stretch of training may hold thousands of updates, and a point costs
    these services about 100 µs.
    """
    metrics, episodes = report.metrics, report.episodes
    points = {}
    for seed in np.unique(np.concatenate([metrics.seed, episodes.seed])).tolist():
        mine, ended = metrics.seed == seed, episodes.seed == seed
        steps = np.concatenate([metrics.step[mine], episodes.step[ended]])
        point: dict[str, float] = {}
        if mine.any():
            for name, column in zip(metrics.names, metrics.values[mine].T, strict=True):
                known = column[np.isfinite(column)] if is_episodic(name) else column
                if len(known):
                    point[name] = float(known.mean(dtype=np.float64))
        # Over episodes, not over updates: in most updates of a small batch no episode ends.
        for name, values in (("return", episodes.returns), ("length", episodes.length)):
            point.pop(name, None)
            if ended.any():
                point[name] = float(values[ended].mean())
        if report.gained:
            point["steps_per_second"] = report.steps_per_second
        points[seed] = (int(steps.max()), point)
    return points


def _others(report: Report) -> list[Logged]:
    """Evaluations and what callbacks logged, as single points."""
    points = list(report.logged)
    if report.evaluations is not None:
        table = report.evaluations
        for seed, step in sorted(set(zip(table.seed.tolist(), table.step.tolist(), strict=True))):
            mine = (table.seed == seed) & (table.step == step)
            mean = float(table.returns[mine].mean())
            points.append(Logged(seed, step, "evaluation/return", mean))
    return points


class TensorBoard:
    """Scalars "train/return", "train/policy_loss" and so on, each seed in a subfolder `seed-0`.

    Of many seeds, only the first `MOST_WRITERS` are shown: each keeps a file open.

    `resume_from` gives the steps of each seed at the checkpoint that a training resumes from:
    TensorBoard then leaves out what had been written beyond it.
    """

    def __init__(self, folder: Path, resume_from: Mapping[int, int] | None = None) -> None:
        self._folder = Path(folder)
        self._resume_from = dict(resume_from or {})
        # Not a SummaryWriter, whose thread tells nobody that the disk is full.
        self._writers: dict[int, Any] = {}
        self._flushed = time.monotonic()

    def write(self, report: Report) -> None:
        for seed, (step, point) in _averages(report).items():
            for name, value in point.items():
                if np.isfinite(value):  # a picture has no place for others; metrics.csv does
                    self._add(seed, f"train/{name}", value, step)
        for one in _others(report):
            self._add(one.seed, one.name, one.value, one.step)
        if time.monotonic() > self._flushed + FLUSH_SECONDS:
            self._flushed = time.monotonic()
            for seed, writer in self._writers.items():
                with self._told(seed):
                    writer.flush()

    def close(self) -> None:
        while self._writers:
            seed, writer = self._writers.popitem()
            with self._told(seed):
                writer.close()

    def _add(self, seed: int, name: str, value: float, step: int) -> None:
        if seed not in self._writers and len(self._writers) >= MOST_WRITERS:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        with self._told(seed):
            event = Event(wall_time=time.time(), step=step, summary=scalar(name, value))
            self._writer(seed).write_event(event)

    def _writer(self, seed: int) -> Any:
        if seed not in self._writers:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog

            folder = self._folder_of(seed)
            files.refuse_link(folder)
            folder.mkdir(parents=True, exist_ok=True)
            # Names count in seconds: a quick restart must not overwrite a file.
            writer = EventsWriter(str(folder / "events"), f".{secrets.token_hex(4)}")
            self._writers[seed] = writer
            if seed in self._resume_from:
                # TensorBoard leaves out the step itself as well, which the checkpoint has.
                started = SessionLog(status=SessionLog.START)
                writer.write_event(Event(step=self._resume_from[seed] + 1, session_log=started))
        return self._writers[seed]

    def _folder_of(self, seed: int) -> Path:
        return self._folder / f"seed-{seed}"

    @contextlib.contextmanager
    def _told(self, seed: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"Could not write TensorBoard's files in {self._folder_of(seed)}: "
                f"{files.reason(error)}. Free some space or mend the folder, then resume."
            ) from error


class WandB:
    """A Weights & Biases run with "seed-0/return", "seed-0/policy_loss" and so on against steps.

    Offline, its files stay in `folder`/wandb (`wandb sync` sends them later).
    """

    def __init__(
        self,
        project: str,
        name: str,
        config: Mapping[str, Any],
        offline: bool = False,
        folder: Path = Path(),
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(NO_WANDB) from error
        try:
            self._run = wandb.init(
                project=project,
                name=name,
                config=dict(config),
                dir=str(folder),
                mode="offline" if offline else "online",
                settings=wandb.Settings(silent=offline),
            )
        except (wandb.Error, OSError) as error:
            raise UserError(
                f"Weights & Biases could not start: {error}. Run `wandb login`, or work offline."
            ) from error
        self._seeds: set[int] = set()

    def write(self, report: Report) -> None:
        for seed, (step, point) in _averages(report).items():
            if seed not in self._seeds:
                self._seeds.add(seed)
                self._run.define_metric(f"seed-{seed}/*", step_metric=f"seed-{seed}/step")
            named = {f"seed-{seed}/{name}": value for name, value in point.items()}
            self._run.log({f"seed-{seed}/step": step, **named})
        for one in _others(report):
            at = f"seed-{one.seed}"
            self._run.log({f"{at}/step": one.step, f"{at}/{one.name}": one.value})

    def close(self) -> None:
        self._run.finish()
