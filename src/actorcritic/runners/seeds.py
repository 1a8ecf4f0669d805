"""The compiled runner's session: all seeds of a run, on all devices."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from actorcritic.core.counting import Count
from actorcritic.core.machine import cores
from actorcritic.core.types import Algorithm, Environment, EnvSpec
from actorcritic.core.waiting import beside, compiled, wait_for
from actorcritic.runners.compiled import (
    Log,
    TrainState,
    begin,
    select,
    train_chunk,
)
from actorcritic.runners.session import (
    COMPILE_FAST,
    EpisodeTable,
    MetricTable,
    Report,
    is_reported,
    never,
    tabulate,
    updates_per_row,
)

# Rows that the log of one chunk has room for: of one seed, and of all on a device together. It is
# zeroed and copied each chunk, however few of its rows are used.
LOG_ROWS, LOG_ROWS_PER_DEVICE = 65_536, 262_144


def use_all_cores() -> None:
    """One CPU device a core, if JAX has not started its backends yet; else use what is there."""
    # Once JAX has started, its devices are the choice of the program that started it.
    with contextlib.suppress(RuntimeError):
        if jax.config.jax_num_cpu_devices <= 1:  # type: ignore[attr-defined]
            jax.config.update("jax_num_cpu_devices", cores())


def layout(
    algorithm: Any, spec: EnvSpec, num_seeds: int, devices: int, spread: int | None = None
) -> tuple[Any, int, int]:
    """How a run uses its devices: (the part of each, devices for its seeds, devices for its rows).

    Several seeds are spread over the devices. A single seed has its environments and the rows of
    its minibatches spread instead, where the algorithm says that this can be done and pays. Its
    numbers depend on over how many: `spread` asks for so many, or for as many as pay.
    """
    wanted = range(devices, 1, -1) if spread is None else [spread] * (1 < spread <= devices)
    if num_seeds == 1:
        for over in wanted:
            part = algorithm.spread("rows", over, spec)
            if part is not None:
                return part, 1, over
    return algorithm, min(num_seeds, devices), 1


def stacked(algorithms: Sequence[Any]) -> Any:
    """Algorithms that differ in floats only as one, whose leaves lead with [S]."""
    return jax.tree.map(lambda *x: np.asarray(x, np.float32), *algorithms)


class SeedsSession:
    """Seeds as entries of one program. The leaves of `state` lead with [S].

    Where the seeds do not divide evenly among the devices, one more is trained beside the others:
    it costs no time, because the devices run side by side.
    """

    _train: Any  # the program, not compiled
    _mesh: jax.sharding.Mesh
    _by_seed: NamedSharding  # of what has a row for each entry

    def __init__(
        self, algorithm: Any, seeds: Sequence[int], total_steps: int, rows: Sequence[int] | None
    ) -> None:
        use_all_cores()
        self.seeds, self.total_steps = tuple(seeds), total_steps
        self._rows = self.seeds if rows is None else tuple(rows)
        algorithms = list(algorithm) if isinstance(algorithm, Sequence) else [algorithm]
        self._given = algorithms * (len(seeds) // len(algorithms))
        self._on_cpu = jax.default_backend() == "cpu"
        self._program: Any = None
        self._started: Any = None
        self.failures: dict[int, str] = {}
        self._rate = 0.0  # updates per second of one seed

    def _over(self, count: int, mode: str) -> None:
        """Use so many devices, for entries ("seeds") or for the rows of one ("rows")."""
        self._mesh = jax.make_mesh(
            (count,),
            (mode,),
            axis_types=(jax.sharding.AxisType.Auto,),
            devices=jax.devices()[:count],
        )

    def _pad(self, padding: int) -> None:
        """Keys and algorithms of all entries, so many of them beside the seeds."""
        self._keys = jax.vmap(jax.random.key)(np.asarray([*self.seeds, *self.seeds[:1] * padding]))
        self._algorithms = stacked([*self._given, *self._given[:1] * padding])

    def _begin_by(self, init: Callable[..., Any], shapes: Any, shardings: Any) -> None:
        """The programs around training: the first state, a copy of one, what acts."""
        count = len(self.seeds)
        self._shardings = shardings
        self._init = jax.jit(init, out_shardings=shardings, compiler_options=COMPILE_FAST)
        self._shapes = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        # For whoever asks for the state: training goes on in the memory of what it was given. One
        # program, because a copy of each leaf would be compiled by itself.
        self._copy = jax.jit(
            lambda state: jax.tree.map(lambda x: jnp.copy(x[:count]), state),
            compiler_options=COMPILE_FAST,
        )
        self._actors = jax.jit(
            lambda algorithms, state: jax.tree.map(
                lambda x: x[:count],
                jax.vmap(lambda a, learner: a.actor(learner))(algorithms, state.learner),
            ),
            compiler_options=COMPILE_FAST,
        )

    def _arguments(self, state: Any, counts: Any, total: Count) -> tuple[Any, ...]:
        """Those of `_train`."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what may be saved and set

    @property
    def _state(self) -> Any:
        if self._started is None:
            self._started = self._init(self._algorithms, self._keys)
        return self._started

    @property
    def shapes(self) -> Any:
        """The shapes and types of `state`, without making one."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((len(self.seeds), *x.shape[1:]), x.dtype), self._shapes
        )

    @property
    def state(self) -> Any:
        return self._copy(self._state)

    @state.setter
    def state(self, state: Any) -> None:
        missing = self._keys.shape[0] - len(self.seeds)
        padded = jax.tree.map(lambda x: jnp.concatenate([x, x[:missing]]), state)
        self._started = jax.device_put(padded, self._shardings)

    @property
    def actors(self) -> Any:
        return self._actors(self._algorithms, self._state)

    @property
    def steps(self) -> np.ndarray:
        return self._state.steps.numbers[: len(self.seeds)]

    @property
    def finished(self) -> bool:
        done = self.steps >= self.total_steps
        done[list(self.failures)] = True
        return bool(done.all())

    def give_up(self, entry: int, why: str) -> None:
        """Entries of the program run side by side: this one goes on, but nobody waits for it."""
        self.failures[entry] = why

    # ------------------------------------------------------------------ training

    def compile(self) -> None:
        """Compile the program (once; `advance` does it otherwise), beside the first state's."""
        if self._program is not None:
            return
        state = beside(lambda: self._state)
        # By its shape alone: to count what is left would wait for that state.
        counts = jax.ShapeDtypeStruct(self._keys.shape, np.int32, sharding=self._by_seed)
        arguments = self._arguments(self._shapes, counts, Count.of(0))
        self._program = compiled(self._train.lower(*arguments))
        wait_for(state)

    @property
    def working_bytes(self) -> int:
        """Memory that the compiled program takes while it runs, states included.

        Of all devices on a CPU, where they share one memory; else of each.
        """
        found = self._program.memory_analysis()
        size = found.argument_size_in_bytes + found.output_size_in_bytes
        size += found.temp_size_in_bytes - found.alias_size_in_bytes
        return size * (self._mesh.size if self._on_cpu else 1)

    def _run(self, counts: Array) -> tuple[Any, np.ndarray, float]:
        """So many updates of each entry: the log of them, how many were made, and the seconds."""
        before, start = self._state.updates.numbers, time.perf_counter()
        arguments = self._arguments(self._state, counts, Count.of(self.total_steps))
        self._started, log = self._program(*arguments)
        log = jax.tree.map(np.asarray, log)
        seconds = time.perf_counter() - start
        made = self._state.updates.numbers - before
        self._rate = made.max() / seconds
        return log, made, seconds

    def close(self) -> None:
        """Nothing to give back."""


class CompiledSession(SeedsSession):
    """All seeds of a run as one program. `state` is a TrainState whose leaves lead with [S].

    Given one algorithm for each entry of `seeds`, which may then repeat, it trains several runs
    beside each other; their hyperparameters may differ where they are floats. `rows` is what
    reports call each entry: its seed, where nothing else is given. `spread` is over how many
    devices the rows of a single seed are spread (see `layout`).
    """

    def __init__(
        self,
        algorithm: Any,
        environment: Environment,
        seeds: Sequence[int],
        total_steps: int,
        rows: Sequence[int] | None = None,
        spread: int | None = None,
    ) -> None:
        super().__init__(algorithm, seeds, total_steps, rows)
        algorithm = self._given[0]
        part, over_seeds, self.spread = layout(
            algorithm, environment.spec, len(seeds), jax.device_count(), spread
        )
        mode, count = ("rows", self.spread) if self.spread > 1 else ("seeds", over_seeds)
        self._over(count, mode)
        self._pad(-len(seeds) % count if mode == "seeds" else 0)

        def init(algorithms: Algorithm, keys: Array) -> TrainState:
            return jax.lax.map(
                lambda each: begin(each[0], environment, each[1]), (algorithms, keys)
            )

        shapes = jax.eval_shape(init, self._algorithms, self._keys)
        if mode == "seeds":
            each, spread_over = self._algorithms, P("seeds")
            log_spread: Any = P("seeds")
            self._spread = jax.tree.map(lambda _: P("seeds"), shapes)
        else:
            each, spread_over = stacked([part]), P()
            # A leaf that has a dimension of environments is spread along it, the rest is copied.
            self._spread = jax.tree.map(
                lambda whole, part: P(
                    *(
                        "rows" if n != m else None
                        for n, m in zip(whole.shape, part.shape, strict=True)
                    )
                ),
                shapes,
                jax.eval_shape(init, each, self._keys),
            )
            log_spread = Log(P(), P(None, None, None, "rows"), P())  # type: ignore[arg-type]
        self._by_seed = NamedSharding(self._mesh, spread_over)
        self._each = jax.device_put(each, self._by_seed)
        self._collects = collects = algorithm.collects
        self._batch = batch = collects.num_envs * collects.longest(environment.spec)
        self._every = updates_per_row(collects)
        together = LOG_ROWS_PER_DEVICE // (len(self._keys) // count if mode == "seeds" else 1)
        most = min(4096, LOG_ROWS // batch, together // batch)
        self._capacity = max(1, most // self._every) * self._every

        axis = "rows" if mode == "rows" else None

        def train(
            algorithms: Algorithm, states: TrainState, counts: Array, total: Count
        ) -> tuple[TrainState, Log]:
            def chunk(each: tuple[Algorithm, TrainState, Array]) -> tuple[TrainState, Log]:
                return train_chunk(each[0], environment, self._capacity, *each[1:], total, axis)

            # On a CPU, vmap over seeds would turn good matrix products into slow batched ones.
            if self._on_cpu:
                return jax.lax.map(chunk, (algorithms, states, counts))
            # Elsewhere all make as many updates (see `train_chunk`), and those with nothing left
            # to do are put back to where they were.
            count = jnp.max(counts)
            after, log = jax.vmap(lambda *each: chunk((*each, count)))(algorithms, states)
            return select(counts > 0, after, states), log

        of = partial(NamedSharding, self._mesh)
        self._begin_by(init, shapes, jax.tree.map(of, self._spread))
        self._train = jax.jit(
            jax.shard_map(
                train,
                mesh=self._mesh,
                in_specs=(spread_over, self._spread, spread_over, P()),
                out_specs=(self._spread, log_spread),
                check_vma=False,
            ),
            donate_argnums=1,
        )

    def _arguments(self, state: Any, counts: Any, total: Count) -> tuple[Any, ...]:
        return self._each, state, counts, total

    # ------------------------------------------------------------------ training

    def advance(
        self,
        seconds: float,
        interrupted: Callable[[], bool] = never,
        until: np.ndarray | None = None,
    ) -> Report:
        self.compile()
        before, updates = jax.tree.map(np.asarray, self._state.steps), self._state.updates.numbers
        # The first stretch is short: it tells how long an update takes.
        budget = max(1, int(self._rate * seconds / self._every)) * self._every
        counts = self._counts(min(budget, self._capacity), until)
        log, made, elapsed = self._run(counts)
        return self._report(log, before, updates, made, elapsed)

    def _counts(self, most: int, until: np.ndarray | None) -> Array:
        """How many updates each seed makes now: at most so many, and none beyond the end."""
        counts, steps = np.full(len(self._keys), most), self._state.steps.numbers
        if until is not None:
            until = np.concatenate([until, [until[0]] * (len(counts) - len(until))])
            room = np.maximum(until - steps, 0)
            if self._collects.whole_episodes:
                # Of unknown size: so many as surely do not go beyond it, or one.
                counts = np.minimum(counts, np.maximum(room // self._batch, room > 0))
            else:  # stretches end with a row
                rows = -(-room // (self._batch * self._every))
                counts = np.minimum(counts, rows * self._every)
        if not self._collects.whole_episodes:
            left = -(-(self.total_steps - steps) // self._batch)
            counts = np.minimum(counts, np.maximum(left, 0))
            if not self._on_cpu and counts.any():
                counts = np.where(counts > 0, counts[counts > 0].min(), 0)
        return jax.device_put(counts.astype(np.int32), self._by_seed)

    def _report(
        self, log: Any, before: Count, updates: np.ndarray, made: np.ndarray, seconds: float
    ) -> Report:
        metrics, episodes = [], []
        for s, row in enumerate(self._rows):
            n = int(made[s])
            start = jax.tree.map(itemgetter(s), before)
            after = start.ahead(log.steps[s, :n])
            numbers = updates[s] + 1 + np.arange(n)
            kept = np.flatnonzero(is_reported(numbers, self._every))
            values = log.metrics.values[s, kept]
            columns = np.full(len(kept), row), numbers[kept], after[kept]
            metrics.append(MetricTable(*columns, log.metrics.names, values))
            update, t, b = np.nonzero(log.episodes.lengths[s, :n])
            first = np.concatenate([[int(start)], after])[update]
            step = first + t * self._collects.num_envs + b + 1
            if self._collects.whole_episodes:  # where parallel steps are not told apart
                step = after[update]
            returns, lengths = (x[s, update, t, b] for x in log.episodes)
            episodes.append(EpisodeTable(np.full(len(step), row), step, returns, lengths))
        gained = int((self.steps - before.numbers[: len(self.seeds)]).sum())
        return tabulate(MetricTable.join(metrics), EpisodeTable.join(episodes), gained, seconds)
