"""Evaluation: complete episodes of a fixed policy, and the policy as a plain function."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces as gym_spaces
from jaxtyping import Array, Float, Int, Key

from actorcritic import spaces
from actorcritic.runners.compiled import reset, take_step
from actorcritic.types import Algorithm, Environment, EnvSpec, Observation, UserError

MAX_STEPS = 10_000  # of an evaluation episode, where the environment states no time limit


class Evaluation(NamedTuple):
    """One row a seed, one column an episode."""

    returns: Float[np.ndarray, "S E"]
    lengths: Int[np.ndarray, "S E"]


class Policy:
    """A trained policy: observation(s) in, action(s) out, NumPy both.

    Deterministic (the most likely action, the mean) unless `deterministic=False`. Actions are
    as the environment takes them: inside their bounds. One observation gives one action; a batch
    [N, ...] gives a batch.
    """

    def __init__(self, algorithm: Algorithm, learner: Any, spec: EnvSpec, seed: int = 0) -> None:
        self.algorithm, self.learner, self.spec = algorithm, learner, spec
        self._key = jax.random.key(seed)
        self._calls = 0

    def __call__(self, observation: Observation, *, deterministic: bool = True) -> np.ndarray:
        space = self.spec.observation_space
        single = _is_single(space, observation)
        if single:
            observation = jax.tree.map(lambda x: np.asarray(x)[None], observation)
        key = jax.random.fold_in(self._key, self._calls)
        self._calls += not deterministic
        action = _action(self.algorithm, self.learner, observation, key, not deterministic)
        action = np.asarray(action).astype(self.spec.action_space.dtype)
        return action[0] if single else action


@partial(jax.jit, static_argnames="explore")
def _action(
    algorithm: Algorithm, learner: Any, observation: Observation, key: Array, explore: bool
) -> Array:
    action, _ = algorithm.act(learner, observation, key, explore=explore)
    return spaces.executable(learner.spec.action_space, action)


def _is_single(space: gym_spaces.Space, observation: Observation) -> bool:
    """One observation, or a batch of them? UserError where it is neither."""
    if isinstance(space, gym_spaces.Dict):
        try:
            parts = [(part, observation[name]) for name, part in space.spaces.items()]
        except (KeyError, TypeError, IndexError):
            raise UserError(f"The policy expects a dict with keys {list(space.spaces)}.") from None
        return all([_is_single(*part) for part in parts])
    if isinstance(space, gym_spaces.Tuple):
        if len(observation) != len(space.spaces):
            raise UserError(f"The policy expects a tuple of {len(space.spaces)} observations.")
        return all([_is_single(*part) for part in zip(space.spaces, observation, strict=True)])
    shape, wanted = np.shape(observation), space.shape or ()
    if shape == wanted:
        return True
    if shape[1:] == wanted and len(shape) == len(wanted) + 1:
        return False
    raise UserError(
        f"The policy expects observations of shape {wanted}, or (N, …) of them; got {shape}."
    )


def evaluate_compiled(
    algorithm: Algorithm,
    environment: Environment,
    learners: Any,
    episodes: int,
    seeds: Sequence[int],
    explore: bool = False,
) -> Evaluation:
    """`episodes` complete episodes for each learner (leaves lead with [S]), side by side.

    Each learner has its own `seeds` entry for the randomness of its episodes.
    """
    keys = jax.vmap(jax.random.key)(np.asarray(seeds))
    result = _evaluate(algorithm, learners, keys, environment, episodes, explore)
    return Evaluation(*(np.asarray(x) for x in result))


@partial(jax.jit, static_argnames=("environment", "episodes", "explore"))
def _evaluate(
    algorithm: Algorithm,
    learners: Any,
    keys: Key[Array, " S"],
    environment: Environment,
    episodes: int,
    explore: bool,
) -> Evaluation:
    limit = environment.spec.max_episode_steps or MAX_STEPS

    def of_one(learner_and_key: tuple[Any, Array]) -> Evaluation:
        learner, key = learner_and_key
        start_key, act_key = jax.random.split(key)

        def body(carry: tuple[Array, Any, Array]) -> tuple[Array, Any, Array]:
            t, now, open_ = carry
            action, _ = algorithm.act(
                learner, now.observation, jax.random.fold_in(act_key, t), explore=explore
            )
            ahead, row, _ = take_step(environment, now, action)
            # A finished episode stands still.
            reward = jnp.where(open_, row.reward, 0.0)
            ahead = ahead._replace(
                episode_return=now.episode_return + reward,
                episode_length=now.episode_length + open_,
            )
            return t + 1, ahead, open_ & ~(row.terminated | row.truncated)

        def more(carry: tuple[Array, Any, Array]) -> Array:
            return (carry[0] < limit) & jnp.any(carry[2])

        now = reset(environment, jax.random.split(start_key, episodes))
        start = (jnp.zeros((), jnp.int32), now, jnp.ones(episodes, bool))
        _, now, _ = jax.lax.while_loop(more, body, start)
        return Evaluation(now.episode_return, now.episode_length)

    return jax.lax.map(of_one, (learners, keys))


def evaluate_host(
    algorithm: Algorithm,
    environment: Any,
    learners: Any,
    episodes: int,
    seed: int = 0,
    explore: bool = False,
) -> Evaluation:
    """The same on a Gymnasium environment: some copies side by side, a quota of episodes each.

    Quotas, because taking whichever episodes finish first would favour short ones.
    """
    count = min(episodes, 10)
    quota = np.full(count, episodes // count) + (np.arange(count) < episodes % count)
    returns, lengths = [], []
    for s in range(jax.tree.leaves(learners)[0].shape[0]):
        policy = Policy(algorithm, jax.tree.map(lambda x: x[s], learners), environment.spec, seed)
        done: list[list[tuple[float, int]]] = [[] for _ in range(count)]
        envs = environment.make(count)
        try:
            for index, episode_return, length in environment.episodes(
                envs, lambda x: policy(x, deterministic=not explore), seed, MAX_STEPS
            ):
                done[index].append((episode_return, length))
                if all(len(d) >= q for d, q in zip(done, quota, strict=True)):
                    break
        finally:
            envs.close()
        kept = [e for d, q in zip(done, quota, strict=True) for e in d[:q]]
        returns.append([e[0] for e in kept])
        lengths.append([e[1] for e in kept])
    return Evaluation(np.asarray(returns), np.asarray(lengths))
