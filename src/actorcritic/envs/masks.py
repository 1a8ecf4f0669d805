"""Which actions are allowed, where a Gymnasium environment says so beside its observation."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces as gym_spaces
from jaxtyping import Bool

from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec, Observation
from actorcritic.maths import spaces

METHOD = "action_masks"  # the convention of sb3-contrib

Source = Literal["info", "method"]


def source(environment: gymnasium.Env) -> Source | None:
    """Where the environment gives its masks, if not in its observations. May reset it."""
    if spaces.has_mask(environment.observation_space) or not spaces.choices(
        environment.action_space
    ):
        return None
    if environment.has_wrapper_attr(METHOD) and callable(environment.get_wrapper_attr(METHOD)):
        return "method"
    try:
        _, info = environment.reset(seed=0)
        return "info" if info.get(spaces.MASK) is not None else None
    except Exception:  # told by the check of the environment, in words for its author
        return None


class Masked(gymnasium.Wrapper):
    """Takes the masks of an environment into its observations.

    These become a Dict of "observation", what they were before, and "action_mask"; where they
    were a Dict already, "action_mask" is a further key of it.
    """

    def __init__(self, environment: gymnasium.Env, name: str, source: Source) -> None:
        super().__init__(environment)
        self._name, self._source = name, source
        self._sizes = spaces.choices(environment.action_space)
        self._size = sum(self._sizes)
        inner, mask = environment.observation_space, gym_spaces.MultiBinary(self._size)
        self._everything = np.ones(self._size, np.int8)
        self._adds_key = isinstance(inner, gym_spaces.Dict)
        parts = inner.spaces if isinstance(inner, gym_spaces.Dict) else {"observation": inner}
        self.observation_space = gym_spaces.Dict([*parts.items(), (spaces.MASK, mask)])

    def reset(self, **arguments: Any) -> tuple[Observation, dict[str, Any]]:
        observation, info = self.env.reset(**arguments)
        return self._with(observation, self._mask(info)), info

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        # Nothing is done in a terminal state, and what it says of actions may be anything.
        mask = self._everything if terminated else self._mask(info, last=truncated)
        return self._with(observation, mask), reward, terminated, truncated, info

    def _with(self, observation: Observation, mask: np.ndarray) -> Observation:
        parts = observation if self._adds_key else {"observation": observation}
        return {**parts, spaces.MASK: mask}

    def _mask(self, info: dict[str, Any], last: bool = False) -> np.ndarray:
        if self._source == "method":
            given, where = self.env.get_wrapper_attr(METHOD)(), f"{METHOD}()"
        else:
            given, where = info.get(spaces.MASK), f"info[{spaces.MASK!r}]"
        if given is None and last:
            return self._everything
        try:
            mask = np.asarray(joined(given) != 0)
        except (TypeError, ValueError):
            mask = np.zeros(())
        if given is None or mask.shape != (self._size,):
            got = "nothing" if given is None else f"an array of shape {mask.shape}"
            raise UserError(
                f"{self._name} gave {got} as {where}; expected {self._size} numbers, one for each "
                f"choice of {self.env.action_space}: nonzero where it is allowed."
            )
        return self._everything if last and _stuck(mask, self._sizes) else mask.astype(np.int8)


def joined(mask: Any) -> np.ndarray:
    """A mask as one array; Gymnasium's own of MultiDiscrete are tuples, an array a component."""
    if isinstance(mask, tuple):
        return np.concatenate([np.asarray(part) for part in mask], axis=-1)
    return np.asarray(mask)


def _stuck(allowed: np.ndarray, sizes: tuple[int, ...]) -> Bool[np.ndarray, "..."]:
    """Is nothing allowed (of some component)?"""
    starts = np.cumsum((0, *sizes[:-1]))
    return np.asarray(~np.logical_or.reduceat(allowed, starts, axis=-1).all(axis=-1))


def check(spec: EnvSpec, mask: np.ndarray, acting: Bool[np.ndarray, " B"]) -> None:
    """Raise UserError where an environment that is to act is allowed nothing. `mask` is [B, …]."""
    allowed, sizes = mask.reshape(len(mask), -1) != 0, spaces.choices(spec.action_space)
    stuck = acting & _stuck(allowed, sizes)
    if stuck.any():
        k = int(stuck.argmax())
        one = "one" if len(sizes) == 1 else "one choice of each component"
        raise UserError(
            f"{spec.id}: the mask of environment {k} allows no action where one is to be taken; "
            f"expected at least {one}. Where nothing can be done, the step before has to end the "
            "episode (terminated or truncated)."
        )


def sample(spec: EnvSpec, observation: Observation, random: np.random.Generator) -> Any:
    """An executable action among those that the observation allows."""
    space = spec.action_space
    check(spec, np.asarray(observation[spaces.MASK])[None], np.ones(1, bool))
    sizes = spaces.choices(space)
    allowed = np.asarray(spaces.action_mask(spec.observation_space, observation))
    parts = np.split(allowed, np.cumsum(sizes)[:-1])
    drawn = np.array([random.choice(np.flatnonzero(part)) for part in parts])
    if isinstance(space, gym_spaces.Discrete):
        return space.start + drawn[0]
    return np.asarray(spaces.executable(space, jnp.asarray(drawn))).astype(space.dtype)
