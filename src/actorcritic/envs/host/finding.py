"""Environments by name: what a name stands for, and one environment made from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from itertools import product
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, registry

from actorcritic.core import importing
from actorcritic.core.errors import UserError
from actorcritic.core.types import Environment
from actorcritic.core.words import nearest, told
from actorcritic.envs import masks, pettingzoo
from actorcritic.envs.catalogue import COMPILED, compiled_environment
from actorcritic.envs.host import failures
from actorcritic.envs.host.checks import check_observation, check_step, surely_fits
from actorcritic.envs.host.failures import failing

Factory = Callable[..., gymnasium.Env]

# What of actorcritic[...] brings the packages that Gymnasium's own environments need.
EXTRAS = {"box2d": "box2d", "mujoco": "mujoco", "classic_control": "classic", "toy_text": "classic"}


def find(environment: str | Factory) -> tuple[str, Factory]:
    """What to call the environment, and a function that makes one."""
    if not isinstance(environment, str):
        if not callable(environment):
            made = isinstance(environment, gymnasium.Env)
            raise UserError(
                f"The environment is {environment!r}; expected a Gymnasium id, 'module:Name', a "
                "function that makes an environment, a VectorEnv or a compiled environment."
                + " One that is made cannot be copied: write lambda: … around it."
                * made
            )
        return getattr(environment, "__name__", type(environment).__name__), environment
    if environment.startswith(pettingzoo.PREFIX):
        return environment, pettingzoo.factory_of(environment)
    module_name, colon, name = environment.rpartition(":")
    if not colon and environment in COMPILED and environment not in registry:
        return environment, partial(_of_compiled, environment)
    if not colon:
        return environment, _registered(environment)
    module = importing.module(module_name, environment)
    found = None if name in registry else getattr(module, name, None)
    if callable(found):
        return environment, found
    return environment, _registered(name, hint=list(vars(module)), within=module_name)


def _of_compiled(id: str, render_mode: str | None = None, **options: Any) -> gymnasium.Env:
    """One that Gymnasium does not have: the compiled one, through Gymnasium's interface."""
    from actorcritic.envs.as_gymnasium import AsGymnasium

    compiled = compiled_environment(id, **options)
    assert compiled is not None
    found = AsGymnasium(compiled, render_mode=render_mode)
    # For its time limit alone: what is not registered cannot be made from it.
    found.spec = EnvSpec(id, max_episode_steps=compiled.spec.max_episode_steps)
    return found


def _registered(id: str, hint: Sequence[str] = (), within: str | None = None) -> Factory:
    """Makes the environment that Gymnasium knows by this id.

    The specification is looked up now and travels along: a worker process knows only the ids
    that packages register, not those of the user's script.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # "there is a newer version": not asked for
            spec = gymnasium.spec(id)
    except gymnasium.error.DeprecatedEnv as error:
        raise UserError(str(error)) from error
    except gymnasium.error.Error as error:
        near = nearest(id, [*hint, *registry, *COMPILED])
        where = (
            f"nor does the module {within} have it"
            if within
            else ("if a package or file of yours has it, write 'module:Name'")
        )
        raise UserError(
            f"No environment '{id}' is registered with Gymnasium; {where}.{near}"
        ) from error
    return partial(_make_registered, spec)


def _make_registered(spec: Any, **options: Any) -> gymnasium.Env:
    # Gymnasium's own checker would only warn, at every instance; `check` does its work, once.
    with warnings.catch_warnings(action="ignore"):
        return gymnasium.make(spec, disable_env_checker=True, **options)


def made(name: str, factory: Factory, options: dict[str, Any]) -> Any:
    """What the factory makes, whatever that is."""
    try:
        return factory(**options)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, gymnasium.error.DependencyNotInstalled | ModuleNotFoundError):
            raise UserError(missing_dependency(name, error)) from error
        given = f" with the options {options}" if options else ""
        raise UserError(f"{name} could not be made{given}: {told(error)}.") from error


def make(name: str, factory: Factory, options: dict[str, Any]) -> gymnasium.Env:
    return wrapped(name, made(name, factory, options))


def wrapped(name: str, environment: Any) -> gymnasium.Env:
    """What was made as Gymnasium's environment; several agents are packed into one of these."""
    if pettingzoo.is_several(environment):
        return pettingzoo.Several(environment, name)
    if not isinstance(environment, gymnasium.Env):
        if isinstance(environment, Environment):
            raise UserError(
                f"{name} is a compiled environment, and is trained inside the program: leave "
                "`host` out, and name its class or an object. On the host: "
                "actorcritic.envs.AsGymnasium(environment)."
            )
        raise UserError(
            f"{name} made a {type(environment).__module__}.{type(environment).__qualname__}; "
            "expected a gymnasium.Env, or an environment of PettingZoo. Environments of the old "
            "'gym' package must be ported, or wrapped with the package 'shimmy'."
        )
    return environment


def missing_dependency(name: str, error: Exception) -> str:
    """What to install, for an environment that lacks packages (to draw it, perhaps)."""
    entry = str(getattr(registry.get(name.rpartition(":")[2]), "entry_point", ""))
    extras = [extra for part, extra in EXTRAS.items() if f"gymnasium.envs.{part}" in entry]
    todo = f'pip install "actorcritic[{extras[0]}]"' if extras else "install it"
    return f"{name} needs a package that is not installed ({str(error).rstrip('.')}): {todo}."


# Types of an observation, a reward and two flags that need no second look.
PLAIN = frozenset(
    product(
        (np.ndarray, dict, tuple, int, np.int64, np.int32),
        (float, int, np.float64, np.float32),
        (bool, np.bool_),
        (bool, np.bool_),
    )
)


class Guarded(gymnasium.Wrapper):
    """What is put around each environment that we make.

    It says which environment failed and where, in a form that passes between processes, and holds
    every answer against the interface, before anything is made of it. Of the
    infos, it keeps the numbers of these names at the end of an episode: nothing reads the others,
    and gathering them takes time and fails where shapes differ. With `copying`, a step's
    observation outlives the reset that SAME_STEP makes right after it.
    """

    def __init__(
        self, environment: gymnasium.Env, name: str, copying: bool, infos: Sequence[str] = ()
    ) -> None:
        super().__init__(environment)
        self._name, self._copying, self._infos = name, copying, tuple(infos)
        self._space = environment.observation_space
        self._fits = surely_fits(self._space)

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        with failing(self._name, "reset"):
            observation, _ = self.env.reset(**arguments)
        if not self._fits(observation):
            check_observation(self._space, observation, f"{self._name}: the observation of reset")
        return observation, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:  # in the place of `failing`, which takes as long as a short step
            observation, reward, terminated, truncated, info = self.env.step(action)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise failures.failure(error, self._name, "step") from error
        kinds = type(observation), type(reward), type(terminated), type(truncated)
        if kinds not in PLAIN or not self._fits(observation):
            check_step(self._name, self._space, observation, reward, terminated, truncated)
        if self._copying:
            observation = deepcopy(observation)
        kept = {}
        if self._infos and (terminated or truncated):
            kept = {name: self._number(name, info[name]) for name in self._infos if name in info}
        return observation, reward, terminated, truncated, kept

    def close(self) -> None:
        failures.close(self.env, self._name)

    def _number(self, name: str, value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            raise UserError(
                f"{self._name} ends an episode with info[{name!r}] = {value!r}; info_metrics takes "
                "a number. Leave it out, or make it one."
            ) from None


def make_masked(
    name: str, factory: Factory, options: dict[str, Any], source: masks.Source | None
) -> gymnasium.Env:
    environment = make(name, factory, options)
    return environment if source is None else masks.Masked(environment, name, source)


def make_guarded(
    name: str,
    factory: Factory,
    options: dict[str, Any],
    source: masks.Source | None,
    copying: bool,
    infos: Sequence[str] = (),
    number: int | None = None,
) -> gymnasium.Env:
    environment = make_masked(name, factory, options, source)
    called = name if number is None else f"{name} (environment {number})"
    return Guarded(environment, called, copying, infos)
