"""A training under way: one run or many as one program, its files, and who looks into it."""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.machine import free_memory, memory
from actorcritic.core.types import Environment, Ring
from actorcritic.core.waiting import beside, wait_for
from actorcritic.core.words import told
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.runners.dataset import DatasetSession
from actorcritic.runners.distributed import ClusterSession
from actorcritic.runners.evaluate import CompiledEvaluation, Evaluation, Policy
from actorcritic.runners.host import HostSession
from actorcritic.runners.seeds import CompiledSession, SeedsSession
from actorcritic.runners.session import EpisodeTable, Report, Session, Table, Thinned, some_rows
from actorcritic.runs import checkpoints, configuration, trackers
from actorcritic.runs.callbacks import Callback, Moment, StopAt
from actorcritic.runs.configuration import SpacesOnly
from actorcritic.runs.console import TrainingDisplay, warn
from actorcritic.runs.diagnosis import Diagnosis, Finding
from actorcritic.runs.evaluated import evaluated, save_evaluation
from actorcritic.runs.folder import is_begun
from actorcritic.runs.interruption import Interruption
from actorcritic.runs.policies import Best, Evaluator, actors_of, evaluator, finite, rows_of
from actorcritic.runs.run import (
    BEST,
    EARLY,
    EVALUATION_SEED,
    WARNINGS,
    Run,
    learners_from,
    restore_progress,
    save_checkpoint,
    save_configuration,
)
from actorcritic.runs.settings import ResumeSettings, TrainSettings

CHUNK_SECONDS = 0.3  # between two looks at the training
EARLY_SHARE = 1 / 8  # of the training, after which the early policies are kept
FEW_EPISODES = 10  # of a seed
EPISODES_BETWEEN = 20  # of each seed, in an evaluation while it trains
NEVER = np.iinfo(np.int64).max
NOT_FINITE = (
    "the training diverged: its parameters are no longer finite. Start again with a lower "
    "learning_rate."
)


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
        rows = range(len(seeds)) if len(self.runs) > 1 else None
        self.session: Session
        if first.learns_from_data:
            assert first.data is not None
            if settings.cluster is not None:
                raise UserError(
                    f"{first.algorithm.name} learns from a data set, for which no workers of a "
                    "cluster collect. Leave --cluster out."
                )
            self.session = DatasetSession(
                self._algorithms, first.data, first.spec, seeds, first.total_steps, rows
            )
        elif settings.cluster is not None:
            assert not isinstance(first.environment, SpacesOnly)
            self.session = session = ClusterSession(
                first.algorithm,
                first.environment,
                first.seeds,
                first.total_steps,
                settings.cluster,
                settings.workers,
            )
            first.workers = session.workers
        elif isinstance(first.environment, Environment):
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
            assert isinstance(first.environment, HostEnvironment)
            self.session = HostSession(
                first.algorithm, first.environment, first.seeds, first.total_steps
            )
        _check_room(size_of(self.session.shapes), len(seeds))
        for run in self.runs:
            run.spread = self._checked_spread(run)
        # A training from data has no episodes but those of its evaluations.
        self._evaluate_every = settings.evaluate_every
        self._has_environment = not isinstance(first.environment, SpacesOnly)
        if first.learns_from_data and self._has_environment and settings.evaluation_episodes:
            tenth = max(1, first.total_steps // 10)
            self._evaluate_every = settings.evaluate_every or tenth
        # Only a run by itself keeps early policies.
        alone = first.out is not None and not first.variant
        self._early_due = int(first.total_steps * EARLY_SHARE) if alone else 0
        self._early: dict[int, tuple[int, Any]] = {}  # of entries: steps, actor [1]
        self._between: Future[Evaluator] | None = None
        self._evaluator = self._prepare_end()
        self._thinned = [Thinned() for _ in self.runs]
        self._callbacks = [self._callbacks_of() for _ in self.runs]
        self._newest: list[dict[int, float]] = [{} for _ in self.runs]  # evaluations between
        self._sinks: list[list[trackers.Sink]] = []
        self._saved: list[Path | None] = [None] * len(self.runs)  # the latest checkpoints

    def _notes(self) -> list[str]:
        """What happened to a session since it was last asked."""
        if not isinstance(self.session, HostSession):
            return []
        found, self.session.notes = self.session.notes, []
        return found

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
        if not self._has_environment:
            return None
        actors = jax.eval_shape(partial(actors_of, self._algorithms), learners)

        def prepare(episodes: int) -> Evaluator:
            if first.out is not None:
                import matplotlib.backends.backend_agg  # noqa: F401
            return evaluator(self._algorithms, first.environment, actors, episodes)

        pool = ThreadPoolExecutor(1)
        if self._evaluate_every is not None:  # needed sooner
            self._between = pool.submit(prepare, EPISODES_BETWEEN)
        episodes = self._settings.evaluation_episodes
        future = pool.submit(prepare, episodes) if episodes else None
        pool.shutdown(wait=False)
        return future

    def _callbacks_of(self) -> list[Callback]:
        settings = self._settings
        found = list(settings.callbacks)
        if settings.stop_at is not None:
            found.append(StopAt(settings.stop_at, self._evaluate_every is not None))
        return found

    def go(self, display: TrainingDisplay, interruption: Interruption) -> None:
        """Train to the end, or until an interruption; then evaluate."""
        for run in self.runs:
            if run.out is not None and not is_begun(run.out):
                save_configuration(run)
        with interruption.beginning():
            wait_for(beside(self.session.compile))
        if isinstance(self.session, SeedsSession):
            needed = self.session.working_bytes + self._copied_bytes()
            _check_room(needed, len(self.session.seeds))
            free = free_memory()
            if jax.default_backend() == "cpu" and free is not None and needed > free:
                warn(
                    f"This training takes about {needed / 2**30:.1f} GiB of memory, and only "
                    f"{free / 2**30:.1f} GiB are free now: the system may end this process."
                )
        begun = self._restore(display)
        display.advance(int(self.session.steps.sum()))
        self._sinks = [_sinks(run, self._settings, self._tensorboard) for run in self.runs]
        if not begun:
            self._start_from_another()
            self._begin_with_data()
            self._save()
        self._train(display, interruption)
        actors = self.session.actors
        self._fail(np.flatnonzero(~finite(actors)).tolist(), display)
        state = self.session.state
        for k, (run, part) in enumerate(zip(self.runs, self._split(state), strict=True)):
            run.trained, run.state = part.learner, (part, self._thinned[k])
            run.finished = self.session.finished or run.stopped is not None
            run.steps = run.least_steps(self.session.steps[self._rows[k]].tolist())
            self._note_few_episodes(run, display)
            if run.stopped is not None:
                display.say(f"Stopped after {run.steps:,} {run.step_unit}: {run.stopped}.")
        self._save(state)
        for run in self.runs:
            if run.out is not None and len(run.seeds) > 1:
                trackers.settle(run.out)
        if all(run.finished for run in self.runs) and self._evaluator is not None:
            display.say_what("evaluating …")
            try:
                with interruption.at_once():  # everything is saved, so that nothing is lost
                    self._evaluate(actors)
            except KeyboardInterrupt:
                for run in self.runs:
                    run.finished = run.final_evaluation is not None

    def _copied_bytes(self) -> int:
        """Beside what runs: a copy of the state, and where main memory is the only one, what a
        checkpoint is written from, which are two more of all but the rings."""
        shapes = self.session.shapes
        copy = size_of(shapes)
        if jax.default_backend() != "cpu" or all(run.out is None for run in self.runs):
            return copy
        parts = jax.tree.leaves(shapes, is_leaf=lambda x: isinstance(x, Ring))
        return copy + 2 * size_of([part for part in parts if not isinstance(part, Ring)])

    def close(self) -> None:
        self.session.close()
        for sink in [sink for sinks in self._sinks for sink in sinks]:
            sink.close()

    def _train(self, display: TrainingDisplay, interrupted: Callable[[], bool]) -> None:
        looks = [Diagnosis.of(run.algorithm, run.spec, run.total_steps) for run in self.runs]
        saved = time.monotonic()
        first, rest = (0.0, 0), (0.0, 0)  # seconds and steps: the first stretch warms up
        stretch = CHUNK_SECONDS * max(1, len(self.runs) // 8)  # each run's files are written to
        every = self._evaluate_every
        due: np.ndarray | None = None
        if every is not None:
            due = (self.session.steps.astype(np.int64) // every + 1) * every
            due[self.session.steps >= self.session.total_steps] = NEVER
        while not self.session.finished and not interrupted() and not self._all_stopped():
            before_each = self.session.steps
            before = int(before_each.sum())
            whole = self._advance(stretch, interrupted, self._until(due))
            gained = int(self.session.steps.sum()) - before
            if first[0]:
                rest = rest[0] + whole.seconds, rest[1] + gained
            else:
                first = whole.seconds, gained
            display.advance(gained, whole)
            for note in self._notes():
                display.say(f"Note: {note}")
            self._keep_early(before_each)
            if due is not None and every is not None:
                made, end = self.session.steps, self.session.total_steps
                there = (made >= due) | ((made >= end) & (due < NEVER))
                if there.any():
                    whole = whole._replace(evaluations=self._evaluate_between(there))
                    due[there] = (made[there] // every + 1) * every
                    due[there & (made >= end)] = NEVER
            reports = self._divide(whole)
            for k, (run, report, look) in enumerate(zip(self.runs, reports, looks, strict=True)):
                report = self._call_back(k, _without(report, run.failed))
                found = look.diverged(report.metrics)
                report = _up_to(report, found)
                kept = self._thinned[k].of(report)
                if run.out is None:
                    run.reports.append(kept)
                for sink in self._sinks[k]:
                    with self._yours("sink", sink):
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

    @contextlib.contextmanager
    def _yours(self, kind: str, what: Any) -> Iterator[None]:
        """Code of the user's runs in here. What fails in it is told as its failure."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            name = getattr(what, "__name__", type(what).__name__)
            raise UserError(f"The {kind} {name} failed: {told(error)}.") from error

    def _advance(
        self, seconds: float, interrupted: Callable[[], bool], until: Int[np.ndarray, " S"] | None
    ) -> Report:
        """A stretch of training. What fails in an environment costs nothing that was trained."""
        try:
            return self.session.advance(seconds, interrupted, until)
        except UserError as error:
            run = self.runs[0]
            if run.out is None:
                raise
            self._save()
            raise UserError(
                f"{error} What was trained before ({int(self.session.steps.sum()):,} "
                f"{run.step_unit}) is saved; go on: actorcritic resume {run.command}"
            ) from error

    def _keep_early(self, before: Int[np.ndarray, " S"]) -> None:
        """Keep the policies that an eighth of the training made: half-trained ones are of use to
        whoever collects data. Of each seed when it is there; saved when all are.
        """
        run, steps = self.runs[0], self.session.steps
        there = np.flatnonzero((before < self._early_due) & (steps >= self._early_due)).tolist()
        if not there:
            return
        actors = self.session.actors
        for entry in there:
            self._early[entry] = int(steps[entry]), rows_of(actors, [entry])
        if run.out is not None and len(self._early) == len(run.seeds):
            made, each = zip(*(self._early[k] for k in sorted(self._early)), strict=True)
            about = {"update": sum(made), "steps": list(made)}
            joined = jax.tree.map(lambda *x: jnp.concatenate(x), *each)
            checkpoints.save(run.out / EARLY, joined, about)

    def _until(self, due: Int[np.ndarray, " S"] | None) -> Int[np.ndarray, " S"] | None:
        """Where each entry's stretch ends: at its next evaluation, or an eighth of the training."""
        if not self._early_due:
            return due
        early = np.where(self.session.steps < self._early_due, self._early_due, NEVER)
        return early if due is None else np.minimum(early, due)

    # Who looks into it: evaluations between, callbacks.

    def _run_of(self, entry: int) -> int:
        """Which of the runs an entry of the session belongs to."""
        return next(k for k, rows in enumerate(self._rows) if entry < rows.stop)

    def _all_stopped(self) -> bool:
        """A program goes on for the sake of the last run in it that was not stopped."""
        return all(run.stopped is not None for run in self.runs)

    def _evaluate_between(self, which: Bool[np.ndarray, " S"]) -> EpisodeTable:
        """Evaluate some entries as they are now; keep the best policy of each seed.

        Always the same episodes, and others than the final evaluation's: the policy that is kept
        as the best was not chosen on them.
        """
        assert self._between is not None
        evaluate, actors = wait_for(self._between), self.session.actors
        seeds = [EVALUATION_SEED // 2 + seed for run in self.runs for seed in run.seeds]
        entries = [k for k in np.flatnonzero(which).tolist() if k not in self.session.failures]
        asked = list(range(len(seeds))) if isinstance(evaluate, CompiledEvaluation) else entries
        if not entries:
            return EpisodeTable.join([])
        found = evaluate(rows_of(actors, asked), [seeds[k] for k in asked])
        tables, steps, better = [], self.session.steps, list[Run]()
        for entry in entries:
            k = self._run_of(entry)
            run, row = self.runs[k], asked.index(entry)
            returns, lengths = found.returns[row], found.lengths[row]
            # A group of runs calls its entries by number, a run by their seeds.
            name = entry if len(self.runs) > 1 else run.seeds[entry]
            many = len(returns)
            tables.append(
                EpisodeTable(np.full(many, name), np.full(many, steps[entry]), returns, lengths)
            )
            if self._settings.keep_best:
                mine = self._rows[k]
                best = self._best_of(run, rows_of(actors, range(len(seeds))[mine]))
                score, actor = float(returns.mean()), rows_of(actors, [entry])
                if best.offer(entry - mine.start, score, int(steps[entry]), actor):
                    better.append(run)
        for run in better:
            if run.best is not None and run.out is not None:
                run.best.save(run.out / BEST)
        return EpisodeTable.join(tables)

    def _best_of(self, run: Run, actors: Any) -> Best:
        """What is known of a run's best policies: also from before it was resumed."""
        if run.best is None:
            run.best = Best.of(run.seeds, actors)
            if run.out is not None and checkpoints.newest(run.out / BEST) is not None:
                run.best = Best.read(run.out / BEST, run.seeds, jax.eval_shape(lambda: actors))
        return run.best

    def _call_back(self, k: int, report: Report) -> Report:
        """Show a run's report to its callbacks; the report with what they logged."""
        run, table = self.runs[k], report.evaluations
        newest = self._newest[k]
        if table is not None:
            for seed in np.unique(table.seed).tolist():
                newest[seed] = float(table.returns[table.seed == seed].mean())
        if not self._callbacks[k] or run.stopped is not None:
            return report
        steps = dict(zip(run.seeds, self.session.steps[self._rows[k]].tolist(), strict=True))
        moment = Moment(
            run,
            {seed: steps[seed] for seed in run.trained_seeds},
            report,
            dict(newest),
            act_as=partial(self._policy_now, k),
            save=self._save,
        )
        for callback in self._callbacks[k]:
            with self._yours("callback", callback):
                callback(moment)
        run.stopped = moment.stopped
        return report._replace(logged=tuple(moment.logged))

    def _policy_now(self, k: int, seed: int) -> Policy:
        run = self.runs[k]
        if seed not in run.seeds:
            raise UserError(f"{run.name} has no seed {seed}; it has {list(run.seeds)}.")
        entry = self._rows[k].start + run.seeds.index(seed)
        actor = jax.tree.map(lambda x: x[entry], self.session.actors)
        return Policy(run.algorithm, actor, run.spec)

    def _start_from_another(self) -> None:
        """Take over the learners of the run that the settings name, if they name one."""
        origin = getattr(self._settings, "start_from", None)
        if origin is None:
            return
        run, state = self.runs[0], self.session.state
        learners, run.origin = learners_from(origin, run, jax.eval_shape(lambda: state.learner))
        if "only" in run.origin:  # another algorithm's: the rest of the learner is fresh
            learners = replace(state.learner, params=learners.params)
        self.session.state = state._replace(learner=learners)
        save_configuration(run)

    def _begin_with_data(self) -> None:
        """Put the data set of an algorithm that collects into the memory of every learner."""
        data = self.runs[0].data
        if data is None or self.runs[0].learns_from_data:
            return
        batch = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), data.at(np.arange(data.steps)))
        state, algorithm = self.session.state, self._algorithms[0]  # floats play no part
        remember = jax.jit(
            lambda learners: jax.lax.map(lambda each: algorithm.remember(each, batch), learners)
        )
        self.session.state = state._replace(learner=remember(state.learner))

    def _fail(self, entries: Iterable[int], display: TrainingDisplay) -> None:
        """Mark seeds as failed, which is a result; the others are trained on.

        UserError where nothing is left of a run that is trained alone.
        """
        for entry in entries:
            k = self._run_of(entry)
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
        if run.spec.max_episode_steps is not None or not run.finished or run.learns_from_data:
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
            whole._replace(
                metrics=_part(whole.metrics, rows, run.seeds),
                episodes=_part(whole.episodes, rows, run.seeds),
                evaluations=whole.evaluations and _part(whole.evaluations, rows, run.seeds),
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

    def _save(self, state: Any = None) -> None:
        if all(run.out is None for run in self.runs):
            return
        states = self._split(self.session.state if state is None else state)
        for k, (run, state) in enumerate(zip(self.runs, states, strict=True)):
            if run.out is not None:
                trackers.sync(run.out)
                self._saved[k] = save_checkpoint(run, state, self._thinned[k], self._saved[k])

    def _restore(self, display: TrainingDisplay) -> bool:
        """Set the session to what the runs' folders hold; whether there was anything."""
        if len(self.runs) == 1 and self.runs[0].out is None and self.runs[0].state is not None:
            run = self.runs[0]
            self.session.state, self._thinned[0] = run.state
            run.stopped, run.finished = None, False
            for seed, why in run.failed.items():
                self.session.give_up(run.seeds.index(seed), why)
            return True
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
            for note in self.runs[0].begin_phase():
                display.say(f"Note: {note}")
            save_configuration(self.runs[0])
        else:
            self.session.state = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
        return True

    def _evaluate(self, actors: Any) -> None:
        assert self._evaluator is not None
        seeds = [EVALUATION_SEED + seed for run in self.runs for seed in run.seeds]
        evaluate, entries = wait_for(self._evaluator), list(range(len(seeds)))
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
                own = Evaluation(*(part[mine] for part in result))
                run.final_evaluation = evaluated(run.spec, run.trained_seeds, True, own)
                save_evaluation(run.out, run.final_evaluation)


def size_of(shapes: Any) -> int:
    """Bytes of the arrays of these shapes."""
    leaves = jax.tree.leaves(shapes)
    keys = [jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) for x in leaves]
    sizes = (8 if key else x.dtype.itemsize for x, key in zip(leaves, keys, strict=True))
    return sum(math.prod(x.shape) * size for x, size in zip(leaves, sizes, strict=True))


def _check_room(needed: int, seeds: int) -> None:
    """UserError where a training does not fit into the memory.

    It is asked twice: by the size of the state before one is made, and by what the compiler
    counted before the program runs.
    """
    room = _room()
    if room is not None and needed > room:
        raise UserError(
            f"Parameters, optimiser, buffers, environments and batches of {seeds:,} "
            f"seed{'s' * (seeds > 1)} take {needed / 2**30:,.1f} GiB, and there are "
            f"{room / 2**30:,.1f} GiB of memory. Take fewer environments (num_envs), fewer steps "
            "of them (num_steps), a smaller network (hidden_sizes), a smaller buffer or fewer "
            "seeds."
        )


def _room() -> int | None:
    """Bytes of the memory that arrays are kept in; None where nobody says."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return memory()
    return (device.memory_stats() or {}).get("bytes_limit")


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

    return report._replace(
        metrics=others(report.metrics),
        episodes=others(report.episodes),
        evaluations=report.evaluations and others(report.evaluations),
    )


def _up_to(report: Report, found: Iterable[Finding]) -> Report:
    """A report less what seeds that diverged did after that, until the stretch ended."""
    for one in found:
        metrics, episodes = report.metrics, report.episodes
        after = (metrics.seed == one.seed) & (metrics.update > one.update)
        ended = (episodes.seed == one.seed) & (episodes.step > one.step)
        report = report._replace(
            metrics=some_rows(metrics, ~after), episodes=some_rows(episodes, ~ended)
        )
    return report


# ------------------------------------------------------------------------------------ the folder


def _sinks(run: Run, settings: ResumeSettings, tensorboard: bool) -> list[trackers.Sink]:
    if run.out is None:
        return list(settings.sinks)
    sinks: list[trackers.Sink] = [trackers.CsvWriter(run.out)]
    if tensorboard:
        steps = dict.fromkeys(run.seeds, run.steps) if run.steps else None
        sinks.append(trackers.TensorBoard(run.out / "tensorboard", steps))
    if isinstance(settings, TrainSettings) and settings.wandb is not None:
        sinks.append(
            trackers.WandB(
                settings.wandb, run.out.name, run.configuration(), settings.wandb_offline
            )
        )
    return [*sinks, *settings.sinks]


def _restore(run: Run, like: Any) -> tuple[Any, Thinned]:
    """The newest good checkpoint, and the tables as they were when it was written."""
    assert run.out is not None
    state, about = checkpoints.load(run.out / "checkpoints", like, warn)
    if run.total_steps < min(about["steps"]) and run.total_steps != _stored_total(run.out):
        raise UserError(
            f"{run.out} has made {min(about['steps']):,} steps already; resuming it to "
            f"{run.total_steps:,} would not train. Name a larger --total-steps, or none."
        )
    for name in (*trackers.TABLES, trackers.SPEED):
        path = run.out / name
        if path.exists() and not trackers.has_a_line(path):
            path.unlink()  # cut short by a crash before its first line was whole
    trackers.truncate_after(run.out, run.seeds, about["updates"], about["steps"])
    restore_progress(run, about)
    run.stopped = None  # it goes on
    return state, Thinned(about.get("tables"))


def _stored_total(out: Path) -> int:
    return configuration.read(out)["total_steps"]
