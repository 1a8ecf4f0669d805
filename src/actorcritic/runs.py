"""Runs: train, keep everything in a folder, stop, resume, evaluate, load.

    run.json          the resolved configuration: enough to build the same run again
    metrics.csv       one row an update (of tiny ones, one row every 8 steps)
    episodes.csv      one row a finished training episode
    tensorboard/      the same for TensorBoard, one point a stretch of updates
    checkpoints/      safetensors and a JSON manifest; the newest two
    evaluation.json   the final evaluation;  curve.png: the learning curve

No file of a run can execute code: nothing is pickled, and a class or module named in `run.json`
is never imported; it has to be passed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import filelock
import jax
import numpy as np

from actorcritic import checkpoints, configuration, hyperparameters, statistics, trackers
from actorcritic.algorithms.presets import preset
from actorcritic.console import TrainingDisplay
from actorcritic.diagnosis import Diagnosis
from actorcritic.envs.host import Autoreset, HostEnvironment
from actorcritic.runners.evaluate import CompiledEvaluation, Evaluation, Policy, evaluate_host
from actorcritic.runners.host import RESUME_NOTE, HostSession, call_inline
from actorcritic.runners.seeds import CompiledSession, use_all_cores
from actorcritic.runners.session import EpisodeTable, MetricTable, Report, Session
from actorcritic.types import Environment, EnvSpec, UserError

CHUNK_SECONDS = 0.3  # between two looks at the training


@dataclass(frozen=True)
class Evaluated:
    """Returns and lengths [S, E] of the evaluation episodes of each seed, and their summary."""

    seeds: tuple[int, ...]
    returns: np.ndarray
    lengths: np.ndarray
    deterministic: bool

    @property
    def summary(self) -> statistics.Summary:
        return statistics.summary(self.returns)

    mean = property(lambda self: self.summary.mean)
    iqm = property(lambda self: self.summary.iqm)
    interval = property(lambda self: (self.summary.low, self.summary.high))

    @property
    def best_seed(self) -> int:
        return self.seeds[int(np.argmax(self.returns.mean(axis=1)))]

    def __str__(self) -> str:
        return str(self.summary)


Evaluator = Callable[[Any, Sequence[int]], Evaluation]


@dataclass
class Run:
    """A training, in memory or in a folder, finished or not."""

    algorithm: Any
    environment: Environment | HostEnvironment
    seeds: tuple[int, ...]
    total_steps: int
    out: Path | None
    learners: Any = None  # leaves lead with [S]
    steps_per_second: float = float("nan")  # of all seeds together, without compilation
    finished: bool = False
    final_evaluation: Evaluated | None = None
    _reports: list[Report] = field(default_factory=list, repr=False)

    @property
    def spec(self) -> EnvSpec:
        return self.environment.spec

    @property
    def label(self) -> str:
        return f"{self.algorithm.name} on {self.spec.id}"

    @property
    def episodes(self) -> EpisodeTable:
        """Every finished training episode: seed, step, returns, length."""
        return EpisodeTable.join([report.episodes for report in self._reports])

    @property
    def metrics(self) -> MetricTable:
        """What every update reported."""
        return MetricTable.join([report.metrics for report in self._reports])

    def configuration(self) -> dict[str, Any]:
        """What `run.json` holds."""
        return configuration.describe(
            self.algorithm, self.environment, self.seeds, self.total_steps
        )

    def evaluate(
        self, episodes: int = 100, *, deterministic: bool = True, seed: int = 1_000_000
    ) -> Evaluated:
        """Complete episodes with the parameters as they are; statistics stay frozen."""
        if episodes < 1:
            raise UserError(f"evaluate needs at least one episode; got {episodes}.")
        return self._evaluated(self._evaluation(episodes, deterministic), deterministic, seed)

    def _evaluation(self, episodes: int, deterministic: bool, learners: Any = None) -> Evaluator:
        """What evaluates learners, compiled; shapes are enough for `learners`."""
        if not isinstance(self.environment, Environment):
            return partial(
                evaluate_host, self.algorithm, self.environment, episodes, not deterministic
            )
        learners = self.learners if learners is None else learners
        return CompiledEvaluation(
            self.algorithm, self.environment, learners, episodes, not deterministic
        )

    def _evaluated(
        self, evaluation: Evaluator, deterministic: bool = True, seed: int = 1_000_000
    ) -> Evaluated:
        result = evaluation(self.learners, [seed + s for s in self.seeds])
        return Evaluated(self.seeds, result.returns, result.lengths, deterministic)

    def policy(self, seed: int | None = None) -> Policy:
        """The trained policy of a seed; by default the best, by final evaluation."""
        chosen, why = self._choose(seed)
        if seed is None and len(self.seeds) > 1:
            print(f"Using seed {chosen}, {why}.", file=sys.stderr)
        learner = jax.tree.map(lambda x: x[self.seeds.index(chosen)], self.learners)
        return Policy(self.algorithm, learner, self.spec)

    def _choose(self, seed: int | None) -> tuple[int, str]:
        if seed is not None:
            if seed not in self.seeds:
                raise UserError(f"This run has no seed {seed}; it has {list(self.seeds)}.")
            return seed, "as asked"
        if self.final_evaluation is not None:
            return self.final_evaluation.best_seed, "the best by final evaluation"
        last = [self._last_returns(s) for s in self.seeds]
        return self.seeds[int(np.argmax(last))], "the best by its last 100 training episodes"

    def _last_returns(self, seed: int) -> float:
        returns = self.episodes.returns[self.episodes.seed == seed][-100:]
        return float(returns.mean()) if len(returns) else -np.inf

    def plot(self, path: str | Path) -> Path:
        """Draw the learning curve; the ending of `path` says PNG or SVG."""
        from actorcritic import plots

        return plots.learning_curve([(self.label, self.episodes)], Path(path), title=self.label)


# ------------------------------------------------------------------------------------ training


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
    _check_numbers(seeds, seed, total_steps, evaluation_episodes, checkpoint_seconds)
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
    with _folder(run.out, create=True):
        options = _Options(evaluation_episodes, checkpoint_seconds, wandb, wandb_offline, quiet)
        try:
            _save_configuration(run)
            return _go(run, options)
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
    _check_numbers(1, 0, total_steps, evaluation_episodes, checkpoint_seconds)
    with _folder(Path(path), create=False):
        run = open_run(path, algorithm=algorithm, environment=environment, restore=False)
        if total_steps is not None:
            run.total_steps = total_steps
        configuration.check(run.algorithm, run.environment, run.total_steps)
        assert run.out is not None
        options = _Options(evaluation_episodes, checkpoint_seconds, None, False, quiet)
        # Killed while it compiled, a training has not even saved its start: it begins again.
        begun = (run.out / "checkpoints").exists() or (run.out / "metrics.csv").exists()
        return _go(run, options, resumed=begun)


@dataclass(frozen=True)
class _Options:
    evaluation_episodes: int
    checkpoint_seconds: float
    wandb: str | None
    wandb_offline: bool
    quiet: bool


def _go(run: Run, options: _Options, resumed: bool = False) -> Run:
    """Train to the end, or to Ctrl-C; then evaluate and draw the curve."""
    kind = CompiledSession if isinstance(run.environment, Environment) else HostSession
    session: Session = kind(run.algorithm, run.environment, run.seeds, run.total_steps)  # type: ignore[arg-type]
    total = run.total_steps * len(run.seeds)
    sinks: list[trackers.Sink] = []
    ahead = _prepare_end(run, session, options.evaluation_episodes)
    try:
        # From here on Ctrl-C saves: also while the program is compiled, before the first step.
        with (
            TrainingDisplay(run.label, total, options.quiet) as display,
            _interruptible() as interrupted,
        ):
            if isinstance(session, HostSession) and run.out is not None:
                display.say(RESUME_NOTE)
            for note in configuration.notes(run.algorithm, run.spec):
                display.say(f"Note: {note}")
            session.compile()
            if resumed:
                _restore(run, session)
                _save_configuration(run)
                display.start_at(int(session.steps.sum()))
            if run.out is not None:
                sinks = _sinks(run, options)
                if not resumed:
                    _save(run, session)
            _train(run, session, sinks, display, options, interrupted)
            run.learners, run.finished = session.state.learner, session.finished
            if run.out is not None:
                _save(run, session)
            if run.finished and ahead is not None:
                display.say_what("evaluating …")
                run.final_evaluation = run._evaluated(ahead.result())
    finally:
        session.close()
        for sink in sinks:
            sink.close()
    if run.out is not None:
        _finish(run)
    return run


def _prepare_end(run: Run, session: Session, episodes: int) -> Future[Evaluator] | None:
    """Compile the final evaluation and import what draws the curve, while the training runs."""

    def prepare() -> Evaluator:
        if run.out is not None:
            import matplotlib.backends.backend_agg  # noqa: F401
        return run._evaluation(episodes, True, session.shapes.learner)

    if not episodes:
        return None
    pool = ThreadPoolExecutor(1)
    future = pool.submit(prepare)
    pool.shutdown(wait=False)
    return future


def _train(
    run: Run,
    session: Session,
    sinks: list[trackers.Sink],
    display: TrainingDisplay,
    options: _Options,
    interrupted: Callable[[], bool],
) -> None:
    diagnosis = Diagnosis.of(run.algorithm, run.spec, run.total_steps)
    saved = time.monotonic()
    rates: list[tuple[float, int]] = []
    while not session.finished and not interrupted():
        before = int(session.steps.sum())
        report = session.advance(CHUNK_SECONDS)
        steps = int(session.steps.sum())
        rates.append((report.seconds, steps - before))
        run._reports.append(report)
        display.update(steps, report)
        for sink in sinks:
            sink.write(report)
        for warning in diagnosis.look(report.metrics):
            if warning.fatal:
                raise UserError(f"Training stopped: {warning.text}")
            display.say(f"Warning: {warning.text}")
        if run.out is not None and time.monotonic() - saved >= options.checkpoint_seconds:
            _save(run, session)
            saved = time.monotonic()
    # The first stretch warms up; without a second one it is all there is.
    kept = rates[1:] or rates
    if kept:
        run.steps_per_second = sum(s for _, s in kept) / sum(t for t, _ in kept)


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
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


def _sinks(run: Run, options: _Options) -> list[trackers.Sink]:
    assert run.out is not None
    sinks: list[trackers.Sink] = [
        trackers.CsvWriter(run.out),
        trackers.TensorBoard(run.out / "tensorboard"),
    ]
    if options.wandb is not None:
        sinks.append(
            trackers.WandB(options.wandb, run.out.name, run.configuration(), options.wandb_offline)
        )
    return sinks


def _save_configuration(run: Run) -> None:
    if run.out is not None:
        checkpoints.save_text(run.out / "run.json", json.dumps(run.configuration(), indent=2))


def _save(run: Run, session: Session) -> None:
    assert run.out is not None
    state = session.state
    about = {
        "update": int(np.asarray(state.updates).sum()),
        "updates": np.asarray(state.updates).tolist(),
        "steps": np.asarray(state.steps).tolist(),
    }
    checkpoints.save(run.out / "checkpoints", state, about)


def _restore(run: Run, session: Session) -> None:
    """The newest good checkpoint, and the tables as they were when it was written."""
    assert run.out is not None
    like = session.shapes
    session.state, about = checkpoints.load(run.out / "checkpoints", like, _warn)
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
    run._reports = _read_tables(run.out)


def _finish(run: Run) -> None:
    assert run.out is not None
    if run.final_evaluation is not None:
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
    run.plot(run.out / "curve.png")


# ------------------------------------------------------------------------------------ opening


def open_run(
    path: str | Path, *, algorithm: Any = None, environment: Any = None, restore: bool = True
) -> Run:
    """A run from its folder. UserError names what is missing or cannot be rebuilt."""
    prepare_jax()
    out = Path(path)
    data = configuration.read(out)
    if algorithm is None:
        algorithm = configuration.rebuild_algorithm(data["algorithm"], out)
    if environment is None:
        environment = configuration.rebuild_environment(data["environment"], out)
    else:
        environment = configuration.resolve_environment(
            environment,
            host=data["environment"]["host"],
            options={},
            vectorization=data["environment"].get("vectorization", "sync"),
            autoreset=data["environment"].get("autoreset", "disabled"),
        )
    run = Run(algorithm, environment, tuple(data["seeds"]), data["total_steps"], out)
    if restore:
        _restore_learners(run)
        run._reports = _read_tables(out)
    return run


def load(path: str | Path, *, seed: int | None = None, algorithm: Any = None) -> Policy:
    """The trained policy of a run folder; by default its best seed, and it says which.

    Neither the environment nor any code of the run is needed; `algorithm` is, where the run was
    trained with a class or network of your own.
    """
    prepare_jax()
    out = Path(path)
    data = configuration.read(out)
    if algorithm is None:
        algorithm = configuration.rebuild_algorithm(data["algorithm"], out)
    world = _SpecOnly(configuration.spec_from_json(data["environment"]))
    run = Run(algorithm, world, tuple(data["seeds"]), data["total_steps"], out)  # type: ignore[arg-type]
    _restore_learners(run)
    if run.final_evaluation is None and seed is None and len(run.seeds) > 1:
        run._reports = _read_tables(out)
    return run.policy(seed)


@dataclass(frozen=True)
class _SpecOnly:
    """Stands for an environment where only its spaces are needed."""

    spec: EnvSpec


class _Learners(NamedTuple):
    """The part of a checkpoint that every runner's state has."""

    learner: Any


def _restore_learners(run: Run) -> None:
    assert run.out is not None
    keys = jax.vmap(jax.random.key)(np.asarray(run.seeds))
    like = jax.eval_shape(jax.vmap(lambda key: run.algorithm.init(key, run.spec)), keys)
    state, about = checkpoints.load(run.out / "checkpoints", _Learners(like), _warn, partial=True)
    run.learners = state.learner
    run.finished = min(about["steps"]) >= run.total_steps
    evaluation = run.out / "evaluation.json"
    if evaluation.exists():
        data = configuration.read_json(evaluation)
        if not configuration.fits(data, {"seeds": list, "returns": list, "lengths": list}):
            raise UserError(
                f"{evaluation} is not what a training writes. Restore it from a copy, or remove it."
            )
        run.final_evaluation = Evaluated(
            tuple(data["seeds"]),
            np.asarray(data["returns"]),
            np.asarray(data["lengths"]),
            bool(data.get("deterministic", True)),
        )


def _read_tables(out: Path) -> list[Report]:
    """What the training wrote so far; a training killed at its start has written nothing."""
    metrics, episodes = out / trackers.METRICS, out / trackers.EPISODES
    if not metrics.exists():
        return []
    ended = trackers.read_episodes(episodes) if episodes.exists() else EpisodeTable.join([])
    return [Report(trackers.read_metrics(metrics), ended, 0.0)]


def plot(paths: Sequence[str | Path], out: str | Path) -> Path:
    """One picture with the learning curves of several run folders."""
    from actorcritic import plots

    curves = []
    for path in map(Path, paths):
        data = configuration.read(path)
        label = f"{data['algorithm']['name']} on {data['environment']['id']}"
        episodes = trackers.read_episodes(path / "episodes.csv")
        curves.append((label if len(paths) == 1 else f"{label} ({path.name})", episodes))
    title = curves[0][0] if len(curves) == 1 else "Learning curves"
    return plots.learning_curve(curves, Path(out), title=title)


# ------------------------------------------------------------------------------------ the folder


def _stored_total(out: Path) -> int:
    return configuration.read(out)["total_steps"]


def _check_numbers(
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
def _folder(out: Path | None, create: bool) -> Iterator[None]:
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


def _warn(text: str) -> None:
    print(f"Warning: {text}", file=sys.stderr)


def prepare_jax() -> None:
    """All cores as devices, and compiled programs kept in the user's cache folder."""
    use_all_cores()
    call_inline()
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        folder = os.environ.get("ACTORCRITIC_CACHE_DIR")
        base = Path(folder) if folder else _user_cache() / "actorcritic"
        jax.config.update("jax_compilation_cache_dir", str(base / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _user_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(
        os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    )
