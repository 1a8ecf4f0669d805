"""Observations as arrays of NumPy, in the order of their space."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces as gym_spaces

from actorcritic.core.types import Observation
from actorcritic.maths import spaces

Leaves = list[np.ndarray]  # the arrays of a batch of observations, in the order of the space


def leaves(space: gymnasium.Space, observation: Any) -> list[Any]:
    if isinstance(space, gym_spaces.Dict):
        parts = [leaves(part, observation[name]) for name, part in space.spaces.items()]
    elif isinstance(space, gym_spaces.Tuple):
        parts = [leaves(p, o) for p, o in zip(space.spaces, observation, strict=True)]
    else:
        return [observation]
    return [leaf for part in parts for leaf in part]


def parts_of(space: gymnasium.Space) -> list[gymnasium.Space]:
    """The spaces of the leaves, in their order."""
    if isinstance(space, gym_spaces.Dict):
        parts: list[Any] = list(space.spaces.values())
    elif isinstance(space, gym_spaces.Tuple):
        parts = list(space.spaces)
    else:
        return [space]
    return [leaf for part in parts for leaf in parts_of(part)]


def zeros(space: gymnasium.Space, *lead: int) -> Observation:
    """Room for observations, of the dtypes in which they are kept (no 64 bits)."""
    if isinstance(space, gym_spaces.Dict):
        return {name: zeros(part, *lead) for name, part in space.spaces.items()}
    if isinstance(space, gym_spaces.Tuple):
        return tuple(zeros(part, *lead) for part in space.spaces)
    return np.zeros((*lead, *(space.shape or ())), spaces.kept_dtype(space))


def row_of(observation: Observation, t: int) -> Observation:
    if isinstance(observation, dict):
        return {name: row_of(part, t) for name, part in observation.items()}
    if isinstance(observation, tuple):
        return tuple(row_of(part, t) for part in observation)
    return observation[t]


def write(leaves: Leaves, observation: list[Any]) -> None:
    for leaf, x in zip(leaves, observation, strict=True):
        leaf[...] = x
