"""An algorithm of a user's own: what the protocol asks for is enough for all that runs offer."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actorcritic as ac
from actorcritic.core.types import check_protocol
from actorcritic.envs import AsGymnasium
from actorcritic.envs.probes import ActionReward
from actorcritic.runs import checkpoints

QUICK: dict[str, Any] = {"total_steps": 512, "evaluation_episodes": 5, "quiet": True}


@ac.hyperparameters
class Habit(ac.Algorithm):
    """Remembers the mean reward of each action. Its learner and its actor are plain dicts."""

    name: ClassVar[str] = "habit"
    action_spaces: ClassVar[tuple[type, ...]] = (gymnasium.spaces.Discrete,)

    num_envs: int = ac.hyperparameter(4, "environments stepped side by side", "[1, 100]")
    num_steps: int = ac.hyperparameter(8, "steps of each before an update", "[1, 100]")
    noise: float = ac.hyperparameter(1.0, "how much chance there is in exploring", "[0, 100]")

    @property
    def collects(self) -> ac.Collects:
        return ac.Collects(self.num_envs, self.num_steps)

    def init(self, key: Any, spec: ac.EnvSpec) -> dict[str, Any]:
        zeros = jnp.zeros(spec.action_space.n)  # type: ignore[attr-defined]
        return {"worth": 0.01 * jax.random.normal(key, zeros.shape), "times": zeros}

    def actor(self, learner: dict[str, Any]) -> dict[str, Any]:
        return {"worth": learner["worth"]}

    def act(self, actor: Any, observation: Any, key: Any, *, explore: bool = True) -> ac.Decision:
        liked = jnp.broadcast_to(actor["worth"], (*observation.shape[:-1], *actor["worth"].shape))
        if explore:
            liked = liked + self.noise * jax.random.gumbel(key, liked.shape)
        return ac.Decision(jnp.argmax(liked, axis=-1).astype(jnp.int32))

    def update(self, learner: Any, batch: ac.Transition, key: Any, progress: Any) -> Any:
        chosen = jax.nn.one_hot(batch.action, learner["worth"].shape[0])
        times = learner["times"] + chosen.sum(axis=(0, 1))
        gained = (chosen * (batch.reward[..., None] - learner["worth"].reshape(1, 1, -1))).sum(
            axis=(0, 1)
        )
        worth = learner["worth"] + gained / jnp.maximum(times, 1)
        return {"worth": worth, "times": times}, {"reward": batch.reward.mean()}


def same(one: Any, other: Any) -> bool:
    return checkpoints.hashes(one) == checkpoints.hashes(other)


PLACES: dict[str, Any] = {
    "compiled": ActionReward(),
    "host": partial(AsGymnasium, ActionReward()),
}


@pytest.fixture(scope="module", params=PLACES)
def trained(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ac.Run]:
    place = PLACES[request.param]
    out = tmp_path_factory.mktemp(request.param) / "run"
    return place, ac.train(Habit(), place, seeds=2, out=out, **QUICK)


def test_it_learns(trained: tuple[Any, ac.Run]) -> None:
    _, run = trained
    assert run.finished
    np.testing.assert_allclose(run.learners["worth"], [[-1.0, 1.0]] * 2, atol=1e-5)
    np.testing.assert_array_equal(run.learners["times"].sum(axis=1), [512, 512])
    assert run.final_evaluation is not None
    assert (run.final_evaluation.returns == 1.0).all()
    assert (run.evaluate(20).returns == 1.0).all()
    drawn = run.evaluate(50, deterministic=False).returns  # with noise, now and then the other
    assert (drawn == -1.0).any()
    names = set(run.metrics.names)
    assert names == {"reward", "return", "length"}
    assert run.metrics.update.max() == 16


def test_it_is_opened_and_loaded(trained: tuple[Any, ac.Run]) -> None:
    place, run = trained
    opened = ac.open_run(run.out, algorithm=Habit(), environment=place)
    assert same(opened.learners, run.learners)
    assert same(opened.actors, run.actors)
    assert set(opened.actors) == {"worth"}
    assert (opened.evaluate(5).returns == 1.0).all()
    policy = ac.load(run.out, seed=1, algorithm=Habit())
    assert policy(np.zeros(1, np.float32)) == 1
    assert policy(np.zeros((3, 1), np.float32)).tolist() == [1, 1, 1]
    assert same(policy.actor, jax.tree.map(lambda x: x[1], run.actors))
    for opens in (ac.load, partial(ac.open_run, environment=place)):
        with pytest.raises(ac.UserError, match=r"the class Habit of your own.*algorithm=…"):
            opens(run.out)


def test_it_is_resumed(trained: tuple[Any, ac.Run], tmp_path: Path) -> None:
    place, run = trained
    half = ac.train(Habit(), place, seeds=2, out=tmp_path / "run", **QUICK | {"total_steps": 256})
    assert not same(half.learners, run.learners)
    more = ac.resume(half.out, algorithm=Habit(), environment=place, **QUICK)
    assert more.metrics.update.max() == 16
    if place is PLACES["compiled"]:
        assert same(more.learners, run.learners)
    else:  # begins new episodes
        np.testing.assert_array_equal(more.learners["times"].sum(axis=1), [512, 512])


def test_what_it_is_not_for_is_refused() -> None:
    with pytest.raises(ac.UserError, match="habit"):
        ac.train(Habit(), "Pendulum-v1", **QUICK)


@dataclasses.dataclass(frozen=True)
class Plain:
    """No pytree."""

    name: ClassVar[str] = "plain"

    init = actor = act = update = behaviour = check = notes = remember = spread = lambda *_: None
    draws = None
    action_spaces = Habit.action_spaces
    collects = ac.Collects(1, 1)


@ac.hyperparameters
class WithoutActor(ac.Algorithm):
    """Inherits everything that has a default."""

    name: ClassVar[str] = "without-actor"
    num_envs: int = 1

    def init(self, key: Any, spec: ac.EnvSpec) -> Any:
        return {"x": jnp.zeros(())}

    def act(self, actor: Any, observation: Any, key: Any, *, explore: bool = True) -> ac.Decision:
        return ac.Decision(jnp.zeros(observation.shape[:1], jnp.int32))

    def update(self, learner: Any, batch: Any, key: Any, progress: Any) -> Any:
        return learner, {}


@ac.hyperparameters
class OfNothing:
    """Inherits nothing."""

    name: ClassVar[str] = "of-nothing"
    rate: float = 1.0

    init = act = update = lambda self, *_: None


@ac.hyperparameters
class Collecting(Habit):
    collects: ClassVar[Any] = (4, 8)


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (WithoutActor(), "WithoutActor is not an algorithm: it lacks actor. Inherit from actorcri"),
        (OfNothing(), "OfNothing is not an algorithm: it lacks actor, action_spaces, collects, "),
        (Habit, r"An algorithm is an object, and Habit is a class; write Habit\(\)\."),
        (ac.PPO, r"PPO is a class; write PPO\(\)\."),
        (Plain(), "Plain must be a frozen dataclass that is a pytree: put @hyperparameters"),
        (Collecting(), r"Collecting.collects is \(4, 8\); expected Collects\(num_envs, num_steps"),
        (None, "NoneType is not an algorithm: it lacks name, init, actor"),
    ],
)
def test_what_is_no_algorithm_is_told_what_it_lacks(algorithm: Any, message: str) -> None:
    with pytest.raises(ac.UserError, match=message):
        check_protocol(algorithm)
    for place in (ActionReward(), "CartPole-v1"):
        with pytest.raises(ac.UserError, match=message):
            ac.train(algorithm, place, **QUICK)
