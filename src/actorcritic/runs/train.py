"""Training runs, one alone or many as one program; stopping and resuming them."""

from __future__ import annotations

import io
import json
import signal
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actorcritic.algorithms.presets import DEFAULT_STEPS, preset
from actorcritic.core import files, hyperparameters
from actorcritic.core.errors import UserError
from actorcritic.core.types import Environment
from actorcritic.runners.evaluate import CompiledEvaluation
from actorcritic.runners.host import RESUME_NOTE, HostSession
from actorcritic.runners.seeds import CompiledSession
from actorcritic.runners.session import Report, Session, Table, Thinned, some_rows
from actorcritic.runs import checkpoints, configuration, trackers
from actorcritic.runs.console import TrainingDisplay
from actorcritic.runs.diagnosis import Diagnosis
from actorcritic.runs.folder import folder_of_its_own, is_begun, new_folder
from actorcritic.runs.interruption import Interruption, interruptible
from actorcritic.runs.run import (
    EVALUATION_SEED,
    WARNINGS,
    Evaluated,
    Evaluator,
    Run,
    actors_of,
    evaluator,
    finite,
    open_run,
    prepare_jax,
    restore_progress,
    rows_of,
    warn,
)
from actorcritic.runs.settings import ResumeSettings, TrainSettings

CHUNK_SECONDS = 0.3  # between two looks at the training
FEW_EPISODES = 10  # of a seed
NOT_FINITE = (
    "the training diverged: its parameters are no longer finite. Start again with a lower "
    "learning_rate."
)


def train(
    algorithm: Any, environment: Any, settings: TrainSettings | None = None, **options: Any
) -> Run:
    """Train an algorithm on an environment.

    `algorithm` is an object such as `PPO(learning_rate=1e-3)`, or a name ("ppo"), which takes
    the tuned preset of the environment, or else defaults that fit it. `environment` is a Gymnasium
    id, "module:Name", a factory, or a compiled environment. `options` are fields of
    `TrainSettings` (seeds=5, out="runs/x"), and any others are hyperparameters
    (learning_rate=1e-3).

    With `out`, everything is kept in that folder; without it, nothing is written.
    Raises UserError for any mistake in these, before anything is written.
    """
    prepare_jax()
    settings, overrides = TrainSettings.split(settings, options)
    world = configuration.resolve_environment(environment, settings)
    total_steps, why = settings.total_steps, None
    if isinstance(algorithm, str):
        chosen = preset(algorithm, world.spec, total_steps, overrides)
        algorithm, why = chosen.algorithm, chosen.why
        total_steps = chosen.total_steps if total_steps is None else total_steps
    if overrides:
        algorithm = hyperparameters.replace(algorithm, **overrides)
    total_steps = DEFAULT_STEPS if total_steps is None else total_steps
    configuration.check(algorithm, world, total_steps)

    run = Run(algorithm, world, settings.all_seeds, total_steps, settings.folder)
    with new_folder(run.out):
        return _alone(run, settings, why)


def resume(
    path: str | Path,
    settings: ResumeSettings | None = None,
    *,
    algorithm: Any = None,
    environment: Any = None,
    **options: Any,
) -> Run:
    """Go on with a run from its newest checkpoint, to `total_steps` if given.

    `options` are fields of `ResumeSettings`. `algorithm` and `environment` are needed only where
    they cannot be rebuilt from the folder: your own class, network or environment.
    """
    prepare_jax()
    settings = ResumeSettings.of(settings, options)
    configuration.read(Path(path))  # before a lock is left in a folder that is no run's
    with folder_of_its_own(Path(path)):
        run = open_run(path, algorithm=algorithm, environment=environment, restore=False)
        if settings.total_steps is not None:
            run.total_steps = settings.total_steps
        configuration.check(run.algorithm, run.environment, run.total_steps)
        return _alone(run, settings)


def _alone(run: Run, settings: ResumeSettings, why: str | None = None) -> Run:
    """Train one run to its end, or to Ctrl-C. `why` says where its hyperparameters come from."""
    training = Training([run], settings)
    total = run.total_steps * len(run.seeds)
    # From here on Ctrl-C saves: also while the program is compiled, before the first step.
    with interruptible() as interruption:
        try:
            with TrainingDisplay(run.label, total, settings.quiet) as display:
                if why is not None:
                    display.say(why)
                if isinstance(training.session, HostSession) and run.out is not None:
                    display.say(RESUME_NOTE)
                for note in run.algorithm.notes(run.spec):
                    display.say(f"Note: {note}")
                training.go(display, interruption)
        finally:
            training.close()
        if run.out is not None:
            run.plot(run.out / "curve.png")
            if interruption() and interruption.signal == signal.SIGTERM:
                warn(f"SIGTERM came. Everything is saved; go on: actorcritic resume {run.out}")
    return run


class Training:
    """Runs that share one program: they differ in seeds and in float hyperparameters only.

    Runs with a folder that was begun before go on from their newest checkpoint.
    """

    def __init__(
        self, runs: Sequence[Run], settings: ResumeSettings, *, tensorboard: bool = True
    ) -> None:
        self.runs, self._settings, self._tensorboard = list(runs), settings, tensorboard
        first = self.runs[0]
        self._algorithms = [run.algorithm for run in runs for _ in run.seeds]
        seeds = [seed for run in runs for seed in run.seeds]
        ends = np.cumsum([len(run.seeds) for run in runs]).tolist()
        self._rows = [slice(end - len(r.seeds), end) for r, end in zip(runs, ends, strict=True)]
        self.session: Session
        if isinstance(first.environment, Environment):
            rows = range(len(seeds)) if len(self.runs) > 1 else None
            self.session = CompiledSession(
                self._algorithms,
                first.environment,
                seeds,
                first.total_steps,
                rows,
                # A run goes on as it was begun, beside others or alone: its bits depend on it.
                spread=first.spread,
            )
        else:
            self.session = HostSession(
                first.algorithm, first.environment, first.seeds, first.total_steps
            )
        for run in self.runs:
            run.spread = self._checked_spread(run)
        self._evaluator = self._prepare_end()
        self._thinned = [Thinned() for _ in self.runs]
        self._sinks: list[list[trackers.Sink]] = []
        self._saved: list[Path | None] = [None] * len(self.runs)  # the latest checkpoints

    def _checked_spread(self, run: Run) -> int:
        """Over how many devices the rows of a seed are spread now; a word where that changed."""
        if run.spread not in (None, self.session.spread):
            warn(
                f"{run.name} was begun with its rows spread over {run.spread} devices, and goes on "
                f"with {self.session.spread}: a valid training, but not bit for bit the one that "
                "was never stopped."
            )
        return self.session.spread

    def _prepare_end(self) -> Future[Evaluator] | None:
        """Compile the final evaluation and import what draws, while the training runs."""
        first, learners = self.runs[0], self.session.shapes.learner
        actors = jax.eval_shape(partial(actors_of, self._algorithms), learners)
        episodes = self._settings.evaluation_episodes

        def prepare() -> Evaluator:
            if first.out is not None:
                import matplotlib.backends.backend_agg  # noqa: F401
            return evaluator(self._algorithms, first.environment, actors, episodes)

        if not episodes:
            return None
        pool = ThreadPoolExecutor(1)
        future = pool.submit(prepare)
        pool.shutdown(wait=False)
        return future

    def go(self, display: TrainingDisplay, interruption: Interruption) -> None:
        """Train to the end, or until an interruption; then evaluate."""
        for run in self.runs:
            if run.out is not None and not is_begun(run.out):
                _save_configuration(run)
        self.session.compile()
        begun = self._restore()
        display.advance(int(self.session.steps.sum()))
        self._sinks = [_sinks(run, self._settings, self._tensorboard) for run in self.runs]
        if not begun:
            self._save()
        self._train(display, interruption)
        learners = self.session.state.learner
        actors = actors_of(self._algorithms, learners)
        self._fail(np.flatnonzero(~finite(actors)).tolist(), display)
        for run, learner in zip(self.runs, self._split(learners), strict=True):
            run.trained, run.finished = learner, self.session.finished
            self._note_few_episodes(run, display)
        self._save()
        if self.session.finished and self._evaluator is not None:
            display.say_what("evaluating …")
            try:
                with interruption.at_once():  # everything is saved, so that nothing is lost
                    self._evaluate(actors)
            except KeyboardInterrupt:
                for run in self.runs:
                    run.finished = run.final_evaluation is not None

    def close(self) -> None:
        self.session.close()
        for sink in [sink for sinks in self._sinks for sink in sinks]:
            sink.close()

    def _train(self, display: TrainingDisplay, interrupted: Callable[[], bool]) -> None:
        looks = [Diagnosis.of(run.algorithm, run.spec, run.total_steps) for run in self.runs]
        saved = time.monotonic()
        first, rest = (0.0, 0), (0.0, 0)  # seconds and steps: the first stretch warms up
        stretch = CHUNK_SECONDS * max(1, len(self.runs) // 8)  # each run's files are written to
        while not self.session.finished and not interrupted():
            before = int(self.session.steps.sum())
            whole = self.session.advance(stretch, interrupted)
            gained = int(self.session.steps.sum()) - before
            if first[0]:
                rest = rest[0] + whole.seconds, rest[1] + gained
            else:
                first = whole.seconds, gained
            display.advance(gained, whole)
            reports = self._divide(whole)
            for k, (run, report, look) in enumerate(zip(self.runs, reports, looks, strict=True)):
                report = _without(report, run.failed)
                found = look.diverged(report.metrics)
                kept = self._thinned[k].of(report)
                if run.out is None:
                    run.reports.append(kept)
                for sink in self._sinks[k]:
                    sink.write(kept if isinstance(sink, trackers.CsvWriter) else report)
                for finding in look.look(kept.metrics):
                    self._warn(run, finding.text, display)
                for finding in found:
                    row = self._rows[k].start + run.seeds.index(finding.seed)
                    if row not in self.session.failures:
                        self.session.give_up(row, finding.text)
            self._fail(self.session.failures, display)
            if time.monotonic() - saved >= self._settings.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        seconds, steps = rest if rest[0] else first
        if seconds:
            for run in self.runs:
                run.steps_per_second = steps / seconds

    def _fail(self, entries: Iterable[int], display: TrainingDisplay) -> None:
        """Mark seeds as failed, which is a result; the others are trained on.

        UserError where nothing is left of a run that is trained alone.
        """
        for entry in entries:
            k = next(k for k, rows in enumerate(self._rows) if entry < rows.stop)
            run, seed = self.runs[k], self.runs[k].seeds[entry - self._rows[k].start]
            if seed in run.failed:
                continue
            if entry not in self.session.failures:
                self.session.give_up(entry, f"Seed {seed}: {NOT_FINITE}")
            run.failed[seed] = self.session.failures[entry]
            self._warn(run, run.failed[seed], display, alone=not run.trained_seeds)
            if not run.trained_seeds and len(self.runs) == 1 and not run.variant:
                raise UserError(f"Training stopped: {run.failed[seed]}")

    def _note_few_episodes(self, run: Run, display: TrainingDisplay) -> None:
        """Where episodes have no end, that few of them ended is worth a word."""
        if run.spec.max_episode_steps is not None or not run.finished:
            return
        ended = len(run.episodes.step)
        if ended < FEW_EPISODES * len(run.seeds):
            number = f"{ended} training episode{'s' * (ended != 1)}"
            text = (
                f"Only {number} ended in {run.total_steps:,} steps a seed: {run.spec.id} states "
                "no time limit. Give it one (gymnasium.wrappers.TimeLimit), or train for longer."
            )
            if text not in run.warnings:
                self._warn(run, text, display)

    def _warn(self, run: Run, text: str, display: TrainingDisplay, *, alone: bool = False) -> None:
        run.warnings.append(text)
        if run.out is not None:
            with files.opened(run.out / WARNINGS) as file:
                file.seek(0, io.SEEK_END)
                file.write(f"{text}\n".encode())
        which = f"{run.variant}: " if run.variant else ""
        if not alone or run.variant:
            display.say(f"Warning: {which}{text}")

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
        states = self._split(self.session.state)
        for k, (run, state) in enumerate(zip(self.runs, states, strict=True)):
            if run.out is not None:
                self._saved[k] = _save(run, state, self._thinned[k], self._saved[k])

    def _restore(self) -> bool:
        """Set the session to what the runs' folders hold; whether there was anything."""
        begun = [run.out is not None and is_begun(run.out) for run in self.runs]
        if not any(begun):
            return False
        alone = len(self.runs) == 1
        parts = [self.session.shapes] if alone else self._split(self.session.state)
        for i in np.flatnonzero(begun).tolist():
            like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), parts[i])
            parts[i], self._thinned[i] = _restore(self.runs[i], like)
            for seed, why in self.runs[i].failed.items():
                self.session.give_up(self._rows[i].start + self.runs[i].seeds.index(seed), why)
        if alone:
            self.session.state = parts[0]
            _save_configuration(self.runs[0])
        else:
            self.session.state = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
        return True

    def _evaluate(self, actors: Any) -> None:
        assert self._evaluator is not None
        seeds = [EVALUATION_SEED + seed for run in self.runs for seed in run.seeds]
        evaluate, entries = self._evaluator.result(), list(range(len(seeds)))
        if not isinstance(evaluate, CompiledEvaluation):  # that program is of all entries
            entries = [entry for entry in entries if entry not in self.session.failures]
            actors, seeds = rows_of(actors, entries), [seeds[entry] for entry in entries]
        if not entries:
            return
        result = evaluate(actors, seeds)
        for run, rows in zip(self.runs, self._rows, strict=True):
            mine = [k for k, entry in enumerate(entries) if rows.start <= entry < rows.stop]
            mine = [k for k in mine if entries[k] not in self.session.failures]
            if mine:
                run.final_evaluation = Evaluated(
                    run.trained_seeds,
                    result.returns[mine],
                    result.lengths[mine],
                    True,
                    result.cut[mine],
                )
                _save_evaluation(run)


def _part(table: Table, rows: slice, seeds: Sequence[int]) -> Table:
    """What a table says of these rows, by seed."""
    mine = some_rows(table, (table.seed >= rows.start) & (table.seed < rows.stop))
    return mine._replace(seed=np.asarray(seeds)[mine.seed - rows.start])


def _without(report: Report, seeds: Collection[int]) -> Report:
    """A report less the rows of some seeds."""
    if not seeds:
        return report

    def others(table: Table) -> Table:
        return some_rows(table, ~np.isin(table.seed, list(seeds)))

    return Report(others(report.metrics), others(report.episodes), report.seconds)


# ------------------------------------------------------------------------------------ the folder


def _sinks(run: Run, settings: ResumeSettings, tensorboard: bool) -> list[trackers.Sink]:
    if run.out is None:
        return []
    sinks: list[trackers.Sink] = [trackers.CsvWriter(run.out)]
    if tensorboard:
        sinks.append(trackers.TensorBoard(run.out / "tensorboard"))
    if isinstance(settings, TrainSettings) and settings.wandb is not None:
        sinks.append(
            trackers.WandB(
                settings.wandb, run.out.name, run.configuration(), settings.wandb_offline
            )
        )
    return sinks


def _save_configuration(run: Run) -> None:
    if run.out is not None:
        run.out.mkdir(parents=True, exist_ok=True)
        files.write(run.out / "run.json", json.dumps(run.configuration(), indent=2))


def _save(run: Run, state: Any, thinned: Thinned, since: Path | None) -> Path:
    assert run.out is not None
    about = {
        "update": int(np.asarray(state.updates).sum()),
        "updates": np.asarray(state.updates).tolist(),
        "steps": np.asarray(state.steps).tolist(),
        "failed": {str(seed): why for seed, why in run.failed.items()},
        "tables": thinned.state,
    }
    return checkpoints.save(run.out / "checkpoints", state, about, since=since)


def _restore(run: Run, like: Any) -> tuple[Any, Thinned]:
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
    restore_progress(run, about)
    return state, Thinned(about.get("tables"))


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
            "cut": None if result.cut is None else result.cut.tolist(),
        }
    )
    files.write(run.out / "evaluation.json", text)


def _stored_total(out: Path) -> int:
    return configuration.read(out)["total_steps"]
