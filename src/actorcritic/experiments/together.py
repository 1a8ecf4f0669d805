"""Variants trained together: those that differ in floats only are one program."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from actorcritic.core.errors import UserError
from actorcritic.core.types import Environment
from actorcritic.core.waiting import wait_for
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.experiments.tasks import train_on_cluster
from actorcritic.experiments.variants import Task
from actorcritic.runs import checkpoints, configuration
from actorcritic.runs.console import TrainingDisplay
from actorcritic.runs.interruption import Interruption, interruptible
from actorcritic.runs.run import Run, restore_results
from actorcritic.runs.training import Training


class Stopped(KeyboardInterrupt):
    """An experiment was stopped before its end; the text says how to go on."""


def train_all(runs: Mapping[str, Run], task: Task, title: str, remarks: Iterable[str] = ()) -> None:
    """Train what the runs' folders do not hold yet; remarks are said before.

    Runs that differ in floats only are one program, and different programs are compiled beside
    each other. Raises Stopped at Ctrl-C, when everything is saved.
    """
    missing = [run for run in runs.values() if not _is_finished(run, task)]
    groups: dict[Any, list[Run]] = {}
    for run in missing:
        # The host runner steps one algorithm's environments at a time.
        alone = run.variant if isinstance(task.environment, HostEnvironment) else ""
        groups.setdefault((jax.tree.structure(run.algorithm), alone), []).append(run)
    if missing:
        total = sum(run.total_steps * len(run.seeds) for run in missing)
        with (
            TrainingDisplay(title, total, task.settings.quiet, missing[0].step_unit) as display,
            interruptible() as interruption,
            _pool() as pool,
        ):
            display.say(_opening(runs, missing, title))
            for remark in dict.fromkeys([*remarks, *_notes(missing)]):
                display.say(remark)
            with contextlib.suppress(KeyboardInterrupt):  # while compiling: nothing is lost
                if task.settings.cluster is None:
                    _train_groups(list(groups.values()), task, display, interruption, pool)
                else:
                    train_on_cluster(list(groups.values()), task, display, interruption)
                    missing = [run for run in missing if not _is_finished(run, task)]
            if interruption.signal == signal.SIGTERM:
                display.say("SIGTERM came. What was trained is saved; repeat the call to go on.")
    if not all(run.finished for run in runs.values()):
        kept = any(run.out is not None for run in missing)
        raise Stopped("stopped and saved." if kept else "stopped; nothing was kept.")


@contextlib.contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for compiling; nobody waits for them at the end."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _train_groups(
    groups: list[list[Run]],
    task: Task,
    display: TrainingDisplay,
    interruption: Interruption,
    pool: ThreadPoolExecutor,
) -> None:

    def begin(runs: list[Run]) -> Training:
        training = Training(runs, task.settings, tensorboard=False)
        training.session.compile()
        return training

    # On the host, compiling opens the environments: not before it is their turn.
    early = isinstance(task.environment, Environment)
    waiting = [pool.submit(begin, runs) for runs in groups] if early else []
    for k, runs in enumerate(groups):
        if interruption():
            break
        names = ", ".join(run.variant for run in runs[:3]) + (" …" if len(runs) > 3 else "")
        display.now(names)
        if early:
            with interruption.beginning():
                training = wait_for(waiting[k])
        else:
            training = begin(runs)
        try:
            training.go(display, interruption)
        finally:
            training.close()


def _opening(runs: Mapping[str, Run], missing: Sequence[Run], title: str) -> str:
    """What is about to be trained, in one line."""
    first = missing[0]
    there = f", {len(runs) - len(missing)} of them there already" * (len(runs) > len(missing))
    return (
        f"{title}: {len(runs)} variant{'s' * (len(runs) > 1)}{there}; {len(first.seeds):,} "
        f"seed{'s' * (len(first.seeds) > 1)} each, {first.total_steps:,} {first.step_unit}"
    )


def _notes(runs: Sequence[Run]) -> Iterator[str]:
    said: dict[str, str] = {}
    for run in runs:
        for note in run.algorithm.notes(run.spec):
            said.setdefault(note, run.variant)
    for note, label in said.items():
        yield f"Note: {label}: {note}"


def _what(described: Mapping[str, Any], name: str) -> Any:
    """A part of run.json; of a data set what is in it, not where it is."""
    part = described.get(name)
    return part["sha256"] if name == "data" and part is not None else part


def _is_finished(run: Run, task: Task) -> bool:
    """Whether the run's folder has it whole already; if so, it is read."""
    if run.out is None or not (run.out / "run.json").exists():
        return False
    stored = configuration.read(run.out)
    run.spread = stored.get("spread")
    wanted = json.loads(json.dumps(run.configuration()))
    for name in ("algorithm", "environment", "seeds", "total_steps", "data"):
        if not configuration.same(_what(stored, name), _what(wanted, name)):
            raise UserError(
                f"{run.out} holds a run with another {name} than is asked for now. Choose another "
                "folder, or repeat the experiment as it was."
            )
    if checkpoints.newest(run.out / "checkpoints") is None:
        return False
    restore_results(run)
    evaluated = run.final_evaluation is not None or not run.trained_seeds
    return run.finished and (evaluated or not task.settings.evaluation_episodes)
