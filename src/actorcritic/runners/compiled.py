"""The compiled runner: environment, policy and update are one JAX program.

The program trains K updates at a time (a chunk); between chunks the host logs, draws progress,
checkpoints and may stop. Nothing calls back from inside. `seeds.py` runs it for all seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from actorcritic import spaces
from actorcritic.envs.keys import next_episode, step_key
from actorcritic.types import Action, Algorithm, Environment, EnvSpec, Transition


class Running(NamedTuple):
    """Environments under way, leading axis [B].

    `key` is each one's own, of its episode (see `envs.keys`).
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
    """Per step of a batch, the return and length of the episode it ended; length 0 if none."""

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
    key, reset_key = jax.vmap(next_episode)(key)
    state, observation = jax.vmap(environment.reset)(reset_key)
    zero = jnp.zeros(key.shape[0])
    return Running(key, state, observation, zero, zero.astype(jnp.int32))


def take_step(
    environment: Environment, now: Running, action: Action
) -> tuple[Running, Transition, Bool[Array, " B"]]:
    """One step of every environment, without resets; and which episodes it ended."""
    limit = environment.spec.max_episode_steps
    keys = jax.vmap(step_key)(now.key, now.episode_length)
    executable = spaces.executable(environment.spec.action_space, action)
    state, step = jax.vmap(environment.step)(keys, now.state, executable)

    length = now.episode_length + 1
    truncated = step.truncated if limit is None else step.truncated | (length >= limit)
    done = step.terminated | truncated
    ahead = Running(now.key, state, step.observation, now.episode_return + step.reward, length)
    row = Transition(
        now.observation, action, step.reward, step.terminated, truncated, step.observation
    )
    return ahead, row, done


def advance(
    environment: Environment, now: Running, action: Action
) -> tuple[Running, Transition, Episodes]:
    """One step of every environment, and a reset of those whose episode it ended. Rows are [B]."""
    ahead, row, done = take_step(environment, now, action)
    ended = Episodes(
        jnp.where(done, ahead.episode_return, 0.0), jnp.where(done, ahead.episode_length, 0)
    )
    ahead = jax.lax.cond(
        jnp.any(done), lambda: _where(done, reset(environment, now.key), ahead), lambda: ahead
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
    algorithm: Algorithm, environment: Environment, state: TrainState, total_steps: Int[Array, ""]
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
    progress = state.steps.astype(jnp.float32) / total_steps.astype(jnp.float32)
    learner, metrics = algorithm.update(state.learner, batch, update_key, progress)
    gained = batch.reward.size if batch.valid is None else jnp.sum(batch.valid, dtype=jnp.int32)
    if axis is not None:
        metrics, gained = jax.lax.pmean(metrics, axis), gained * jax.lax.axis_size(axis)
    state = TrainState(learner, running, key, state.updates + 1, state.steps + gained)
    return state, metrics, episodes


@partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["names"])
@dataclass(frozen=True)
class Named:
    """Metrics in one array, a column each: one write an update instead of a dozen."""

    values: Float[Array, "... M"]
    names: tuple[str, ...]


class Log(NamedTuple):
    """What K updates report; rows from the number of updates made on are unused."""

    metrics: Named  # [K, M]
    episodes: Episodes  # [K, T, B]
    steps: Int[Array, " K"]  # environment steps after each update


def train_chunk(
    algorithm: Algorithm,
    environment: Environment,
    capacity: int,
    state: TrainState,
    most: Int[Array, ""],
    total_steps: Int[Array, ""],
) -> tuple[TrainState, Log]:
    """At most `most` updates, and `capacity` (the log's); none beyond `total_steps`."""
    first = state.updates

    @partial(jax.jit, inline=True)  # so that it is traced once, not again in the loop
    def once(state: TrainState, total_steps: Array) -> tuple[TrainState, Log]:
        state, metrics, episodes = train_once(algorithm, environment, state, total_steps)
        names = tuple(sorted(metrics))
        row = Named(jnp.stack([metrics[name] for name in names]), names)
        return state, Log(row, episodes, state.steps)

    def body(carry: tuple[TrainState, Log]) -> tuple[TrainState, Log]:
        state, log = carry
        k = state.updates - first
        state, row = once(state, total_steps)
        return state, jax.tree.map(lambda buffer, x: buffer.at[k].set(x), log, row)

    def more(carry: tuple[TrainState, Log]) -> Array:
        state, _ = carry
        made = state.updates - first
        return (made < capacity) & (made < most) & (state.steps < total_steps)

    _, row = jax.eval_shape(once, state, total_steps)
    log = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), row)
    return jax.lax.while_loop(more, body, (state, log))
