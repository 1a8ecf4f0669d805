"""Environments side by side, in any autoreset mode, whose every successor is the true one."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces as gym_spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec
from actorcritic.envs import columns, masks
from actorcritic.envs.host.arrays import Leaves, leaves, parts_of, write, zeros
from actorcritic.envs.host.failures import failing
from actorcritic.maths import spaces


def autoreset_mode(environments: VectorEnv, name: str) -> AutoresetMode:
    mode = (environments.metadata or {}).get("autoreset_mode")
    with contextlib.suppress(ValueError):
        return AutoresetMode(mode)
    raise UserError(
        f"{name} does not say how it resets: metadata['autoreset_mode'] is {mode!r}; expected one "
        "of gymnasium.vector.AutoresetMode. Set it to what the environment does."
    )


class Stepper:
    """Environments side by side, in any autoreset mode, whose every successor is the true one.

    The mode says where the observation after an episode's last step is, and who resets:

      DISABLED   step returns it; we reset the environments that are done
      SAME_STEP  step returns the observation after the reset, and the last one in its infos
      NEXT_STEP  step returns it; the step after that only resets, and is no experience
    """

    leaving = False  # of several agents, some may leave before the others

    def __init__(self, environments: VectorEnv, spec: EnvSpec, guarded: bool = False) -> None:
        """`guarded`: types and shapes of what these environments give were looked at before."""
        self.environments, self._spec = environments, spec
        self.valid = np.ones(environments.num_envs, bool)  # see `ColumnStepper`
        self.mode = autoreset_mode(environments, spec.id)
        # NEXT_STEP: the environments that the coming step will only reset.
        self.resetting = np.zeros(environments.num_envs, bool)
        self.infos: Mapping[str, Any] = {}  # of the latest step, as Gymnasium vectorises them
        self._space = spec.action_space
        # Bounds of another precision than the policy's are not quite those it was clipped to.
        self._bounds: tuple[np.ndarray, np.ndarray] | None = None
        if isinstance(self._space, gym_spaces.Box) and self._space.dtype != np.float32:
            self._bounds = self._space.low, self._space.high
        # What observations have to be, leaf by leaf: the least and the greatest of whole numbers.
        self._limits = [_limits(part) for part in parts_of(spec.observation_space)]
        self._guarded = guarded
        self._believed = guarded and all(limits is None for limits in self._limits)
        self._mask_leaf: int | None = None
        if spaces.has_mask(spec.observation_space):
            parts = spec.observation_space.spaces  # type: ignore[attr-defined]
            counts = [len(leaves(part, zeros(part))) for part in parts.values()]
            self._mask_leaf = sum(counts[: list(parts).index(spaces.MASK)])

    def reset(self, seed: int | None, current: Leaves) -> None:
        """Start an episode in every environment; its observation is written to `current`."""
        self.resetting[:] = False
        with failing(self._spec.id, "reset"):
            observation, _ = self.environments.reset(seed=seed)
        write(current, self._checked(observation, current))
        self._check_masks(current)

    def restart(self, which: np.ndarray, current: Leaves) -> None:
        """Leave the episodes of some environments, and start new ones."""
        self.resetting[which] = False
        with failing(self._spec.id, "reset"):
            observation, _ = self.environments.reset(options={"reset_mask": which.copy()})
        for leaf, x in zip(current, self._checked(observation, current), strict=True):
            leaf[which] = x[which]
        self._check_masks(current)

    def _check_masks(self, current: Leaves) -> None:
        if self._mask_leaf is not None:
            masks.check(self._spec, current[self._mask_leaf], ~self.resetting)

    def step(
        self, action: np.ndarray, successor: Leaves, current: Leaves
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One step of every environment: (reward, terminated, truncated).

        Writes the true next observation to `successor`, and the one to act on to `current`.
        """
        action = action.astype(self._space.dtype, copy=False)
        if self._bounds is not None:
            action = np.clip(action, *self._bounds)
        with failing(self._spec.id, "step"):
            result = self._step(action, successor, current)
        self._check_masks(current)
        return result

    def info(self, name: str, k: int) -> float:
        """A number of the infos of environment k in the latest step; NaN where it gave none.

        Where the environment was reset in the same step, of its last one.
        """
        infos = self.infos
        for nested in ("final_info", "final_infos"):
            if nested in infos and self.mode is AutoresetMode.SAME_STEP:
                infos = infos[nested]
        if not isinstance(infos, Mapping) or name not in infos:
            return np.nan
        given = infos.get(f"_{name}")
        return float(infos[name][k]) if given is None or given[k] else np.nan

    def _step(
        self, action: np.ndarray, successor: Leaves, current: Leaves
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        observation, reward, terminated, truncated, infos = self.environments.step(action)
        self.infos = infos
        parts = self._checked(observation, current)
        write(successor, parts)
        write(current, parts)
        reward, terminated, truncated = map(np.asarray, (reward, terminated, truncated))
        if not self._guarded:
            self._check_column("rewards", reward)
            terminated = self._flags("terminated", terminated)
            truncated = self._flags("truncated", truncated)
        if self.mode is AutoresetMode.NEXT_STEP:
            experience = ~self.resetting
            reward = np.where(experience, reward, 0.0)
            terminated, truncated = terminated & experience, truncated & experience
            self.resetting = terminated | truncated
            return reward, terminated, truncated

        done = terminated | truncated
        if not done.any():
            return reward, terminated, truncated
        if self.mode is AutoresetMode.DISABLED:
            self.restart(done, current)
            return reward, terminated, truncated
        if "final_obs" not in infos:
            raise UserError(
                f"{self._spec.id} says that it resets in the same step, but its infos lack "
                "'final_obs', the last observation of an episode that ended. Put it there."
            )
        for k in np.flatnonzero(done):
            last = leaves(self._spec.observation_space, infos["final_obs"][k])
            last = self._checked_leaves(
                [np.asarray(x)[None] for x in last], [x[:1] for x in current]
            )
            for leaf, x in zip(successor, last, strict=True):
                leaf[k] = x[0]
        return reward, terminated, truncated

    def _checked(self, observation: Any, room: Leaves) -> list[np.ndarray]:
        """The leaves of observations; UserError where they are not what their space promises."""
        found = leaves(self._spec.observation_space, observation)
        if self._believed:
            return found
        return self._checked_leaves([np.asarray(x) for x in found], room)

    def _checked_leaves(self, found: list[np.ndarray], room: Leaves) -> list[np.ndarray]:
        for x, leaf, limits in zip(found, room, self._limits, strict=True):
            if x.shape != leaf.shape:
                raise UserError(
                    f"{self._spec.id} gave observations of shape {x.shape}; expected {leaf.shape}."
                )
            if x.dtype != leaf.dtype and not np.can_cast(x.dtype, leaf.dtype, "same_kind"):
                raise UserError(
                    f"{self._spec.id} gave observations of dtype {x.dtype}; expected what can be "
                    f"kept as {leaf.dtype}."
                )
            if limits is not None:
                wrong = (x < limits[0]) | (x > limits[1])
                if wrong.any():
                    k = int(np.argwhere(wrong)[0][0])
                    raise UserError(
                        f"{self._spec.id}: an observation of environment {k} is {x[k]}; expected "
                        f"{limits[0]} to {limits[1]}, as the observation space says."
                    )
        return found

    def _check_column(self, what: str, x: np.ndarray) -> None:
        if x.shape != self.resetting.shape or x.dtype.kind not in "fiub":
            raise UserError(
                f"{self._spec.id} gave {what} of dtype {x.dtype} and shape {x.shape}; expected one "
                f"number for each of {len(self.resetting)} environments."
            )

    def _flags(self, what: str, x: np.ndarray) -> np.ndarray:
        self._check_column(what, x)
        if x.dtype != bool:
            wrong = (x != 0) & (x != 1)
            if wrong.any():
                k = int(wrong.argmax())
                raise UserError(
                    f"{self._spec.id}: environment {k} gave {what} = {x[k]}; expected True or "
                    "False."
                )
            x = x.astype(bool)
        return x


def _limits(space: gym_spaces.Space) -> tuple[Any, Any] | None:
    """The least and the greatest numbers of a space that is no Box."""
    match space:
        case gym_spaces.Discrete():
            return int(space.start), int(space.start) + int(space.n) - 1
        case gym_spaces.MultiDiscrete():
            least: Any = np.asarray(space.start)
            choices: Any = np.asarray(space.nvec)
            return least, least + choices - 1
        case gym_spaces.MultiBinary():
            return 0, 1
    return None


class ColumnStepper:
    """The same of environments with several agents each: what is given and returned is columns.

    The environments pack what their agents have into one observation (see `columns.packed`).
    """

    def __init__(
        self, environments: VectorEnv, spec: EnvSpec, packed: EnvSpec, guarded: bool = False
    ) -> None:
        self._inner, self._spec = Stepper(environments, packed, guarded), spec
        self.environments, self.mode = environments, self._inner.mode
        space, count = packed.observation_space, environments.num_envs
        self._after, self._now = (zeros(space, count) for _ in range(2))
        self._leaves = [leaves(space, room) for room in (self._after, self._now)]
        self.leaving = columns.VALID in packed.observation_space.spaces  # type: ignore[attr-defined]
        # Which agents were there to act in the latest step; all, where none may leave.
        self.valid = np.ones(count * spec.columns, bool)
        self._masked = spaces.has_mask(spec.observation_space)

    @property
    def resetting(self) -> np.ndarray:
        """NEXT_STEP: the environments that the coming step will only reset, [B]."""
        return self._inner.resetting

    def reset(self, seed: int | None, current: Leaves) -> None:
        """Start an episode in every environment; its observations are written to `current`."""
        self._inner.reset(seed, self._leaves[1])
        self._write(self._now, current)

    def restart(self, which: np.ndarray, current: Leaves) -> None:
        """Leave the episodes of some environments, and start new ones."""
        self._inner.restart(which, self._leaves[1])
        self._write(self._now, current)

    def step(
        self, action: np.ndarray, successor: Leaves, current: Leaves
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One step of every environment: (reward, terminated, truncated), a number a column."""
        resetting = np.repeat(self.resetting, self._spec.columns)
        action = action.reshape(-1, self._spec.columns, *action.shape[1:])
        self._inner.step(action, *self._leaves)
        self._write(self._after, successor)
        self._write(self._now, current)
        after: Any = self._after
        reward, terminated, truncated = (
            after[name].reshape(-1)
            for name in (columns.REWARD, columns.TERMINATED, columns.TRUNCATED)
        )
        terminated, truncated = (flag.astype(bool) & ~resetting for flag in (terminated, truncated))
        if self.leaving:
            self.valid = after[columns.VALID].reshape(-1).astype(bool) & ~resetting
        return np.where(resetting, 0.0, reward), terminated, truncated

    def info(self, name: str, k: int) -> float:
        """A number of the infos of environment k, as `Stepper.info` gives it."""
        return self._inner.info(name, k)

    def _write(self, packed: Any, into: Leaves) -> None:
        seen = leaves(self._spec.observation_space, packed[columns.COLUMNS])
        for leaf, x in zip(into, seen, strict=True):
            leaf[...] = x.reshape(leaf.shape)
        if self._masked:
            mask = packed[columns.COLUMNS][spaces.MASK]
            acting = np.ones(mask.shape[0] * mask.shape[1], bool)
            masks.check(self._spec, mask.reshape(len(acting), -1), acting)
