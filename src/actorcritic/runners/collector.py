"""Collecting on the host: rollout buffers, environments side by side, and the program that acts.

A `Collector` stands by itself: it is given an actor and random keys, and returns a batch. What is
done with the batch is for others: the host runner learns from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode
from jaxtyping import Array, Key

from actorcritic.core.errors import UserError
from actorcritic.core.types import Collects, EnvSpec, Transition
from actorcritic.core.waiting import compiled
from actorcritic.envs.host.arrays import Leaves, leaves, row_of, write, zeros
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.envs.host.stepping import ColumnStepper, Stepper
from actorcritic.maths import spaces
from actorcritic.runners.session import never


class Abandoned(Exception):
    """A batch was left before it was complete."""


class Diverged(UserError):
    """A policy is no longer finite."""


class Ended(NamedTuple):
    """A training episode that ended."""

    step: int  # of the batch, counted over its environments; of whole episodes, the batch's last
    episode_return: float
    length: int
    infos: tuple[float, ...] = ()  # the `info_metrics` of its last step


class Rollout:
    """Room for one batch [T, B], used again for the next."""

    def __init__(self, spec: EnvSpec, collects: Collects, action: Any, extras: Any) -> None:
        space, length = spec.observation_space, collects.longest(spec)
        num_envs = collects.num_envs * spec.columns
        self.observation = zeros(space, length + 1, num_envs)  # row T begins the next batch
        self.next_observation = zeros(space, length, num_envs)
        self.reward = np.zeros((length, num_envs), np.float32)
        self.reward_sum = None if collects.discount is None else np.zeros_like(self.reward)
        self.terminated, self.truncated, self.valid = (
            np.zeros((length, num_envs), bool) for _ in range(3)
        )
        self.action, self.extras = jax.tree.map(
            lambda x: np.zeros((length, *x.shape), x.dtype), (action, extras)
        )
        self._before = leaves(space, self.observation)
        self._after = leaves(space, self.next_observation)
        self._extras = jax.tree.leaves(self.extras)

    def before(self, t: int) -> Leaves:
        """Where the observations of row t are written."""
        return [x[t] for x in self._before]

    def after(self, t: int) -> Leaves:
        return [x[t] for x in self._after]

    def write_policy(self, t: int, action: Array, extras: Any) -> None:
        self.action[t] = action
        for buffer, x in zip(self._extras, jax.tree.leaves(extras), strict=True):
            buffer[t] = x

    def batch(self, made: int, masked: bool) -> Transition:
        """The batch, of which `made` rows are filled; the rest is made zero."""
        parts: Any = (
            jax.tree.map(lambda x: x[:-1], self.observation),
            self.action,
            self.reward,
            self.terminated,
            self.truncated,
            self.next_observation,
            self.extras,
            self.valid if masked else None,
            self.reward_sum,
        )
        for leaf in jax.tree.leaves(parts):
            leaf[made:] = 0
        return Transition(*parts)


class Collector:
    """Steps environments with an actor, and returns what an algorithm collects for one update.

    `start` begins new episodes; then each `collect` goes on where the last one ended, or with whole
    episodes begins afresh.
    """

    def __init__(self, algorithm: Any, environment: HostEnvironment, actor: Any) -> None:
        """`actor` may be of `jax.ShapeDtypeStruct`s. Opens the environments."""
        self.algorithm, self.environment = algorithm, environment
        self.collects: Collects = algorithm.collects
        self._spec, self._actor = environment.spec, actor
        self._steps = self.collects.longest(self._spec)
        # On the device once, not at every call.
        self._settings = jax.tree.map(jnp.asarray, algorithm)
        discount = self.collects.discount
        self._discount = None if discount is None else np.float32(discount)
        self._stepper = self._opened()
        self.masked = (
            self.collects.whole_episodes
            or self._stepper.mode is AutoresetMode.NEXT_STEP
            or self._stepper.leaving
        )
        lead = zeros(self._spec.observation_space, self.collects.num_envs * self._spec.columns)
        self._keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), self._steps))
        action, _, extras = jax.eval_shape(
            self._act, self._settings, actor, lead, self._keys, np.int32(0)
        )
        self.rollout = Rollout(self._spec, self.collects, action, extras)
        self.made = 0  # rows of the batch that is being collected
        self._executable = np.zeros(0)  # the latest actions, as the environments were given them
        self._program: Any = None

    def _act(
        self, algorithm: Any, actor: Any, observation: Any, keys: Array, t: Array
    ) -> tuple[Array, Array, Any]:
        action, extras = algorithm.act(actor, observation, keys[t])
        return action, spaces.executable(self._spec.action_space, action), extras

    def _opened(self) -> Stepper | ColumnStepper:
        return self.environment.stepper(self.environment.make(self.collects.num_envs))

    def compile(self) -> None:
        """Compile the program that acts (once; `collect` does it otherwise)."""
        if self._program is None:
            observation = row_of(self.rollout.observation, 0)
            arguments = self._settings, self._actor, observation, self._keys, np.int32(0)
            self._program = compiled(jax.jit(self._act).lower(*arguments))

    def batch(self) -> Transition:
        """The batch as far as it has been collected."""
        return self.rollout.batch(self.made, self.masked)

    def start(self, seed: int, *, anew: bool = False) -> None:
        """Begin new episodes: environment k is given `seed` + k. `anew` makes the environments
        themselves anew, with whatever they remember; those that the user made stay.
        """
        if anew and self.environment.vector is None:
            self._stepper.environments.close()
            self._stepper = self._opened()
        self._stepper.reset(seed, self.rollout.before(-1))
        num_envs, columns = self.collects.num_envs, self._spec.columns
        # Of each agent, but an episode is as long for all of them.
        self._returns, self._lengths = np.zeros((num_envs, columns)), np.zeros(num_envs, np.int64)
        self._reward_sum = np.zeros(num_envs * columns, np.float32)

    def collect(
        self,
        actor: Any,
        keys: Key[Array, " T"],
        interrupted: Callable[[], bool] = never,
        name: str = "a batch",
    ) -> tuple[Transition, list[Ended]]:
        """One batch, and the episodes that ended in it. The batch is overwritten by the next one.

        `name` is what errors call it.
        Raises Abandoned where `interrupted` says to stop: `start` has to come next. Raises
        UserError where an environment or the actor gives a number that is not finite.
        """
        self.compile()
        try:
            ended = self._collect(actor, keys, interrupted)
        except UserError as error:
            # What stopped an environment may be a number that came before.
            self._check_finite(self.batch(), name)
            raise UserError(f"At step {self.made} of {name}: {error}") from error
        batch = self.batch()
        self._check_finite(batch, name)
        return batch, ended

    def _collect(self, actor: Any, keys: Array, interrupted: Callable[[], bool]) -> list[Ended]:
        rollout, stepper, whole = self.rollout, self._stepper, self.collects.whole_episodes
        length, num_envs, columns = self._steps, self.collects.num_envs, self._spec.columns
        team = list(self._spec.first_team)
        ended: list[Ended] = []
        counted = 0  # environment steps up to the current row
        valid = np.ones(num_envs, bool)
        self.made = 0
        if whole:
            stepper.reset(None, rollout.before(0))
            self._returns[:], self._lengths[:], self._reward_sum[:] = 0.0, 0, 0.0
        else:
            write(rollout.before(0), rollout.before(-1))
        for t in range(length):
            if interrupted():
                raise Abandoned
            if not whole and self.masked:
                if stepper.resetting.all():  # a step without experience needs no row
                    stepper.step(self._executable, rollout.after(t), rollout.before(t))
                valid = ~stepper.resetting
            observation = row_of(rollout.observation, t)
            action, executable, extras = self._program(
                self._settings, actor, observation, keys, np.int32(t)
            )
            rollout.write_policy(t, action, extras)
            self.made = t + 1
            self._executable = np.array(executable)  # a copy: environments may write into it
            reward, terminated, truncated = stepper.step(
                self._executable, rollout.after(t), rollout.before(t + 1)
            )
            if whole and t == length - 1:  # an episode longer than the batch is cut
                truncated = truncated | ~terminated
            rollout.reward[t] = reward
            rollout.terminated[t], rollout.truncated[t] = terminated, truncated
            self._returns += reward.reshape(num_envs, columns)
            self._lengths += valid
            if self._discount is not None and rollout.reward_sum is not None:
                self._reward_sum = self._discount * self._reward_sum + rollout.reward[t]
                rollout.reward_sum[t] = self._reward_sum
            done = (terminated | truncated).reshape(num_envs, columns).all(axis=1)
            if self.masked:
                rollout.valid[t] = np.repeat(valid, columns) & stepper.valid
            if done.any():
                for b in np.flatnonzero(done & valid).tolist():
                    at = counted + int(valid[: b + 1].sum())
                    infos = tuple(stepper.info(name, b) for name in self.environment.info_metrics)
                    total = float(self._returns[b, team].mean())
                    ended.append(Ended(at, total, int(self._lengths[b]), infos))
                self._returns[done], self._lengths[done] = 0.0, 0
                self._reward_sum[np.repeat(done, columns)] = 0.0
            counted += int(valid.sum())
            if whole:
                valid = valid & ~done
                if not valid.any():
                    break
        # In a batch of whole episodes, steps in parallel are not told apart.
        return [one._replace(step=counted) for one in ended] if whole else ended

    def _check_finite(self, batch: Transition, name: str) -> None:
        """Numbers that are not finite would make the parameters so, without a word."""
        found = []
        parts = (batch.observation, batch.action, batch.reward, batch.next_observation)
        for part, tree in enumerate(parts):
            for path, x in jax.tree_util.tree_leaves_with_path(tree):
                if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
                    t, b = np.argwhere(~np.isfinite(x))[0][:2]
                    # What an agent sees itself says more than the state, which all have.
                    shared = spaces.GLOBAL in jax.tree_util.keystr(path)
                    found.append((int(t), part, shared, int(b), x[t, b]))
        if not found:
            return
        t, part, _, b, value = min(found, key=lambda row: row[:4])
        b, agent = divmod(b, self._spec.columns)
        who = f", agent '{self._spec.agents[agent].name}'" if self._spec.agents else ""
        place = f"step {t + 1} of {name}, environment {b}{who}"
        if part == 1:
            raise Diverged(
                f"the training diverged: the policy drew an action that is not finite at {place}: "
                f"{value}. Lower learning_rate or max_grad_norm, or scale the rewards."
            )
        what = ("an observation of reset", "an action", "a reward", "an observation")[part]
        raise UserError(
            f"{self._spec.id} gave {what} that is not finite (in single precision) at {place}: "
            f"{value}. Look for a division by zero or an overflow in the environment."
        )

    def close(self) -> None:
        """Close the environments, unless the user made them."""
        if self.environment.vector is None:
            self._stepper.environments.close()
