"""Any Gymnasium environment: found by name, checked once, and run side by side on the host."""

from __future__ import annotations

import contextlib
import importlib
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cached_property, partial
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces as gym_spaces
from gymnasium.envs.registration import registry
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from actorcritic import spaces
from actorcritic.envs import masks
from actorcritic.types import EnvSpec, Observation, UserError
from actorcritic.words import nearest

Factory = Callable[..., gymnasium.Env]
Autoreset = Literal["disabled", "same_step", "next_step"]

AUTORESET = {
    "disabled": AutoresetMode.DISABLED,
    "same_step": AutoresetMode.SAME_STEP,
    "next_step": AutoresetMode.NEXT_STEP,
}
# What of actorcritic[...] brings the packages that Gymnasium's own environments need.
EXTRAS = {"box2d": "box2d", "mujoco": "mujoco", "classic_control": "classic", "toy_text": "classic"}

RESET_FORM = "def reset(self, *, seed=None, options=None): ...; return observation, info"
STEP_FORM = "def step(self, action): ...; return observation, reward, terminated, truncated, info"
CHECKED_STEPS = 3
CLOSING_SECONDS = 5.0  # for workers to close their environments, before they are killed


class HostEnvironment:
    """An environment on the host. `environment` is one of

    - a Gymnasium id, "Hopper-v5", also with the module that registers it, "ale_py:ALE/Pong-v5";
    - "module:Name", a class or function of a module that the current directory has;
    - such a class or function itself, called with `options`;
    - a `gymnasium.vector.VectorEnv` that you made, in whichever autoreset mode.

    `vectorization` "async" gives each environment a process of its own. An environment that does
    not answer for `worker_timeout` seconds there ends the training with a UserError.

    Masks of allowed actions that it gives in infos or by a method `action_masks` become part of
    the observations (see `envs.masks`); a VectorEnv has to have them there itself.

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
    ) -> None:
        _check_choice("vectorization", vectorization, ["sync", "async"])
        _check_choice("autoreset", autoreset, list(AUTORESET))
        if not worker_timeout > 0:
            raise UserError(f"worker_timeout must be > 0 seconds; got {worker_timeout}.")
        self.vectorization, self.autoreset = vectorization, autoreset
        self.worker_timeout, self.options = worker_timeout, dict(options or {})
        self.vector = environment if isinstance(environment, VectorEnv) else None
        if isinstance(environment, VectorEnv):
            if self.options:
                raise UserError(
                    f"The options {self.options} came with a VectorEnv that is already made; "
                    "give them to its constructor instead."
                )
            kind = type(environment.unwrapped).__name__
            self.id = environment.spec.id if environment.spec else kind
        else:
            self.id, self._factory = _find(environment)
        self._checked = False
        # Can it be made again from its id alone, without importing code of the user's?
        self.is_registered = isinstance(environment, str) and ":" not in environment

    @cached_property
    def spec(self) -> EnvSpec:
        """The spaces and the time limit, asked of one instance."""
        if self.vector is not None:
            limit = self.vector.spec.max_episode_steps if self.vector.spec else None
            return EnvSpec(
                self.id,
                self.vector.single_observation_space,
                self.vector.single_action_space,
                limit,
            )
        return self._described[0]

    @cached_property
    def _described(self) -> tuple[EnvSpec, masks.Source | None]:
        """The spec, and where masks of actions come from, if not from the observations."""
        environment = _make(self.id, self._factory, self.options)
        try:
            spec = self._spec_of(environment)
            source = masks.source(environment)
            if source is not None:
                spec = self._spec_of(masks.Masked(environment, self.id, source))
            return spec, source
        finally:
            environment.close()

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
        return _make_masked(self.id, self._factory, self.options | mode, self._described[1])

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
        one = partial(_make_guarded, self.id, self._factory, self.options, source, copying)
        mode = AUTORESET[self.autoreset]
        if self.vectorization == "async":
            factories = [partial(_undisturbed, one)] * num_envs
            return Workers(self.id, factories, mode, self.worker_timeout)
        return SyncVectorEnv([one] * num_envs, copy=False, autoreset_mode=mode)

    def episodes(
        self,
        environments: VectorEnv,
        policy: Callable[[Observation], np.ndarray],
        seed: int,
        max_steps: int,
    ) -> Iterator[tuple[int, float, int, bool]]:
        """(index, return, length, whether it was cut) of episodes as they end, without end.

        `policy` maps a batch of observations to actions inside the bounds. Where the environment
        states no time limit, an episode is left after `max_steps` steps.
        """
        stepper, count = Stepper(environments, self.spec), environments.num_envs
        observation, successor = (zeros(self.spec.observation_space, count) for _ in range(2))
        current, after = (leaves(self.spec.observation_space, x) for x in (observation, successor))
        limit = math.inf if self.spec.max_episode_steps else max_steps
        returns, lengths = np.zeros(count), np.zeros(count, np.int64)
        stepper.reset(seed, current)
        while True:
            experience = ~stepper.resetting
            reward, terminated, truncated = stepper.step(policy(observation), after, current)
            returns += reward
            lengths += experience
            done = terminated | truncated
            left = ~done & (lengths >= limit)
            for k in np.flatnonzero(done | left):
                yield int(k), float(returns[k]), int(lengths[k]), bool(left[k])
                returns[k], lengths[k] = 0.0, 0
            if left.any():
                stepper.restart(left, current)

    def check(self) -> None:
        """Raise a UserError for what would stop the training, or quietly spoil it. Works once."""
        if self._checked:
            return
        spaces.check(self.spec)
        if self.vector is None:
            environment = self.make_single()
            try:
                _check_environment(environment, self.spec)
            finally:
                with contextlib.suppress(Exception):
                    environment.close()
        self._checked = True


def environment_seed(*entropy: int) -> int:
    """A seed for environments side by side, which are given it, it plus 1, and so on.

    Seeds that are near each other give numbers that are far apart; 30 bits suit every generator
    that users may have.
    """
    words = [number % 2**32 for number in entropy]
    return int(np.random.SeedSequence(words).generate_state(1)[0]) >> 2


def autoreset_mode(environments: VectorEnv, name: str) -> AutoresetMode:
    mode = (environments.metadata or {}).get("autoreset_mode")
    with contextlib.suppress(ValueError):
        return AutoresetMode(mode)
    raise UserError(
        f"{name} does not say how it resets: metadata['autoreset_mode'] is {mode!r}; expected one "
        "of gymnasium.vector.AutoresetMode. Set it to what the environment does."
    )


def _check_choice(name: str, value: str, known: list[str]) -> None:
    if value not in known:
        choices = " or ".join(map(repr, known))
        raise UserError(f"{name} must be {choices}; got {value!r}.{nearest(str(value), known)}")


# ------------------------------------------------------------------------------- observations

Leaves = list[np.ndarray]  # the arrays of a batch of observations, in the order of the space


def leaves(space: gymnasium.Space, observation: Any) -> list[Any]:
    if isinstance(space, gym_spaces.Dict):
        parts = [leaves(part, observation[name]) for name, part in space.spaces.items()]
    elif isinstance(space, gym_spaces.Tuple):
        parts = [leaves(p, o) for p, o in zip(space.spaces, observation, strict=True)]
    else:
        return [observation]
    return [leaf for part in parts for leaf in part]


def zeros(space: gymnasium.Space, *lead: int) -> Observation:
    """Room for observations, of the dtypes in which they are kept (no 64 bits)."""
    if isinstance(space, gym_spaces.Dict):
        return {name: zeros(part, *lead) for name, part in space.spaces.items()}
    if isinstance(space, gym_spaces.Tuple):
        return tuple(zeros(part, *lead) for part in space.spaces)
    return np.zeros((*lead, *(space.shape or ())), spaces.kept_dtype(space))


def row_of(observation: Observation, t: int) -> Observation:
    if isinstance(observation, dict):
        return {name: row_of(part, t) for name, part in observation.items()}
    if isinstance(observation, tuple):
        return tuple(row_of(part, t) for part in observation)
    return observation[t]


def write(leaves: Leaves, observation: list[Any]) -> None:
    for leaf, x in zip(leaves, observation, strict=True):
        leaf[...] = x


# ------------------------------------------------------------------------------- stepping


class Stepper:
    """Environments side by side, in any autoreset mode, whose every successor is the true one.

    The mode says where the observation after an episode's last step is, and who resets:

      DISABLED   step returns it; we reset the environments that are done
      SAME_STEP  step returns the observation after the reset, and the last one in its infos
      NEXT_STEP  step returns it; the step after that only resets, and is no experience
    """

    def __init__(self, environments: VectorEnv, spec: EnvSpec) -> None:
        self.environments, self._spec = environments, spec
        self.mode = autoreset_mode(environments, spec.id)
        # NEXT_STEP: the environments that the coming step will only reset.
        self.resetting = np.zeros(environments.num_envs, bool)
        self._space = spec.action_space
        # Bounds of another precision than the policy's are not quite those it was clipped to.
        self._bounds: tuple[np.ndarray, np.ndarray] | None = None
        if isinstance(self._space, gym_spaces.Box) and self._space.dtype != np.float32:
            self._bounds = self._space.low, self._space.high
        self._mask_leaf: int | None = None
        if spaces.has_mask(spec.observation_space):
            parts = spec.observation_space.spaces  # type: ignore[attr-defined]
            counts = [len(leaves(part, zeros(part))) for part in parts.values()]
            self._mask_leaf = sum(counts[: list(parts).index(spaces.MASK)])

    def reset(self, seed: int | None, current: Leaves) -> None:
        """Start an episode in every environment; its observation is written to `current`."""
        self.resetting[:] = False
        with _failing(self._spec.id, "reset"):
            observation, _ = self.environments.reset(seed=seed)
        write(current, leaves(self._spec.observation_space, observation))
        self._check_masks(current)

    def restart(self, which: np.ndarray, current: Leaves) -> None:
        """Leave the episodes of some environments, and start new ones."""
        self.resetting[which] = False
        with _failing(self._spec.id, "reset"):
            observation, _ = self.environments.reset(options={"reset_mask": which.copy()})
        for leaf, x in zip(current, leaves(self._spec.observation_space, observation), strict=True):
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
        with _failing(self._spec.id, "step"):
            result = self._step(action, successor, current)
        self._check_masks(current)
        return result

    def _step(
        self, action: np.ndarray, successor: Leaves, current: Leaves
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        space = self._spec.observation_space
        observation, reward, terminated, truncated, infos = self.environments.step(action)
        parts = leaves(space, observation)
        write(successor, parts)
        write(current, parts)
        reward, terminated, truncated = map(np.asarray, (reward, terminated, truncated))
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
            last = leaves(space, infos["final_obs"][k])
            for leaf, x in zip(successor, last, strict=True):
                leaf[k] = x
        return reward, terminated, truncated


# ------------------------------------------------------------------------------- finding


def _find(environment: str | Factory) -> tuple[str, Factory]:
    """What to call the environment, and a function that makes one."""
    if not isinstance(environment, str):
        if not callable(environment):
            raise UserError(
                f"The environment is {environment!r}; expected a Gymnasium id, 'module:Name', a "
                "function that makes an environment, or a VectorEnv."
            )
        return getattr(environment, "__name__", type(environment).__name__), environment
    module_name, colon, name = environment.rpartition(":")
    if not colon:
        return environment, _registered(environment)
    module = _import(module_name, environment)
    found = None if name in registry else getattr(module, name, None)
    if callable(found):
        return environment, found
    return environment, _registered(name, hint=list(vars(module)), within=module_name)


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
        near = nearest(id, [*hint, *registry])
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


def _import(name: str, wanted: str) -> Any:
    if os.getcwd() not in sys.path and "" not in sys.path:  # an installed command lacks it
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and error.name != name:
            raise UserError(f"Importing '{name}' for '{wanted}' failed: {_told(error)}.") from error
        raise UserError(
            f"There is no module '{name}' for '{wanted}', neither installed nor in {os.getcwd()}. "
            "Write 'module:Name' with the file's name without '.py'."
        ) from error
    except Exception as error:
        raise UserError(f"Importing '{name}' for '{wanted}' failed: {_told(error)}.") from error


# ------------------------------------------------------------------------------- making


def _make(name: str, factory: Factory, options: dict[str, Any]) -> gymnasium.Env:
    try:
        environment = factory(**options)
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, gymnasium.error.DependencyNotInstalled | ModuleNotFoundError):
            raise UserError(missing_dependency(name, error)) from error
        given = f" with the options {options}" if options else ""
        raise UserError(f"{name} could not be made{given}: {_told(error)}.") from error
    if not isinstance(environment, gymnasium.Env):
        raise UserError(
            f"{name} made a {type(environment).__module__}.{type(environment).__qualname__}; "
            "expected a gymnasium.Env. Environments of the old 'gym' package must be ported, or "
            "wrapped with the package 'shimmy'."
        )
    return environment


def missing_dependency(name: str, error: Exception) -> str:
    """What to install, for an environment that lacks packages (to draw it, perhaps)."""
    entry = str(getattr(registry.get(name.rpartition(":")[2]), "entry_point", ""))
    extras = [extra for part, extra in EXTRAS.items() if f"gymnasium.envs.{part}" in entry]
    todo = f'pip install "actorcritic[{extras[0]}]"' if extras else "install it"
    return f"{name} needs a package that is not installed ({str(error).rstrip('.')}): {todo}."


def _told(error: BaseException) -> str:
    """An exception of the user's code in a line, with the place it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f" ({os.path.basename(f.filename)}, line {f.lineno})" for f in frames[-1:]]
    return f"{type(error).__name__}: {str(error).rstrip('.')}{''.join(where)}"


@contextlib.contextmanager
def _failing(name: str, where: str) -> Iterator[None]:
    """What goes wrong in here is told as a failure of the environment."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} failed in {where}: {_told(error)}.") from error


class Guarded(gymnasium.Wrapper):
    """What is put around each environment that we make.

    It says which environment failed and where, in a form that passes between processes. It drops
    the infos: nothing reads them, and gathering them takes time and fails where shapes differ.
    With `copying`, a step's observation outlives the reset that SAME_STEP makes right after it.
    """

    def __init__(self, environment: gymnasium.Env, name: str, copying: bool) -> None:
        super().__init__(environment)
        self._name, self._copying = name, copying

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        with _failing(self._name, "reset"):
            observation, _ = self.env.reset(**arguments)
        return observation, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with _failing(self._name, "step"):
            observation, reward, terminated, truncated, _ = self.env.step(action)
        if self._copying:
            observation = deepcopy(observation)
        return observation, reward, terminated, truncated, {}


def _make_masked(
    name: str, factory: Factory, options: dict[str, Any], source: masks.Source | None
) -> gymnasium.Env:
    environment = _make(name, factory, options)
    return environment if source is None else masks.Masked(environment, name, source)


def _make_guarded(
    name: str,
    factory: Factory,
    options: dict[str, Any],
    source: masks.Source | None,
    copying: bool,
) -> gymnasium.Env:
    return Guarded(_make_masked(name, factory, options, source), name, copying)


# ------------------------------------------------------------------------------- processes


@contextlib.contextmanager
def _script_hidden() -> Iterator[None]:
    """Workers started in here do not run the user's script again.

    multiprocessing would have them do so, to find what it defines; but that travels with the
    function that makes the environment (Gymnasium pickles it by value), and a script without
    `if __name__ == "__main__"` would start its training once more in every worker.
    """
    main: dict[str, Any] = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(hidden)


def _undisturbed(factory: Factory) -> gymnasium.Env:
    """Ctrl-C reaches every process; what it means is for the main one to decide."""
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return factory()


class Workers(AsyncVectorEnv):
    """A process for each environment, none of which can keep the training waiting for ever.

    Gymnasium's own class waits without limit, and reports a dead worker as an EOFError.
    """

    def __init__(
        self, name: str, factories: Sequence[Factory], mode: AutoresetMode, timeout: float
    ) -> None:
        self._name, self._timeout = name, timeout
        # A fork of this process would copy the locks that JAX's threads may hold at that moment.
        methods = multiprocessing.get_all_start_methods()
        method = "forkserver" if "forkserver" in methods else "spawn"
        if method == "forkserver":
            multiprocessing.get_context(method).set_forkserver_preload([__name__])
        try:
            with _script_hidden():
                super().__init__(factories, copy=False, context=method, autoreset_mode=mode)
        except (EOFError, OSError) as error:
            raise self._lost("starting", error) from error
        except BaseException:
            self._kill()
            raise

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        with self._explained("reset"):
            self.reset_async(seed=seed, options=options)
            return self.reset_wait(self._timeout)

    def step(self, actions: Any) -> Any:
        with self._explained("step"):
            self.step_async(actions)
            return self.step_wait(self._timeout)

    @contextlib.contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except multiprocessing.TimeoutError as error:
            pipes = enumerate(self.parent_pipes)
            late = [k for k, pipe in pipes if pipe is not None and not pipe.poll(0)]
            self._kill()
            raise UserError(
                f"{self._name}: {self._named(late)} did not answer for {self._timeout:g} seconds "
                f"in {doing}. If its steps may take that long, raise worker_timeout."
            ) from error
        except (EOFError, OSError) as error:
            raise self._lost(doing, error) from error

    def _lost(self, doing: str, error: Exception) -> UserError:
        """A worker closed its pipe without a word: say which, and how it ended."""
        processes = getattr(self, "processes", [])
        deadline = time.monotonic() + 1
        codes: list[int | None] = [None] * len(processes)
        while not any(code is not None for code in codes) and time.monotonic() < deadline:
            codes = [process.exitcode for process in processes]
            time.sleep(0.01)
        self._kill()
        dead = [k for k, code in enumerate(codes) if code is not None]
        ways = sorted({_way_to_end(code) for code in codes if code is not None})
        how = f" ({', '.join(ways)})" if dead else f" ({type(error).__name__})"
        return UserError(
            f"{self._name}: {self._named(dead)} ended by itself in {doing}{how}. Run with "
            "vectorization='sync' to see the cause, or look for a lack of memory."
        )

    def _named(self, workers: list[int]) -> str:
        if not workers:
            return f"one of {self.num_envs} workers"
        numbers = ", ".join(str(k) for k in workers)
        return f"worker{'s' if len(workers) > 1 else ''} {numbers} (of 0 to {self.num_envs - 1})"

    def _raise_if_errors(self, successes: Any) -> None:
        """Gymnasium prints the whole traceback and raises without saying which worker it was."""
        if all(successes):
            return
        index, _, message, trace = self.error_queue.get(timeout=CLOSING_SECONDS)
        self._kill()
        message = str(message) or trace.strip().splitlines()[-1]
        raise UserError(f"Worker {index} (of 0 to {self.num_envs - 1}): {message}")

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ask the workers to close their environments; kill those that do not manage to."""
        pipes = [pipe for pipe in getattr(self, "parent_pipes", []) if pipe and not pipe.closed]
        processes = getattr(self, "processes", [])
        for pipe in pipes:
            with contextlib.suppress(OSError):
                pipe.send(("close", None))
        wait = CLOSING_SECONDS if timeout is None else timeout
        deadline = time.monotonic() + (0 if terminate else wait)
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in pipes:
            pipe.close()

    def _kill(self) -> None:
        self.close(terminate=True)


def _way_to_end(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


# ------------------------------------------------------------------------------- checking


def _check_environment(environment: gymnasium.Env, spec: EnvSpec) -> None:
    """A reset and a few steps of one instance, every answer held against the interface."""
    name, action_space = spec.id, spec.action_space
    try:
        with _failing(name, "reset"):
            result: Any = environment.reset(seed=0)
    except UserError as error:
        if "unexpected keyword argument" in str(error):
            raise UserError(f"{error} Write `{RESET_FORM}`.") from error
        raise
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise UserError(
            f"{name}: reset returned {_kind(result)}; expected (observation, info), info being a "
            f"dict. Write `{RESET_FORM}`."
        )
    _check_observation(spec.observation_space, result[0], f"{name}: the observation of reset")

    action_space.seed(0)
    masked, random = spaces.has_mask(spec.observation_space), np.random.default_rng(0)
    for _ in range(CHECKED_STEPS):
        action = masks.sample(spec, result[0], random) if masked else action_space.sample()
        try:
            with _failing(name, "step"):
                result = environment.step(action)
        except UserError as error:
            if "unpack (expected 5, got 4)" not in str(error):  # Gymnasium's wrappers, see below
                raise
            result = (None,) * 4
        if not (isinstance(result, tuple) and len(result) == 5):
            old = isinstance(result, tuple) and len(result) == 4
            raise UserError(
                f"{name}: step returned {_kind(result)}; expected five values: observation, "
                "reward, terminated, truncated, info. "
                + (
                    "Four are the interface of the old 'gym' package: its `done` is now "
                    "`terminated` (the task ended) or `truncated` (a time limit). "
                    if old
                    else ""
                )
                + f"Write `{STEP_FORM}`."
            )
        observation, reward, terminated, truncated, _ = result
        _check_observation(spec.observation_space, observation, f"{name}: the observation of step")
        _check_reward(name, reward)
        for kind, flag in [("terminated", terminated), ("truncated", truncated)]:
            if np.ndim(flag) or flag not in (False, True):
                raise UserError(f"{name}: step returned {kind} = {flag!r}; expected True or False.")
        if terminated or truncated:
            break


def _check_reward(name: str, reward: Any) -> None:
    try:
        number = float(reward)
    except (TypeError, ValueError):
        number = None
    if number is None or np.ndim(reward) > 0:
        raise UserError(f"{name}: step returned the reward {reward!r}; expected one number.")
    if not math.isfinite(number):
        raise UserError(
            f"{name}: step returned the reward {reward!r}; expected a finite number. "
            "Look for a division by zero or an overflow in the environment."
        )


def _check_observation(space: gymnasium.Space, observation: Any, what: str) -> None:
    """Raise a UserError where the observation is not what its space promises."""
    match space:
        case gym_spaces.Dict():
            keys = list(observation) if isinstance(observation, dict) else None
            if keys is None or set(keys) != set(space.spaces):
                came = _kind(observation) if keys is None else f"the keys {keys}"
                raise UserError(
                    f"{what} is {came}; expected a dict with the keys {list(space.spaces)}, "
                    "those of observation_space."
                )
            for key, part in space.spaces.items():
                _check_observation(part, observation[key], f"{what}, at {key!r},")
        case gym_spaces.Tuple():
            if not isinstance(observation, tuple) or len(observation) != len(space.spaces):
                raise UserError(
                    f"{what} is {_kind(observation)}; expected a tuple of {len(space.spaces)}, "
                    "as observation_space has it."
                )
            for k, part in enumerate(space.spaces):
                _check_observation(part, observation[k], f"{what}, at {k},")
        case _:
            _check_array(space, observation, what)


def _check_array(space: gymnasium.Space, observation: Any, what: str) -> None:
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


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)} values"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return f"a value of type {type(value).__name__}"
