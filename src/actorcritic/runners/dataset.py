"""The data set runner: the data lie on the device, and the program learns K updates at a time.

No environment is stepped. A step of such a training is an update: one gradient step on rows that
the program draws from the data set, uniformly and with replacement, by its own key. All seeds are
one program, as with the compiled runner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from actorcritic.core.counting import Count
from actorcritic.core.types import Algorithm, EnvSpec, Extras, Observation, Transition
from actorcritic.data.dataset import Dataset
from actorcritic.maths import spaces
from actorcritic.runners.compiled import Named, select
from actorcritic.runners.seeds import SeedsSession
from actorcritic.runners.session import (
    EpisodeTable,
    MetricTable,
    Report,
    never,
    tabulate,
)

UPDATES_PER_ROW = 25  # of metrics, which are means over them
ROWS = 1024  # of metrics that the log of one chunk has room for


class Data(NamedTuple):
    """A data set on the device: N steps, and M observations that they point into."""

    observation: Observation  # leaves [M, ...]
    place: Int[Array, " N"]  # of a step's own observation; its successor lies one further
    action: Array  # as a policy draws it
    reward: Float[Array, " N"]
    terminated: Bool[Array, " N"]
    truncated: Bool[Array, " N"]
    own: Any = ()  # leaves [N, ...], for `Extras.own`

    @classmethod
    def of(cls, data: Dataset, own: Any = ()) -> Data:
        action = spaces.as_drawn(data.spec.action_space, data.action)
        ends = data.terminated, data.truncated
        # Room for so many, that data sets of as many steps share a compiled program.
        spare = max(0, data.steps // 8 - data.episodes)
        room = jax.tree.map(
            lambda x: np.concatenate([x, np.zeros((spare, *x.shape[1:]), x.dtype)]),
            data.observation,
        )
        columns: Any = (data.place, action, data.reward, *ends, own)
        return cls(room, *columns)

    def at(self, rows: Int[Array, " n"]) -> Transition:
        """These steps as a batch, leaves [1, n, ...]."""
        place = self.place[rows]
        before, after = (
            jax.tree.map(lambda x, at=at: x[at][None], self.observation)
            for at in (place, place + 1)
        )
        action, reward, terminated, truncated = (x[rows][None] for x in self[2:6])
        own = jax.tree.map(lambda x: x[rows][None], self.own)
        return Transition(before, action, reward, terminated, truncated, after, Extras(own=own))


class DataState(NamedTuple):
    """All there is to a training under way, for one seed."""

    learner: Any
    key: Key[Array, ""]
    updates: Count
    steps: Count  # which are updates


class Log(NamedTuple):
    """What a chunk reports; rows from the number that were begun on are unused."""

    metrics: Named  # [ROWS, M]
    updates: UInt32[Array, " ROWS"]  # the low word of those made when the row was complete


def begin(algorithm: Algorithm, spec: EnvSpec, key: Key[Array, ""]) -> DataState:
    """The state before the first update of one seed."""
    key, learner_key = jax.random.split(key)
    zero = jax.tree.map(jnp.asarray, Count.of(0))
    return DataState(algorithm.init(learner_key, spec), key, zero, zero)


def update_once(
    algorithm: Algorithm,
    data: Data,
    pool: Int[Array, " n"] | None,
    state: DataState,
    total_steps: Count,
) -> tuple[DataState, Named]:
    """Draw rows, of all or of a pool of them, and learn from them."""
    assert algorithm.draws is not None
    key, draw_key, update_key = jax.random.split(state.key, 3)
    # The remainder favours no row by more than N / 2³²; `randint` takes longer.
    count = len(data.reward if pool is None else pool)
    rows = (jax.random.bits(draw_key, (algorithm.draws,)) % np.uint32(count)).astype(jnp.int32)
    batch = data.at(rows if pool is None else pool[rows])
    progress = state.steps.share(total_steps)
    learner, metrics = algorithm.update(state.learner, batch, update_key, progress)
    names = tuple(sorted(metrics))
    row = Named(jnp.stack([metrics[name] for name in names]), names)
    counts = state.updates.plus(np.int32(1)), state.steps.plus(np.int32(1))
    return DataState(learner, key, *counts), row


def learn_chunk(
    algorithm: Algorithm,
    data: Data,
    pool: Int[Array, " n"] | None,
    state: DataState,
    count: Int[Array, ""],
    total_steps: Count,
) -> tuple[DataState, Log]:
    """`count` updates, at most `ROWS` rows of them; rows end at multiples of UPDATES_PER_ROW."""
    once = partial(jax.jit(update_once, inline=True), algorithm, data, pool)

    def row(carry: tuple[Array, Array, DataState, Log]) -> tuple[Array, Array, DataState, Log]:
        k, left, state, log = carry
        number = jnp.minimum(UPDATES_PER_ROW - state.updates.modulo(UPDATES_PER_ROW), left)

        def one(_: Array, carry: tuple[DataState, Array]) -> tuple[DataState, Array]:
            state, found = once(carry[0], total_steps)
            return state, carry[1] + found.values

        sums = jnp.zeros_like(log.metrics.values[0])
        state, sums = jax.lax.fori_loop(0, number, one, (state, sums))
        values = log.metrics.values.at[k].set(sums / number.astype(sums.dtype))
        metrics = Named(values, log.metrics.names)
        updates = log.updates.at[k].set(state.updates.low)
        return k + 1, left - number, state, Log(metrics, updates)

    _, shape = jax.eval_shape(once, state, total_steps)
    room = jnp.zeros((ROWS, *shape.values.shape), shape.values.dtype)
    log = Log(Named(room, shape.names), jnp.zeros(ROWS, jnp.uint32))
    zero = jnp.zeros((), jnp.int32)
    _, _, state, log = jax.lax.while_loop(lambda c: c[1] > 0, row, (zero, count, state, log))
    return state, log


class DatasetSession(SeedsSession):
    """All seeds of a run that learns from a data set. `state` is a DataState, leaves [S].

    As `CompiledSession`, with a data set in the place of an environment: one algorithm for each
    entry of `seeds` may be given, and `rows` are what reports call each entry. `own` is what else
    belongs to each step [N, ...], for the algorithm's `Extras.own`. With `pools` [S, n], each entry
    draws from those steps only, which may repeat: a bootstrap.
    """

    spread = 1  # over how many devices the rows of a seed are spread

    def __init__(
        self,
        algorithm: Any,
        data: Dataset,
        spec: EnvSpec,
        seeds: Sequence[int],
        total_steps: int,
        rows: Sequence[int] | None = None,
        *,
        own: Any = (),
        pools: Int[np.ndarray, "S n"] | None = None,
    ) -> None:
        super().__init__(algorithm, seeds, total_steps, rows)
        count = min(len(seeds), jax.device_count())
        self._over(count, "seeds")
        padding = -len(seeds) % count
        self._pad(padding)
        self._by_seed, everywhere = (NamedSharding(self._mesh, p) for p in (P("seeds"), P()))
        self._each = jax.device_put(self._algorithms, self._by_seed)
        self._data = jax.device_put(Data.of(data, own), everywhere)
        if pools is not None:
            pools = jax.device_put(np.concatenate([pools, pools[:padding]]), self._by_seed)
        self._pools = pools

        def init(algorithms: Algorithm, keys: Array) -> DataState:
            return jax.lax.map(lambda each: begin(each[0], spec, each[1]), (algorithms, keys))

        def train(
            algorithms: Algorithm,
            data: Data,
            pools: Array | None,
            states: DataState,
            counts: Array,
            total: Count,
        ) -> tuple[DataState, Log]:
            def chunk(each: tuple[Algorithm, Any, DataState, Array]) -> tuple[DataState, Log]:
                return learn_chunk(each[0], data, *each[1:], total)

            # On a CPU, vmap over seeds would turn good matrix products into slow batched ones.
            if self._on_cpu:
                return jax.lax.map(chunk, (algorithms, pools, states, counts))
            count = jnp.max(counts)
            after, log = jax.vmap(lambda *each: chunk((*each, count)))(algorithms, pools, states)
            return select(counts > 0, after, states), log

        shapes = jax.eval_shape(init, self._algorithms, self._keys)
        self._begin_by(init, shapes, jax.tree.map(lambda _: self._by_seed, shapes))
        seeded = P("seeds")
        self._train = jax.jit(
            jax.shard_map(
                train,
                mesh=self._mesh,
                in_specs=(seeded, P(), seeded, seeded, seeded, P()),
                out_specs=(seeded, seeded),
                check_vma=False,
            ),
            donate_argnums=3,
        )

    def _arguments(self, state: Any, counts: Any, total: Count) -> tuple[Any, ...]:
        return self._each, self._data, self._pools, state, counts, total

    # ------------------------------------------------------------------ training

    def advance(
        self,
        seconds: float,
        interrupted: Callable[[], bool] = never,
        until: np.ndarray | None = None,
    ) -> Report:
        self.compile()
        before = jax.tree.map(np.asarray, self._state.updates)
        # The first stretch is short: it tells how long an update takes.
        budget = max(1, int(self._rate * seconds / UPDATES_PER_ROW)) * UPDATES_PER_ROW
        counts = self._counts(min(budget, (ROWS - 1) * UPDATES_PER_ROW), before.numbers, until)
        log, made, elapsed = self._run(counts)
        return self._report(log, before, made, elapsed)

    def _counts(self, most: int, made: np.ndarray, until: np.ndarray | None) -> Array:
        """How many updates each seed makes now: at most so many, and none beyond the end."""
        # A stretch ends with a row of metrics: rows must not depend on how long stretches are.
        counts = np.minimum(most - made % UPDATES_PER_ROW, np.maximum(self.total_steps - made, 0))
        if until is not None:
            until = np.concatenate([until, [until[0]] * (len(counts) - len(until))])
            counts = np.minimum(counts, np.maximum(until - made, 0))
        if not self._on_cpu and counts.any():
            counts = np.where(counts > 0, counts[counts > 0].min(), 0)
        return jax.device_put(counts.astype(np.int32), self._by_seed)

    def _report(self, log: Any, before: Count, made: np.ndarray, seconds: float) -> Report:
        metrics = []
        for s, name in enumerate(self._rows):
            start = jax.tree.map(itemgetter(s), before)
            first = int(start) // UPDATES_PER_ROW
            n = -(-(int(start) + int(made[s])) // UPDATES_PER_ROW) - first if made[s] else 0
            after = start.ahead(log.updates[s, :n])
            columns = np.full(n, name), after, after
            metrics.append(MetricTable(*columns, log.metrics.names, log.metrics.values[s, :n]))
        gained = int(made[: len(self.seeds)].sum())
        return tabulate(MetricTable.join(metrics), EpisodeTable.join([]), gained, seconds)
