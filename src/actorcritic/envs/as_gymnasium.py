"""A compiled environment on the host, as any other Gymnasium environment."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import jax
import numpy as np
from jaxtyping import Array, Key

from actorcritic.core.types import Action, Environment, Observation, Step
from actorcritic.envs.keys import next_episode, step_key


class AsGymnasium(gymnasium.Env):
    """Expose `environment` through Gymnasium's interface.

    The compiled runner draws its random numbers in the same way, so that both see the same
    episodes: both take their keys from `envs.keys`. `truncated` is the environment's own, or says
    that the episode has lasted `spec.max_episode_steps`. `key` starts as jax.random.key(seed) of
    `reset(seed=seed)`; without a seed as the one given here, and without that from the operating
    system's entropy.
    """

    def __init__(
        self,
        environment: Environment,
        key: Key[Array, ""] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.environment = environment
        self.key = key
        self.observation_space = environment.spec.observation_space
        self.action_space = environment.spec.action_space
        modes = ["rgb_array"] if hasattr(environment, "render") else []
        self.metadata = {"render_modes": modes, "render_fps": 10}
        if render_mode is not None and render_mode not in modes:
            raise ValueError(
                f"{environment.spec.id} has no render mode {render_mode!r}, only {modes or 'none'}."
            )
        self.render_mode = render_mode
        self._state: Any = None
        self._length = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.key = jax.random.key(seed)
        elif self.key is None:
            self.key = jax.random.key(int(self.np_random.integers(2**31)))
        self.key, self._state, observation = _reset(self.environment, self.key)
        self._length = 0
        return to_host(self.observation_space, observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._state is None:
            raise gymnasium.error.ResetNeeded("Call reset before the first step.")
        # One dtype for each kind of action, or every new one would compile the step again.
        kind = np.float32 if np.issubdtype(self.action_space.dtype, np.floating) else np.int32
        self._state, step = _step(
            self.environment,
            self.key,
            np.int32(self._length),
            self._state,
            np.asarray(action, kind),
        )
        self._length += 1
        limit = self.environment.spec.max_episode_steps
        return (
            to_host(self.observation_space, step.observation),
            float(step.reward),
            bool(step.terminated),
            bool(step.truncated) or (limit is not None and self._length >= limit),
            {},
        )

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        return self.environment.render(self._state)  # type: ignore[attr-defined]


def to_host(space: gymnasium.Space, observation: Observation) -> Any:
    """The observation as NumPy arrays of the dtypes of its space."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {k: to_host(s, observation[k]) for k, s in space.spaces.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(to_host(s, part) for s, part in zip(space.spaces, observation, strict=True))
    return np.array(observation, space.dtype)


# Compiled once for all instances with an equal environment.


@partial(jax.jit, static_argnums=0)
def _reset(
    environment: Environment, key: Key[Array, ""]
) -> tuple[Key[Array, ""], Any, Observation]:
    key, reset_key = next_episode(key)
    return key, *environment.reset(reset_key)


@partial(jax.jit, static_argnums=0)
def _step(
    environment: Environment, key: Key[Array, ""], length: Array, state: Any, action: Action
) -> tuple[Any, Step]:
    return environment.step(step_key(key, length), state, action)
