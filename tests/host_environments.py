"""Odd and broken environments for tests/test_host.py; importable, so that worker processes can."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces


def box(*shape: int, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, dtype)


class Tagged(gymnasium.Env):
    """Whatever is done, the observation is (index, episode, time) and says where it belongs.

    Episode e lasts 1 + (index + 2 e) % 4 steps; an even one terminates, an odd one is truncated.
    """

    observation_space = box(3)
    action_space = spaces.Discrete(2)

    def __init__(self, index: int) -> None:
        self.index, self.episode, self.time = index, -1, 0

    @staticmethod
    def length(index: int, episode: int) -> int:
        return 1 + (index + 2 * episode) % 4

    @staticmethod
    def reward(index: int, episode: int, time: int) -> float:
        return 0.5 * index - 0.25 * episode + 0.125 * time

    def _observation(self) -> Any:
        return np.array([self.index, self.episode, self.time], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        reward = self.reward(self.index, self.episode, self.time)
        self.time += 1
        ended = self.time == self.length(self.index, self.episode)
        even = self.episode % 2 == 0
        return self._observation(), reward, ended and even, ended and not even, {"of": self.time}


class TaggedDict(Tagged):
    """The same in a Dict with a Tuple, and in one array object that is written anew each step."""

    observation_space = spaces.Dict({"z": box(1), "a": spaces.Tuple((box(2), spaces.Discrete(4)))})

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.arrays = (np.zeros(1, np.float32), np.zeros(2, np.float32))

    def _observation(self) -> Any:
        self.arrays[0][:] = self.index
        self.arrays[1][:] = self.episode, self.time
        return {"z": self.arrays[0], "a": (self.arrays[1], np.int64(self.index))}


class Walk(gymnasium.Env):
    """A noisy walk on the line towards +3, and the base of the odd ones below."""

    observation_space: gymnasium.Space = box(2)
    action_space: gymnasium.Space = spaces.Discrete(2)
    limit: int | None = 9

    def __init__(self, drift: float = 0.0) -> None:
        self.drift, self.position, self.time = drift, 0.0, 0

    def observe(self) -> Any:
        return np.array([self.position, self.time / 10], np.float32)

    def move(self, action: Any) -> float:
        return 1.0 if action == 1 else -1.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.position, self.time = 0.0, 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        noise = float(self.np_random.uniform(-0.1, 0.1))
        self.position += self.move(action) + self.drift + noise
        self.time += 1
        ended = self.limit is not None and self.time >= self.limit
        return self.observe(), -abs(self.position - 3), self.position > 3, ended, {"noise": noise}


class InPlace(Walk):
    """Returns one and the same array, and writes into the actions it is given."""

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        super().__init__()
        self.array = np.zeros(2, np.float32)

    def observe(self) -> Any:
        self.array[:] = super().observe()
        return self.array

    def move(self, action: Any) -> float:
        action *= 0.5
        return float(action[0])


class Copied(InPlace):
    """The same walk with a new array each time."""

    def observe(self) -> Any:
        return super().observe().copy()


class Seeded(Walk):
    """Notes the seeds that the training gives (those of the check are 0)."""

    given: ClassVar[list[int]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed:
            self.given.append(seed)
        return super().reset(seed=seed, options=options)


class Tiring(Walk):
    """Remembers its episodes: each begins farther from where it should lead."""

    made: ClassVar[list[Tiring]] = []

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.given: list[int | None] = []
        self.made.append(self)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        _, info = super().reset(seed=seed, options=options)
        self.begun += 1
        self.given.append(seed)
        self.position = -float(self.begun)
        return self.observe(), info


class OneStep(Walk):
    limit = 1


class Endless(Walk):
    """Never ends, and its spaces count from other numbers than 0."""

    limit = None
    observation_space = spaces.Discrete(5, start=-2)
    action_space = spaces.Discrete(2, start=7)

    def observe(self) -> Any:
        return np.int64(np.clip(round(self.position), -2, 2))

    def move(self, action: Any) -> float:
        assert self.action_space.contains(action)
        self.position = min(self.position, 1.0)
        return 1.0 if action == 8 else -1.0


class DictObservation(Walk):
    observation_space = spaces.Dict(
        {"position": box(1), "parts": spaces.Tuple((spaces.Discrete(11), spaces.MultiBinary(2)))}
    )

    def observe(self) -> Any:
        signs = np.array([self.position > 0, self.position < 0], np.int8)
        return {"position": np.array([self.position], np.float32), "parts": (self.time, signs)}


class ManyChoices(Walk):
    observation_space = spaces.MultiDiscrete([[3, 11]], start=[[-1, 0]])
    action_space = spaces.MultiDiscrete([3, 2], start=[-1, 0])

    def observe(self) -> Any:
        return np.array([[np.sign(round(self.position)), self.time]], np.int64)

    def move(self, action: Any) -> float:
        assert self.action_space.contains(action)
        return float(action[0] * action[1])


class Switches(Walk):
    observation_space = box(2, dtype=np.float64)
    action_space = spaces.MultiBinary([1, 2])

    def observe(self) -> Any:
        return super().observe().astype(np.float64)

    def move(self, action: Any) -> float:
        assert self.action_space.contains(action)
        return float(action[0, 0]) - float(action[0, 1])


class Large(Walk):
    """Its numbers are multiples of 2³², which in 32 bits are 0."""

    observation_space = spaces.Box(0, 2**40, (1,), np.int64)

    def observe(self) -> Any:
        return np.array([(1 + self.time) * 2**32], np.int64)


class Double(Walk):
    """Its bound of 0.1 is no number of single precision: float32(0.1) lies outside."""

    action_space = spaces.Box(-0.1, 0.1, (2,), np.float64)

    def move(self, action: Any) -> float:
        assert self.action_space.contains(action)
        return float(action.sum())


# ---------------------------------------------------------------------------------- masks


class Picky(gymnasium.Env):
    """Raises where an action comes that its mask forbids; the masks are in its infos.

    Each is drawn anew, with at least one choice of each component. Taking the first of these is
    worth 1. Episodes last up to 6 steps; an even one terminates, an odd one is truncated. When
    they have ended, nothing is allowed any more.
    """

    observation_space: gymnasium.Space = box(2)
    action_space: gymnasium.Space = spaces.Discrete(4, start=3)
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.episode, self.time, self.length = render_mode, 0, 0, 0
        self.mask = np.zeros(0, np.int8)

    @property
    def sizes(self) -> list[int]:
        space: Any = self.action_space
        if isinstance(space, spaces.MultiBinary):
            return [2] * int(np.prod(space.shape))
        return np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec).tolist()

    def draw(self) -> None:
        parts = [self.np_random.integers(2, size=n) for n in self.sizes]
        for part in parts:
            part[self.np_random.integers(len(part))] = 1
        self.mask = np.concatenate(parts).astype(np.int8)

    def observe(self) -> Any:
        return np.array([self.time, self.length], np.float32)

    def info(self) -> dict[str, Any]:
        return {"action_mask": self.mask}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        self.length = int(self.np_random.integers(1, 7))
        self.draw()
        return self.observe(), self.info()

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        parts = np.split(self.mask, np.cumsum(self.sizes)[:-1])
        chosen = np.ravel(action - getattr(self.action_space, "start", 0))
        for part, choice in zip(parts, chosen, strict=True):
            if not part[choice]:
                raise PermissionError(f"{action} is forbidden")
        first = all(c == part.argmax() for c, part in zip(chosen, parts, strict=True))
        self.time += 1
        ended, even = self.time == self.length, self.episode % 2 == 0
        self.draw()
        if ended:
            self.mask[:] = 0
        return self.observe(), float(first), ended and even, ended and not even, self.info()

    def render(self) -> Any:
        return np.full((8, 8, 3), 20 * self.time, np.uint8)


class PickyTuple(Picky):
    """Gymnasium's form of a mask where actions are MultiDiscrete; none in a terminal state."""

    action_space = spaces.MultiDiscrete([2, 3], start=[0, -1])

    def info(self) -> dict[str, Any]:
        ended = self.time == self.length
        return {} if ended else {"action_mask": tuple(np.split(self.mask, [2]))}


class PickyMethod(Picky):
    """The convention of sb3-contrib; its method must not be called in a terminal state."""

    observation_space = spaces.Discrete(7, start=-1)
    action_space = spaces.MultiDiscrete([[2, 3], [1, 2]], start=[[0, 1], [2, -3]])

    def observe(self) -> Any:
        return self.time - 1

    def info(self) -> dict[str, Any]:
        return {}

    def action_masks(self) -> Any:
        assert self.time < self.length or self.episode % 2
        return [bool(allowed) for allowed in self.mask]


class PickyDict(Picky):
    """The mask is in the observation; there is one in the infos too, of another meaning."""

    observation_space = spaces.Dict(
        {
            "Where": spaces.Tuple((spaces.Discrete(7), box(1))),
            "action_mask": spaces.MultiBinary([3, 2]),
            "left": box(1),
        }
    )
    action_space = spaces.MultiBinary(3)

    def observe(self) -> Any:
        left = np.array([self.length - self.time], np.float32)
        where = (self.time, -left)
        return {"Where": where, "action_mask": self.mask.reshape(3, 2), "left": left}

    def info(self) -> dict[str, Any]:
        return {"action_mask": 7}


class PickyDictInfo(Picky):
    observation_space = spaces.Dict({"observation": box(2), "z": spaces.Discrete(7)})
    action_space = spaces.Discrete(4)

    def observe(self) -> Any:
        return {"observation": super().observe(), "z": self.time}


class PickyBox(Walk):
    """Not for discrete actions, so that its mask means nothing to us."""

    action_space = spaces.Box(-1.0, 1.0, (1,))

    def move(self, action: Any) -> float:
        return float(action[0])

    def action_masks(self) -> Any:
        raise AssertionError("nobody asks")


class BadMasks(Picky):
    """Well behaved for a while; then its mask is not one, in the middle of an episode."""

    def __init__(self, fault: str, after: int = 0) -> None:
        super().__init__()
        self.fault, self.after = fault, after

    def info(self) -> dict[str, Any]:
        self.after -= 1
        if self.after >= 0 or self.time == self.length:
            return super().info()
        match self.fault:
            case "nothing":
                self.mask[:] = 0
                return super().info()
            case "shape":
                return {"action_mask": np.ones(3)}
            case "text":
                return {"action_mask": "none"}
            case "ragged":
                return {"action_mask": [[1], [1, 0]]}
        return {}


# ---------------------------------------------------------------------------------- broken


class ResetWithoutInfo(Walk):
    def reset(self, **_: Any) -> Any:
        return super().reset()[0]


class OldReset(Walk):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class FourValues(Walk):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or truncated, info


class WrongShape(Walk):
    def observe(self) -> Any:
        return np.zeros(3, np.float32)


class WrongDtype(Walk):
    def observe(self) -> Any:
        return np.zeros(2)


class WrongKeys(DictObservation):
    def observe(self) -> Any:
        return {"position": np.zeros(1, np.float32)}


class OutsideDiscrete(Walk):
    observation_space = spaces.Discrete(3)

    def observe(self) -> Any:
        return 3


class NotANumber(Walk):
    def observe(self) -> Any:
        return np.array([np.nan, 0], np.float32)


class InfiniteReward(Walk):
    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, -np.inf, *rest


class NoFlag(Walk):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, None, info


class Unbounded(Walk):
    action_space = box(1)


class Reversed(Walk):
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-1.0, 1.0, (1,))
        self.action_space.low, self.action_space.high = np.ones(1), -np.ones(1)


class TextAction(Walk):
    action_space = spaces.Text(3)


class GraphObservation(Walk):
    observation_space = spaces.Graph(box(1), None)


class NoSpaces(gymnasium.Env):
    pass


class RaisesInReset(Walk):
    def reset(self, **_: Any) -> Any:
        raise LookupError("no map to start on")


class RaisesInStep(Walk):
    def step(self, action: Any) -> Any:
        raise ZeroDivisionError("the walk has no length")


class RaisesWhenMade(Walk):
    def __init__(self) -> None:
        raise OSError("the simulator does not answer")


class Unpicklable(Exception):
    """Cannot be made anew from its text, and so does not pass between processes."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Late(Walk):
    """Well behaved for a while, so that only the training sees what is wrong with it."""

    def __init__(self, fault: str, after: int = 20) -> None:
        super().__init__()
        self.fault, self.after = fault, after

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        self.after -= 1
        if self.after < 0:
            match self.fault:
                case "observation":
                    observation = np.array([np.nan, 0], np.float32)
                case "reward":
                    reward = np.inf
                case "raise":
                    raise Unpicklable("the sky", "the sea")
                case "exit":
                    os._exit(3)
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "hang":
                    time.sleep(600)
        return observation, reward, *rest


class OneIsLate(Late):
    """Only one of two neighbours goes wrong: the one with the odd seed."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None and seed % 2 == 0:
            self.after = 10**9
        return super().reset(seed=seed, options=options)
