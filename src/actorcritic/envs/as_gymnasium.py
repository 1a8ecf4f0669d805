"""A compiled environment on the host, as any other Gymnasium environment."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import jax
import numpy as np
from jaxtyping import Array, Key

from actorcritic.core.types import Action, Environment, Observation, Step
from actorcritic.envs import columns
from actorcritic.envs.keys import next_episode, step_key


class AsGymnasium(gymnasium.Env):
    """Expose `environment` through Gymnasium's interface.

    The compiled runner draws its random numbers in the same way, so that both see the same
    episodes: both take their keys from `envs.keys`. `truncated` is the environment's own, or says
    that the episode has lasted `spec.max_episode_steps`. `key` starts as jax.random.key(seed) of
    `reset(seed=seed)`; without a seed as the one given here, and without that from the operating
    system's entropy.

    Several agents are packed into one observation, as `columns.packed` says, and `agents_spec` is
    what an algorithm sees of them. The reward is then the mean of theirs.
    """

    def __init__(
        self,
        environment: Environment,
        key: Key[Array, ""] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.environment = environment
        self.key = key
        self.agents_spec = environment.spec if environment.spec.agents else None
        packed = environment.spec
        if self.agents_spec is not None:
            packed = columns.packed(packed, leaving=_leaving(environment))
        self.observation_space, self.action_space = packed.observation_space, packed.action_space
        modes = ["rgb_array"] if hasattr(environment, "render") else []
        self.metadata = {"render_modes": modes, "render_fps": 10}
        if render_mode is not None and render_mode not in modes:
            raise ValueError(
                f"{environment.spec.id} has no render mode {render_mode!r}, only {modes or 'none'}."
            )
        self.render_mode = render_mode
        self._state: Any = None
        self._length = 0
        self._trail: list[Any] = []  # the states before this one, where it is drawn

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.key = jax.random.key(seed)
        elif self.key is None:
            self.key = jax.random.key(int(self.np_random.integers(2**31)))
        self.key, self._state, observation = _reset(self.environment, self.key)
        self._length, self._trail = 0, list[Any]()
        if self.agents_spec is not None:
            never: Any = np.zeros(len(self.agents_spec.agents), bool)
            return self._packed(Step(observation, never * 0.0, never, never, never)), {}
        return to_host(self.observation_space, observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._state is None:
            raise gymnasium.error.ResetNeeded("Call reset before the first step.")
        # One dtype for each kind of action, or every new one would compile the step again.
        kind = np.float32 if np.issubdtype(self.action_space.dtype, np.floating) else np.int32
        if self.render_mode is not None:
            self._trail.append(self._state)
        self._state, step = _step(
            self.environment,
            self.key,
            np.int32(self._length),
            self._state,
            np.asarray(action, kind),
        )
        self._length += 1
        limit = self.environment.spec.max_episode_steps
        over = limit is not None and self._length >= limit
        if self.agents_spec is not None:
            terminated = np.asarray(step.terminated)
            truncated = np.asarray(step.truncated) | over
            done = bool((terminated | truncated).all())
            seen = self._packed(step._replace(truncated=truncated))
            cut = done and not terminated.all()
            return seen, float(seen[columns.REWARD].mean()), done and not cut, cut, {}
        return (
            to_host(self.observation_space, step.observation),
            float(step.reward),
            bool(step.terminated),
            bool(step.truncated) or over,
            {},
        )

    def _packed(self, step: Any) -> dict[str, Any]:
        """What all agents have after a step."""
        valid = np.ones(len(step.reward), bool) if step.valid is None else np.asarray(step.valid)
        parts = {
            columns.COLUMNS: step.observation,
            columns.REWARD: np.where(valid, step.reward, 0.0),
            columns.TERMINATED: step.terminated,
            columns.TRUNCATED: step.truncated,
            columns.VALID: valid,
        }
        return to_host(self.observation_space, parts)

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        environment: Any = self.environment
        if getattr(environment, "trail", False):
            return environment.render(self._state, self._trail)
        return environment.render(self._state)


def _leaving(environment: Environment) -> bool:
    """May single agents come and go?"""
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, _ = jax.eval_shape(environment.reset, key)
    action = columns.action_shape(environment.spec)
    return jax.eval_shape(environment.step, key, state, action)[1].valid is not None


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
