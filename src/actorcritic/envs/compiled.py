"""Compiled environments of the user's: told from Gymnasium's, and held against the protocol."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp

from actorcritic.core import importing
from actorcritic.core.errors import UserError
from actorcritic.core.types import Environment, EnvSpec, Step
from actorcritic.envs import columns
from actorcritic.envs.host.failures import failing
from actorcritic.maths import spaces

HOST = (gymnasium.Env, gymnasium.vector.VectorEnv)


def compiled_class(environment: Any) -> Any:
    """The class of a compiled environment, or one that is made; None where it is neither."""
    if isinstance(environment, str):
        place, _, name = environment.rpartition(":")
        environment = vars(importing.module(place, environment)).get(name)
    if isinstance(environment, type):
        return environment if _steps_with_a_key(environment) else None
    is_one = isinstance(environment, Environment) and not isinstance(environment, HOST)
    return environment if is_one else None


def _steps_with_a_key(cls: type) -> bool:
    """Are these the `reset` and `step` of our protocol, and not Gymnasium's?"""
    if issubclass(cls, HOST) or not callable(getattr(cls, "reset", None)):
        return False
    try:
        parameters = list(inspect.signature(cls.step).parameters)  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError):
        return False
    return len(parameters) == 4  # self, key, state, action


def check_compiled(world: Environment) -> None:
    """UserError for what would stop the program, or quietly spoil it. Nothing is compiled."""
    kind = type(world)
    if kind.__module__.partition(".")[0] == "actorcritic":
        return
    name = kind.__name__
    try:
        hash(world)
    except TypeError as error:
        raise UserError(
            f"{name} cannot be hashed ({error}), and it is a constant of the program: put "
            "@dataclass(frozen=True) above the class, with fields that are numbers, strings or "
            "tuples."
        ) from error
    if not isinstance(world.spec, EnvSpec):
        raise UserError(
            f"{name}.spec is a {type(world.spec).__name__}; expected EnvSpec(id, "
            "observation_space, action_space, max_episode_steps). Make it a property."
        )
    spaces.check(world.spec)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with failing(name, "reset"):
        first = jax.eval_shape(world.reset, key)
    if not (isinstance(first, tuple) and len(first) == 2):
        raise UserError(f"{name}.reset returned {_told(first)}; expected (state, observation).")
    state, observation = first
    lead = (len(world.spec.agents),) if world.spec.agents else ()
    _check_observation(world.spec.observation_space, observation, f"{name}.reset", lead)
    with failing(name, "step"):
        after = jax.eval_shape(world.step, key, state, columns.action_shape(world.spec))
    if not (isinstance(after, tuple) and len(after) == 2 and isinstance(after[1], Step)):
        raise UserError(
            f"{name}.step returned {_told(after)}; expected (state, Step(observation, reward, "
            "terminated, truncated))."
        )
    if _shapes(after[0]) != _shapes(state):
        raise UserError(
            f"{name}.step returned a state of another kind than reset: {_told(after[0])}, not "
            f"{_told(state)}. Give both the same parts, shapes and dtypes."
        )
    step = after[1]
    _check_observation(world.spec.observation_space, step.observation, f"{name}.step", lead)
    parts: list[tuple[str, Any, Any]] = [
        ("reward", step.reward, jnp.floating),
        ("terminated", step.terminated, jnp.bool_),
        ("truncated", step.truncated, jnp.bool_),
    ]
    if step.valid is not None:
        parts.append(("valid", step.valid, jnp.bool_))
    for part, value, wanted in parts:
        if value.shape != lead or not jnp.issubdtype(value.dtype, wanted):
            expected = "one float" if part == "reward" else "one truth value"
            expected += f" for each of {lead[0]} agents" if lead else ""
            raise UserError(f"{name}.step returned {part} as {_told(value)}; expected {expected}.")


def _check_observation(
    space: gymnasium.Space, observation: Any, where: str, lead: tuple[int, ...] = ()
) -> None:
    if isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):
        parts: Any = space.spaces
        kind, keys = (dict, list(parts)) if isinstance(parts, dict) else (tuple, range(len(parts)))
        if not isinstance(observation, kind) or len(observation) != len(parts):
            raise UserError(f"{where} returned {_told(observation)}; expected one of {space}.")
        for key in keys:
            if kind is dict and key not in observation:
                raise UserError(f"{where} returned no observation {key!r}; expected {space}.")
            _check_observation(parts[key], observation[key], where, lead)
        return
    whole = not jnp.issubdtype(spaces.kept_dtype(space), jnp.floating)
    if getattr(observation, "shape", None) != lead + (space.shape or ()) or (
        whole and jnp.issubdtype(observation.dtype, jnp.floating)
    ):
        raise UserError(
            f"{where} returned the observation {_told(observation)}; expected one of {space}"
            + (f" for each of {lead[0]} agents" if lead else "")
            + ". Change the observation, or observation_space."
        )


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def _told(value: Any) -> str:
    """What came, in a few words: float32[4], or a tuple of such."""
    if hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_told(part)}" for key, part in value.items()) + "}"
    if isinstance(value, tuple):
        name = type(value).__name__ if hasattr(value, "_fields") else ""
        return f"{name}({', '.join(map(_told, value))})"
    return type(value).__name__
