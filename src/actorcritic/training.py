"""Training runs, one alone or many as one program; stopping and resuming them."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import filelock
import jax
import jax.numpy as jnp
import numpy as np

from actorcritic import checkpoints, configuration, hyperparameters, trackers
from actorcritic.algorithms.presets import preset
from actorcritic.console import TrainingDisplay
from actorcritic.diagnosis import Diagnosis
from actorcritic.envs.host import Autoreset
from actorcritic.runners.host import RESUME_NOTE, HostSession
from actorcritic.runners.seeds import CompiledSession
from actorcritic.runners.session import EpisodeTable, MetricTable, Report, Session
from actorcritic.runs import (
    EVALUATION_SEED,
    WARNINGS,
    Evaluated,
    Evaluator,
    Run,
    evaluator,
    open_run,
    prepare_jax,
    read_tables,
    warn,
)
from actorcritic.types import Environment, UserError

CHUNK_SECONDS = 0.3  # between two looks at the training


def train(
    algorithm: Any,
    environment: Any,
    *,
    total_steps: int | None = None,
    seeds: int = 1,
    seed: int = 0,
    out: str | Path | None = None,
    host: bool = False,
    env_options: dict[str, Any] | None = None,
    vectorization: Literal["sync", "async"] = "sync",
    autoreset: Autoreset = "disabled",
    evaluation_episodes: int = 100,
    checkpoint_seconds: float = 30.0,
    wandb: str | None = None,
    wandb_offline: bool = False,
    quiet: bool = False,
    **overrides: Any,
) -> Run:
    """Train an algorithm on an environment: `seeds` runs, numbered from `seed`, as one.

    `algorithm` is an object such as `PPO(learning_rate=1e-3)`, or a name ("ppo"), which takes
    the tuned preset of the environment with `overrides` (hyperparameters) on top. `environment`
    is a Gymnasium id, "module:Name", a factory, or a compiled environment; `host` steps it
    through Gymnasium even where a compiled version exists. `total_steps` are per seed.

    With `out`, everything is kept in that folder; without it, nothing is written.
    Raises UserError for any mistake in these, before anything is written.
    """
    prepare_jax()
    check_numbers(seeds, seed, total_steps, evaluation_episodes, checkpoint_seconds)
    world = configuration.resolve_environment(
        environment,
        host=host,
        options=env_options or {},
        vectorization=vectorization,
        autoreset=autoreset,
    )
    if isinstance(algorithm, str):
        chosen = preset(algorithm, world.spec.id)
        algorithm = hyperparameters.replace(chosen.algorithm, **overrides)
        total_steps = chosen.total_steps if total_steps is None else total_steps
    elif overrides:
        algorithm = hyperparameters.replace(algorithm, **overrides)
    total_steps = 100_000 if total_steps is None else total_steps
    configuration.check(algorithm, world, total_steps)

    run = Run(
        algorithm,
        world,
        tuple(range(seed, seed + seeds)),
        total_steps,
        Path(out) if out is not None else None,
    )
    if run.out is not None and (run.out / "run.json").exists():
        raise UserError(
            f"{run.out} already holds a run. Choose another folder, or go on with it: "
            f"actorcritic resume {run.out}"
        )
    options = Options(evaluation_episodes, checkpoint_seconds, wandb, wandb_offline)
    with folder_of_its_own(run.out, create=True):
        try:
            return _alone(run, options, quiet)
        except BaseException:
            if run.out is not None and checkpoints.newest(run.out / "checkpoints") is None:
                _discard(run.out)
            raise


def resume(
    path: str | Path,
    *,
    total_steps: int | None = None,
    algorithm: Any = None,
    environment: Any = None,
    evaluation_episodes: int = 100,
    checkpoint_seconds: float = 30.0,
    quiet: bool = False,
) -> Run:
    """Go on with a run from its newest checkpoint, to `total_steps` if given.

    `algorithm` and `environment` are needed only where they cannot be rebuilt from the folder:
    your own class, network or environment.
    """
    prepare_jax()
    check_numbers(1, 0, total_steps, evaluation_episodes, checkpoint_seconds)
    with folder_of_its_own(Path(path), create=False):
        run = open_run(path, algorithm=algorithm, environment=environment, restore=False)
        if total_steps is not None:
            run.total_steps = total_steps
        configuration.check(run.algorithm, run.environment, run.total_steps)
        return _alone(run, Options(evaluation_episodes, checkpoint_seconds), quiet)


@dataclass(frozen=True)
class Options:
    evaluation_episodes: int = 100
    checkpoint_seconds: float = 30.0
    wandb: str | None = None
    wandb_offline: bool = False
    tensorboard: bool = True


def _alone(run: Run, options: Options, quiet: bool) -> Run:
    """Train one run to its end, or to Ctrl-C."""
    training = Training([run], options)
    total = run.total_steps * len(run.seeds)
    try:
        # From here on Ctrl-C saves: also while the program is compiled, before the first step.
        with TrainingDisplay(run.label, total, quiet) as display, interruptible() as interrupted:
            if isinstance(training.session, HostSession) and run.out is not None:
                display.say(RESUME_NOTE)
            for note in configuration.notes(run.algorithm, run.spec):
                display.say(f"Note: {note}")
            training.go(display, interrupted)
    finally:
        training.close()
    if run.out is not None:
        run.plot(run.out / "curve.png")
    return run


class Training:
    """Runs that share one program: they differ in seeds and in float hyperparameters only.

    Runs with a folder that was begun before go on from their newest checkpoint.
    """

    def __init__(self, runs: Sequence[Run], options: Options) -> None:
        self.runs, self._options = list(runs), options
        first = self.runs[0]
        self._algorithms = [run.algorithm for run in runs for _ in run.seeds]
        seeds = [seed for run in runs for seed in run.seeds]
        ends = np.cumsum([len(run.seeds) for run in runs]).tolist()
        self._rows = [slice(end - len(r.seeds), end) for r, end in zip(runs, ends, strict=True)]
        self.session: Session
        if isinstance(first.environment, Environment):
            rows = range(len(seeds)) if len(self.runs) > 1 else None
            self.session = CompiledSession(
                self._algorithms, first.environment, seeds, first.total_steps, rows
            )
        else:
            self.session = HostSession(
                first.algorithm, first.environment, first.seeds, first.total_steps
            )
        self._evaluator = self._prepare_end()
        self._sinks: list[list[trackers.Sink]] = []

    def _prepare_end(self) -> Future[Evaluator] | None:
        """Compile the final evaluation and import what draws, while the training runs."""
        first, learners = self.runs[0], self.session.shapes.learner
        episodes = self._options.evaluation_episodes

        def prepare() -> Evaluator:
            if first.out is not None:
                import matplotlib.backends.backend_agg  # noqa: F401
            return evaluator(self._algorithms, first.environment, learners, episodes)

        if not episodes:
            return None
        pool = ThreadPoolExecutor(1)
        future = pool.submit(prepare)
        pool.shutdown(wait=False)
        return future

    def go(self, display: TrainingDisplay, interrupted: Callable[[], bool]) -> None:
        """Train to the end, or until `interrupted`; then evaluate."""
        for run in self.runs:
            if run.out is not None and not (run.out / "run.json").exists():
                _save_configuration(run)
        self.session.compile()
        begun = self._restore()
        display.advance(int(self.session.steps.sum()))
        self._sinks = [_sinks(run, self._options) for run in self.runs]
        if not begun:
            self._save()
        self._train(display, interrupted)
        learners = self.session.state.learner
        for run, learner in zip(self.runs, self._split(learners), strict=True):
            run.learners, run.finished = learner, self.session.finished
        self._save()
        if self.session.finished and self._evaluator is not None:
            display.say_what("evaluating …")
            self._evaluate(learners)

    def close(self) -> None:
        self.session.close()
        for sink in [sink for sinks in self._sinks for sink in sinks]:
            sink.close()

    def _train(self, display: TrainingDisplay, interrupted: Callable[[], bool]) -> None:
        looks = [Diagnosis.of(run.algorithm, run.spec, run.total_steps) for run in self.runs]
        saved = time.monotonic()
        rates: list[tuple[float, int]] = []
        stretch = CHUNK_SECONDS * max(1, len(self.runs) // 8)  # each run's files are written to
        while not self.session.finished and not interrupted():
            before = int(self.session.steps.sum())
            whole = self.session.advance(stretch)
            gained = int(self.session.steps.sum()) - before
            rates.append((whole.seconds, gained))
            display.advance(gained, whole)
            reports = self._divide(whole)
            for run, report, look, sinks in zip(
                self.runs, reports, looks, self._sinks, strict=True
            ):
                run.reports.append(report)
                for sink in sinks:
                    sink.write(report)
                self._warn(run, look.look(report.metrics), display)
            if time.monotonic() - saved >= self._options.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        # The first stretch warms up; without a second one it is all there is.
        kept = rates[1:] or rates
        if kept:
            for run in self.runs:
                run.steps_per_second = sum(s for _, s in kept) / sum(t for t, _ in kept)

    def _warn(self, run: Run, findings: list[Any], display: TrainingDisplay) -> None:
        for finding in findings:
            run.warnings.append(finding.text)
            if run.out is not None:
                with (run.out / WARNINGS).open("a", encoding="utf-8") as file:
                    file.write(f"{finding.text}\n")
            if finding.fatal and len(self.runs) == 1:
                raise UserError(f"Training stopped: {finding.text}")
            # Beside others, a run that cannot recover must not cost them their training.
            which = f"{run.variant}: " if run.variant else ""
            display.say(f"Warning: {which}{finding.text}")

    def _divide(self, whole: Report) -> list[Report]:
        """What each run gets of a stretch of all of them; rows become seeds again."""
        if len(self.runs) == 1:
            return [whole]
        return [
            Report(
                _part(whole.metrics, rows, run.seeds),
                _part(whole.episodes, rows, run.seeds),
                whole.seconds,
            )
            for run, rows in zip(self.runs, self._rows, strict=True)
        ]

    def _split(self, tree: Any) -> list[Any]:
        """The part of each run, of a tree whose leaves lead with all rows."""
        if len(self.runs) == 1:
            return [tree]
        # In NumPy: JAX would compile a program for each slice of each leaf.
        leaves, structure = jax.tree.flatten(tree)
        keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
        plain = [
            np.asarray(jax.random.key_data(leaf) if key else leaf)
            for leaf, key in zip(leaves, keys, strict=True)
        ]
        parts = []
        for rows in self._rows:
            mine = [
                jax.random.wrap_key_data(jnp.asarray(leaf[rows])) if key else leaf[rows]
                for leaf, key in zip(plain, keys, strict=True)
            ]
            parts.append(jax.tree.unflatten(structure, mine))
        return parts

    def _save(self) -> None:
        if all(run.out is None for run in self.runs):
            return
        for run, state in zip(self.runs, self._split(self.session.state), strict=True):
            if run.out is not None:
                _save(run, state)

    def _restore(self) -> bool:
        """Set the session to what the runs' folders hold; whether there was anything."""
        begun = [run for run in self.runs if run.out is not None and _is_begun(run.out)]
        if not begun:
            return False
        if len(self.runs) == 1:
            self.session.state = _restore(begun[0], self.session.shapes)
            _save_configuration(begun[0])
            return True
        parts = self._split(self.session.state)
        for i, run in enumerate(self.runs):
            if run in begun:
                like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), parts[i])
                parts[i] = _restore(run, like)
        self.session.state = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
        return True

    def _evaluate(self, learners: Any) -> None:
        assert self._evaluator is not None
        seeds = [EVALUATION_SEED + seed for run in self.runs for seed in run.seeds]
        result = self._evaluator.result()(learners, seeds)
        for run, rows in zip(self.runs, self._rows, strict=True):
            run.final_evaluation = Evaluated(
                run.seeds, result.returns[rows], result.lengths[rows], deterministic=True
            )
            _save_evaluation(run)


Table = TypeVar("Table", MetricTable, EpisodeTable)


def _part(table: Table, rows: slice, seeds: Sequence[int]) -> Table:
    """What a table says of these rows, by seed."""
    mine = (table.seed >= rows.start) & (table.seed < rows.stop)
    columns = {
        name: column[mine]
        for name, column in table._asdict().items()
        if isinstance(column, np.ndarray)
    }
    columns["seed"] = np.asarray(seeds)[columns["seed"] - rows.start]
    return table._replace(**columns)


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks to stop after the stretch under way; a second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------------------ the folder


def _sinks(run: Run, options: Options) -> list[trackers.Sink]:
    if run.out is None:
        return []
    sinks: list[trackers.Sink] = [trackers.CsvWriter(run.out)]
    if options.tensorboard:
        sinks.append(trackers.TensorBoard(run.out / "tensorboard"))
    if options.wandb is not None:
        sinks.append(
            trackers.WandB(options.wandb, run.out.name, run.configuration(), options.wandb_offline)
        )
    return sinks


def _save_configuration(run: Run) -> None:
    if run.out is not None:
        run.out.mkdir(parents=True, exist_ok=True)
        checkpoints.save_text(run.out / "run.json", json.dumps(run.configuration(), indent=2))


def _save(run: Run, state: Any) -> None:
    assert run.out is not None
    about = {
        "update": int(np.asarray(state.updates).sum()),
        "updates": np.asarray(state.updates).tolist(),
        "steps": np.asarray(state.steps).tolist(),
    }
    checkpoints.save(run.out / "checkpoints", state, about)


def _is_begun(out: Path) -> bool:
    """Killed while it compiled, a training has not even saved its start: it begins again."""
    return (out / "checkpoints").exists() or (out / "metrics.csv").exists()


def _restore(run: Run, like: Any) -> Any:
    """The newest good checkpoint, and the tables as they were when it was written."""
    assert run.out is not None
    state, about = checkpoints.load(run.out / "checkpoints", like, warn)
    if run.total_steps < min(about["steps"]) and run.total_steps != _stored_total(run.out):
        raise UserError(
            f"{run.out} has made {min(about['steps']):,} steps already; resuming it to "
            f"{run.total_steps:,} would not train. Name a larger --total-steps, or none."
        )
    for name in (trackers.METRICS, trackers.EPISODES):
        path = run.out / name
        if path.exists() and b"\n" not in path.read_bytes():
            path.unlink()  # cut short by a crash before its first line was whole
    trackers.truncate_after(run.out, run.seeds, about["updates"], about["steps"])
    run.reports = read_tables(run.out)
    return state


def _save_evaluation(run: Run) -> None:
    if run.out is None or run.final_evaluation is None:
        return
    result = run.final_evaluation
    text = json.dumps(
        {
            "seeds": list(result.seeds),
            "deterministic": result.deterministic,
            "returns": result.returns.tolist(),
            "lengths": result.lengths.tolist(),
        }
    )
    checkpoints.save_text(run.out / "evaluation.json", text)


def _stored_total(out: Path) -> int:
    return configuration.read(out)["total_steps"]


def check_numbers(
    seeds: int, seed: int, total_steps: int | None, episodes: int, checkpoint_seconds: float
) -> None:
    ranges: list[tuple[str, Any, float, float]] = [
        ("seeds", seeds, 1, 10_000),
        ("seed", seed, 0, 2**31 - 10_001),  # and the seeds after it; JAX's are of 32 bits
        ("evaluation_episodes", episodes, 0, 1_000_000),
        ("checkpoint_seconds", checkpoint_seconds, 0, float("inf")),
    ]
    if total_steps is not None:
        ranges.append(("total_steps", total_steps, 1, 2_000_000_000))  # counted in 32 bits
    for name, value, low, high in ranges:
        whole = name == "checkpoint_seconds" or isinstance(value, int | np.integer)
        if isinstance(value, bool) or not whole or not low <= value <= high:
            kind = "a number" if name == "checkpoint_seconds" else "a whole number"
            raise UserError(f"{name} must be {kind} from {low:,} to {high:,}; got {value!r}.")


@contextlib.contextmanager
def folder_of_its_own(out: Path | None, create: bool) -> Iterator[None]:
    """Hold the run folder's lock, so that two processes never train in one folder."""
    if out is None:
        yield
        return
    if not create:
        configuration.read(out)  # before a lock is left in a folder that is no run's
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(out / "run.lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(
            f"{out} is in use: another process is training in it. Wait for it, or stop it first."
        ) from None
    except OSError as error:
        raise UserError(f"The run folder {out} cannot be written: {error.strerror}.") from None
    try:
        yield
    finally:
        lock.release()


def _discard(out: Path) -> None:
    """Remove what a training that never began left; files of others stay, and so their folder."""
    for name in ("checkpoints", "tensorboard", "wandb"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("run.json", "metrics.csv", "episodes.csv", "run.lock"):
        with contextlib.suppress(OSError):
            (out / name).unlink()
    with contextlib.suppress(OSError):
        out.rmdir()
