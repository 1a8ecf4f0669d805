"""Environments and policies whose every number says which step it belongs to, with diaries."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from actorcritic.audit import calling

NUM_ENVS = 5  # not 2, 3 or 4: so many actions must not be taken for a tuple
NUM_STEPS = 20  # environment 3 is truncated in the very last row, environment 1 terminated
GAMMA, SEED = 0.9, 7
MAX_STEPS = 20_000  # of one environment: a function that never stops is told so
CALLS = 6  # at most, of a function that collects one episode at a time
FIELDS = 4  # of an observation: environment and episode (from 1), time (from 0), a random draw
MODES = {mode.name.lower(): mode for mode in AutoresetMode}  # Gymnasium's default comes first

# ------------------------------------------------------------------------------- what is true

Key = tuple[int, int, int]  # environment, episode, time


def length(key: Key) -> int:
    """Steps of its episode: 1 to 5, in another order in each environment."""
    return 1 + (2 * (key[0] - 1) + 3 * (key[1] - 1)) % 5


def ends(key: Key) -> bool:
    return key[2] + 1 == length(key)


def terminates(key: Key) -> bool:
    """Whether it ends its episode by termination; of other episodes, the last step is cut."""
    return ends(key) and (key[0] + key[1]) % 2 == 0


def truncates(key: Key) -> bool:
    return ends(key) and not terminates(key)


def successor(key: Key) -> Key:
    return key[0], key[1], key[2] + 1


def after_reset(key: Key) -> Key:
    """The start of the next episode."""
    return key[0], key[1] + 1, 0


def code(key: Key) -> float:
    """A number for each step that float32 holds exactly: 2003.5 is environment 2, 3, time 4."""
    index, episode, time = key
    return 1000 * index + episode + time / 8


def value(key: Key) -> float:
    return 10_000 + code(key)


def drawn(key: Key, continuous: bool) -> np.ndarray:
    """What the policy draws there; where continuous, often beyond the bounds, which are ±1."""
    index, episode, time = key
    if not continuous:
        return np.array((7 * index + 3 * episode + 5 * time) % 11)
    turn = index + 2 * episode + 3 * time
    return np.array([1.5 * np.sin(turn), 2.0 * np.cos(1.7 * turn)], np.float32)


def density(action: np.ndarray) -> float:
    """The log-density of a standard normal distribution, as the policy's."""
    return float(-0.5 * np.sum(np.square(action, dtype=np.float64)) - np.log(2 * np.pi))


def log_prob(key: Key, continuous: bool) -> float:
    return density(drawn(key, True)) if continuous else -code(key) / 1000


class SteppedAfterEnd(Exception):
    """An environment was stepped on, after its episode had ended."""


class Reset(NamedTuple):
    call: int
    episode: int
    seed: int | None
    draw: float


class Stepped(NamedTuple):
    call: int
    key: Key
    action: np.ndarray


@dataclass
class Diary:
    """What was done to one environment."""

    index: int
    resets: list[Reset] = field(default_factory=list)
    steps: list[Stepped] = field(default_factory=list)


class World:
    """The environments of one run, and their diaries."""

    def __init__(self, continuous: bool, reusing: bool) -> None:
        self.continuous, self.reusing = continuous, reusing
        self.diaries: list[Diary] = []
        self.call = 0
        self.sought_final = False  # it looked for the last observation in the infos
        self.policy_called = False

    def make(self, *_: Any, **__: Any) -> Marked:
        self.diaries.append(Diary(len(self.diaries) + 1))
        return Marked(self, self.diaries[-1])

    def make_first(self) -> Marked:
        """One alone: the environment whose first episode is the longest."""
        self.diaries.append(Diary(3))
        return Marked(self, self.diaries[-1])


def hand_out(reusing: bool, *shape: int) -> Callable[[np.ndarray], np.ndarray]:
    """Hands out an array: itself; or, reusing, one of two in turn that holds its numbers."""
    buffers = itertools.cycle([np.zeros(shape, np.float32) for _ in range(2)])

    def written(numbers: np.ndarray) -> np.ndarray:
        buffer = next(buffers)
        buffer[:] = numbers
        return buffer

    return written if reusing else np.asarray


class Marked(gymnasium.Env):
    """Whatever is done, the observation says where it belongs."""

    observation_space: gymnasium.Space = spaces.Box(-np.inf, np.inf, (FIELDS,), np.float32)
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, world: World, diary: Diary) -> None:
        self.action_space = (
            spaces.Box(-1.0, 1.0, (2,), np.float32) if world.continuous else spaces.Discrete(11)
        )
        self._world, self._diary = world, diary
        self._key: Key = (diary.index, 0, 0)
        self._draw, self._ended = 0.0, True
        self._hand_out = hand_out(world.reusing, FIELDS)

    def _observe(self) -> np.ndarray:
        return self._hand_out(np.array([*self._key, self._draw], np.float32))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._key, self._ended = after_reset(self._key), False
        self._draw = float(np.float32(self.np_random.random()))
        self._diary.resets.append(Reset(self._world.call, self._key[1], seed, self._draw))
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        if self._ended:
            raise SteppedAfterEnd
        action = np.array(action)
        if action.shape != self.action_space.shape:
            raise TypeError(f"an action of shape {action.shape}, not {self.action_space.shape}")
        if not self._world.continuous and action.dtype.kind not in "iu":
            raise TypeError(f"an action of type {action.dtype}, not a whole number")
        key = self._key
        self._diary.steps.append(Stepped(self._world.call, key, action))
        if len(self._diary.steps) > MAX_STEPS:
            raise RuntimeError(f"an environment was stepped {MAX_STEPS} times")
        self._key, self._ended = successor(key), ends(key)
        return self._observe(), code(key), terminates(key), truncates(key), {}


class _Infos(dict):
    """Notes when someone looks for the last observation of an episode."""

    world: World

    def _note(self, name: Any) -> None:
        self.world.sought_final |= str(name).removeprefix("_").startswith("final")

    def __contains__(self, name: Any) -> bool:
        self._note(name)
        return super().__contains__(name)

    def __getitem__(self, name: Any) -> Any:
        self._note(name)
        return super().__getitem__(name)

    def get(self, name: Any, default: Any = None) -> Any:
        self._note(name)
        return super().get(name, default)


class Side(SyncVectorEnv):
    """Environments side by side; reusing, each of two arrays of observations in turn."""

    def __init__(self, world: World, mode: AutoresetMode) -> None:
        self._world = world
        # Single environments must not reuse theirs: Gymnasium itself keeps final observations.
        self._hand_out, world.reusing = hand_out(world.reusing, NUM_ENVS, FIELDS), False
        super().__init__([world.make] * NUM_ENVS, autoreset_mode=mode)

    def reset(self, **arguments: Any) -> Any:
        observation, infos = super().reset(**arguments)
        return self._hand_out(observation), infos

    def step(self, actions: Any) -> Any:
        if self.autoreset_mode is AutoresetMode.DISABLED and self._autoreset_envs.any():
            raise SteppedAfterEnd
        observation, *rest, infos = super().step(actions)
        watched = _Infos(infos)
        watched.world = self._world
        return self._hand_out(observation), *rest, watched


class Policy:
    """Draws what `drawn` says for each observation, in the framework that it is asked in."""

    def __init__(self, world: World, returns: str) -> None:
        self._world, self._returns = world, returns

    def _parts(self, arguments: Iterable[Any]) -> dict[str, Any]:
        """All that is said of the observation among the arguments."""
        self._world.policy_called = True
        shapes = [(given, np.shape(given)) for given in arguments if hasattr(given, "__len__")]
        found = [(given, shape) for given, shape in shapes if shape[-1:] == (FIELDS,)]
        if not found:
            raise TypeError("the policy was not given an observation")
        given, shape = found[0]
        rows = np.reshape(np.nan_to_num(calling.to_numpy(given)), (-1, FIELDS))
        keys: list[Key] = [(i, e, t) for i, e, t, *_ in np.round(rows).astype(int).tolist()]
        continuous = self._world.continuous
        root = type(given).__module__.partition(".")[0]
        name = {"torch": "torch", "jax": "jax", "jaxlib": "jax"}.get(root, "numpy")

        def like(told: list[Any], dtype: Any = np.float32) -> Any:
            array = np.array(told, dtype)
            array = array.reshape((*shape[:-1], *array.shape[1:]))
            return calling.Framework(name, "float32").array(array)[()]

        kind = np.float32 if continuous else np.int64
        logs = like([log_prob(key, continuous) for key in keys])
        return {
            "action": like([drawn(key, continuous) for key in keys], kind),
            "log_prob": logs,
            "value": like([value(key) for key in keys]),
            "entropy": 0 * logs,
        }

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        parts = self._parts((*arguments, *named.values()))
        said = tuple(parts[name] for name in self._returns.split(", "))
        return said if len(said) > 1 else said[0]

    def value(self, *arguments: Any, **named: Any) -> Any:
        return self._parts((*arguments, *named.values()))["value"]

    act = get_action = select_action = sample = predict = forward = get_action_and_value = __call__
    get_value = predict_values = critic = value

    def nothing(self, *_: Any, **__: Any) -> Policy:
        return self

    eval = train = to = nothing


RETURNS = (
    "action, log_prob, value",
    "action, log_prob",
    "action",
    "action, log_prob, entropy, value",
)
