"""Training runs, one alone or many as one program; stopping and resuming them."""

from __future__ import annotations

import importlib.util
import json
import signal
from pathlib import Path
from typing import Any

import jax

from actorcritic.algorithms.presets import DEFAULT_STEPS, preset
from actorcritic.core import files, hyperparameters
from actorcritic.core.errors import UserError
from actorcritic.core.types import Asynchronous
from actorcritic.data.finding import dataset
from actorcritic.runners.host import RESUME_NOTE, HostSession
from actorcritic.runs import checkpoints, configuration, trackers
from actorcritic.runs.console import TrainingDisplay, warn
from actorcritic.runs.folder import folder_of_its_own, is_begun, new_folder
from actorcritic.runs.interruption import interruptible
from actorcritic.runs.off_policy import known_from
from actorcritic.runs.run import CHECKPOINTS, Run, open_run, prepare_jax
from actorcritic.runs.settings import ResumeSettings, TrainSettings
from actorcritic.runs.training import Training


def train(
    algorithm: Any, environment: Any = None, settings: TrainSettings | None = None, **options: Any
) -> Run:
    """Train an algorithm on an environment, or from a data set (`data`), or on both.

    `algorithm` is an object such as `PPO(learning_rate=1e-3)`, or a name ("ppo", or one of your
    own, "module:Class"), which takes the tuned preset of the environment, or else defaults that
    fit it. `environment` is a Gymnasium id, "module:Name", a factory, or a compiled environment or
    its class; without one, a training from a data set is not evaluated. `options` are fields of
    `TrainSettings` (seeds=5, out="runs/x"), and any others are hyperparameters
    (learning_rate=1e-3).

    With `out`, everything is kept in that folder; without it, nothing is written.
    Raises UserError for any mistake in these, before anything is written.
    """
    prepare_jax()
    settings, overrides = TrainSettings.split(settings, options)
    data = None if settings.data is None else dataset(settings.data)
    world = configuration.world_of(environment, settings, data)
    total_steps, why = settings.total_steps, None
    if isinstance(algorithm, str):
        chosen = preset(algorithm, world.spec, total_steps, overrides)
        algorithm, why = chosen.algorithm, chosen.why
        total_steps = chosen.total_steps if total_steps is None else total_steps
    if overrides:
        algorithm = hyperparameters.replace(algorithm, **overrides)
    total_steps = DEFAULT_STEPS if total_steps is None else total_steps
    if settings.cluster is not None and isinstance(algorithm, Asynchronous):
        algorithm = algorithm.worker()  # as many workers, as far behind, as the cluster has them
    configuration.check(algorithm, world, total_steps, data)
    _check_evaluations(world, settings)

    if settings.wandb is not None:
        _check_wandb(settings)

    out, looks = settings.folder, settings.looks
    run = Run(algorithm, world, settings.all_seeds, total_steps, out, looks=looks, data=data)
    with new_folder(run.out):
        return _alone(run, settings, why)


def resume(
    run: Run | str | Path,
    settings: ResumeSettings | None = None,
    *,
    algorithm: Any = None,
    environment: Any = None,
    **options: Any,
) -> Run:
    """Go on with a run, to `total_steps` if given: from its newest checkpoint, or in memory.

    `run` is a folder, or what `train` returned. `options` are fields of `ResumeSettings`.
    `algorithm` and `environment` are needed only where they cannot be rebuilt from the folder
    (your own class, network or environment), or where the run shall go on as another: run.json
    then keeps both phases. A class, or "module:Name", gets the run's hyperparameters and options.
    """
    prepare_jax()
    settings = ResumeSettings.of(settings, options)
    if isinstance(run, Run) and run.out is None:
        return _go_on_in_memory(run, settings, algorithm)
    path = run.out if isinstance(run, Run) else configuration.folder(run)
    assert path is not None
    stored = configuration.read(path)  # before a lock is left in a folder that is no run's
    if stored.get("cluster") and settings.cluster is None:
        _check_without_cluster(path, stored)
    with folder_of_its_own(path):
        found = open_run(path, algorithm=algorithm, environment=environment, restore=False)
        if settings.total_steps is not None:
            found.total_steps = settings.total_steps
        found.data = configuration.data_again(stored, path, settings.data)
        configuration.check(found.algorithm, found.environment, found.total_steps, found.data)
        if checkpoints.newest(path / CHECKPOINTS) is not None:
            # What is wrong with it is told when it is read whole.
            _, about = checkpoints.load(path / CHECKPOINTS, (), lambda text: None, partial=True)
            found.stopped = about.get("stopped")
        settings = _as_before(found, settings)
        _check_evaluations(found.environment, settings)
        return _alone(found, settings)


def _check_without_cluster(path: Path, stored: dict[str, Any]) -> None:
    """A run that was trained on a cluster is to go on without: a word, or UserError."""
    if stored["environment"]["host"]:
        warn(
            f"{path} was trained on a cluster, and goes on in this process, with one actor that "
            "is never behind. To go on there: --cluster local, or an address."
        )
        return
    raise UserError(
        f"{path} was trained on a cluster, which keeps no states of compiled environments. Go on "
        "there: --cluster local, or an address."
    )


def _check_evaluations(world: Any, settings: ResumeSettings) -> None:
    """UserError where something is asked for that only an environment could tell."""
    if isinstance(world, configuration.SpacesOnly):
        for name in ("evaluate_every", "stop_at"):
            if getattr(settings, name) is not None:
                raise UserError(
                    f"{name} needs an environment, and none was named. Name it behind the "
                    "algorithm, or leave the setting out."
                )


def _go_on_in_memory(run: Run, settings: ResumeSettings, algorithm: Any) -> Run:
    if run.state is None:
        raise UserError(
            f"{run.name} was not trained here, so that nothing is in memory to go on from. Name "
            "the folder of a run."
        )
    if algorithm is not None:
        raise UserError(
            f"{run.name} is in memory and goes on as it is. To go on with another algorithm, keep "
            "it first: resume(run.save(folder), algorithm=…)."
        )
    if settings.total_steps is not None:
        if settings.total_steps < run.steps:
            raise UserError(
                f"{run.name} has made {run.steps:,} steps already; resuming it to "
                f"{settings.total_steps:,} would not train. Name a larger total_steps."
            )
        run.total_steps = settings.total_steps
    return _alone(run, _as_before(run, settings))


def _as_before(run: Run, settings: ResumeSettings) -> ResumeSettings:
    """The settings with what the run had, where nothing is said of it now; the run keeps both."""
    # A run that reached its goal goes on because more is wanted than that.
    settings = settings.as_before(
        {name: value for name, value in run.looks.items() if name != "stop_at" or not run.stopped}
    )
    run.looks = settings.looks
    return settings


def _check_wandb(settings: TrainSettings) -> None:
    """UserError, before anything is trained, where nothing would be logged."""
    if settings.out is None:
        raise UserError(
            "wandb logs runs that have a folder, and this one is only in memory. Name a folder: "
            "out=…"
        )
    if importlib.util.find_spec("wandb") is None:
        raise UserError(trackers.NO_WANDB)


def _alone(run: Run, settings: ResumeSettings, why: str | None = None) -> Run:
    """Train one run to its end, or to Ctrl-C. `why` says where its hyperparameters come from."""
    resumed = run.state is not None or (run.out is not None and is_begun(run.out))
    total = run.total_steps * len(run.seeds)
    # From here on Ctrl-C saves: also while the program is compiled, before the first step.
    with interruptible() as interruption:
        with TrainingDisplay(run.label, total, settings.quiet, run.step_unit) as display:
            display.say(_opening(run, resumed))
            if why is not None:
                display.say(why)
            for note in run.algorithm.notes(run.spec):
                display.say(f"Note: {note}")
            with interruption.beginning():
                training = Training([run], settings)
            try:
                training.go(display, interruption)
            finally:
                training.close()
            on_host = isinstance(training.session, HostSession)
            if on_host and run.out is not None and (resumed or not run.finished):
                display.say(RESUME_NOTE)
        if isinstance(run.environment, configuration.SpacesOnly):
            _tell_what_is_known(run, display)
        elif run.out is not None:
            run.plot(run.out / "curve.png")
            if interruption() and interruption.signal == signal.SIGTERM:
                warn(f"SIGTERM came. Everything is saved; go on: actorcritic resume {run.command}")
    return run


def _tell_what_is_known(run: Run, display: TrainingDisplay) -> None:
    """Of a finished training from data alone, of its first seed; and keep it in its folder."""
    if not run.finished or run.data is None or not run.trained_seeds:
        return
    at = run.seeds.index(run.trained_seeds[0])
    learner = jax.tree.map(lambda x: x[at], run.learners)
    known = known_from(run.algorithm, learner, run.data)
    if run.out is not None:
        files.write(run.out / "known.json", json.dumps(vars(known), indent=2))
    display.say(f"{known}\n  (of seed {run.trained_seeds[0]})")


def _opening(run: Run, resumed: bool) -> str:
    """What is about to be trained, in one line."""
    seeds = f"{len(run.seeds):,} seed{'s' * (len(run.seeds) > 1)}"
    where = f" → {run.out}" if run.out is not None else ""
    on = " (resumed)" * resumed
    data = f", {run.data.counts} of data" if run.data is not None else ""
    return f"{run.label}: {seeds}, {run.total_steps:,} {run.step_unit}{data}{where}{on}"
