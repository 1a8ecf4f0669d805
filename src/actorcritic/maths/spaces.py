"""What gymnasium's spaces mean to a policy: numbers in, actions out."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float

from actorcritic.core.errors import UserError
from actorcritic.core.types import ACTION_SPACES, Action, EnvSpec, Observation

MOST = 10_000_000  # numbers of an observation, or choices of an action
# This key of a Dict observation says which actions are allowed; it is no feature of the policy.
MASK = "action_mask"
# What this key holds reaches the critic only. Nothing needs it to act.
GLOBAL = "global_state"


def check(spec: EnvSpec) -> None:
    """Raise UserError where the observation or action space is not one that can be handled."""
    limit = spec.max_episode_steps
    if limit is not None and limit < 1:
        raise UserError(
            f"{spec.id} has max_episode_steps = {limit}; expected 1 or more, or None for no limit."
        )
    action = spec.action_space
    if not isinstance(action, ACTION_SPACES):
        raise UserError(
            f"{spec.id} has the action space {action}; expected Discrete, MultiDiscrete, "
            "MultiBinary or Box. Wrap the environment so that its actions are one of these."
        )
    if isinstance(action, spaces.Box):
        if not (np.isfinite(action.low).all() and np.isfinite(action.high).all()):
            raise UserError(
                f"{spec.id} has unbounded actions (low {action.low}, high {action.high}); expected "
                "finite bounds. State them in its action_space, or around it: "
                "gymnasium.wrappers.TransformAction(env, lambda action: action, "
                f"gymnasium.spaces.Box(-10, 10, {action.shape})), with bounds that suit it."
            )
        if not (action.low < action.high).all():
            raise UserError(
                f"{spec.id} has action bounds with low >= high (low {action.low}, high "
                f"{action.high}); expected low < high in every dimension."
            )
    if has_mask(spec.observation_space):
        _check_mask(spec)
    if not policy_feature_count(spec.observation_space) and has_global_state(
        spec.observation_space
    ):
        raise UserError(
            f"{spec.id} has observations with nothing but {GLOBAL!r}; expected a further key, with "
            "what the policy is to see."
        )
    features = feature_count(spec.observation_space)
    if not features:
        raise UserError(
            f"{spec.id} has the observation space {spec.observation_space}, in which there is no "
            "number at all; expected something to see. Where there is nothing, give one number "
            "that is always the same: gymnasium.spaces.Box(0, 1, (1,))."
        )
    actions = sum(choices(action)) or math.prod(action.shape or ())
    if not actions:
        raise UserError(
            f"{spec.id} has the action space {action}, in which there is nothing to choose; "
            "expected at least one number."
        )
    for what, count in (("observation", features), ("action", actions)):
        if count > MOST:
            raise UserError(
                f"{spec.id} has an {what} space that becomes {count:,} numbers, one for each "
                f"choice of each Discrete part; at most {MOST:,} are possible. Say the same in "
                "fewer: by a Box, or by the digits of a MultiDiscrete."
            )


def _check_mask(spec: EnvSpec) -> None:
    mask, count = spec.observation_space[MASK], sum(choices(spec.action_space))  # type: ignore[index]
    if not count:
        raise UserError(
            f"{spec.id} has observations with the key {MASK!r} and the action space "
            f"{spec.action_space}; masks are for Discrete, MultiDiscrete and MultiBinary actions. "
            "Take the key out, or give it another name."
        )
    if not isinstance(mask, spaces.Box | spaces.MultiBinary) or math.prod(mask.shape) != count:
        raise UserError(
            f"{spec.id} has the space {mask} at {MASK!r} of its observations; expected "
            f"MultiBinary({count}), a number for each choice of {spec.action_space}."
        )
    if len(spec.observation_space.spaces) == 1:  # type: ignore[attr-defined]
        raise UserError(
            f"{spec.id} has observations with nothing but {MASK!r}; expected a further key, with "
            "what the policy is to see."
        )


def has_global_state(space: spaces.Space) -> bool:
    """Do observations of this space have a part that only the critic sees?"""
    return isinstance(space, spaces.Dict) and GLOBAL in space.spaces


def check_one_agent(spec: EnvSpec, name: str) -> None:
    """UserError where an algorithm that knows one agent, who sees everything, has another."""
    if has_global_state(spec.observation_space):
        raise UserError(
            f"{spec.id} has observations with the key {GLOBAL!r}, which only a critic may see, and "
            f"{name} has none that sees more than its policy. Train with ppo or mappo, or take "
            "the key out."
        )
    if spec.agents:
        raise UserError(
            f"{spec.id} has {len(spec.agents)} agents, and {name} is for one. Train with mappo or "
            "ippo."
        )


@cache
def for_policy(spec: EnvSpec) -> EnvSpec:
    """The spec as it is for whoever only acts: without the state that the critic sees."""
    space = spec.observation_space
    if not has_global_state(space):
        return spec
    parts = [(k, part) for k, part in space.spaces.items() if k != GLOBAL]  # type: ignore[attr-defined]
    return dataclasses.replace(spec, observation_space=spaces.Dict(parts))


def has_mask(space: spaces.Space) -> bool:
    """Do observations of this space say which actions are allowed?"""
    return isinstance(space, spaces.Dict) and MASK in space.spaces


def choices(action_space: spaces.Space) -> tuple[int, ...]:
    """How many choices each component of a discrete action has; () of a continuous one.

    A mask has a number for each of them, side by side as the policy's logits are.
    """
    match action_space:
        case spaces.Discrete():
            return (int(action_space.n),)
        case spaces.MultiDiscrete():
            return tuple(int(n) for n in action_space.nvec.reshape(-1))
        case spaces.MultiBinary():
            return (2,) * math.prod(action_space.shape)
    return ()


def action_mask(space: spaces.Space, observation: Observation) -> Bool[Array, "... n"] | None:
    """Which actions are allowed in observations of `space`; None where it does not say so.

    For Discrete, one entry an action. For MultiDiscrete, those of each component side by side;
    for MultiBinary likewise, "0 allowed" and "1 allowed" of each.
    """
    if not has_mask(space):
        return None
    mask = jnp.asarray(observation[MASK])
    lead = mask.shape[: mask.ndim - len(space[MASK].shape)]  # type: ignore[index]
    return mask.reshape(*lead, -1).astype(bool)


def _features(space: spaces.Space) -> spaces.Space:
    """The space of what becomes features: without the mask, what the critic alone sees last."""
    if not (has_mask(space) or has_global_state(space)):
        return space
    parts = list(space.spaces.items())  # type: ignore[attr-defined]
    seen = [(name, part) for name, part in parts if name not in (MASK, GLOBAL)]
    return spaces.Dict(seen + [(name, part) for name, part in parts if name == GLOBAL])


def feature_count(space: spaces.Space) -> int:
    """How many numbers `encode` makes of one observation."""
    return _feature_count(_features(space))


def policy_feature_count(space: spaces.Space) -> int:
    """How many of them the policy sees: the first ones, all but the global state."""
    hidden = _feature_count(space[GLOBAL]) if has_global_state(space) else 0  # type: ignore[index]
    return feature_count(space) - hidden


def _feature_count(space: spaces.Space) -> int:
    match space:
        case spaces.Box():
            return math.prod(space.shape)
        case spaces.Discrete():
            return int(space.n)
        case spaces.MultiDiscrete():
            return int(space.nvec.sum())
        case spaces.MultiBinary():
            return math.prod(space.shape)
        case spaces.Dict():
            return sum(_feature_count(part) for part in space.spaces.values())
        case spaces.Tuple():
            return sum(_feature_count(part) for part in space.spaces)
    raise UserError(
        f"Observations of space {space} are not supported; expected Box, Discrete, MultiDiscrete, "
        "MultiBinary, or a Dict or Tuple of these. Wrap the environment to convert them."
    )


def kept_dtype(space: spaces.Space) -> np.dtype:
    """The dtype in which observations are kept; JAX has no 64 bits.

    A Box of integers whose bounds exceed those of int32 is kept as float32, so that none wraps.
    """
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.integer):
        limits = np.iinfo(np.int32)
        ends = int(space.low.min(initial=0)), int(space.high.max(initial=0))
        if ends[0] < limits.min or ends[1] > limits.max:
            return np.dtype(np.float32)
    return jax.dtypes.canonicalize_dtype(space.dtype)


def as_kept(space: spaces.Space, observation: Observation) -> np.ndarray:
    """An observation that is no Dict or Tuple as an array, which JAX then takes as it is kept."""
    x, dtype = np.asarray(observation), kept_dtype(space)
    whole = np.issubdtype(x.dtype, np.integer)
    return x.astype(dtype) if whole and np.issubdtype(dtype, np.floating) else x


def image_parts(space: spaces.Space) -> list[tuple[int, spaces.Box]]:
    """The parts with three axes that a policy sees; where in an encoded observation each starts."""
    seen = policy_feature_count(space)
    return [part for part in _image_parts(_features(space), 0) if part[0] < seen]


def _image_parts(space: spaces.Space, start: int) -> list[tuple[int, spaces.Box]]:
    if isinstance(space, spaces.Box) and len(space.shape) == 3:
        return [(start, space)]
    inner: list[spaces.Space] = []
    if isinstance(space, spaces.Dict):
        inner = list(space.spaces.values())
    elif isinstance(space, spaces.Tuple):
        inner = list(space.spaces)
    found = []
    for part in inner:
        found += _image_parts(part, start)
        start += _feature_count(part)
    return found


def encode(space: spaces.Space, observation: Observation) -> Float[Array, "... features"]:
    """Observations with any leading axes as flat vectors of floats.

    Box and MultiBinary are flattened, Discrete and MultiDiscrete become one-hot, Dict (in the
    space's order of keys, without the mask of actions and with the global state last) and Tuple
    are concatenated. A Box of bytes is divided by its largest upper bound, 255 for an image.
    """
    return _encode(_features(space), observation)


def _encode(space: spaces.Space, observation: Observation) -> Float[Array, "... features"]:
    if isinstance(space, spaces.Dict):
        parts = [_encode(part, observation[name]) for name, part in space.spaces.items()]
        return jnp.concatenate(parts, axis=-1)
    if isinstance(space, spaces.Tuple):
        parts = [_encode(p, o) for p, o in zip(space.spaces, observation, strict=True)]
        return jnp.concatenate(parts, axis=-1)
    kept = observation if isinstance(observation, jax.Array) else as_kept(space, observation)
    x = jnp.asarray(kept)
    lead = x.shape[: x.ndim - len(space.shape or ())]
    if isinstance(space, spaces.Discrete):
        return jax.nn.one_hot(x - space.start, int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        flat, start = x.reshape(*lead, -1), space.start.reshape(-1)
        sizes = space.nvec.reshape(-1)
        hot = [jax.nn.one_hot(flat[..., k] - start[k], int(n)) for k, n in enumerate(sizes)]
        return jnp.concatenate(hot, axis=-1)
    x = x.reshape(*lead, -1).astype(jnp.float32)
    if isinstance(space, spaces.Box) and space.dtype == np.uint8:
        x = x * (1 / max(int(space.high.max(initial=0)), 1))
    return x


def is_numeric(space: spaces.Space) -> np.ndarray:
    """Per encoded feature: does it come from a Box (and so may be normalised)?"""
    return _is_numeric(_features(space))


def _is_numeric(space: spaces.Space) -> np.ndarray:
    match space:
        case spaces.Dict():
            return np.concatenate([_is_numeric(part) for part in space.spaces.values()])
        case spaces.Tuple():
            return np.concatenate([_is_numeric(part) for part in space.spaces])
    return np.full(_feature_count(space), isinstance(space, spaces.Box))


def executable(space: spaces.Space, action: Action) -> Array:
    """The action an environment is given, from the action the policy drew and the batch stores.

    Box actions are clipped to the bounds (the stored action and its log-probability stay those
    of the unclipped draw); discrete ones are shifted by the space's start.
    """
    match space:
        case spaces.Discrete():
            return action if space.start == 0 else action + jnp.asarray(space.start, action.dtype)
        case spaces.MultiDiscrete():
            action = action + _per_component(space.start, action)
        case spaces.Box():
            low, high = (_per_component(end, action) for end in (space.low, space.high))
            action = jnp.clip(action, low, high)
    return action.reshape(*action.shape[:-1], *(space.shape or ()))


def as_drawn(space: spaces.Space, action: np.ndarray) -> np.ndarray:
    """Actions [N, …] of the space as a policy draws and a batch stores them: see `executable`."""
    match space:
        case spaces.Discrete():
            return (np.asarray(action) - space.start).astype(np.int32)
        case spaces.MultiDiscrete():
            action = np.asarray(action) - space.start
    dtype = np.float32 if isinstance(space, spaces.Box) else np.int32
    return np.asarray(action).reshape(len(action), -1).astype(dtype)


def _per_component(x: np.ndarray, action: Action) -> Array:
    return jnp.broadcast_to(jnp.asarray(x.reshape(-1), action.dtype), action.shape)


def to_json(space: spaces.Space) -> dict[str, Any]:
    """A space as plain data, so that a policy can be loaded without its environment."""
    match space:
        case spaces.Box():
            ends = {"low": space.low.tolist(), "high": space.high.tolist()}
            return {"kind": "Box", "dtype": space.dtype.name, **ends}
        case spaces.Discrete():
            return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            sizes = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
            return {"kind": "MultiDiscrete", **sizes}
        case spaces.MultiBinary():
            return {"kind": "MultiBinary", "n": np.asarray(space.n).tolist()}
        case spaces.Dict():
            parts = {name: to_json(part) for name, part in space.spaces.items()}
            return {"kind": "Dict", "spaces": parts}
        case spaces.Tuple():
            return {"kind": "Tuple", "spaces": [to_json(part) for part in space.spaces]}
    raise UserError(f"The space {space} cannot be saved.")


def from_json(data: dict[str, Any]) -> spaces.Space:
    """The inverse of `to_json`."""
    match data["kind"]:
        case "Box":
            dtype = np.dtype(data["dtype"]).type
            low, high = (np.asarray(data[end], dtype) for end in ("low", "high"))
            return spaces.Box(low, high, dtype=dtype)
        case "Discrete":
            return spaces.Discrete(data["n"], start=data["start"])
        case "MultiDiscrete":
            return spaces.MultiDiscrete(np.asarray(data["nvec"]), start=np.asarray(data["start"]))
        case "MultiBinary":
            return spaces.MultiBinary(data["n"])
        case "Dict":
            # Pairs, because of a dict the space would sort the names.
            return spaces.Dict([(name, from_json(part)) for name, part in data["spaces"].items()])
        case "Tuple":
            return spaces.Tuple([from_json(part) for part in data["spaces"]])
    raise UserError(f"Unknown kind of space {data['kind']!r}.")
