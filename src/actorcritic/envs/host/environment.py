"""Any Gymnasium environment: found by name, checked once, and run side by side on the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from jaxtyping import Float

from actorcritic.core import importing
from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec, Observation
from actorcritic.core.words import nearest
from actorcritic.envs import masks, pettingzoo
from actorcritic.envs.host import failures
from actorcritic.envs.host.arrays import leaves, zeros
from actorcritic.envs.host.checks import CHECKED_STEPS, check_environment, refuse_normalizers
from actorcritic.envs.host.finding import Factory, find, make, make_guarded, make_masked
from actorcritic.envs.host.stepping import ColumnStepper, Stepper, autoreset_mode
from actorcritic.envs.host.workers import Workers, undisturbed
from actorcritic.maths import spaces

Autoreset = Literal["disabled", "same_step", "next_step"]

AUTORESET = {
    "disabled": AutoresetMode.DISABLED,
    "same_step": AutoresetMode.SAME_STEP,
    "next_step": AutoresetMode.NEXT_STEP,
}


class HostEnvironment:
    """An environment on the host. `environment` is one of

    - a Gymnasium id, "Hopper-v5", also with the module that registers it, "ale_py:ALE/Pong-v5";
    - "module:Name", a class or function of a module that the current directory has;
    - "pettingzoo:MODULE", a module of PettingZoo's, as "pettingzoo:mpe2.simple_spread_v3" (a class
      or function may also make an environment of PettingZoo's, with several agents);
    - such a class or function itself, called with `options`;
    - a `gymnasium.vector.VectorEnv` that you made, in whichever autoreset mode.

    `vectorization` "async" gives each environment a process of its own. An environment that does
    not answer for `worker_timeout` seconds there ends the training with a UserError.

    Masks of allowed actions that it gives in infos or by a method `action_masks` become part of
    the observations (see `envs.masks`); a VectorEnv has to have them there itself.

    `info_metrics` name numbers of the infos: what they are at the end of an episode is kept as
    metrics, "info/NAME".

    `autoreset` makes no difference to what is learned. "disabled" leaves resets to the runner,
    and is the one mode in which no observation is handed around after its environment moved on.
    """

    def __init__(
        self,
        environment: str | Factory | VectorEnv,
        *,
        vectorization: Literal["sync", "async"] = "sync",
        autoreset: Autoreset = "disabled",
        worker_timeout: float = 60.0,
        options: Mapping[str, Any] | None = None,
        info_metrics: Sequence[str] = (),
    ) -> None:
        _check_choice("vectorization", vectorization, ["sync", "async"])
        _check_choice("autoreset", autoreset, list(AUTORESET))
        if not worker_timeout > 0:
            raise UserError(f"worker_timeout must be > 0 seconds; got {worker_timeout}.")
        self.vectorization, self.autoreset = vectorization, autoreset
        self.worker_timeout, self.options = worker_timeout, dict(options or {})
        self.info_metrics = tuple(info_metrics)
        self.vector = environment if isinstance(environment, VectorEnv) else None
        self.place: str | None = None  # module:Name, where it has one
        if isinstance(environment, VectorEnv):
            if self.options:
                raise UserError(
                    f"The options {self.options} came with a VectorEnv that is already made; "
                    "give them to its constructor instead."
                )
            kind = type(environment.unwrapped).__name__
            self.id = environment.spec.id if environment.spec else kind
        else:
            self.id, self._factory = find(environment)
            self.place = (
                self.id if importing.is_address(self.id) else importing.address(self._factory)
            )
        self._checked = False
        # Can it be made again from its id alone, without importing code of the user's?
        self.is_registered = isinstance(environment, str) and ":" not in environment

    @cached_property
    def spec(self) -> EnvSpec:
        """The spaces and the time limit, asked of one instance."""
        if self.vector is not None:
            several = self._first_of_vector
            if several is not None:
                return replace(several, id=self.id)
            return self._spec_of_vector(self.vector)
        return self._described[0]

    def _spec_of_vector(self, vector: VectorEnv) -> EnvSpec:
        limit = vector.spec.max_episode_steps if vector.spec else None
        spaces = vector.single_observation_space, vector.single_action_space
        return EnvSpec(self.id, *spaces, limit)

    @property
    def _first_of_vector(self) -> EnvSpec | None:
        """The agents of the environments in a VectorEnv, where they have several."""
        several = getattr(self.vector, "envs", None)
        return getattr(several[0].unwrapped, "agents_spec", None) if several else None

    @cached_property
    def _described(self) -> tuple[EnvSpec, masks.Source | None, EnvSpec | None]:
        """The spec, where masks of actions come from, if not from the observations, and how the
        parts of several agents are packed.
        """
        environment = make(self.id, self._factory, self.options)
        try:
            spec = self._spec_of(environment)
            several = getattr(environment.unwrapped, "agents_spec", None)
            if several is not None:
                return replace(several, id=self.id), None, spec
            source = masks.source(environment)
            if source is not None:
                spec = self._spec_of(masks.Masked(environment, self.id, source))
            return spec, source, None
        finally:
            failures.close(environment, self.id)

    def _spec_of(self, environment: gymnasium.Env) -> EnvSpec:
        found: dict[str, Any] = {}
        for name in ("observation_space", "action_space"):
            found[name] = getattr(environment, name, None)
            if not isinstance(found[name], gymnasium.Space):
                raise UserError(
                    f"{self.id} has {name} = {found[name]!r}; expected a space of "
                    f"gymnasium.spaces. Set self.{name} in its constructor."
                )
        limit = environment.spec.max_episode_steps if environment.spec else None
        return EnvSpec(self.id, **found, max_episode_steps=limit)

    def make_single(self, render_mode: str | None = None) -> gymnasium.Env:
        """One environment, for a check or for pictures."""
        if self.vector is not None:
            raise UserError(
                f"{self.id} was given as a VectorEnv, from which no single environment can be "
                "made; give an id or a function that makes one environment instead."
            )
        mode = {} if render_mode is None else {"render_mode": render_mode}
        return make_masked(self.id, self._factory, self.options | mode, self._described[1])

    def make(self, num_envs: int) -> VectorEnv:
        """`num_envs` environments side by side."""
        if self.vector is not None:
            if self.vector.num_envs != num_envs:
                raise UserError(
                    f"{self.id} is a VectorEnv of {self.vector.num_envs} environments, but "
                    f"num_envs is {num_envs}; make the two equal."
                )
            autoreset_mode(self.vector, self.id)
            return self.vector
        copying = self.autoreset == "same_step"
        source = self._described[1]
        one = partial(
            make_guarded, self.id, self._factory, self.options, source, copying, self.info_metrics
        )
        mode = AUTORESET[self.autoreset]
        if self.vectorization == "async":
            factories = [partial(undisturbed, one)] * num_envs
            return Workers(self.id, factories, mode, self.worker_timeout)
        several = [partial(one, number=k) for k in range(num_envs)] if num_envs > 1 else [one]
        return SyncVectorEnv(several, copy=False, autoreset_mode=mode)

    def stepper(self, environments: VectorEnv) -> Stepper | ColumnStepper:
        """What steps environments of this one."""
        packed = None
        if self.vector is None:
            packed = self._described[2]
        elif self._first_of_vector is not None:
            packed = self._spec_of_vector(self.vector)
        if packed is None:
            return Stepper(environments, self.spec, self.vector is None)
        return ColumnStepper(environments, self.spec, packed, self.vector is None)

    def episodes(
        self,
        environments: VectorEnv,
        policy: Callable[[Observation], np.ndarray],
        seed: int,
        max_steps: int,
    ) -> Iterator[tuple[int, float, int, bool, Float[np.ndarray, " N"]]]:
        """(index, return, length, whether it was cut, each agent's return) of episodes as they
        end, without end.

        `policy` maps a batch of observations to actions inside the bounds. Where the environment
        states no time limit, an episode is left after `max_steps` steps.
        """
        stepper, count = self.stepper(environments), environments.num_envs
        spec, rows = self.spec, count * self.spec.columns
        observation, successor = (zeros(spec.observation_space, rows) for _ in range(2))
        current, after = (leaves(spec.observation_space, x) for x in (observation, successor))
        limit = math.inf if spec.max_episode_steps else max_steps
        returns, lengths = np.zeros((count, spec.columns)), np.zeros(count, np.int64)
        stepper.reset(seed, current)
        while True:
            experience = ~stepper.resetting
            reward, terminated, truncated = stepper.step(policy(observation), after, current)
            returns += reward.reshape(count, -1)
            lengths += experience
            done = (terminated | truncated).reshape(count, -1).all(axis=1)
            left = ~done & (lengths >= limit)
            for k in np.flatnonzero(done | left):
                team = returns[k, list(spec.first_team)].mean()
                yield int(k), float(team), int(lengths[k]), bool(left[k]), returns[k].copy()
                returns[k], lengths[k] = 0.0, 0
            if left.any():
                stepper.restart(left, current)

    def check(self) -> None:
        """Raise a UserError for what would stop the training, or quietly spoil it. Works once."""
        if self._checked:
            return
        spaces.check(self.spec)
        if self.vector is not None:
            refuse_normalizers(self.vector, self.id)
        else:
            environment = self.make_single()
            try:
                refuse_normalizers(environment, self.id)
                inner = environment.unwrapped
                if isinstance(inner, pettingzoo.Several):
                    inner.check(CHECKED_STEPS)
                else:
                    check_environment(environment, self._described[2] or self.spec)
            finally:
                failures.close(environment, self.id)
        self._checked = True


def environment_seed(*entropy: int) -> int:
    """A seed for environments side by side, which are given it, it plus 1, and so on.

    Seeds that are near each other give numbers that are far apart; 30 bits suit every generator
    that users may have.
    """
    words = [number % 2**64 for number in entropy]
    return int(np.random.SeedSequence(words).generate_state(1)[0]) >> 2


def _check_choice(name: str, value: str, known: list[str]) -> None:
    if value not in known:
        choices = " or ".join(map(repr, known))
        raise UserError(f"{name} must be {choices}; got {value!r}.{nearest(str(value), known)}")
