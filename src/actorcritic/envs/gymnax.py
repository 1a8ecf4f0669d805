"""Environments of the gymnax library: MinAtar, bsuite and more.

Written against gymnax 1.0.1. There `step_env` (which, unlike `step`, never resets) returns
(observation, state, reward, terminated, info), and `is_truncated(state, params)` tells whether
the time limit is reached. Before 1.0 the fourth value was `done`, time limit included; those
versions are refused rather than guessed at.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from actorcritic.core.errors import UserError
from actorcritic.core.types import Action, EnvSpec, Observation, Step
from actorcritic.core.words import nearest
from actorcritic.envs.options import check_options


def from_gymnax(name_or_env: Any, **params: Any) -> GymnaxEnvironment:
    """A compiled environment from gymnax's name for it, or from a gymnax `Environment`.

    `params` are fields of its `EnvParams`, for instance `max_steps_in_episode=500`. What the
    constructor takes is given by passing the environment itself:

        from_gymnax("Breakout-MinAtar", max_steps_in_episode=500)
        from_gymnax(MinBreakout(use_minimal_action_set=False))
    """
    environment = _make(name_or_env) if isinstance(name_or_env, str) else name_or_env
    if not hasattr(environment, "is_truncated"):
        raise UserError(
            f"{environment!r} is no environment of gymnax 1.0 or newer: it has no is_truncated(). "
            'Bring gymnax up to date: pip install --upgrade "gymnax>=1.0"'
        )
    name = name_or_env if isinstance(name_or_env, str) else environment.name
    known = [field.name for field in fields(environment.default_params)]
    check_options(f"gymnax:{name}", params, known)
    return GymnaxEnvironment(name, environment, tuple(sorted(params.items())))


@dataclass(frozen=True)
class GymnaxEnvironment:
    """See `from_gymnax`. The state is gymnax's own.

    gymnax counts the steps of an episode in `state.time`; its time limit counts as truncated,
    and `spec.max_episode_steps` says the same number to the runner.
    """

    name: str
    environment: Any  # gymnax's, compared by identity
    options: tuple[tuple[str, Any], ...] = ()

    @cached_property
    def params(self) -> Any:
        with _outside():
            return self.environment.default_params.replace(**dict(self.options))

    @cached_property
    def spec(self) -> EnvSpec:
        with _outside():
            return EnvSpec(
                id=f"gymnax:{self.name}",
                observation_space=to_gymnasium(self.environment.observation_space(self.params)),
                action_space=to_gymnasium(self.environment.action_space(self.params)),
                max_episode_steps=int(self.params.max_steps_in_episode),
            )

    def reset(self, key: Key[Array, ""]) -> tuple[Any, Observation]:
        with _usual_promotion():
            observation, state = self.environment.reset_env(key, self.params)
        return _as_arrays(state), _cast(self.spec.observation_space, observation)

    def step(self, key: Key[Array, ""], state: Any, action: Action) -> tuple[Any, Step]:
        with _usual_promotion():
            observation, state, reward, terminated, _ = self.environment.step_env(
                key, state, action, self.params
            )
            truncated = self.environment.is_truncated(state, self.params)
        return _as_arrays(state), Step(
            observation=_cast(self.spec.observation_space, observation),
            reward=jnp.asarray(reward, float),
            terminated=jnp.asarray(terminated, bool),
            truncated=jnp.asarray(truncated, bool),
        )


def to_gymnasium(space: Any) -> gymnasium.Space:
    """A gymnax space as the Gymnasium space it stands for."""
    kind = type(space).__name__
    if kind == "Discrete":
        return gymnasium.spaces.Discrete(int(space.n))
    if kind == "Box":
        dtype = np.dtype(space.dtype)
        low, high = (
            np.broadcast_to(np.asarray(bound, dtype), space.shape)
            for bound in (space.low, space.high)
        )
        if np.issubdtype(dtype, np.floating):
            # gymnax writes the largest float where it means that there is no bound.
            largest = np.finfo(dtype).max
            low = np.where(low <= -largest, -np.inf, low)
            high = np.where(high >= largest, np.inf, high)
        return gymnasium.spaces.Box(low, high, dtype=dtype)
    if kind == "Dict":
        return gymnasium.spaces.Dict({k: to_gymnasium(s) for k, s in space.spaces.items()})
    if kind == "Tuple":
        return gymnasium.spaces.Tuple([to_gymnasium(s) for s in space.spaces])
    raise UserError(f"Cannot express gymnax's space {space!r} in Gymnasium's spaces.")


def _gymnax() -> ModuleType:
    try:
        return importlib.import_module("gymnax")
    except ImportError as error:
        # gymnax needs `six` without declaring it, so the missing module may be another.
        raise UserError(
            f"gymnax environments need the package gymnax, which cannot be imported ({error}). "
            'Install it: pip install "actorcritic[gymnax]"'
        ) from error


@cache  # the same name gives the same object, and so an equal environment
def _make(name: str) -> Any:
    gymnax = _gymnax()
    if name not in gymnax.registered_envs:
        raise UserError(
            f"gymnax has no environment {name!r}.{nearest(name, gymnax.registered_envs)}"
        )
    with _outside():
        environment, _ = gymnax.make(name)
    return environment


@contextmanager
def _usual_promotion() -> Iterator[None]:
    """gymnax mixes dtypes and ranks as JAX lets it by default, however strict its user is.

    Entered while tracing, so it costs nothing when the program runs.
    """
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@contextmanager
def _outside() -> Iterator[None]:
    """What is kept on the host is computed now, even where a program is being traced."""
    with jax.ensure_compile_time_eval(), _usual_promotion():
        yield


def _as_arrays(state: PyTree) -> PyTree:
    """gymnax's states hold Python numbers at first; a program's state may not change its types."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)


def _cast(space: gymnasium.Space, observation: Observation) -> Observation:
    """The observation with the dtypes that its space promises: some of gymnax's differ."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {k: _cast(s, observation[k]) for k, s in space.spaces.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(_cast(s, part) for s, part in zip(space.spaces, observation, strict=True))
    if isinstance(space, gymnasium.spaces.Discrete):
        return jnp.asarray(observation, jnp.int32)
    return jnp.asarray(observation, space.dtype)
