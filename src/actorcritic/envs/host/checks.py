"""One environment held against Gymnasium's interface, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces as gym_spaces

from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec
from actorcritic.envs import masks
from actorcritic.envs.host.failures import failing
from actorcritic.maths import spaces

RESET_FORM = "def reset(self, *, seed=None, options=None): ...; return observation, info"
STEP_FORM = "def step(self, action): ...; return observation, reward, terminated, truncated, info"
CHECKED_STEPS = 3
# Wrappers whose statistics would be others in each environment, for each seed, and in evaluation;
# and what does the same, with statistics that belong to the run.
NORMALIZERS = {
    "NormalizeObservation": "normalize_observation=True",
    "NormalizeReward": "normalize_reward=True",
}


def refuse_normalizers(environment: Any, name: str) -> None:
    """UserError where one of Gymnasium's wrappers keeps running statistics of its own."""
    while environment is not None:
        kind = type(environment)
        if kind.__name__ in NORMALIZERS and kind.__module__.startswith("gymnasium."):
            raise UserError(
                f"{name} is wrapped in {kind.__name__}, whose running statistics belong to one "
                "environment: others would be trained and evaluated with other ones. Take the "
                f"wrapper off, and train with {NORMALIZERS[kind.__name__]}, which keeps them with "
                "the policy."
            )
        several = getattr(environment, "envs", None)
        if several:
            refuse_normalizers(several[0], name)
        environment = vars(environment).get("env")


def check_environment(environment: gymnasium.Env, spec: EnvSpec) -> None:
    """A reset and a few steps of one instance, every answer held against the interface."""
    name, action_space = spec.id, spec.action_space
    try:
        with failing(name, "reset"):
            result: Any = environment.reset(seed=0)
    except UserError as error:
        if "unexpected keyword argument" in str(error):
            raise UserError(f"{error} Write `{RESET_FORM}`.") from error
        raise
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise UserError(
            f"{name}: reset returned {kind_of(result)}; expected (observation, info), info being a "
            f"dict. Write `{RESET_FORM}`."
        )
    check_observation(spec.observation_space, result[0], f"{name}: the observation of reset")

    action_space.seed(0)
    masked, random = spaces.has_mask(spec.observation_space), np.random.default_rng(0)
    for _ in range(CHECKED_STEPS):
        action = masks.sample(spec, result[0], random) if masked else action_space.sample()
        try:
            with failing(name, "step"):
                result = environment.step(action)
        except UserError as error:
            if "unpack (expected 5, got 4)" not in str(error):  # Gymnasium's wrappers, see below
                raise
            result = (None,) * 4
        if not (isinstance(result, tuple) and len(result) == 5):
            old = isinstance(result, tuple) and len(result) == 4
            raise UserError(
                f"{name}: step returned {kind_of(result)}; expected five values: observation, "
                "reward, terminated, truncated, info. "
                + (
                    "Four are the interface of the old 'gym' package: its `done` is now "
                    "`terminated` (the task ended) or `truncated` (a time limit). "
                    if old
                    else ""
                )
                + f"Write `{STEP_FORM}`."
            )
        check_step(name, spec.observation_space, *result[:4])
        if result[2] or result[3]:
            break


def check_step(
    name: str,
    space: gymnasium.Space,
    observation: Any,
    reward: Any,
    terminated: Any,
    truncated: Any,
) -> None:
    """Raise a UserError where an answer of `step` is not what Gymnasium's interface promises."""
    check_observation(space, observation, f"{name}: the observation of step")
    check_reward(name, reward)
    for kind, flag in [("terminated", terminated), ("truncated", truncated)]:
        if np.ndim(flag) or flag not in (False, True):
            raise UserError(f"{name}: step returned {kind} = {flag!r}; expected True or False.")


def surely_fits(space: gymnasium.Space) -> Callable[[Any], bool]:
    """Tells of an observation that types and shapes are right, in less than a microsecond.

    Where it says no, `check_observation` knows. Numbers are for whoever has many of them at once.
    """
    match space:
        case gym_spaces.Dict():
            parts = [(name, surely_fits(part)) for name, part in space.spaces.items()]
            return lambda x: (
                type(x) is dict
                and len(x) == len(parts)
                and all(name in x and fits(x[name]) for name, fits in parts)
            )
        case gym_spaces.Tuple():
            several = [surely_fits(part) for part in space.spaces]
            return lambda x: (
                type(x) is tuple
                and len(x) == len(several)
                and all(fits(part) for fits, part in zip(several, x, strict=True))
            )
        case gym_spaces.Discrete():
            return lambda x: isinstance(x, int | np.integer)
    dtype, shape = space.dtype, space.shape
    return lambda x: type(x) is np.ndarray and x.dtype is dtype and x.shape == shape


def check_reward(name: str, reward: Any) -> None:
    try:
        number = float(reward)
    except (TypeError, ValueError):
        number = None
    if number is None or np.ndim(reward) > 0 or isinstance(reward, str | bytes):
        raise UserError(f"{name}: step returned the reward {reward!r}; expected one number.")
    if not math.isfinite(number):
        raise UserError(
            f"{name}: step returned the reward {reward!r}; expected a finite number. "
            "Look for a division by zero or an overflow in the environment."
        )


def check_observation(space: gymnasium.Space, observation: Any, what: str) -> None:
    """Raise a UserError where the observation is not what its space promises."""
    match space:
        case gym_spaces.Dict():
            keys = list(observation) if isinstance(observation, dict) else None
            if keys is None or set(keys) != set(space.spaces):
                came = kind_of(observation) if keys is None else f"the keys {keys}"
                raise UserError(
                    f"{what} is {came}; expected a dict with the keys {list(space.spaces)}, "
                    "those of observation_space."
                )
            for key, part in space.spaces.items():
                check_observation(part, observation[key], f"{what}, at {key!r},")
        case gym_spaces.Tuple():
            if not isinstance(observation, tuple) or len(observation) != len(space.spaces):
                raise UserError(
                    f"{what} is {kind_of(observation)}; expected a tuple of {len(space.spaces)}, "
                    "as observation_space has it."
                )
            for k, part in enumerate(space.spaces):
                check_observation(part, observation[k], f"{what}, at {k},")
        case _:
            check_array(space, observation, what)


def check_array(space: gymnasium.Space, observation: Any, what: str) -> None:
    array = np.asarray(observation)
    if array.shape != space.shape:
        raise UserError(
            f"{what} has shape {array.shape}; expected {space.shape}, the shape of {space}. "
            "Change the observation or the observation_space."
        )
    if isinstance(space, gym_spaces.Box):
        if not np.can_cast(array.dtype, space.dtype):
            raise UserError(
                f"{what} has dtype {array.dtype}; expected {space.dtype}, the dtype of {space}. "
                f"Return observation.astype(np.{space.dtype}), or state the dtype in the space."
            )
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise UserError(
                f"{what} is not finite: {array}; expected finite numbers. Look for a division by "
                "zero or an overflow in the environment."
            )
        return
    if not np.issubdtype(array.dtype, np.integer) and array.dtype != bool:
        raise UserError(f"{what} has dtype {array.dtype}; expected whole numbers, as in {space}.")
    if isinstance(space, gym_spaces.MultiBinary):
        low, high = 0, 1
    else:  # Discrete, MultiDiscrete: one-hot vectors are made of these numbers
        low = space.start  # type: ignore[attr-defined]
        high = low + (space.n if isinstance(space, gym_spaces.Discrete) else space.nvec) - 1  # type: ignore[attr-defined]
    if (array < low).any() or (array > high).any():
        raise UserError(
            f"{what} is {observation}, outside {space}; expected {low} to {high}. "
            "Change the observation or the observation_space."
        )


def kind_of(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)} values"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return f"a value of type {type(value).__name__}"
