"""The host runner: any Gymnasium environment, with policy and update as two JAX programs.

The policy is called once a step; a rollout's keys are drawn at once, and split as the compiled
runner splits them. Exposed through `AsGymnasium` with its keys, a compiled environment therefore
gives the same parameters here as there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from actorcritic.core.counting import Count
from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec, Transition
from actorcritic.core.waiting import compiled
from actorcritic.envs.host.environment import HostEnvironment, environment_seed
from actorcritic.runners.collector import Abandoned, Collector, Diverged, Ended
from actorcritic.runners.session import (
    INFO,
    EpisodeTable,
    MetricTable,
    Report,
    is_reported,
    never,
    tabulate,
    updates_per_row,
)

RESUME_NOTE = (
    "Resuming preserves the parameters, the optimiser, the running statistics, the random keys and "
    "the counters. Environments on the host cannot be saved: they begin new episodes, so that a "
    "resumed run is a valid training, but not bit for bit the one without the interruption."
)


class HostState(NamedTuple):
    """What a checkpoint holds; in `HostSession.state` the leaves lead with [S]."""

    learner: Any
    key: Key[Array, ""]
    updates: Count
    steps: Count


def call_inline() -> None:
    """Run programs on the CPU in the thread that calls them, if JAX has not started yet.

    Handing a policy's few microseconds of work to another thread, and waiting for its answer,
    takes longer than the work itself. Programs over several devices are not affected.
    """
    with contextlib.suppress(AttributeError):  # only a matter of speed, if JAX renames it
        jax.config.update("jax_cpu_enable_async_dispatch", False)


def begin(algorithm: Any, spec: EnvSpec, key: Key[Array, ""]) -> HostState:
    """The state before the first update of one seed; the third key is the environments'."""
    key, learner_key, _ = jax.random.split(key, 3)
    zero = jax.tree.map(jnp.asarray, Count.of(0))
    return HostState(algorithm.init(learner_key, spec), key, zero, zero)


class HostSession:
    """The seeds of a run, trained one after another. `state` is a HostState, leaves [S]."""

    spread = 1  # over how many devices the rows of a seed are spread

    def __init__(
        self, algorithm: Any, environment: Any, seeds: Sequence[int], total_steps: int
    ) -> None:
        call_inline()
        if isinstance(environment, HostEnvironment):
            environment.check()
        self.seeds, self.total_steps = tuple(seeds), total_steps
        self._algorithm, self._spec = algorithm, environment.spec
        self._info_metrics = getattr(environment, "info_metrics", ())
        # On the device once, not at every call.
        self._settings = jax.tree.map(jnp.asarray, algorithm)

        keys = jax.vmap(jax.random.key)(np.asarray(self.seeds))
        init = jax.jit(lambda a, keys: jax.lax.map(partial(begin, a, self._spec), keys))
        self.state = compiled(init.lower(self._settings, keys))(self._settings, keys)
        self._names: tuple[str, ...] = ()  # of the metrics, known once `_update` was traced
        self.failures: dict[int, str] = {}
        self._failure: UserError | None = None  # of an environment, not told yet
        self.notes: list[str] = []  # what happened on the way, until somebody says it
        self._programs: tuple[Any, Any] | None = None
        self._open(environment)

    def _open(self, environment: Any) -> None:
        """Open the environments."""
        actor = jax.eval_shape(self._algorithm.behaviour, self._states[0].learner)
        self._collector = Collector(self._algorithm, environment, actor)

    # The two programs; a third is the collector's.

    def _draw(self, key: Array) -> tuple[Array, Array, Array]:
        """The keys of an update, as the compiled runner draws them."""
        key, act_key, update_key = jax.random.split(key, 3)
        steps = self._algorithm.collects.longest(self._spec)
        return key, jax.random.split(act_key, steps), update_key

    def _update(
        self, algorithm: Any, learner: Any, batch: Transition, key: Array, progress: Array
    ) -> tuple[Any, Array]:
        learner, metrics = algorithm.update(learner, batch, key, progress)
        self._names = tuple(sorted(metrics))
        return learner, jnp.stack([metrics[name] for name in self._names])

    def compile(self) -> None:
        """Compile the programs (once; `advance` does it otherwise)."""
        if self._programs is not None:
            return
        state = self._states[0]
        self._collector.compile()
        batch, progress = self._collector.batch(), np.float32(0)
        arguments = self._settings, state.learner, batch, state.key, progress
        update = jax.jit(self._update, donate_argnums=1).lower(*arguments)
        self._programs = compiled(jax.jit(self._draw).lower(state.key)), compiled(update)

    # What may be saved and set.

    @property
    def shapes(self) -> HostState:
        """The shapes and types of `state`."""
        return jax.eval_shape(lambda: self.state)

    @property
    def state(self) -> HostState:
        return jax.tree.map(lambda *x: jnp.stack(x), *self._states)

    @state.setter
    def state(self, state: HostState) -> None:
        device = jax.devices()[0]
        self._states = [
            jax.tree.map(lambda x, s=s: jax.device_put(x[s], device), state)
            for s in range(len(self.seeds))
        ]
        self._under_way: int | None = None  # the seed whose episodes are under way
        self._last: int | None = None  # the seed that the environments served last

    @property
    def steps(self) -> np.ndarray:
        return np.array([int(state.steps) for state in self._states])

    @property
    def finished(self) -> bool:
        return self._next() is None

    def _next(self) -> int | None:
        """The seed to train now: the first that is neither done nor given up."""
        unfinished = np.flatnonzero(self.steps < self.total_steps).tolist()
        return next((s for s in unfinished if s not in self.failures), None)

    def give_up(self, entry: int, why: str) -> None:
        self.failures[entry] = why

    # Training.

    @property
    def actors(self) -> Any:
        each = [self._settings.actor(state.learner) for state in self._states]
        return jax.tree.map(lambda *x: jnp.stack(x), *each)

    def advance(
        self,
        seconds: float,
        interrupted: Callable[[], bool] = never,
        until: np.ndarray | None = None,
    ) -> Report:
        """A batch under way when `interrupted` says so is left out, as if it had not begun."""
        self.compile()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        start, before = time.perf_counter(), self.steps
        rows: list[tuple[int, int, int, np.ndarray]] = []
        episodes: list[tuple[int, int, float, int]] = []
        since: list[Ended] = []  # the latest row
        every = updates_per_row(self._algorithm.collects)
        while (s := self._next()) is not None:
            taken = int(self._states[s].steps)
            try:
                metrics, ended = self._train_once(s, interrupted)
            except Abandoned:
                break
            except Diverged as stop:
                self.give_up(s, f"Seed {self.seeds[s]}: {stop}")
                continue
            except UserError as error:
                if (self.steps == before).all():
                    raise
                self._failure = error  # first, what was learned before it is reported
                break
            state = self._states[s]
            made = int(state.updates)
            since.extend(ended)
            if is_reported(made, every):
                numbers = self._with_infos(metrics, since)
                rows.append((self.seeds[s], made, int(state.steps), numbers))
                since = []
            episodes.extend(
                (self.seeds[s], taken + one.step, one.episode_return, one.length) for one in ended
            )
            there = until is not None and int(state.steps) >= until[s]
            if made % every == 0 and (there or time.perf_counter() - start >= seconds):
                break
        elapsed = time.perf_counter() - start
        seed, update, step = (np.array([row[k] for row in rows], np.int64) for k in range(3))
        values = np.array([row[3] for row in rows], np.float32)
        names = (*self._names, *(INFO + name for name in self._info_metrics))
        values = values.reshape(-1, len(names))
        kinds = (np.int64, np.int64, np.float64, np.int64)
        columns = [np.array([row[k] for row in episodes], kind) for k, kind in enumerate(kinds)]
        table = MetricTable(seed, update, step, names, values)
        gained = int((self.steps - before).sum())
        return tabulate(table, EpisodeTable(*columns), gained, elapsed)

    def _with_infos(self, metrics: np.ndarray, ended: list[Ended]) -> np.ndarray:
        """With the means of the `info_metrics` over the episodes that ended, NaN where none did."""
        if not self._info_metrics:
            return metrics
        columns = np.array([one.infos for one in ended]).reshape(-1, len(self._info_metrics))
        known = np.isfinite(columns)
        with np.errstate(invalid="ignore"):
            means = np.where(known, columns, 0.0).sum(0) / known.sum(0)
        return np.concatenate([metrics, means.astype(np.float32)])

    def _train_once(
        self, s: int, interrupted: Callable[[], bool]
    ) -> tuple[np.ndarray, list[Ended]]:
        assert self._programs is not None
        draw, update = self._programs
        state = self._states[s]
        key, act_keys, update_key = draw(state.key)
        if self._under_way != s:
            # Other episodes each time that a seed is taken up again, and no other's environments.
            again = environment_seed(self.seeds[s], int(state.updates))
            self._collector.start(again, anew=self._last not in (None, s))
            self._under_way = self._last = s
        try:
            actor = self._settings.behaviour(state.learner)
            name = f"update {int(state.updates) + 1} (seed {self.seeds[s]})"
            batch, ended = self._collector.collect(actor, act_keys, interrupted, name)
        except (Abandoned, UserError):
            self._under_way = None
            raise
        gained = int(batch.steps(self._spec.columns))
        progress = state.steps.share(Count.of(self.total_steps))
        learner, metrics = update(self._settings, state.learner, batch, update_key, progress)
        counts = Count.of(int(state.updates) + 1), Count.of(int(state.steps) + gained)
        self._states[s] = HostState(learner, key, *counts)
        # Waits for the update: only then may the batch be overwritten.
        return np.asarray(metrics), ended

    def close(self) -> None:
        """Close the environments that this session made."""
        self._collector.close()
