"""Evaluation: complete episodes of a fixed policy, and the policy as a plain function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces as gym_spaces
from jaxtyping import Array, Bool, Float, Int, Key

from actorcritic.core.errors import UserError
from actorcritic.core.types import Algorithm, Environment, EnvSpec, Observation
from actorcritic.core.waiting import beside, compiled, wait_for
from actorcritic.core.words import listed, nearest
from actorcritic.envs import columns
from actorcritic.envs.host.environment import HostEnvironment, environment_seed
from actorcritic.envs.masks import joined
from actorcritic.maths import spaces
from actorcritic.runners.compiled import each_column, reset, take_step, team_return
from actorcritic.runners.session import COMPILE_FAST

MAX_STEPS = 10_000  # of an evaluation episode, where the environment states no time limit


class Evaluation(NamedTuple):
    """One row a seed, one column an episode."""

    returns: Float[np.ndarray, "S E"]
    lengths: Int[np.ndarray, "S E"]
    cut: Bool[np.ndarray, "S E"]  # left after `MAX_STEPS`, where nothing else ends an episode
    agents: Float[np.ndarray, "S E N"]  # the return of each agent; [S, E, 1] of a single one


class Policy:
    """A trained policy: observation(s) in, action(s) out, NumPy both.

    Deterministic (the most likely action, the mean) unless `deterministic=False`. Actions are
    as the environment takes them: inside their bounds. One observation gives one action; a batch
    [N, ...] gives a batch.

    Where actions were masked in the training, they are here: an observation has the mask at its
    key "action_mask", or the environment's own observation comes with `action_mask`.

    Of several agents, a dict of what each agent sees, as PettingZoo gives it, becomes a dict of
    actions of the same agents; those that are out are left out.
    """

    def __init__(self, algorithm: Algorithm, actor: Any, spec: EnvSpec, seed: int = 0) -> None:
        self.algorithm, self.actor = algorithm, actor
        self.spec = spaces.for_policy(spec)  # to act, nobody needs a global state
        self._key = jax.random.key(seed)
        self._calls = 0

    def __call__(
        self, observation: Observation, *, action_mask: Any = None, deterministic: bool = True
    ) -> Any:
        space = self.spec.observation_space
        if self.spec.agents and not (
            isinstance(observation, Mapping) and columns.AGENT in observation
        ):
            return self._of_agents(observation, deterministic)
        observation = self._with_mask(observation, action_mask)
        single = _is_single(space, observation)
        observation = _arrays(space, observation)
        if single:
            observation = jax.tree.map(lambda x: x[None], observation)
        key = jax.random.fold_in(self._key, self._calls)
        self._calls += not deterministic
        explore = not deterministic
        action = _action(self.algorithm, self.actor, self.spec, observation, key, explore)
        action = np.asarray(action).astype(self.spec.action_space.dtype)
        return action[0] if single else action

    def _of_agents(self, observation: Any, deterministic: bool) -> dict[str, Any]:
        """Actions by agent, from what each sees by agent."""
        spec: Any = self.spec
        names = [agent.name for agent in spec.agents]
        if not isinstance(observation, Mapping) or not observation:
            raise UserError(
                f"The policy for {spec.id} acts for several agents, and expects a dict of what "
                f"each of them sees: {{{names[0]!r}: …}}. They are {listed(names)}."
            )
        everyone = columns.empty(spec)
        for name, own in observation.items():
            if name not in names:
                raise UserError(
                    f"{spec.id} has no agent {name!r}.{nearest(str(name), names)} It has "
                    f"{listed(names)}."
                )
            k = names.index(name)
            try:
                for part, value in columns.of_agent(spec, k, own).items():
                    columns.put(spec.observation_space[part], everyone[part], k, value)
            except (ValueError, TypeError, KeyError, IndexError) as error:
                raise UserError(
                    f"The observation of agent {name!r} is not of its space ({error}); expected "
                    "what the environment gives that agent."
                ) from error
        actions = self(everyone, deterministic=deterministic)
        return {name: self._own_action(names.index(name), actions) for name in observation}

    def _own_action(self, k: int, actions: np.ndarray) -> Any:
        action, agent = actions[k], self.spec.agents[k]
        return action if action.ndim == 0 else action[: agent.actions]

    def export(self, path: str | Path) -> Path:
        """Write the policy to a file that needs no JAX; the ending of `path` says how.

        `.onnx`: the deterministic policy as a graph from a batch of observations to actions (needs
        the extra `onnx`). `.safetensors`: the arrays that it acts by.
        """
        from actorcritic.runners import export

        return export.export(self, path)

    def _with_mask(self, observation: Observation, mask: Any) -> Observation:
        space = self.spec.observation_space
        if not spaces.has_mask(space):
            if mask is not None:
                raise UserError(
                    f"action_mask was given to a policy that was trained on {self.spec.id} without "
                    "masks; leave it out."
                )
            return observation
        if mask is None:
            if isinstance(observation, Mapping) and spaces.MASK in observation:
                return observation
            raise UserError(
                f"The policy for {self.spec.id} has to know which actions are allowed: call "
                "policy(observation, action_mask=…), for instance with info['action_mask'], or "
                f"give it observations with the key {spaces.MASK!r}."
            )
        names = [name for name in space.spaces if name != spaces.MASK]  # type: ignore[attr-defined]
        if names == ["observation"] and not isinstance(observation, Mapping):
            observation = {"observation": observation}
        if not isinstance(observation, Mapping):
            return observation  # to be refused for what it is
        size = sum(spaces.choices(self.spec.action_space))
        try:
            mask = joined(mask) != 0
        except (TypeError, ValueError):
            mask = np.zeros(())
        if mask.ndim not in (1, 2) or mask.shape[-1] != size:
            raise UserError(
                f"action_mask has shape {mask.shape}; expected ({size},), or (N, {size}) for a "
                f"batch: a number for each choice of {self.spec.action_space}."
            )
        mask = mask.reshape(*mask.shape[:-1], *space[spaces.MASK].shape)  # type: ignore[index]
        return {**observation, spaces.MASK: mask}


@partial(jax.jit, static_argnames=("spec", "explore"))
def _action(
    algorithm: Algorithm,
    actor: Any,
    spec: EnvSpec,
    observation: Observation,
    key: Array,
    explore: bool,
) -> Array:
    action, _ = algorithm.act(actor, observation, key, explore=explore)
    return spaces.executable(spec.action_space, action)


def _is_single(space: gym_spaces.Space, observation: Observation) -> bool:
    """One observation, or a batch of them? UserError where it is neither."""
    if isinstance(space, gym_spaces.Dict):
        try:
            parts = [(part, observation[name]) for name, part in space.spaces.items()]
        except (KeyError, TypeError, IndexError):
            raise UserError(f"The policy expects a dict with keys {list(space.spaces)}.") from None
        return _agreed(parts)
    if isinstance(space, gym_spaces.Tuple):
        if len(observation) != len(space.spaces):
            raise UserError(f"The policy expects a tuple of {len(space.spaces)} observations.")
        return _agreed(list(zip(space.spaces, observation, strict=True)))
    shape, wanted = np.shape(observation), space.shape or ()
    if shape == wanted:
        return True
    if shape[1:] == wanted and len(shape) == len(wanted) + 1:
        return False
    raise UserError(
        f"The policy expects observations of shape {wanted}, or (N, …) of them; got {shape}."
    )


def _agreed(parts: list[tuple[gym_spaces.Space, Observation]]) -> bool:
    single = {_is_single(*part) for part in parts}
    if len(single) > 1:
        raise UserError("Some parts of the observation are of one, and some of a batch.")
    return single != {False}


def _arrays(space: gym_spaces.Space, observation: Observation) -> Observation:
    """Arrays where lists were given; JAX would take a list for a tree of numbers."""
    if isinstance(space, gym_spaces.Dict):
        return {name: _arrays(part, observation[name]) for name, part in space.spaces.items()}
    if isinstance(space, gym_spaces.Tuple):
        return tuple(_arrays(*p) for p in zip(space.spaces, observation, strict=True))
    return spaces.as_kept(space, observation)


class CompiledEvaluation:
    """Complete episodes of compiled environments, side by side, for several actors."""

    def __init__(
        self,
        algorithms: Any,
        environment: Environment,
        actors: Any,
        episodes: int,
        explore: bool = False,
    ) -> None:
        """The leaves of both lead with [S]; of actors, `jax.ShapeDtypeStruct`s are enough."""
        self._algorithms, self._device = algorithms, jax.devices()[0]
        keys = jax.eval_shape(jax.vmap(jax.random.key), np.zeros(_count(actors), np.uint32))
        play = partial(_play, environment=environment, episodes=episodes, explore=explore)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), actors)
        program = jax.jit(play, compiler_options=COMPILE_FAST)
        self._program = compiled(program.lower(algorithms, shapes, keys))

    def __call__(self, actors: Any, seeds: Sequence[int]) -> Evaluation:
        """Each actor has its own entry of `seeds` for the randomness of its episodes."""
        keys = jax.vmap(jax.random.key)(np.asarray(seeds))
        arguments = jax.device_put((self._algorithms, actors, keys), self._device)
        played = beside(lambda: [np.asarray(x) for x in self._program(*arguments)])
        return Evaluation(*wait_for(played))


def _count(actors: Any) -> int:
    return jax.tree.leaves(actors)[0].shape[0]


def _play(
    algorithms: Any,
    actors: Any,
    keys: Key[Array, " S"],
    environment: Environment,
    episodes: int,
    explore: bool,
) -> Evaluation:
    limit = environment.spec.max_episode_steps or MAX_STEPS
    count = environment.spec.columns

    def of_one(each: tuple[Algorithm, Any, Array]) -> Evaluation:
        algorithm, actor, key = each
        start_key, act_key = jax.random.split(key)

        def body(carry: tuple[Array, Any, Array]) -> tuple[Array, Any, Array]:
            t, now, open_ = carry
            action, _ = algorithm.act(
                actor, now.observation, jax.random.fold_in(act_key, t), explore=explore
            )
            ahead, row, done = take_step(environment, now, action)
            # A finished episode stands still.
            reward = jnp.where(each_column(open_, count), row.reward, 0.0)
            ahead = ahead._replace(
                episode_return=now.episode_return + reward,
                episode_length=now.episode_length + open_.astype(jnp.int32),
            )
            return t + 1, ahead, open_ & ~done

        def more(carry: tuple[Array, Any, Array]) -> Array:
            return (carry[0] < limit) & jnp.any(carry[2])

        now = reset(environment, jax.random.split(start_key, episodes))
        start = (jnp.zeros((), jnp.int32), now, jnp.ones(episodes, bool))
        _, now, open_ = jax.lax.while_loop(more, body, start)
        agents = now.episode_return.reshape(-1, count)
        mean = team_return(environment.spec, now.episode_return)
        return Evaluation(mean, now.episode_length, open_, agents)  # type: ignore[arg-type]

    return jax.lax.map(of_one, (algorithms, actors, keys))


def evaluate_host(
    algorithm: Algorithm,
    environment: HostEnvironment,
    episodes: int,
    explore: bool,
    actors: Any,
    seeds: Sequence[int],
) -> Evaluation:
    """The same on a Gymnasium environment: some copies side by side, a quota of episodes each.

    Quotas, because taking whichever episodes finish first would favour short ones.
    """
    own = environment.vector  # the user's, to be used as it is and left open
    count = min(episodes, 10) if own is None else own.num_envs
    quota = [episodes // count + (k < episodes % count) for k in range(count)]
    results = []
    for s, seed in enumerate(seeds):
        policy = Policy(algorithm, jax.tree.map(itemgetter(s), actors), environment.spec, seed)
        decide = partial(policy, deterministic=not explore)
        found: list[list[tuple[Any, ...]]] = [[] for _ in quota]
        copies = environment.make(count)
        try:
            start = environment_seed(seed)
            for index, *one in environment.episodes(copies, decide, start, MAX_STEPS):
                if len(found[index]) < quota[index]:
                    found[index].append(tuple(one))
                if sum(map(len, found)) == episodes:
                    break
        finally:
            if own is None:
                copies.close()
        results.append([episode for of_one in found for episode in of_one])
    kinds = (np.float64, np.int64, bool, np.float64)
    parts = (
        np.array([[episode[k] for episode in row] for row in results], kind)
        for k, kind in enumerate(kinds)
    )
    return Evaluation(*parts)
