"""Masks of actions: nothing that is forbidden is done, in training, evaluation and by a policy."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import gymnasium
import host_environments as odd
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import actorcritic as ac
from actorcritic.algorithms.catalogue import ALGORITHMS, FROM_DATA
from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameters
from actorcritic.core.types import EnvSpec, Step
from actorcritic.envs import AsGymnasium
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.envs.masks import Masked, source
from actorcritic.maths import spaces
from actorcritic.runners.host import HostSession
from actorcritic.runs.diagnosis import Diagnosis
from actorcritic.runs.play import play

pytestmark = pytest.mark.filterwarnings("error")

MODES = ["disabled", "same_step", "next_step"]
PICKY = [odd.Picky, odd.PickyTuple, odd.PickyMethod, odd.PickyDict, odd.PickyDictInfo]
TAXI = "Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3"  # one retires the other
FORBIDDEN = -1000.0
SMALL: dict[str, Any] = {"num_envs": 2, "num_steps": 16, "hidden_sizes": (8,)}

# Every algorithm for discrete actions that acts to learn; of PPO there is a watched one below.
DISCRETE = [
    cls
    for name, cls in ALGORITHMS.items()
    if gym.Discrete in cls.action_spaces and name not in FROM_DATA  # type: ignore[attr-defined]
]
DISCRETE.remove(ac.PPO)


@dataclass(frozen=True)
class Gates:
    """Of `gates` switches of 3 positions each, some are allowed; the first of them is worth most.

    A step is worth 1 where every switch is set to the first position that is allowed to it, and
    -1000 where any is set to one that is not. Nothing is allowed in a terminal state.
    """

    gates: int = 0  # 0: one action instead of switches
    max_episode_steps: int = 8

    @property
    def _count(self) -> int:
        return max(self.gates, 1)

    @cached_property
    def spec(self) -> EnvSpec:
        mask, seen = gym.MultiBinary(3 * self._count), gym.Box(0.0, 1.0, (2,))
        action = gym.MultiDiscrete([3] * self.gates) if self.gates else gym.Discrete(3)
        observation = gym.Dict(action_mask=mask, place=seen)
        return EnvSpec("Gates", observation, action, self.max_episode_steps)

    def _observation(self, allowed: jax.Array, ended: Any = False) -> Any:
        mask = (allowed & ~jnp.asarray(ended)).reshape(-1).astype(jnp.int8)
        return {"action_mask": mask, "place": jnp.ones(2)}

    def _draw(self, key: jax.Array) -> jax.Array:
        """One of the seven masks that allow something, for each gate."""
        number = jax.random.randint(key, (self._count, 1), 1, 8)
        return (number >> jnp.arange(3)[None]) % 2 == 1

    def reset(self, key: jax.Array) -> Any:
        allowed = self._draw(key)
        return allowed, self._observation(allowed)

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array) -> Any:
        key, end_key = jax.random.split(key)
        chosen = jax.nn.one_hot(action.reshape(-1), 3, dtype=bool)
        forbidden = jnp.any(chosen & ~state)
        best = jnp.all(jnp.argmax(chosen, axis=-1) == jnp.argmax(state, axis=-1))
        reward = jnp.where(forbidden, FORBIDDEN, best.astype(jnp.float32))
        terminated = jax.random.bernoulli(end_key, 0.2)
        allowed = self._draw(key)
        observation = self._observation(allowed, terminated)
        return allowed, Step(observation, reward, terminated, jnp.zeros_like(terminated))


@hyperparameters
class Watched(ac.PPO):
    """PPO that reports how unlikely the least likely action of each minibatch was."""

    def diagnostics(self, log_prob: Any, rows: Any, progress: Any) -> Any:
        least = {"least": jnp.min(log_prob), "old_least": jnp.min(rows.old_log_prob)}
        return super().diagnostics(log_prob, rows, progress) | least


def strict_taxi(**options: Any) -> gymnasium.Env:
    return Strict(gymnasium.make(TAXI, **options))


class Strict(gymnasium.Wrapper):
    """Raises where the mask of the infos forbids an action."""

    def reset(self, **arguments: Any) -> Any:
        observation, info = self.env.reset(**arguments)
        self.allowed = info["action_mask"].copy()
        return observation, info

    def step(self, action: Any) -> Any:
        assert self.allowed[action], f"{action} is forbidden"
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.allowed = info["action_mask"].copy()
        return observation, reward, terminated, truncated, info


# ------------------------------------------------------------------------------------ spaces


DICT = gym.Dict(
    [("z", gym.Discrete(2)), ("action_mask", gym.MultiBinary(5)), ("a", gym.Box(0.0, 1.0, (2,)))]
)


def test_the_mask_is_no_feature() -> None:
    seen = gym.Dict([("z", gym.Discrete(2)), ("a", gym.Box(0.0, 1.0, (2,)))])
    DICT.seed(0)
    observation = DICT.sample()
    assert spaces.feature_count(DICT) == 4
    np.testing.assert_array_equal(spaces.is_numeric(DICT), spaces.is_numeric(seen))
    np.testing.assert_array_equal(
        spaces.encode(DICT, observation), spaces.encode(seen, observation)
    )


def test_a_mask_further_inside_is_a_feature_as_any_other() -> None:
    for space in (gym.Dict(x=DICT), gym.Tuple([DICT])):
        assert spaces.feature_count(space) == len(spaces.is_numeric(space)) == 9
        assert spaces.encode(space, space.sample()).shape == (9,)
        assert spaces.action_mask(space, space.sample()) is None
    assert spaces.action_mask(gym.Discrete(2), jnp.asarray(1)) is None


@pytest.mark.parametrize(
    ("actions", "mask"),
    [
        (gym.Discrete(6, start=2), gym.MultiBinary(6)),
        (gym.MultiDiscrete([2, 4]), gym.Box(0, 1, (6,), np.int8)),
        (gym.MultiDiscrete([[3], [3]]), gym.MultiBinary([2, 3])),
        (gym.MultiBinary(3), gym.Box(0.0, 9.0, (3, 2))),
    ],
)
def test_masks_lie_side_by_side_as_the_logits_do(actions: Any, mask: Any) -> None:
    space = gym.Dict(action_mask=mask, x=gym.Discrete(2))
    spaces.check(EnvSpec("test", space, actions))
    assert sum(spaces.choices(actions)) == 6
    numbers = np.arange(2 * 3 * 6).reshape(2, 3, *mask.shape) % 5
    given = {"action_mask": jnp.asarray(numbers, mask.dtype), "x": jnp.zeros((2, 3), int)}
    found = spaces.action_mask(space, given)
    assert found is not None
    assert found.dtype == bool
    np.testing.assert_array_equal(found, numbers.reshape(2, 3, 6) != 0)


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (DICT, gym.Box(0.0, 1.0, (5,)), r"odd has observations with the key 'action_mask'.*Box"),
        (DICT, gym.Discrete(4), r"odd has the space MultiBinary\(5\).*expected MultiBinary\(4\)"),
        (DICT, gym.MultiBinary(5), r"expected MultiBinary\(10\)"),
        (DICT, gym.MultiDiscrete([5, 2]), r"expected MultiBinary\(7\)"),
        (gym.Dict(action_mask=gym.Discrete(5), x=gym.Discrete(2)), gym.Discrete(5), "the space D"),
        (gym.Dict(action_mask=gym.MultiBinary(5)), gym.Discrete(5), "nothing but 'action_mask'"),
    ],
)
def test_masks_that_do_not_fit(space: Any, actions: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        spaces.check(EnvSpec("odd", space, actions))


# ------------------------------------------------------------------------------------ compiled


@pytest.mark.parametrize(
    ("algorithm", "gates"),
    [
        (Watched(**SMALL, normalize_observation=True, normalize_reward=True), 0),
        (Watched(**SMALL), 2),
        *((cls(**SMALL), 0) for cls in DISCRETE),
    ],
)
@pytest.mark.long
def test_compiled_training_never_does_what_is_forbidden(algorithm: Any, gates: int) -> None:
    run = ac.train(algorithm, Gates(gates), total_steps=2000, seeds=2, quiet=True)
    assert len(run.episodes.returns) > 100
    assert (run.episodes.returns >= 0).all()
    names = [name for name in run.metrics.names if name not in ("return", "length")]
    assert all(np.isfinite(run.metrics.column(name)).all() for name in names)
    if isinstance(algorithm, Watched):
        assert run.metrics.column("least").min() > -20
        assert run.metrics.column("old_least").min() > -20
    for deterministic in (True, False):
        assert (run.evaluate(20, deterministic=deterministic).returns >= 0).all()


@pytest.mark.long
def test_the_update_masks_by_the_observation_acted_on() -> None:
    """At the start a policy is all but uniform: its entropy is that of what is allowed.

    And at the first gradient step it is still the one that acted.
    """
    batches = []

    @hyperparameters
    class Kept(ac.PPO):
        def update(self, learner: Any, batch: Any, key: Any, progress: Any) -> Any:
            jax.debug.callback(batches.append, batch.observation["action_mask"])
            return super().update(learner, batch, key, progress)

    once = Kept(**SMALL, num_epochs=1, num_minibatches=1)
    run = ac.train(once, Gates(), total_steps=32, evaluation_episodes=0, quiet=True)
    jax.effects_barrier()
    (mask,) = batches
    expected = np.log(mask.sum(axis=-1)).mean()
    assert 0 < expected < np.log(3) - 0.1
    np.testing.assert_allclose(run.metrics.column("entropy"), expected, rtol=0.01)
    np.testing.assert_allclose(run.metrics.column("approx_kl"), 0, atol=1e-6)


def test_learning_with_masks() -> None:
    """The mask is no feature, and one ranking of the actions is right for every mask."""
    algorithm = ac.PPO(num_envs=8, num_steps=32, learning_rate=5e-3)
    run = ac.train(algorithm, Gates(), total_steps=20_000, quiet=True)
    result = run.evaluate(50)
    np.testing.assert_array_equal(result.returns, result.lengths)


def test_a_compiled_environment_on_the_host_keeps_its_masks() -> None:
    run = ac.train(ac.A2C(**SMALL), partial(AsGymnasium, Gates(2)), total_steps=200, quiet=True)
    assert isinstance(run.environment, HostEnvironment)
    assert spaces.has_mask(run.spec.observation_space)
    assert (run.episodes.returns >= 0).all()
    assert (run.evaluate(10).returns >= 0).all()


@pytest.mark.parametrize(
    "actions", [gym.Discrete(3), gym.MultiDiscrete([3, 2]), gym.MultiBinary(2)]
)
def test_where_nothing_is_allowed_numbers_stay_finite(actions: Any) -> None:
    """The padding of whole episodes, terminal states of compiled environments."""
    algorithm, size = ac.A2C(**SMALL), sum(spaces.choices(actions))
    space = gym.Dict(action_mask=gym.MultiBinary(size), x=gym.Box(0.0, 1.0, (1,)))
    learner = algorithm.init(jax.random.key(0), EnvSpec("test", space, actions))
    observation = {"action_mask": jnp.zeros((2, size), jnp.int8), "x": jnp.ones((2, 1))}
    policy = algorithm.policy(algorithm.actor(learner), observation)
    action = policy.sample(jax.random.key(1))
    assert np.isfinite(policy.log_prob(action)).all()
    assert np.isfinite(policy.entropy()).all()


def test_a_low_entropy_is_not_held_against_masks() -> None:
    assert (
        Diagnosis.of(ac.PPO(), Gates().spec, 1000)._rules
        != Diagnosis.of(ac.PPO(), EnvSpec("open", gym.Discrete(2), gym.Discrete(3)), 1000)._rules
    )


# ------------------------------------------------------------------------------------ host


@pytest.mark.parametrize("kind", PICKY)
def test_where_masks_are_found(kind: type) -> None:
    environment = HostEnvironment(kind)
    environment.check()
    inner, space = kind.observation_space, environment.spec.observation_space  # type: ignore[attr-defined]
    assert isinstance(space, gym.Dict)
    if kind is odd.PickyDict:
        assert space == inner
    else:
        assert space["action_mask"] == gym.MultiBinary(sum(spaces.choices(kind.action_space)))  # type: ignore[attr-defined]
        others = {name: part for name, part in space.spaces.items() if name != "action_mask"}
        assert others == (inner.spaces if isinstance(inner, gym.Dict) else {"observation": inner})
    loaded = spaces.from_json(json.loads(json.dumps(spaces.to_json(space))))
    assert list(loaded.spaces) == list(space.spaces)  # type: ignore[attr-defined]
    single = environment.make_single()
    observation, _ = single.reset(seed=0)
    assert space.contains(observation)


def test_what_is_no_mask_is_left_alone() -> None:
    for environment in ("CartPole-v1", odd.PickyBox, odd.Walk, "FrozenLake-v1"):
        host = HostEnvironment(environment)
        host.check()
        assert not spaces.has_mask(host.spec.observation_space)
        assert not isinstance(host.make_single(), Masked)
    assert source(odd.RaisesInReset()) is None


def test_masks_at_the_end_of_an_episode() -> None:
    """Everything in a terminal state; after a time limit what is given, unless that is nothing."""
    for kind in (odd.Picky, odd.PickyTuple, odd.PickyMethod):
        single = HostEnvironment(kind).make_single()
        random = np.random.default_rng(0)
        for _ in range(4):
            observation, _ = single.reset(seed=int(random.integers(99)))
            done = False
            while not done:
                picky: Any = single.unwrapped
                np.testing.assert_array_equal(observation["action_mask"], picky.mask)
                parts = np.split(picky.mask, np.cumsum(picky.sizes)[:-1])
                action = spaces.executable(
                    picky.action_space, jnp.asarray([part.argmax() for part in parts])
                )
                if isinstance(picky.action_space, gym.Discrete):
                    action = action[0]
                observation, _, terminated, truncated, _ = single.step(
                    np.asarray(action).astype(picky.action_space.dtype)
                )
                done = terminated or truncated
            assert observation["action_mask"].all()
            assert single.observation_space.contains(observation)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", PICKY)
@pytest.mark.long
def test_host_training_never_does_what_is_forbidden(
    kind: type, mode: Any, vectorization: Any
) -> None:
    """These environments raise where it is done; the training would end in a UserError."""
    if vectorization == "async" and kind not in (odd.Picky, odd.PickyMethod):
        pytest.skip("nothing new: what wraps an environment does not know where that runs")
    run = ac.train(
        Watched(**SMALL, num_minibatches=2),
        kind,
        total_steps=200,
        vectorization=vectorization,
        autoreset=mode,
        evaluation_episodes=10,
        quiet=True,
    )
    assert len(run.episodes.returns) > 20
    assert run.metrics.column("least").min() > -20
    assert run.metrics.column("old_least").min() > -20
    run.evaluate(10, deterministic=False)


@pytest.mark.parametrize("mode", MODES)
def test_whole_episodes_on_the_host(mode: Any) -> None:
    run = ac.train(ac.Reinforce(**SMALL), odd.PickyTuple, total_steps=200, autoreset=mode)
    assert np.isfinite(run.metrics.column("entropy")).all()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_vector_environment_has_its_masks_in_the_observations(mode: AutoresetMode) -> None:
    vector = SyncVectorEnv([odd.PickyDict] * 2, autoreset_mode=mode)
    session = HostSession(ac.A2C(**SMALL), HostEnvironment(vector), [0], 200)
    while not session.finished:
        session.advance(0)
    plain = SyncVectorEnv([odd.Picky] * 2, autoreset_mode=mode)
    assert not spaces.has_mask(HostEnvironment(plain).spec.observation_space)
    vector.close()


@pytest.mark.parametrize("after", [0, 2, 30])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nothing", r"BadMasks: the mask of environment \d allows no action.*at least one\. "),
        ("shape", r"gave an array of shape \(3,\) as info\['action_mask'\]; expected 4 numbers"),
        ("text", r"gave an array of shape \(\) as info\['action_mask'\]; expected 4 numbers"),
        ("ragged", r"gave an array of shape \(\) as info\['action_mask'\]; expected 4 numbers"),
        ("missing", r"gave nothing as info\['action_mask'\]; expected 4 numbers.*Discrete\(4"),
    ],
)
def test_bad_masks_are_told_in_one_message(fault: str, message: str, after: int) -> None:
    if fault == "missing" and after == 0:
        pytest.skip("an environment that gives none at first has none")
    bad = HostEnvironment(odd.BadMasks, options={"fault": fault, "after": after})
    with pytest.raises(UserError, match=message) as error:
        ac.train(ac.A2C(**SMALL), bad, total_steps=200, quiet=True)
    assert "\n" not in str(error.value)
    assert "BadMasks" in str(error.value)


def test_a_bad_mask_in_a_worker() -> None:
    bad = HostEnvironment(
        odd.BadMasks, options={"fault": "shape", "after": 30}, vectorization="async"
    )
    with pytest.raises(UserError, match=r"Worker \d .*BadMasks gave an array of shape \(3,\)"):
        ac.train(ac.A2C(**SMALL), bad, total_steps=200, quiet=True)


# ------------------------------------------------------------------------------------ policies


@pytest.mark.parametrize("kind", PICKY)
@pytest.mark.long
def test_a_loaded_policy_keeps_to_masks(kind: type, tmp_path: Path) -> None:
    run = ac.train(
        ac.PPO(**SMALL), kind, total_steps=64, out=tmp_path, evaluation_episodes=2, quiet=True
    )
    assert run.spec == ac.open_run(tmp_path, environment=kind).spec
    policy = ac.load(tmp_path)
    assert policy.spec == run.spec
    environment: Any = kind()
    for episode in range(6):
        observation, info = environment.reset(seed=episode)
        done = False
        while not done:
            mask = info.get("action_mask", environment.mask)
            given = {} if kind is odd.PickyDict else {"action_mask": mask}
            action = policy(observation, deterministic=episode % 2 == 0, **given)
            observation, _, terminated, truncated, info = environment.step(action)
            done = terminated or truncated
    wrapped = HostEnvironment(kind).make_single()
    observation, _ = wrapped.reset(seed=0)
    wrapped.step(policy(observation))


def test_what_a_policy_is_given_has_to_fit() -> None:
    algorithm = ac.PPO(**SMALL)
    spec = HostEnvironment(odd.PickyTuple).spec
    policy = ac.Policy(algorithm, algorithm.init(jax.random.key(0), spec), spec)
    mask = np.array([1, 0, 0, 0, 1])
    many = policy(np.zeros((3, 2)), action_mask=np.stack([mask] * 3))
    np.testing.assert_array_equal(many, [[0, 1]] * 3)
    parts = (np.array([[0, 1]] * 3), np.array([[1, 0, 0]] * 3))
    np.testing.assert_array_equal(policy(np.zeros((3, 2)), action_mask=parts), [[1, -1]] * 3)
    both = {"observation": np.zeros(2), "action_mask": mask}
    np.testing.assert_array_equal(policy(both), [0, 1])
    np.testing.assert_array_equal(policy(both, action_mask=[1, 0, 1, 0, 0]), [0, -1])
    with pytest.raises(UserError, match=r"PickyTuple.*policy\(observation, action_mask=…\)"):
        policy(np.zeros(2))
    with pytest.raises(UserError, match=r"shape \(4,\); expected \(5,\), or \(N, 5\).*Multi"):
        policy(np.zeros(2), action_mask=np.ones(4))
    with pytest.raises(UserError, match=r"shape \(\); expected \(5,\)"):
        policy(np.zeros(2), action_mask="all")
    with pytest.raises(UserError, match="some of a batch"):
        policy(np.zeros((3, 2)), action_mask=mask)

    spec = EnvSpec("open", gym.Discrete(2), gym.Discrete(3))
    policy = ac.Policy(algorithm, algorithm.init(jax.random.key(0), spec), spec)
    with pytest.raises(UserError, match="trained on open without masks; leave it out"):
        policy(1, action_mask=[1, 1, 0])


def test_a_compiled_policy_and_its_dict(tmp_path: Path) -> None:
    ac.train(ac.PPO(**SMALL), Gates(2), total_steps=64, out=tmp_path, quiet=True)
    policy, mask = ac.load(tmp_path), np.array([0, 0, 1, 0, 1, 0])
    place = np.ones(2, np.float32)
    np.testing.assert_array_equal(policy({"place": place, "action_mask": mask}), [2, 1])
    np.testing.assert_array_equal(policy({"place": place}, action_mask=mask), [2, 1])
    with pytest.raises(UserError, match="has to know which actions are allowed"):
        policy({"place": place})
    with pytest.raises(UserError, match="expects a dict with keys"):
        policy(place, action_mask=mask)


def test_playing(tmp_path: Path) -> None:
    run = ac.train(ac.PPO(**SMALL), odd.Picky, total_steps=64, out=tmp_path / "run", quiet=True)
    assert "Wrote" in play(run, out=tmp_path / "clip.gif", episodes=3, deterministic=False)
    assert (tmp_path / "clip.gif").exists()


@pytest.mark.long
def test_taxi(tmp_path: Path) -> None:
    """Gymnasium's Taxi gives its masks in infos."""
    strict = ac.train("ppo", strict_taxi, total_steps=2000, evaluation_episodes=2, quiet=True)
    run = ac.train(
        "ppo", TAXI, total_steps=2000, out=tmp_path / "taxi", evaluation_episodes=2, quiet=True
    )
    for one, other in zip(
        jax.tree.leaves(strict.learners), jax.tree.leaves(run.learners), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    policy = ac.load(tmp_path / "taxi")
    taxi = strict_taxi()
    observation, info = taxi.reset(seed=1)
    for _ in range(100):
        action = policy(observation, action_mask=info["action_mask"], deterministic=False)
        observation, _, terminated, truncated, info = taxi.step(action)
        if terminated or truncated:
            break
    again = ac.resume(tmp_path / "taxi", total_steps=4000, evaluation_episodes=2, quiet=True)
    assert again.finished
    assert again.spec == run.spec


@pytest.mark.long
def test_the_example_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[1] / "docs" / "action-masks.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    (output,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    assert output in capsys.readouterr().out
