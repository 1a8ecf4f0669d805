"""Groups of runs as tasks of a cluster; the run folders come back as a whole.

A task trains in a folder of its own, wherever it is, and returns what is in it. One whose machine
is lost is begun again elsewhere. A run folder that was begun before goes along, and goes on there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import jax

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.types import Environment
from actorcritic.data.dataset import Dataset
from actorcritic.experiments.variants import Task
from actorcritic.runners.cluster import Cluster, Lost, tell
from actorcritic.runners.session import EpisodeTable, MetricTable, Report
from actorcritic.runs.console import TrainingDisplay
from actorcritic.runs.interruption import Interruption
from actorcritic.runs.run import Run, prepare_jax
from actorcritic.runs.training import Training

NO_METRICS, NO_EPISODES = MetricTable.join([]), EpisodeTable.join([])
LOOK = 0.5  # seconds between two looks at how far the tasks are
RUN, COMING, GONE = "run", ".coming", ".gone"

Folder = dict[str, bytes]  # what is in a folder, by relative path


class Board:
    """How many steps each task has made; a worker that the tasks tell."""

    def __init__(self) -> None:
        self._made: dict[int, int] = {}

    def write(self, task: int, steps: int) -> None:
        self._made[task] = steps

    def read(self) -> dict[int, int]:
        return self._made


class Told(TrainingDisplay):
    """Shows nothing where the task is; the board is told how far it is."""

    def __init__(self, board: Any, task: int) -> None:
        super().__init__("", 0, quiet=True)
        self._board, self._number = board, task

    def advance(self, steps: int, report: Report | None = None) -> None:
        super().advance(steps, report)
        tell(self._board, "write", self._number, self._done)


def train_on_cluster(
    groups: Sequence[list[Run]], task: Task, display: TrainingDisplay, interruption: Interruption
) -> None:
    """Train each group of runs as a task of the cluster that the settings name.

    On an interruption what was finished is kept. Raises UserError where a task cannot be done.
    """
    settings = task.settings
    assert settings.cluster is not None
    if any(run.out is None for runs in groups for run in runs):
        raise UserError(
            "An experiment on a cluster needs a folder, in which the runs come back: out=…"
        )
    cluster = Cluster(settings.cluster)
    try:
        # As on a machine of so many cores: the bits of a spread batch depend on their number.
        machine = cluster.cpus_of_node
        compiled = isinstance(task.environment, Environment)

        def cores(runs: Sequence[Run]) -> int:
            entries = sum(len(run.seeds) for run in runs)
            if not compiled:
                return 1
            return machine if entries == 1 else min(entries, machine)

        data = None if task.data is None else cluster.put(task.data)
        board = cluster.worker(Board, reserve=False, lasting=True)
        there = dataclasses.replace(settings, cluster=None, workers=None, quiet=True)
        groups = divided(groups, lambda found: sum(map(cores, found)) < cluster.cpus)
        waiting = list(enumerate(groups))
        calls: dict[Any, list[Run]] = {}
        steps: dict[int, int] = {}
        made, since = 0, time.monotonic()
        while (waiting or calls) and not interruption():
            while waiting and len(calls) < (settings.workers or len(groups)):
                number, runs = waiting.pop(0)
                given = [(_plain(run), packed(run.out)) for run in runs]
                place = board, number
                words = given, there, machine, place, data
                call = cluster.task(_trained, *words, cpus=cores(runs))
                calls[call] = runs
            for call in cluster.ready(calls, LOOK):
                runs = calls.pop(call)
                try:
                    folders = cluster.result(call)
                except Lost as error:
                    raise UserError(
                        f"The task of {', '.join(run.variant for run in runs)} was lost again and "
                        f"again ({error}). Look for a lack of memory. What is finished is kept; "
                        "repeat the command to go on."
                    ) from error
                for run, folder in zip(runs, folders, strict=True):
                    assert run.out is not None
                    unpack(folder, run.out)
            with contextlib.suppress(Lost):  # its machine left; the next board is told anew
                steps |= cluster.result(cluster.call(board, "read"))
            done, now = max(made, sum(steps.values())), time.monotonic()
            display.advance(done - made, Report(NO_METRICS, NO_EPISODES, now - since))
            made, since = done, now
            left = len(calls) + len(waiting)
            display.now(f"{left} task{'s' * (left > 1)} of {len(groups)}")
        cluster.cancel(calls)
    finally:
        cluster.close()


def divided(groups: Sequence[list[Run]], wanted: Callable[[list[list[Run]]], bool]) -> Any:
    """The groups, the largest of them halved again and again while more tasks are wanted.

    A run's bits do not depend on which others it is trained beside.
    """
    found = [list(runs) for runs in groups]
    while wanted(found) and max(map(len, found)) > 1:
        found.sort(key=len)
        largest = found.pop()
        half = len(largest) // 2
        found += [largest[:half], largest[half:]]
    return found


def _plain(run: Run) -> Run:
    """What a run is before it is trained, without a place and without its data set."""
    return Run(
        run.algorithm, run.environment, run.seeds, run.total_steps, None,
        spread=run.spread, variant=run.variant,
    )  # fmt: skip


def _trained(
    given: Sequence[tuple[Run, Folder]],
    settings: Any,
    machine: int,
    place: tuple[Any, int],
    data: Dataset | None,
) -> list[Folder]:
    """Train runs where this is called, and return their folders."""
    if jax.config.jax_num_cpu_devices != machine:  # type: ignore[attr-defined]
        jax.config.update("jax_num_cpu_devices", machine)
    jax.devices()  # from here on there are so many
    prepare_jax()
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for number, (run, begun) in enumerate(given):
            run.out, run.data = Path(folder) / f"{RUN}-{number}", data
            unpack(begun, run.out)
            runs.append(run)
        training = Training(runs, settings, tensorboard=False)
        try:
            training.session.compile()
            training.go(Told(*place), Interruption())
        finally:
            training.close()
        return [packed(run.out) for run in runs]


def packed(folder: Path | None) -> Folder:
    """All files of a folder, and of those in it. Links are left out."""
    if folder is None or not folder.is_dir():
        return {}
    found = (path for path in sorted(folder.rglob("*")) if not path.is_symlink())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in found
        if path.is_file() and path.name != "run.lock"
    }


def unpack(content: Folder, out: Path) -> None:
    """Make a folder that holds this and nothing else, in one step."""
    if not content:
        return
    coming = out.with_name(f".{out.name}.{secrets.token_hex(8)}{COMING}")
    files.make_folder(coming)
    for name, data in content.items():
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise UserError(f"A task returned the file '{name}', which is not inside its folder.")
        files.make_folder((coming / relative).parent)
        files.write(coming / relative, data)
    files.refuse_link(out)
    if out.exists():
        gone = out.with_name(f".{out.name}.{secrets.token_hex(8)}{GONE}")
        out.rename(gone)
        coming.rename(out)
        files.remove(gone)
    else:
        coming.rename(out)
