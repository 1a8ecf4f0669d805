"""The compiled runner: environment, policy and update are one JAX program.

The program trains K updates at a time (a chunk), for all seeds; between chunks the host logs,
draws progress, checkpoints and may stop. Nothing calls back from inside.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from actorcritic import spaces
from actorcritic.runners.session import EpisodeTable, MetricTable, Report
from actorcritic.types import Action, Algorithm, Environment, EnvSpec, Transition


class Running(NamedTuple):
    """Environments under way, leading axis [B].

    Each has its own stream of keys: a reset splits one off, step t of an episode folds in t.
    """

    key: Key[Array, " B"]
    state: Any
    observation: Any
    episode_return: Float[Array, " B"]
    episode_length: Int[Array, " B"]


class TrainState(NamedTuple):
    """All there is to a training under way: what a checkpoint holds, for one seed."""

    learner: Any
    environments: Running
    key: Key[Array, ""]
    updates: Int[Array, ""]
    steps: Int[Array, ""]


class Episodes(NamedTuple):
    """Per step of a batch [T, B]: the return and length of the episode it ended, length 0 if none."""

    returns: Float[Array, "T B"]
    lengths: Int[Array, "T B"]


def _where(condition: Array, new: Any, old: Any) -> Any:
    """Per environment (leading axis), `new` where the condition holds."""

    def pick(a: Array, b: Array) -> Array:
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jnp.where(condition, a, b)
        return jnp.where(condition.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, new, old)


def reset(environment: Environment, key: Key[Array, " B"]) -> Running:
    """Start an episode in each environment."""
    keys = jax.vmap(jax.random.split)(key)
    state, observation = jax.vmap(environment.reset)(keys[:, 1])
    zero = jnp.zeros(key.shape[0])
    return Running(keys[:, 0], state, observation, zero, zero.astype(jnp.int32))


def advance(
    environment: Environment, now: Running, action: Action
) -> tuple[Running, Transition, Episodes]:
    """One step of every environment, and a reset of those whose episode it ended. Rows are [B]."""
    limit = environment.spec.max_episode_steps
    keys = jax.vmap(jax.random.fold_in)(now.key, now.episode_length)
    executable = spaces.executable(environment.spec.action_space, action)
    state, step = jax.vmap(environment.step)(keys, now.state, executable)

    length = now.episode_length + 1
    truncated = step.truncated if limit is None else step.truncated | (length >= limit)
    done = step.terminated | truncated
    ahead = Running(now.key, state, step.observation, now.episode_return + step.reward, length)
    row = Transition(
        now.observation, action, step.reward, step.terminated, truncated, step.observation
    )
    ended = Episodes(
        jnp.where(done, ahead.episode_return, 0.0), jnp.where(done, ahead.episode_length, 0)
    )
    ahead = jax.lax.cond(
        jnp.any(done),
        lambda: _where(done, reset(environment, now.key), ahead),
        lambda: ahead,
    )
    return ahead, row, ended


def collect(
    algorithm: Algorithm, environment: Environment, learner: Any, now: Running, key: Key[Array, ""]
) -> tuple[Running, Transition, Episodes]:
    """`num_steps` steps of every environment: [T, B]."""

    def step(now: Running, key: Array) -> tuple[Running, tuple[Transition, Episodes]]:
        action, extras = algorithm.act(learner, now.observation, key)
        now, row, ended = advance(environment, now, action)
        return now, (row._replace(extras=extras), ended)

    now, (batch, episodes) = jax.lax.scan(step, now, jax.random.split(key, algorithm.num_steps))
    return now, batch, episodes


def longest_batch(algorithm: Algorithm, spec: EnvSpec) -> int:
    """T of a batch. Whole episodes need no more room than the environment's time limit."""
    if algorithm.whole_episodes and spec.max_episode_steps is not None:
        return min(algorithm.num_steps, spec.max_episode_steps)
    return algorithm.num_steps


def collect_episodes(
    algorithm: Algorithm, environment: Environment, learner: Any, now: Running, key: Key[Array, ""]
) -> tuple[Running, Transition, Episodes]:
    """One complete episode of every environment, from a fresh start: [T, B], padding not valid."""
    length = longest_batch(algorithm, environment.spec)
    keys = jax.random.split(key, length)

    def step(t: Array, now: Running, open_: Array) -> tuple[Running, Array, Any]:
        action, extras = algorithm.act(learner, now.observation, keys[t])
        now, row, ended = advance(environment, now, action)
        cut = (t == length - 1) & ~(row.terminated | row.truncated)
        row = row._replace(extras=extras, truncated=row.truncated | cut, valid=open_)
        ended = Episodes(*(jnp.where(open_, x, jnp.zeros_like(x)) for x in ended))
        return now, open_ & ~(row.terminated | row.truncated), (row, ended)

    def body(carry: tuple[Array, Running, Array, Any]) -> tuple[Array, Running, Array, Any]:
        t, now, open_, rows = carry
        now, open_, row = step(t, now, open_)
        rows = jax.tree.map(lambda buffer, x: buffer.at[t].set(x), rows, row)
        return t + 1, now, open_, rows

    now = reset(environment, now.key)
    open_ = jnp.ones(algorithm.num_envs, bool)
    row = jax.eval_shape(lambda: step(jnp.asarray(0), now, open_)[2])
    rows = jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), row)
    _, now, _, (batch, episodes) = jax.lax.while_loop(
        lambda carry: (carry[0] < length) & jnp.any(carry[2]),
        body,
        (jnp.asarray(0), now, open_, rows),
    )
    return now, batch, episodes


def begin(algorithm: Algorithm, environment: Environment, key: Key[Array, ""]) -> TrainState:
    """The state before the first update of one seed."""
    key, learner_key, environment_key = jax.random.split(key, 3)
    learner = algorithm.init(learner_key, environment.spec)
    running = reset(environment, jax.random.split(environment_key, algorithm.num_envs))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(learner, running, key, zero, zero)


def train_once(
    algorithm: Algorithm, environment: Environment, state: TrainState, total_steps: Float[Array, ""]
) -> tuple[TrainState, Any, Episodes]:
    """Collect one batch and learn from it."""
    key, act_key, update_key = jax.random.split(state.key, 3)
    axis = getattr(algorithm, "axis", None)
    if axis is not None:  # each device draws its own noise and its own minibatches
        here = jax.lax.axis_index(axis)
        act_key, update_key = (jax.random.fold_in(k, here) for k in (act_key, update_key))
    gather = collect_episodes if algorithm.whole_episodes else collect
    running, batch, episodes = gather(
        algorithm, environment, state.learner, state.environments, act_key
    )
    progress = state.steps / total_steps
    learner, metrics = algorithm.update(state.learner, batch, update_key, progress)
    gained = batch.reward.size if batch.valid is None else jnp.sum(batch.valid, dtype=jnp.int32)
    if axis is not None:
        metrics, gained = jax.lax.pmean(metrics, axis), gained * jax.lax.axis_size(axis)
    state = TrainState(learner, running, key, state.updates + 1, state.steps + gained)
    return state, metrics, episodes


class Log(NamedTuple):
    """What K updates report; rows from the number of updates made on are unused."""

    metrics: Float[Array, "K M"]
    episodes: Episodes  # [K, T, B]
    steps: Int[Array, " K"]  # environment steps after each update


def train_chunk(
    algorithm: Algorithm,
    environment: Environment,
    capacity: int,
    state: TrainState,
    until: Int[Array, ""],
    total_steps: Float[Array, ""],
) -> tuple[TrainState, Log]:
    """Updates until `until` of them are made, `total_steps` are reached or the log is full."""
    first = state.updates

    def once(state: TrainState) -> tuple[TrainState, Any]:
        state, metrics, episodes = train_once(algorithm, environment, state, total_steps)
        row = jnp.stack([metrics[name] for name in sorted(metrics)])
        return state, Log(row, episodes, state.steps)

    def body(carry: tuple[TrainState, Log]) -> tuple[TrainState, Log]:
        state, log = carry
        row_index = state.updates - first
        state, row = once(state)
        return state, jax.tree.map(lambda buffer, x: buffer.at[row_index].set(x), log, row)

    def more(carry: tuple[TrainState, Log]) -> Array:
        state, _ = carry
        made = state.updates - first
        return (made < capacity) & (state.updates < until) & (state.steps < total_steps)

    row = jax.eval_shape(once, state)[1]
    log = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), row)
    return jax.lax.while_loop(more, body, (state, log))


# ---------------------------------------------------------------------------- seeds and devices


def use_all_cores() -> None:
    """One CPU device a core, if JAX has not started its backends yet; else use what is there."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Once JAX has started, its devices are the choice of the program that started it.
    with contextlib.suppress(RuntimeError):
        if jax.config.jax_num_cpu_devices <= 1:
            jax.config.update("jax_num_cpu_devices", max(1, cores or 1))


# Fewer rows of a minibatch on each device, and exchanging gradients costs more than it gains.
MIN_ROWS_PER_DEVICE = 128


def layout(algorithm: Any, num_seeds: int, devices: int) -> tuple[str, int]:
    """How a run uses its devices: ("seeds" or "rows", how many of them).

    Several seeds are spread over the devices. A single seed has its environments and the rows of
    its minibatches spread instead, where they are enough to gain from it.
    """
    if num_seeds > 1 or not hasattr(algorithm, "axis") or algorithm.whole_episodes:
        return "seeds", min(num_seeds, devices)
    spread = max(d for d in range(1, devices + 1) if algorithm.num_envs % d == 0)
    rows = algorithm.num_envs * algorithm.num_steps // getattr(algorithm, "num_minibatches", 1)
    return ("rows", spread) if rows // spread >= MIN_ROWS_PER_DEVICE else ("seeds", 1)


class CompiledSession:
    """All seeds of a run as one program. `state` is a TrainState whose leaves lead with [S]."""

    def __init__(
        self, algorithm: Any, environment: Environment, seeds: Sequence[int], total_steps: int
    ) -> None:
        use_all_cores()
        self.seeds, self.total_steps = tuple(seeds), total_steps
        self._algorithm, self._environment = algorithm, environment
        mode, count = layout(algorithm, len(seeds), jax.device_count())
        self._mesh = jax.make_mesh(
            (count,), (mode,), axis_types=(jax.sharding.AxisType.Auto,),
            devices=jax.devices()[:count],
        )
        # Where the seeds do not divide evenly, one more is trained beside the others: it costs
        # no time, because the devices run side by side.
        padding = -len(seeds) % count if mode == "seeds" else 0
        keys = jax.vmap(jax.random.key)(jnp.asarray([*seeds, *seeds[:1] * padding]))

        def init(algorithm: Algorithm, keys: Array) -> TrainState:
            return jax.lax.map(partial(begin, algorithm, environment), keys)

        if mode == "seeds":
            self._each, self._specs, log_specs = algorithm, P("seeds"), P("seeds")
        else:
            self._each = replace(algorithm, axis="rows", num_envs=algorithm.num_envs // count)
            # A leaf that has a dimension of environments is spread along it, the rest is copied.
            whole, part = (jax.eval_shape(init, a, keys) for a in (algorithm, self._each))
            self._specs = jax.tree.map(
                lambda w, p: P(*("rows" if n != m else None for n, m in zip(w.shape, p.shape))),
                whole, part,
            )
            log_specs = Log(P(), P(None, None, None, "rows"), P())
        self._capacity = max(
            1, min(4096, 65536 // (algorithm.num_envs * longest_batch(algorithm, environment.spec)))
        )

        def train(
            algorithm: Algorithm, states: TrainState, until: Array, total: Array
        ) -> tuple[TrainState, Log]:
            chunk = partial(
                train_chunk, algorithm, environment, self._capacity, until=until, total_steps=total
            )
            # On a CPU, vmap over seeds would turn good matrix products into slow batched ones.
            on_cpu = jax.default_backend() == "cpu"
            return jax.lax.map(chunk, states) if on_cpu else jax.vmap(chunk)(states)

        self._train = jax.jit(
            jax.shard_map(
                train, mesh=self._mesh, in_specs=(P(), self._specs, P(), P()),
                out_specs=(self._specs, log_specs), check_vma=False,
            ),
            donate_argnums=1,
        )
        start = jax.jit(init, out_shardings=self._shardings())
        self._state = start(algorithm, keys)
        self.metric_names = tuple(sorted(jax.eval_shape(
            lambda s: train_once(algorithm, environment, s, jnp.float32(1))[1],
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self._state),
        )))
        self._rate = 0.0  # updates per second of one seed
        self._program: Any = None

    def _shardings(self) -> Any:
        return jax.tree.map(lambda spec: jax.sharding.NamedSharding(self._mesh, spec), self._specs)

    @property
    def state(self) -> TrainState:
        return jax.tree.map(lambda x: x[: len(self.seeds)], self._state)

    @state.setter
    def state(self, state: TrainState) -> None:
        missing = self._state.steps.shape[0] - len(self.seeds)
        padded = jax.tree.map(lambda x: jnp.concatenate([x, x[:missing]]), state)
        self._state = jax.device_put(padded, self._shardings())

    @property
    def steps(self) -> np.ndarray:
        return np.asarray(self._state.steps)[: len(self.seeds)]

    @property
    def finished(self) -> bool:
        return bool((self.steps >= self.total_steps).all())

    def compile(self) -> None:
        """Compile the program (once; `advance` does it otherwise)."""
        if self._program is None:
            arguments = (self._each, self._state, jnp.int32(0), jnp.float32(self.total_steps))
            self._program = self._train.lower(*arguments).compile()

    def advance(self, seconds: float) -> Report:
        self.compile()
        before, updates = self.steps, np.asarray(self._state.updates)
        # The first stretch is short: it tells how long an update takes.
        budget = max(1, int(self._rate * seconds)) if self._rate else 1
        until = jnp.int32(int(updates.min()) + min(budget, self._capacity))
        start = time.perf_counter()
        self._state, log = self._program(
            self._each, self._state, until, jnp.float32(self.total_steps)
        )
        log = jax.tree.map(np.asarray, log)
        elapsed = time.perf_counter() - start
        made = np.asarray(self._state.updates) - updates
        self._rate = made.max() / elapsed
        return self._report(log, before, updates, made, elapsed)

    def _report(
        self, log: Log, before: np.ndarray, updates: np.ndarray, made: np.ndarray, seconds: float
    ) -> Report:
        metrics, episodes = [], []
        for s, seed in enumerate(self.seeds):
            n = int(made[s])
            after = log.steps[s, :n]
            metrics.append((np.full(n, seed), updates[s] + 1 + np.arange(n), after, log.metrics[s, :n]))
            update, t, b = np.nonzero(log.episodes.lengths[s, :n])
            start = np.concatenate([before[s : s + 1], after])[update]
            # In a batch of whole episodes, steps in parallel are not told apart.
            step = after[update] if self._each.whole_episodes else start + t * self._algorithm.num_envs + b + 1
            episodes.append(EpisodeTable(
                np.full(len(update), seed), step,
                log.episodes.returns[s, update, t, b].astype(np.float64),
                log.episodes.lengths[s, update, t, b].astype(np.int64),
            ))
        seed, update, step, values = (np.concatenate(column) for column in zip(*metrics))
        table = MetricTable(seed, update, step, self.metric_names, values)
        return Report(table, EpisodeTable.join(episodes), seconds)

    def close(self) -> None:
        """Nothing to give back."""
