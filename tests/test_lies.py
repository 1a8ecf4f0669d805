"""Environments that break their promises after the checks before a training: each is found, with
the step and the environment, before anything is learned from it.
"""

from __future__ import annotations

import threading
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import actorcritic as ac
from actorcritic.core.errors import UserError
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.runners.collector import Collector

AFTER = 5  # good steps

SPACES = {
    "box": spaces.Box(-1, 1, (2,)),
    "discrete": spaces.Discrete(5),
    "multi": spaces.MultiDiscrete([2, 3]),
    "dict": spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3)),
    "tuple": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2))),
}


class Liar(gymnasium.Env):
    """Honest for some steps; then `lie` is what it answers in the place of one of the parts."""

    def __init__(self, space: spaces.Space, part: int = 0, lie: Any = None) -> None:
        self.observation_space, self.action_space = space, spaces.Discrete(2)
        self.part, self.lie, self.left = part, lie, AFTER

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.observation_space.seed(0)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        answer: list[Any] = [self.observation_space.sample(), 1.0, False, False, {}]
        self.left -= 1
        if self.left < 0:
            if isinstance(self.lie, BaseException):
                raise self.lie
            answer[self.part] = self.lie
        return tuple(answer)


class Second:
    """Makes liars of which only the second lies."""

    def __init__(self, *lie: Any) -> None:
        self.lie, self.made = lie, 0

    def __call__(self) -> gymnasium.Env:
        self.made += 1
        liar = Liar(*self.lie)
        if self.made % 2:
            liar.left = 10**9
        return liar


OBSERVATION, REWARD, TERMINATED, TRUNCATED = range(4)
ALGORITHM = ac.A2C(num_envs=2, num_steps=16, hidden_sizes=(4,))


def collected(environment: HostEnvironment) -> None:
    environment.check()
    spec = environment.spec
    actor = ALGORITHM.actor(ALGORITHM.init(jax.random.key(0), spec))
    collector = Collector(ALGORITHM, environment, actor)
    collector.start(0)
    collector.collect(actor, jax.random.split(jax.random.key(0), 16), name="update 1")


LIES = [
    ("box", OBSERVATION, np.zeros(3, np.float32), r"shape \(3,\); expected \(2,\)"),
    ("box", OBSERVATION, np.zeros(2), "dtype float64; expected float32"),
    ("box", OBSERVATION, "up", "shape"),
    ("box", OBSERVATION, None, "shape"),
    ("box", OBSERVATION, np.array([0, np.nan], np.float32), "not finite"),
    ("box", REWARD, "7", "the reward '7'; expected one number"),
    ("box", REWARD, None, "the reward None; expected one number"),
    ("box", REWARD, np.ones(2), "expected one number"),
    ("box", REWARD, float("nan"), "a reward that is not finite"),
    ("box", REWARD, np.float32("inf"), "a reward that is not finite"),
    ("box", TERMINATED, 2, "terminated = 2; expected True or False"),
    ("box", TERMINATED, float("nan"), "terminated = nan; expected True or False"),
    ("box", TERMINATED, "no", "terminated = 'no'; expected True or False"),
    ("box", TRUNCATED, None, "truncated = None; expected True or False"),
    ("discrete", OBSERVATION, 5, "is 5; expected 0 to 4"),
    ("discrete", OBSERVATION, -1, "is -1; expected 0 to 4"),
    ("discrete", OBSERVATION, 2**32, "is 4294967296; expected 0 to 4"),
    ("discrete", OBSERVATION, 1.5, "dtype float64; expected whole numbers"),
    ("multi", OBSERVATION, np.array([0, 3]), r"is \[0 3\]; expected \[0 0\] to \[1 2\]"),
    ("dict", OBSERVATION, {"a": np.zeros(2, np.float32)}, r"keys \['a'\]"),
    ("dict", OBSERVATION, {"a": np.zeros(2, np.float32), "b": 3}, "is 3; expected 0 to 2"),
    ("tuple", OBSERVATION, (1, np.array([0, 2], np.int8)), r"is \[0 2\]; expected 0 to 1"),
    ("tuple", OBSERVATION, [1, np.zeros(2, np.int8)], "expected a tuple of 2"),
    ("box", OBSERVATION, SystemExit(3), "asked the whole program to end in step"),
    ("box", OBSERVATION, ZeroDivisionError("oh"), "failed in step: ZeroDivisionError: oh"),
]


@pytest.mark.parametrize(("space", "part", "lie", "said"), LIES, ids=range(len(LIES)))
def test_a_lie_is_found_with_its_step_and_its_environment(space, part, lie, said):
    """Of two environments, the second lies at its sixth step."""
    with pytest.raises(UserError, match=said) as error:
        collected(HostEnvironment(Second(SPACES[space], part, lie)))
    assert f"tep {AFTER + 1} of update 1" in str(error.value)
    assert "environment 1" in str(error.value)


def test_every_space_is_fine_without_a_lie():
    for space in SPACES.values():
        collected(HostEnvironment(lambda space=space: Liar(space, REWARD, np.float32(1))))


class Plain(SyncVectorEnv):
    """A VectorEnv of the user's, whose answers nothing has looked at."""

    lie: tuple[int, Any] = (0, None)

    def step(self, actions: Any) -> Any:
        answer = list(super().step(actions))
        if self.envs[0].left < 0:
            answer[self.lie[0]] = self.lie[1]
        return tuple(answer)


@pytest.mark.parametrize(
    ("part", "lie", "said"),
    [
        (OBSERVATION, np.array([1, 9]), "an observation of environment 1 is 9; expected 0 to 4"),
        (OBSERVATION, np.array([1]), r"observations of shape \(1,\); expected \(2,\)"),
        (OBSERVATION, np.array([1.5, 1]), "observations of dtype float64"),
        (REWARD, np.array(["a", "b"]), "rewards of dtype <U1"),
        (REWARD, np.ones((2, 1)), r"rewards of dtype float64 and shape \(2, 1\)"),
        (TERMINATED, np.array([0, 2]), "environment 1 gave terminated = 2; expected True or False"),
        (TRUNCATED, np.array([np.nan, 0]), "environment 0 gave truncated = nan"),
    ],
)
def test_a_vector_of_environments_is_not_believed_either(part, lie, said):
    makers = [lambda: Liar(SPACES["discrete"], REWARD, 1.0)] * 2
    vector = Plain(makers, autoreset_mode=AutoresetMode.DISABLED)
    vector.lie = part, lie
    with pytest.raises(UserError, match=said) as error:
        collected(HostEnvironment(vector))
    assert f"At step {AFTER + 1} of update 1" in str(error.value)


# ------------------------------------------------------------------------------------ training


def train(make: Any, out: Any, **options: Any) -> ac.Run:
    options = {"num_envs": 2, "num_steps": 2, "hidden_sizes": (4,), "total_steps": 400} | options
    return ac.train("a2c", make, out=out, evaluation_episodes=0, quiet=True, **options)


def test_what_was_trained_before_a_program_asked_to_end_is_kept(tmp_path):
    """Every whole update before it, in the checkpoint and in the table."""
    make = lambda: Liar(SPACES["box"], OBSERVATION, SystemExit(0))  # noqa: E731
    run = tmp_path / "run"
    with pytest.raises(UserError, match="asked the whole program to end") as error:
        train(make, run)
    assert "What was trained before (8 steps) is saved; go on: actorcritic resume" in str(
        error.value
    )
    kept = ac.open_run(run, environment=lambda: Liar(SPACES["box"]))
    assert kept.steps == 8
    assert kept.metrics.step.tolist() == [4, 8]
    calm = lambda: Liar(SPACES["box"], REWARD, 1.0)  # noqa: E731
    assert ac.resume(run, environment=calm, quiet=True, evaluation_episodes=0).steps == 400


def test_an_environment_that_cannot_be_closed_costs_nothing(tmp_path, capsys):
    class Stuck(Liar):
        def close(self) -> None:
            raise OSError("the door is stuck")

    run = train(lambda: Stuck(SPACES["box"], REWARD, 1.0), tmp_path / "run", total_steps=8)
    assert run.finished
    assert "failed in close: OSError: the door is stuck" in capsys.readouterr().err


def test_a_function_that_cannot_travel_is_named():
    lock = threading.Lock()

    def make() -> gymnasium.Env:
        with lock:
            return Liar(SPACES["box"])

    environment = HostEnvironment(make, vectorization="async")
    with pytest.raises(UserError, match=r"cannot be sent to another process \(TypeError: .*lock"):
        environment.make(2)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Dict({}), "in which there is no number at all"),
        (spaces.Tuple(()), "in which there is no number at all"),
        (spaces.Box(0, 1, (0,)), "in which there is no number at all"),
        (spaces.Dict(a=spaces.Box(0, 1, (3, 0))), "in which there is no number at all"),
        (spaces.Discrete(10**9), "becomes 1,000,000,000 numbers"),
        (spaces.MultiDiscrete([10**9, 2]), "becomes 1,000,000,002 numbers"),
    ],
)
def test_spaces_with_nothing_or_too_much_in_them(space, said):
    with pytest.raises(UserError, match=said):
        HostEnvironment(lambda: Liar(space)).check()


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Box(0, 1, (0,)), "nothing to choose"),
        (spaces.Discrete(10**9), "becomes 1,000,000,000 numbers"),
    ],
)
def test_actions_of_which_there_are_none_or_too_many(space, said):
    def make() -> gymnasium.Env:
        liar = Liar(SPACES["box"])
        liar.action_space = space
        return liar

    with pytest.raises(UserError, match=said):
        HostEnvironment(make).check()
