"""Several agents as columns: what their observations are beside what each of them sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces as gym_spaces
from gymnasium.vector.utils import batch_space, create_empty_array

from actorcritic.core.types import Agent, EnvSpec
from actorcritic.maths.spaces import GLOBAL, MASK, choices

OWN = "observation"  # what an agent sees, where that is not a Dict already
AGENT = "agent"  # which of the agents it is; a policy that they share sees it


def observation_space(
    own: gymnasium.Space,
    agents: tuple[Agent, ...],
    action_space: gymnasium.Space,
    state: gymnasium.Space | None,
) -> gym_spaces.Dict:
    """The space of an agent's observations: its own, who it is, and what only the critic sees.

    Where agents have fewer actions than `action_space`, it has a mask of those that are theirs.
    """
    parts = dict(own.spaces) if isinstance(own, gym_spaces.Dict) else {OWN: own}
    parts[AGENT] = gym_spaces.Discrete(len(agents))
    if any(agent.actions is not None for agent in agents) and choices(action_space):
        parts.setdefault(MASK, gym_spaces.MultiBinary(sum(choices(action_space))))
    if state is not None:
        parts[GLOBAL] = state
    return gym_spaces.Dict(list(parts.items()))


def team_of(name: str) -> str:
    """The team of an agent: its name without the number behind it, as in "adversary_2"."""
    return name.rstrip("0123456789").rstrip("_- ") or name


def own_actions(agents: tuple[Agent, ...], most: int) -> np.ndarray:
    """Which of `most` actions each agent has: [N, most]."""
    counts = [most if agent.actions is None else agent.actions for agent in agents]
    return (np.arange(most) < np.asarray(counts)[:, None]).astype(np.int8)


def padded(x: Any, length: int) -> np.ndarray:
    """A vector with zeros behind it, up to this length."""
    x = np.asarray(x)
    return np.pad(x, (0, length - len(x)))


def of_agent(spec: EnvSpec, k: int, own: Any) -> dict[str, Any]:
    """What an agent sees, as its environment gives it, padded to what a column has.

    The part that the critic alone sees is left out.
    """
    space: Any = spec.observation_space
    given = dict(own) if isinstance(own, Mapping) else {OWN: own}
    agent = spec.agents[k]
    if agent.features is not None:
        if np.shape(given[OWN]) != (agent.features,):
            raise ValueError(f"its shape is {np.shape(given[OWN])}, not {(agent.features,)}")
        given[OWN] = padded(given[OWN], space[OWN].shape[0])
    if MASK in space.spaces and agent.actions is not None:
        own_mask = given.get(MASK, np.ones(agent.actions, np.int8))
        given[MASK] = padded(own_mask, space[MASK].shape[0])
    elif MASK in space.spaces:
        given.setdefault(MASK, np.ones(space[MASK].shape, np.int8))
    return {**given, AGENT: k}


def action_shape(spec: EnvSpec) -> jax.ShapeDtypeStruct:
    """What `step` of a compiled environment is given, as `spaces.executable` makes it."""
    lead = (len(spec.agents),) if spec.agents else ()
    continuous = isinstance(spec.action_space, gym_spaces.Box)
    kind = jnp.float32 if continuous else jnp.int32
    return jax.ShapeDtypeStruct(lead + (spec.action_space.shape or ()), kind)


def put(space: gymnasium.Space, room: Any, k: int, value: Any) -> None:
    """Write one observation to entry k of a batch of them. ValueError where it does not fit."""
    if isinstance(space, gym_spaces.Dict):
        for name, part in space.spaces.items():
            put(part, room[name], k, value[name])
    elif isinstance(space, gym_spaces.Tuple):
        for part, into, x in zip(space.spaces, room, value, strict=True):
            put(part, into, k, x)
    else:
        x = np.asarray(value)
        if x.shape != (space.shape or ()):
            raise ValueError(f"its shape is {x.shape}, not {space.shape}")
        room[k] = x


def empty(spec: EnvSpec) -> dict[str, Any]:
    """Room for what all agents see, [N, ...], as it is of those that are not there."""
    space: Any = spec.observation_space
    count = len(spec.agents)
    everyone: Any = create_empty_array(space, count, fn=np.zeros)
    everyone[AGENT][:] = np.arange(count)
    if MASK in everyone:  # nothing depends on it
        everyone[MASK][:] = 1
    return everyone


# How all agents of an environment travel in one observation of Gymnasium's, [N, ...] each.
COLUMNS = "columns"  # the observation of each
REWARD, TERMINATED, TRUNCATED, VALID = "reward", "terminated", "truncated", "valid"


def packed(spec: EnvSpec, leaving: bool) -> EnvSpec:
    """The spec of one Gymnasium environment that has all agents' parts in its observations.

    `leaving` says that agents may come and go: whether each was there is then a part too.
    """
    count = len(spec.agents)
    flags = [TERMINATED, TRUNCATED, *[VALID] * leaving]
    parts = [
        (COLUMNS, batch_space(spec.observation_space, count)),
        (REWARD, gym_spaces.Box(-np.inf, np.inf, (count,), np.float32)),
        *[(name, gym_spaces.MultiBinary(count)) for name in flags],
    ]
    actions = batch_space(spec.action_space, count)
    return dataclasses.replace(
        spec, observation_space=gym_spaces.Dict(parts), action_space=actions, agents=()
    )
