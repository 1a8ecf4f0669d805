"""The host runner: any Gymnasium environment, with policy and update as two JAX programs.

The policy is called once a step; a rollout's keys are drawn at once, and split as the compiled
runner splits them. Exposed through `AsGymnasium` with its keys, a compiled environment therefore
gives the same parameters here as there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode
from jaxtyping import Array, Int, Key

from actorcritic import spaces
from actorcritic.envs.host import HostEnvironment, Leaves, Stepper, leaves, row_of, write, zeros
from actorcritic.runners.compiled import longest_batch
from actorcritic.runners.session import (
    EpisodeTable,
    MetricTable,
    Report,
    is_reported,
    never,
    tabulate,
    updates_per_row,
)
from actorcritic.types import EnvSpec, Transition, UserError

RESUME_NOTE = (
    "Resuming preserves the parameters, the optimiser, the running statistics, the random keys and "
    "the counters. Environments on the host cannot be saved: they begin new episodes, so that a "
    "resumed run is a valid training, but not bit for bit the one without the interruption."
)


class HostState(NamedTuple):
    """What a checkpoint holds; in `HostSession.state` the leaves lead with [S]."""

    learner: Any
    key: Key[Array, ""]
    updates: Int[Array, ""]
    steps: Int[Array, ""]


def call_inline() -> None:
    """Run programs on the CPU in the thread that calls them, if JAX has not started yet.

    Handing a policy's few microseconds of work to another thread, and waiting for its answer,
    takes longer than the work itself. Programs over several devices are not affected.
    """
    with contextlib.suppress(AttributeError):  # only a matter of speed, if JAX renames it
        jax.config.update("jax_cpu_enable_async_dispatch", False)


def begin(algorithm: Any, spec: EnvSpec, key: Key[Array, ""]) -> HostState:
    """The state before the first update of one seed; the third key is the environments'."""
    key, learner_key, _ = jax.random.split(key, 3)
    zero = jnp.zeros((), jnp.int32)
    return HostState(algorithm.init(learner_key, spec), key, zero, zero)


class _Abandoned(Exception):
    """A batch was left before it was complete."""


class _Diverged(UserError):
    """A policy is no longer finite."""


# ------------------------------------------------------------------------------- the session


class Rollout:
    """Room for one batch [T, B], used again for the next."""

    def __init__(self, spec: EnvSpec, length: int, num_envs: int, action: Any, extras: Any) -> None:
        space = spec.observation_space
        self.observation = zeros(space, length + 1, num_envs)  # row T begins the next batch
        self.next_observation = zeros(space, length, num_envs)
        self.reward = np.zeros((length, num_envs), np.float32)
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
        )
        for leaf in jax.tree.leaves(parts):
            leaf[made:] = 0
        return Transition(*parts)


class HostSession:
    """The seeds of a run, trained one after another. `state` is a HostState, leaves [S]."""

    def __init__(
        self, algorithm: Any, environment: HostEnvironment, seeds: Sequence[int], total_steps: int
    ) -> None:
        call_inline()
        environment.check()
        self.seeds, self.total_steps = tuple(seeds), total_steps
        self._algorithm, self._environment = algorithm, environment
        self._spec = environment.spec
        self._stepper = Stepper(environment.make(algorithm.num_envs), self._spec)
        self._masked = algorithm.whole_episodes or self._stepper.mode is AutoresetMode.NEXT_STEP
        # On the device once, not at every call.
        self._settings = jax.tree.map(jnp.asarray, algorithm)

        keys = jax.vmap(jax.random.key)(np.asarray(self.seeds))
        init = jax.jit(lambda a, keys: jax.lax.map(partial(begin, a, self._spec), keys))
        self.state = init(self._settings, keys)

        length = longest_batch(algorithm, self._spec)
        lead = zeros(self._spec.observation_space, algorithm.num_envs)
        (_, act_keys, _) = jax.eval_shape(self._draw, self._states[0].key)
        action, _, extras = jax.eval_shape(
            self._act, self._settings, self._states[0].learner, lead, act_keys, np.int32(0)
        )
        self._rollout = Rollout(self._spec, length, algorithm.num_envs, action, extras)
        self._executable = np.zeros(0)  # the latest actions, as the environments were given them
        self._names: tuple[str, ...] = ()  # of the metrics, known once `_update` was traced
        self.failures: dict[int, str] = {}
        self._programs: tuple[Any, Any, Any] | None = None

    # The three programs.

    def _draw(self, key: Array) -> tuple[Array, Array, Array]:
        """The keys of an update, as the compiled runner draws them."""
        key, act_key, update_key = jax.random.split(key, 3)
        steps = longest_batch(self._algorithm, self._spec)
        return key, jax.random.split(act_key, steps), update_key

    def _act(
        self, algorithm: Any, learner: Any, observation: Any, keys: Array, t: Array
    ) -> tuple[Array, Array, Any]:
        action, extras = algorithm.act(learner, observation, keys[t])
        return action, spaces.executable(self._spec.action_space, action), extras

    def _update(
        self, algorithm: Any, learner: Any, batch: Transition, key: Array, progress: Array
    ) -> tuple[Any, Array]:
        learner, metrics = algorithm.update(learner, batch, key, progress)
        self._names = tuple(sorted(metrics))
        return learner, jnp.stack([metrics[name] for name in self._names])

    def compile(self) -> None:
        """Compile the programs (once; `advance` does it otherwise)."""
        if self._programs is not None:
            return
        state = self._states[0]
        draw = jax.jit(self._draw).lower(state.key).compile()
        keys, observation = draw(state.key)[1], row_of(self._rollout.observation, 0)
        act = (
            jax.jit(self._act)
            .lower(self._settings, state.learner, observation, keys, np.int32(0))
            .compile()
        )
        batch = self._rollout.batch(0, self._masked)
        update = (
            jax.jit(self._update, donate_argnums=1)
            .lower(self._settings, state.learner, batch, state.key, np.float32(0))
            .compile()
        )
        self._programs = draw, act, update

    # What may be saved and set.

    @property
    def shapes(self) -> HostState:
        """The shapes and types of `state`."""
        return jax.eval_shape(lambda: self.state)

    @property
    def state(self) -> HostState:
        return jax.tree.map(lambda *x: jnp.stack(x), *self._states)

    @state.setter
    def state(self, state: HostState) -> None:
        device = jax.devices()[0]
        self._states = [
            jax.tree.map(lambda x, s=s: jax.device_put(x[s], device), state)
            for s in range(len(self.seeds))
        ]
        self._under_way: int | None = None  # the seed that the environments serve
        self._made = 0  # rows of the batch that is being collected

    @property
    def steps(self) -> np.ndarray:
        return np.array([int(state.steps) for state in self._states])

    @property
    def finished(self) -> bool:
        return self._next() is None

    def _next(self) -> int | None:
        """The seed to train now: the first that is neither done nor given up."""
        unfinished = np.flatnonzero(self.steps < self.total_steps).tolist()
        return next((s for s in unfinished if s not in self.failures), None)

    def give_up(self, entry: int, why: str) -> None:
        self.failures[entry] = why

    # Training.

    def advance(self, seconds: float, interrupted: Callable[[], bool] = never) -> Report:
        """A batch under way when `interrupted` says so is left out, as if it had not begun."""
        self.compile()
        start, before = time.perf_counter(), self.steps
        rows: list[tuple[int, int, int, np.ndarray]] = []
        episodes: list[tuple[int, int, float, int]] = []
        every = updates_per_row(self._algorithm)
        while (s := self._next()) is not None:
            try:
                metrics, ended = self._train_once(s, interrupted)
            except _Abandoned:
                break
            except _Diverged as stop:
                self.give_up(s, str(stop))
                continue
            state = self._states[s]
            made = int(state.updates)
            if is_reported(made, every):
                rows.append((self.seeds[s], made, int(state.steps), metrics))
            episodes.extend((self.seeds[s], *row) for row in ended)
            if made % every == 0 and time.perf_counter() - start >= seconds:
                break
        elapsed = time.perf_counter() - start
        seed, update, step = (np.array([row[k] for row in rows], np.int64) for k in range(3))
        values = np.array([row[3] for row in rows], np.float32)
        values = values.reshape(-1, len(self._names))
        kinds = (np.int64, np.int64, np.float64, np.int64)
        columns = [np.array([row[k] for row in episodes], kind) for k, kind in enumerate(kinds)]
        table = MetricTable(seed, update, step, self._names, values)
        gained = int((self.steps - before).sum())
        return tabulate(table, EpisodeTable(*columns), gained, elapsed)

    def _train_once(
        self, s: int, interrupted: Callable[[], bool]
    ) -> tuple[np.ndarray, list[tuple[int, float, int]]]:
        assert self._programs is not None
        draw, _, update = self._programs
        state = self._states[s]
        key, act_keys, update_key = draw(state.key)
        before = int(state.steps)
        try:
            if self._under_way != s:
                self._start(s)
            batch, episodes = self._collect(state.learner, act_keys, before, interrupted)
        except _Abandoned:
            self._under_way = None
            raise
        except UserError:
            self._under_way = None
            # What stopped an environment may be a number that came before.
            self._check_finite(self._rollout.batch(self._made, self._masked), s)
            raise
        self._check_finite(batch, s)
        gained = batch.reward.size if batch.valid is None else int(batch.valid.sum())
        progress = np.float32(before) / np.float32(self.total_steps)
        learner, metrics = update(self._settings, state.learner, batch, update_key, progress)
        counters: Any = np.int32(state.updates + 1), np.int32(before + gained)
        self._states[s] = HostState(learner, key, *counters)
        # Waits for the update: only then may the batch be overwritten.
        return np.asarray(metrics), episodes

    def _start(self, s: int) -> None:
        """New episodes for a seed, other ones each time that it is taken up again."""
        entropy = [self.seeds[s] % 2**32, int(self._states[s].updates)]
        # Environment k is given seed + k; 30 bits suit every generator that users may have.
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0]) >> 2
        self._stepper.reset(seed, self._rollout.before(-1))
        num_envs = self._algorithm.num_envs
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._under_way = s

    def _collect(
        self, learner: Any, keys: Array, steps: int, interrupted: Callable[[], bool]
    ) -> tuple[Transition, list[tuple[int, float, int]]]:
        """One batch, and (step, return, length) of the episodes that ended in it.

        Whole episodes start afresh, and go on until each environment has ended one.
        """
        assert self._programs is not None
        act, rollout, stepper = self._programs[1], self._rollout, self._stepper
        whole = self._algorithm.whole_episodes
        length, num_envs = rollout.reward.shape
        episodes: list[tuple[int, float, int]] = []
        counted = steps  # environment steps up to the current row
        valid = np.ones(num_envs, bool)
        self._made = 0
        if whole:
            stepper.reset(None, rollout.before(0))
            self._returns[:], self._lengths[:] = 0.0, 0
        else:
            write(rollout.before(0), rollout.before(-1))
        for t in range(length):
            if interrupted():
                raise _Abandoned
            if not whole and self._masked:
                if stepper.resetting.all():  # a step without experience needs no row
                    stepper.step(self._executable, rollout.after(t), rollout.before(t))
                valid = ~stepper.resetting
            observation = row_of(rollout.observation, t)
            action, executable, extras = act(
                self._settings, learner, observation, keys, np.int32(t)
            )
            rollout.write_policy(t, action, extras)
            self._made = t + 1
            self._executable = np.array(executable)  # a copy: environments may write into it
            reward, terminated, truncated = stepper.step(
                self._executable, rollout.after(t), rollout.before(t + 1)
            )
            rollout.reward[t] = reward
            rollout.terminated[t], rollout.truncated[t] = terminated, truncated
            self._returns += reward
            self._lengths += valid
            done = terminated | truncated
            if self._masked:
                rollout.valid[t] = valid
            if done.any():
                for b in np.flatnonzero(done):
                    if valid[b]:
                        at = counted + int(valid[: b + 1].sum())
                        episodes.append((at, float(self._returns[b]), int(self._lengths[b])))
                self._returns[done], self._lengths[done] = 0.0, 0
            counted += num_envs if not self._masked else int(valid.sum())
            if whole:
                valid = valid & ~done
                if not valid.any():
                    break
        if whole:
            if self._made == length:  # an episode longer than the batch is cut
                rollout.truncated[-1] |= ~rollout.terminated[-1]
            # In a batch of whole episodes, steps in parallel are not told apart.
            episodes = [(counted, total, length) for _, total, length in episodes]
        return rollout.batch(self._made, self._masked), episodes

    def _check_finite(self, batch: Transition, s: int) -> None:
        """Numbers that are not finite would make the parameters so, without a word."""
        found = []
        parts = (batch.observation, batch.action, batch.reward, batch.next_observation)
        for part, tree in enumerate(parts):
            for x in jax.tree.leaves(tree):
                if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
                    t, b = np.argwhere(~np.isfinite(x))[0][:2]
                    found.append((int(t), part, int(b), x[t, b]))
        if not found:
            return
        t, part, b, value = min(found, key=lambda row: row[:3])
        what = ("an observation of reset", "an action", "a reward", "an observation")[part]
        update = int(self._states[s].updates) + 1
        place = f"step {t + 1} of update {update} (seed {self.seeds[s]}), environment {b}"
        if part == 1:
            raise _Diverged(
                f"Seed {self.seeds[s]}: the training diverged: the policy drew an action that is "
                f"not finite at {place}: {value}. Lower learning_rate or max_grad_norm, or scale "
                "the rewards."
            )
        raise UserError(
            f"{self._spec.id} gave {what} that is not finite (in single precision) at {place}: "
            f"{value}. Look for a division by zero or an overflow in the environment."
        )

    def close(self) -> None:
        """Close the environments that this session made."""
        if self._environment.vector is None:
            self._stepper.environments.close()
