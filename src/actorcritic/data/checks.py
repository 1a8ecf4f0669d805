"""What may be wrong with recorded episodes, each in one sentence with the episode and the step.

Episodes and steps are counted from 0, as arrays are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium
import jax
import numpy as np
from gymnasium import spaces as gym_spaces
from jaxtyping import Bool

from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec, Observation
from actorcritic.maths import spaces

if TYPE_CHECKING:
    from actorcritic.data.dataset import Dataset

TOLERANCE = 1e-4  # of the width of a Box: rounding may leave an action this far outside
REQUIRED = ("observation", "action", "reward", "terminated", "truncated")
COUNTED = "counted from 0"


# ------------------------------------------------------------------------------ while it is made


def fitted(spec: EnvSpec, number: int, episode: Mapping[str, Any]) -> dict[str, Any]:
    """An episode's arrays, in the dtypes that are kept. UserError where they do not fit."""
    where = f"Episode {number} ({COUNTED})"
    if not isinstance(episode, Mapping):
        raise UserError(
            f"{where} is a {type(episode).__name__}; expected a mapping with {', '.join(REQUIRED)}."
        )
    missing = [name for name in REQUIRED if name not in episode]
    if missing:
        raise UserError(
            f"{where} lacks {', '.join(missing)}; it has {', '.join(map(str, episode))}."
        )
    reward = _numbers(episode["reward"], np.float32, f"{where}: reward")
    if reward.ndim != 1 or not len(reward):
        raise UserError(
            f"{where} has rewards of shape {reward.shape}; expected (T,), of at least one step."
        )
    steps = len(reward)
    observation = _observation(spec.observation_space, episode["observation"], where)
    for leaf in jax.tree.leaves(observation):
        if len(leaf) != steps + 1:
            raise UserError(
                f"{where} is ragged: it has {steps} rewards and {len(leaf)} observations; expected "
                f"{steps + 1} observations, the one after the last step included."
            )
    found: dict[str, Any] = {
        "observation": observation,
        "action": _action(spec.action_space, episode["action"], steps, where),
        "reward": reward,
    }
    for name in ("terminated", "truncated"):
        found[name] = flags(name, episode[name], f"{where}: ", steps)
    if episode.get("log_prob") is not None:
        found["log_prob"] = _numbers(episode["log_prob"], np.float32, f"{where}: log_prob")
        if found["log_prob"].shape != (steps,):
            raise UserError(
                f"{where} is ragged: it has {steps} rewards and log_prob of shape "
                f"{found['log_prob'].shape}; expected ({steps},)."
            )
    return found


def _numbers(given: Any, dtype: Any, what: str) -> np.ndarray:
    try:
        found = np.asarray(given)
        if found.dtype.kind not in "biuf":
            raise TypeError
        return found.astype(dtype)
    except (TypeError, ValueError):
        raise UserError(f"{what} must be an array of numbers, of one shape throughout.") from None


def _observation(space: gymnasium.Space, given: Any, where: str) -> Observation:
    if isinstance(space, gym_spaces.Dict):
        if not isinstance(given, Mapping) or set(space.spaces) - set(given):
            raise UserError(
                f"{where} has observations that are no dict with {', '.join(space.spaces)}."
            )
        return {name: _observation(part, given[name], where) for name, part in space.spaces.items()}
    if isinstance(space, gym_spaces.Tuple):
        if not isinstance(given, tuple | list) or len(given) != len(space.spaces):
            raise UserError(f"{where} has observations that are no tuple of {len(space.spaces)}.")
        return tuple(_observation(*pair, where) for pair in zip(space.spaces, given, strict=True))
    found = _numbers(given, spaces.kept_dtype(space), f"{where}: observation")
    shape = space.shape or ()
    if found.shape[1:] != shape or found.ndim != len(shape) + 1:
        raise UserError(
            f"{where} has observations of shape {found.shape[1:]}; expected {shape}, as in "
            f"{space}. All episodes of a data set are of one space."
        )
    return found


def _action(space: gymnasium.Space, given: Any, steps: int, where: str) -> np.ndarray:
    dtype = np.float32 if isinstance(space, gym_spaces.Box) else np.int32
    raw = _numbers(given, np.float64, f"{where}: action")
    if isinstance(space, gym_spaces.Discrete) and raw.shape == (len(raw), 1):
        raw = raw[:, 0]
    if len(raw) != steps:
        raise UserError(
            f"{where} is ragged: it has {steps} rewards and {len(raw)} actions; expected as many."
        )
    shape = space.shape or ()
    if raw.shape[1:] != shape:
        raise UserError(
            f"{where} has actions of shape {raw.shape[1:]}; expected {shape}, as in {space}. All "
            "episodes of a data set are of one space."
        )
    with np.errstate(invalid="ignore"):
        found = raw.astype(dtype)
    if dtype == np.int32 and (found != raw).any():
        step = int(np.argwhere(found != raw)[0][0])
        raise UserError(
            f"{where}, step {step}, has the action {raw[step]}, which is no action of {space}: "
            "expected whole numbers."
        )
    return found


def flags(name: str, given: Any, where: str, steps: int | None = None) -> Bool[np.ndarray, " T"]:
    """Truth values of each step; one alone is of the last step."""
    found = np.asarray(given)
    if found.dtype != bool:
        if not np.issubdtype(found.dtype, np.number) or not np.isin(found, (0, 1)).all():
            raise UserError(f"{where}{name} must be truth values; got an array of {found.dtype}.")
        found = found.astype(bool)
    if steps is None:
        if found.ndim != 1:
            raise UserError(f"{where}{name} has the shape {found.shape}; expected (N,).")
        return found
    if found.ndim == 0:
        return np.arange(steps) == (steps - 1 if found else -1)
    if found.shape != (steps,):
        raise UserError(
            f"{where.rstrip(': ')} is ragged: it has {steps} rewards and {name} of shape "
            f"{found.shape}; expected ({steps},)."
        )
    return found


def check_lengths(count: int, **columns: Any) -> None:
    """UserError where a column has not one row for each step."""
    for name, tree in columns.items():
        for leaf in jax.tree.leaves(tree):
            rows = len(np.asarray(leaf)) if np.ndim(leaf) else 0
            if rows != count:
                raise UserError(
                    f"{name} has {rows:,} rows, and terminated has {count:,}: a data set has one "
                    "row for each step."
                )


def check_successors(before: Observation, after: Observation, ends: np.ndarray) -> None:
    """UserError where a row that is no end is not followed by its own successor."""
    differ = np.zeros(len(ends) - 1, bool)
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        x, y = np.asarray(x)[1:], np.asarray(y)[:-1]
        same = (x == y) | ((x != x) & (y != y))
        differ |= ~same.all(axis=tuple(range(1, same.ndim)))
    wrong = np.flatnonzero(differ & ~ends[:-1])
    if len(wrong):
        raise UserError(
            f"An end is missing: the next_observation of step {wrong[0]} ({COUNTED}) is not the "
            f"observation of step {wrong[0] + 1}, and neither terminated nor truncated says that "
            f"the episode ended there ({len(wrong):,} such steps). Mark truncated where a time "
            "limit cut an episode."
        )


def check_spaces(recorded: EnvSpec, wanted: EnvSpec) -> None:
    """UserError where data are not of an environment's spaces."""
    for what, theirs, ours in (
        ("observations", recorded.observation_space, wanted.observation_space),
        ("actions", recorded.action_space, wanted.action_space),
    ):
        bounds = what == "actions" and isinstance(ours, gym_spaces.Box)
        if not alike(theirs, ours) or (bounds and not _same_bounds(theirs, ours)):
            raise UserError(
                f"The data set of {recorded.id} has {what} of {theirs}, and {wanted.id} has "
                f"{ours}. Name an environment of the same spaces, or leave it out."
            )


def alike(one: gymnasium.Space, other: gymnasium.Space) -> bool:
    """The same shapes and choices; of a Box whatever bounds."""
    if isinstance(one, gym_spaces.Box) and isinstance(other, gym_spaces.Box):
        return one.shape == other.shape and _kind(one) == _kind(other)
    if isinstance(one, gym_spaces.Dict) and isinstance(other, gym_spaces.Dict):
        return list(one.spaces) == list(other.spaces) and all(
            alike(one[name], other[name]) for name in one.spaces
        )
    if isinstance(one, gym_spaces.Tuple) and isinstance(other, gym_spaces.Tuple):
        return len(one.spaces) == len(other.spaces) and all(map(alike, one.spaces, other.spaces))
    return one == other


def _same_bounds(one: Any, other: Any) -> bool:
    return np.allclose(one.low, other.low) and np.allclose(one.high, other.high)


def _kind(space: gym_spaces.Box) -> str:
    return "bytes" if space.dtype == np.uint8 else np.dtype(space.dtype).kind


# ------------------------------------------------------------------------------ before it is used


def problems(data: Dataset) -> Iterator[str]:
    """What is wrong, each kind once: where it is first, and how many times it is."""
    last = np.zeros(data.steps, bool)
    last[data.starts + data.lengths - 1] = True
    ends = data.terminated | data.truncated
    open_ = last & ~ends
    if not ends.any():
        yield (
            f"No episode of the {data.episodes:,} ends: terminated and truncated are false at all "
            f"{data.steps:,} steps. Mark terminated where the task ended, and truncated where the "
            "recording was cut."
        )
    elif open_.any():
        yield (
            f"{_first(data, open_)} is the last of its episode, but is neither terminated nor "
            f"truncated{_times(open_)}. Mark terminated where the task ended, and truncated where "
            "the recording was cut."
        )
    middle = ends & ~last
    if middle.any():
        yield (
            f"{_first(data, middle)} ends the episode, which then goes on{_times(middle)}. Begin a "
            "new episode there."
        )
    yield from _not_finite(data)
    outside = _outside(data)
    if outside.any():
        step = int(np.flatnonzero(outside)[0])
        yield (
            f"{_first(data, outside)} has the action {data.action[step].tolist()}, which is "
            f"outside of {data.spec.action_space}{_times(outside)}. State the bounds that the "
            "actions have, or record the actions that were executed."
        )
    unseen = _unseen(data.spec.observation_space, data.observation)
    if unseen is not None and unseen.any():
        row = int(np.flatnonzero(unseen)[0])
        episode = int(np.searchsorted(data.starts + np.arange(data.episodes), row, "right")) - 1
        step = row - int(data.starts[episode]) - episode
        yield (
            f"Episode {episode}, step {step} ({COUNTED}) has an observation that is none of "
            f"{data.spec.observation_space}{_times(unseen)}."
        )


def _first(data: Dataset, which: Bool[np.ndarray, " N"]) -> str:
    step = int(np.flatnonzero(which)[0])
    episode = int(data.episode[step])
    return f"Episode {episode}, step {step - int(data.starts[episode])} ({COUNTED})"


def _times(which: np.ndarray) -> str:
    count = int(which.sum())
    return f" ({count:,} such steps)" if count > 1 else ""


def _not_finite(data: Dataset) -> Iterator[str]:
    parts = {"a reward": data.reward, "an action": data.action}
    if data.log_prob is not None:
        parts["a log_prob"] = data.log_prob
    for what, column in parts.items():
        bad = _bad(column)
        if bad.any():
            yield _of_not_finite(_first(data, bad), what, bad)
    leaves = jax.tree.leaves(data.observation)
    bad = np.any([_bad(leaf) for leaf in leaves], axis=0)
    if bad.any():
        place = int(np.flatnonzero(bad)[0])
        episode = int(np.searchsorted(data.starts + np.arange(data.episodes), place, "right")) - 1
        step = place - int(data.starts[episode]) - episode
        where = f"Episode {episode}, step {step} ({COUNTED})"
        if step == data.lengths[episode]:
            where = f"Episode {episode}, after its last step {step - 1} ({COUNTED}),"
        yield _of_not_finite(where, "an observation", bad)


def _of_not_finite(where: str, what: str, bad: np.ndarray) -> str:
    return (
        f"{where} has {what} that is not finite (NaN or infinite){_times(bad)}. Leave the episode "
        "out, or mend it."
    )


def _bad(x: np.ndarray) -> Bool[np.ndarray, " n"]:
    if not np.issubdtype(x.dtype, np.floating):
        return np.zeros(len(x), bool)
    return ~np.isfinite(x).reshape(len(x), -1).all(axis=1)


def _outside(data: Dataset) -> Bool[np.ndarray, " N"]:
    space, action = data.spec.action_space, data.action
    match space:
        case gym_spaces.Box():
            margin = TOLERANCE * (space.high - space.low)
            wrong = (action < space.low - margin) | (action > space.high + margin)
        case gym_spaces.Discrete():
            wrong = (action < space.start) | (action >= space.start + space.n)
        case gym_spaces.MultiDiscrete():
            wrong = (action < space.start) | (action >= space.start + space.nvec)
        case _:
            wrong = (action < 0) | (action > 1)
    return np.asarray(wrong.reshape(len(action), -1).any(axis=1))


def _unseen(space: gymnasium.Space, observation: Observation) -> np.ndarray | None:
    """Rows with a choice that the space does not have; bounds of a Box are often wrong."""
    match space:
        case gym_spaces.Dict():
            found = [_unseen(part, observation[name]) for name, part in space.spaces.items()]
        case gym_spaces.Tuple():
            found = [_unseen(*pair) for pair in zip(space.spaces, observation, strict=True)]
        case gym_spaces.Discrete():
            return (observation < space.start) | (observation >= space.start + space.n)
        case gym_spaces.MultiDiscrete():
            wrong = (observation < space.start) | (observation >= space.start + space.nvec)
            return np.asarray(wrong.reshape(len(wrong), -1).any(axis=1))
        case _:
            return None
    known = [each for each in found if each is not None]
    return np.any(known, axis=0) if known else None
