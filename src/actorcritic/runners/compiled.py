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
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from actorcritic.core.counting import Count
from actorcritic.core.types import Action, Algorithm, Collects, Environment, EnvSpec, Transition
from actorcritic.envs.keys import next_episode, step_key
from actorcritic.maths import spaces

# Steps after which an episode without a time limit is cut: its random keys (`envs.keys`) end.
LONGEST = 2**31 - 2


class Running(NamedTuple):
    """Environments under way, leading axis [B]; of what each agent has, [B·N].

    `key` is each one's own, of its episode (see `envs.keys`).
    """

    key: Key[Array, " B"]
    state: Any
    observation: Any  # [B·N]
    episode_return: Float[Array, " B*N"]
    episode_length: Int[Array, " B"]
    reward_sum: Float[Array, " B*N"]  # discounted, see `Transition.reward_sum`


class TrainState(NamedTuple):
    """All there is to a training under way: what a checkpoint holds, for one seed."""

    learner: Any
    environments: Running
    key: Key[Array, ""]
    updates: Count
    steps: Count


class Episodes(NamedTuple):
    """Per step of a batch, the return and length of the episode it ended; length 0 if none."""

    returns: Float[Array, "T B"]
    lengths: Int[Array, "T B"]


def select(condition: Array, new: Any, old: Any) -> Any:
    """Per environment (leading axis, or one of columns), `new` where the condition holds."""

    def pick(a: Array, b: Array) -> Array:
        which = each_column(condition, a.shape[0] // condition.shape[0])
        return jnp.where(which.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, new, old)


def each_column(x: Array, columns: int) -> Array:
    """What holds for environments [B], for each of their columns [B·N]."""
    return x if columns == 1 else jnp.repeat(x, columns)


def _flat(spec: EnvSpec, tree: Any) -> Any:
    """What each agent of each environment has, [B, N, ...], as columns [B·N, ...]."""
    if not spec.agents:
        return tree
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def team_return(spec: EnvSpec, returns: Float[Array, " B*N"]) -> Float[Array, " B"]:
    """An episode's return: the mean over the agents of the first team."""
    if not spec.agents:
        return returns
    return returns.reshape(-1, spec.columns)[:, jnp.asarray(spec.first_team)].mean(axis=1)


def reset(environment: Environment, key: Key[Array, " B"]) -> Running:
    """Start an episode in each environment."""
    key, reset_key = jax.vmap(next_episode)(key)
    state, observation = jax.vmap(environment.reset)(reset_key)
    lengths, spec = jnp.zeros(key.shape[0], jnp.int32), environment.spec
    zero = jnp.zeros(key.shape[0] * spec.columns)
    return Running(key, state, _flat(spec, observation), zero, lengths, zero)


def take_step(
    environment: Environment, now: Running, action: Action, collects: Collects | None = None
) -> tuple[Running, Transition, Bool[Array, " B"]]:
    """One step of every environment, without resets; and which episodes it ended."""
    spec = environment.spec
    limit, columns = spec.max_episode_steps, spec.columns
    keys = jax.vmap(step_key)(now.key, now.episode_length)
    executable = spaces.executable(spec.action_space, action)
    if spec.agents:
        executable = executable.reshape(-1, columns, *executable.shape[1:])
    state, step = jax.vmap(environment.step)(keys, now.state, executable)
    step = _flat(spec, step)

    length, truncated, reward = now.episode_length + 1, step.truncated, step.reward
    limit = LONGEST if limit is None else limit
    truncated = truncated | each_column(length >= limit, columns)
    if step.valid is not None:
        reward = jnp.where(step.valid, reward, 0.0)
    done = (step.terminated | truncated).reshape(-1, columns).all(axis=1)
    total = now.episode_return + reward
    row = Transition(
        now.observation, action, reward, step.terminated, truncated, step.observation
    )._replace(valid=step.valid)
    reward_sum = now.reward_sum
    if collects is not None and collects.discount is not None:
        reward_sum = collects.discount * reward_sum + reward
        row = row._replace(reward_sum=reward_sum)
    ahead = Running(now.key, state, step.observation, total, length, reward_sum)
    return ahead, row, done


def advance(
    environment: Environment, now: Running, action: Action, collects: Collects | None = None
) -> tuple[Running, Transition, Episodes]:
    """One step of every environment, and a reset of those whose episode it ended. Rows are [B]."""
    ahead, row, done = take_step(environment, now, action, collects)
    return _renewed(environment, now, ahead, done), row, _ended(environment.spec, ahead, done)


def _ended(spec: EnvSpec, ahead: Running, which: Bool[Array, " B"]) -> Episodes:
    """The episodes that ended with this step."""
    returns = team_return(spec, ahead.episode_return)
    return Episodes(jnp.where(which, returns, 0.0), jnp.where(which, ahead.episode_length, 0))


def _renewed(
    environment: Environment, now: Running, ahead: Running, done: Bool[Array, " B"]
) -> Running:
    """`ahead`, with new episodes in the environments that are done."""
    return jax.lax.cond(
        jnp.any(done), lambda: select(done, reset(environment, now.key), ahead), lambda: ahead
    )


def collect(
    algorithm: Algorithm, environment: Environment, actor: Any, now: Running, key: Key[Array, ""]
) -> tuple[Running, Transition, Episodes]:
    """What the algorithm collects for one update: [T, B]."""
    assert algorithm.collects is not None
    gather = _collect_episodes if algorithm.collects.whole_episodes else _collect_steps
    return gather(algorithm, algorithm.collects, environment, actor, now, key)


def _collect_steps(
    algorithm: Algorithm,
    collects: Collects,
    environment: Environment,
    actor: Any,
    now: Running,
    key: Key[Array, ""],
) -> tuple[Running, Transition, Episodes]:
    """`num_steps` steps of every environment."""

    def step(now: Running, key: Array) -> tuple[Running, tuple[Transition, Episodes]]:
        action, extras = algorithm.act(actor, now.observation, key)
        now, row, ended = advance(environment, now, action, collects)
        return now, (row._replace(extras=extras), ended)

    now, (batch, episodes) = jax.lax.scan(step, now, jax.random.split(key, collects.num_steps))
    return now, batch, episodes


def _collect_episodes(
    algorithm: Algorithm,
    collects: Collects,
    environment: Environment,
    actor: Any,
    now: Running,
    key: Key[Array, ""],
) -> tuple[Running, Transition, Episodes]:
    """One complete episode of every environment, from a fresh start; padding is not valid.

    An episode that is longer than the batch is cut there, and counts as it is then.
    """
    length, columns = collects.longest(environment.spec), environment.spec.columns
    keys = jax.random.split(key, length)

    def step(t: Array, now: Running, open_: Array) -> tuple[Running, Array, Any]:
        action, extras = algorithm.act(actor, now.observation, keys[t])
        ahead, row, done = take_step(environment, now, action, collects)
        valid, last = each_column(open_, columns), t == length - 1
        valid = valid if row.valid is None else valid & row.valid
        row = row._replace(extras=extras, valid=valid)
        row = row._replace(truncated=row.truncated | (last & ~row.terminated))
        ends = open_ & (done | last)
        ended = _ended(environment.spec, ahead, ends)
        return _renewed(environment, now, ahead, done), open_ & ~ends, (row, ended)

    def body(carry: tuple[Array, Running, Array, Any]) -> tuple[Array, Running, Array, Any]:
        t, now, open_, rows = carry
        now, open_, row = step(t, now, open_)
        rows = jax.tree.map(lambda buffer, x: buffer.at[t].set(x), rows, row)
        return t + 1, now, open_, rows

    now = reset(environment, now.key)
    open_ = jnp.ones(collects.num_envs, bool)
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
    assert algorithm.collects is not None
    running = reset(environment, jax.random.split(environment_key, algorithm.collects.num_envs))
    zero = jax.tree.map(jnp.asarray, Count.of(0))
    return TrainState(learner, running, key, zero, zero)


def train_once(
    algorithm: Algorithm,
    environment: Environment,
    state: TrainState,
    total_steps: Count,
    axis: str | None = None,
) -> tuple[TrainState, Any, Episodes]:
    """Collect one batch and learn from it; with `axis`, as one of the devices of a mesh axis."""
    key, act_key, update_key = jax.random.split(state.key, 3)
    if axis is not None:  # each device draws its own noise and its own minibatches
        here = jax.lax.axis_index(axis)
        act_key, update_key = (jax.random.fold_in(k, here) for k in (act_key, update_key))
    actor = algorithm.behaviour(state.learner)
    running, batch, episodes = collect(algorithm, environment, actor, state.environments, act_key)
    progress = state.steps.share(total_steps)
    learner, metrics = algorithm.update(state.learner, batch, update_key, progress)
    gained = batch.steps(environment.spec.columns)
    if axis is not None:
        metrics, gained = jax.lax.pmean(metrics, axis), gained * jax.lax.axis_size(axis)
    counts = state.updates.plus(np.int32(1)), state.steps.plus(jnp.asarray(gained))
    state = TrainState(learner, running, key, *counts)
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
    steps: UInt32[Array, " K"]  # the low word of the environment steps after each update


def train_chunk(
    algorithm: Algorithm,
    environment: Environment,
    capacity: int,
    state: TrainState,
    count: Int[Array, ""],
    total_steps: Count,
    axis: str | None = None,
) -> tuple[TrainState, Log]:
    """`count` updates, of which the log has room for `capacity`.

    Batches of whole episodes are of unknown size: of them, none begins beyond `total_steps`.
    """
    assert algorithm.collects is not None
    whole = algorithm.collects.whole_episodes

    @partial(jax.jit, inline=True)  # so that it is traced once, not again in the loop
    def once(state: TrainState, total_steps: Count) -> tuple[TrainState, Log]:
        state, metrics, episodes = train_once(algorithm, environment, state, total_steps, axis)
        names = tuple(sorted(metrics))
        row = Named(jnp.stack([metrics[name] for name in names]), names)
        return state, Log(row, episodes, state.steps.low)

    def body(carry: tuple[Array, TrainState, Log]) -> tuple[Array, TrainState, Log]:
        k, state, log = carry
        state, row = once(state, total_steps)
        return k + 1, state, jax.tree.map(lambda buffer, x: buffer.at[k].set(x), log, row)

    def more(carry: tuple[Array, TrainState, Log]) -> Array:
        k, state, _ = carry
        # Under `vmap`, a condition that differs by seed would select the whole state each turn,
        # a replay buffer included: `count` has to be enough wherever it can be.
        return (k < count) & state.steps.below(total_steps) if whole else k < count

    _, row = jax.eval_shape(once, state, total_steps)
    log = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), row)
    zero = jnp.zeros((), jnp.int32)
    _, state, log = jax.lax.while_loop(more, body, (zero, state, log))
    return state, log
