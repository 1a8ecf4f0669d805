"""The host runner: like the compiled one, in every autoreset mode, for any environment."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import host_environments as odd
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import TransformReward

from actorcritic.algorithms import A2C, PPO, Reinforce
from actorcritic.algorithms.sac import SAC
from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameters
from actorcritic.core.types import Algorithm, Collects, Decision, Extras, Transition
from actorcritic.envs import AsGymnasium, CartPole, GridWorld, Pendulum
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.envs.host.workers import Workers
from actorcritic.runners import session as session_module
from actorcritic.runners.evaluate import Policy, _arrays, evaluate_host
from actorcritic.runners.host import RESUME_NOTE, HostSession
from actorcritic.runners.seeds import CompiledSession
from actorcritic.runners.session import EpisodeTable, MetricTable, Report

pytestmark = pytest.mark.filterwarnings("error")

MODES = ["disabled", "same_step", "next_step"]
GYMNASIUM_MODES = dict(
    zip(
        MODES,
        [AutoresetMode.DISABLED, AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP],
        strict=True,
    )
)
SMALL: dict[str, Any] = {"num_envs": 2, "num_steps": 8, "hidden_sizes": (8,)}


@pytest.fixture(autouse=True)
def every_update_is_a_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is tiny, as the updates here are."""
    monkeypatch.setattr(session_module, "STEPS_PER_ROW", 1)


def finish(session: Any) -> list[Report]:
    reports = []
    while not session.finished:
        reports.append(session.advance(0))
    session.close()
    return reports


def trained(environment: HostEnvironment, algorithm: Any = None, updates: int = 3) -> Any:
    """The learner of one seed after some updates, with every metric finite on the way."""
    algorithm = algorithm or A2C(**SMALL)
    steps = updates * algorithm.num_envs * algorithm.num_steps
    session = HostSession(algorithm, environment, [0], steps)
    reports = finish(session)
    for report in reports:
        unknown = ("return", "length")  # NaN where no episode ended
        columns = [k for k, name in enumerate(report.metrics.names) if name not in unknown]
        assert np.isfinite(report.metrics.values[:, columns]).all()
    return jax.tree.map(lambda x: np.asarray(x[0]), session.state.learner)


def assert_close(one: Any, other: Any, **tolerance: float) -> None:
    def numbers(x: Any) -> Any:
        key = jnp.issubdtype(getattr(x, "dtype", None), jax.dtypes.prng_key)
        return jax.random.key_data(x) if key else x

    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(numbers(a), numbers(b), **tolerance)


def test_large_integers_do_not_wrap() -> None:
    environment = HostEnvironment(odd.Large)
    algorithm = A2C(**SMALL, normalize_observation=True)
    learner = trained(environment, algorithm)
    assert 2**32 < learner.observations.mean[0] < 10 * 2**32

    policy = Policy(algorithm, algorithm.actor(learner), environment.spec)
    for batch in ([[2**32], [9 * 2**32]], np.array([[2**32], [9 * 2**32]], np.float32)):
        x = _arrays(environment.spec.observation_space, batch)
        np.testing.assert_array_equal(jnp.asarray(x), [[2.0**32], [9 * 2.0**32]])
        assert policy(batch).shape == (2,)


# ------------------------------------------------------------------- as the compiled runner


class Keyed(AsGymnasium):
    """Keeps to the key that it was made with, as the compiled runner does."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(options=options)


CASES = {
    "ppo-cartpole": (PPO(num_envs=4, num_steps=16, num_minibatches=2), CartPole(), 6),
    "ppo-normalised": (
        PPO(num_envs=2, num_steps=16, normalize_observation=True, normalize_reward=True),
        Pendulum(max_episode_steps=7),
        5,
    ),
    "a2c-pendulum": (A2C(num_envs=3, num_steps=5), Pendulum(max_episode_steps=12), 8),
    "sac-pendulum": (
        SAC(num_envs=2, num_steps=3, batch_size=16, learning_starts=20, buffer_size=40),
        Pendulum(max_episode_steps=7),
        12,
    ),
    "a2c-gridworld": (A2C(num_envs=4, num_steps=5), GridWorld(2, 2, max_episode_steps=6), 12),
    "reinforce-cartpole": (Reinforce(num_envs=3, num_steps=30), CartPole(), 5),
    "reinforce-gridworld": (
        Reinforce(num_envs=3, num_steps=9),
        GridWorld(3, 2, max_episode_steps=9),
        5,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.long
def test_same_parameters_as_compiled(case: str) -> None:
    algorithm, environment, updates = CASES[case]
    seed, total = 3, updates * algorithm.num_envs * algorithm.num_steps
    compiled = CompiledSession(algorithm, environment, [seed], total)
    keys = jax.random.split(jax.random.split(jax.random.key(seed), 3)[2], algorithm.num_envs)
    vector = SyncVectorEnv(
        [partial(Keyed, environment, key) for key in keys], autoreset_mode=AutoresetMode.DISABLED
    )
    host = HostSession(algorithm, HostEnvironment(vector), [seed], total)
    here, there = finish(host), finish(compiled)
    vector.close()

    state, other = host.state, compiled.state
    assert state.updates.numbers[0] >= updates
    assert_close(state.learner, other.learner, rtol=1e-4, atol=2e-5)
    assert_close(
        (state.updates, state.steps, jax.random.key_data(state.key)),
        (other.updates, other.steps, jax.random.key_data(other.key)),
    )

    metrics, others = (MetricTable.join([r.metrics for r in reports]) for reports in (here, there))
    assert metrics.names == others.names
    metrics, others = (m._replace(names=()) for m in (metrics, others))
    assert_close(metrics, others, rtol=2e-3, atol=1e-4)
    episodes, others = (EpisodeTable.join([r.episodes for r in x]) for x in (here, there))
    assert_close(episodes, others, rtol=1e-5)
    assert len(episodes.step) > 0


# ------------------------------------------------------------------- autoreset modes


@hyperparameters
class Keeper(Algorithm):
    """An algorithm that learns nothing: its learner is the batch it was given."""

    name: ClassVar[str] = "keeper"

    num_envs: int = 3
    num_steps: int = 7
    masked: bool = False
    discount: float | None = None

    @property
    def collects(self) -> Collects:
        return Collects(self.num_envs, self.num_steps, discount=self.discount)

    def init(self, key: jax.Array, spec: Any) -> Transition:
        def zeros(space: gymnasium.Space) -> Any:
            if isinstance(space, gymnasium.spaces.Dict):
                return {name: zeros(part) for name, part in space.spaces.items()}
            if isinstance(space, gymnasium.spaces.Tuple):
                return tuple(zeros(part) for part in space.spaces)
            lead = (self.num_steps, self.num_envs)
            return jnp.zeros((*lead, *space.shape), jax.dtypes.canonicalize_dtype(space.dtype))

        row = jnp.zeros((self.num_steps, self.num_envs))
        observation = zeros(spec.observation_space)
        flags = [row.astype(bool) for _ in range(3)]
        return Transition(
            observation,
            row.astype(jnp.int32),
            row,
            flags[0],
            flags[1],
            observation,
            Extras(own={"time": row.astype(jnp.int32)}),
            flags[2] if self.masked else None,
            None if self.discount is None else row,
        )

    def actor(self, learner: Transition) -> tuple[()]:
        return ()

    def act(
        self, actor: Any, observation: Any, key: jax.Array, *, explore: bool = True
    ) -> Decision:
        action = jax.random.bernoulli(key, shape=(self.num_envs,)).astype(jnp.int32)
        tagged = observation["a"][0] if isinstance(observation, dict) else observation
        return Decision(action, Extras(own={"time": tagged[:, -1].astype(jnp.int32)}))

    def update(self, learner: Any, batch: Transition, key: jax.Array, progress: Any) -> Any:
        return batch, {"progress": progress}


@hyperparameters
class EpisodeKeeper(Keeper):
    masked: bool = True

    @property
    def collects(self) -> Collects:
        return super().collects._replace(whole_episodes=True)


def tagged(mode: str, vectorization: str, kind: type = odd.Tagged, num_envs: int = 3) -> Any:
    factories: list[Any] = [partial(kind, index) for index in range(num_envs)]
    if vectorization == "async":
        return Workers("tagged", factories, GYMNASIUM_MODES[mode], 60)
    return SyncVectorEnv(factories, autoreset_mode=GYMNASIUM_MODES[mode])


def tags(observation: Any) -> np.ndarray:
    """(index, episode, time) of observations [T, B]."""
    if not isinstance(observation, dict):
        return observation
    np.testing.assert_array_equal(observation["z"][..., 0], observation["a"][1])
    return np.concatenate([observation["z"], observation["a"][0]], axis=-1)


@pytest.mark.parametrize("kind", [odd.Tagged, odd.TaggedDict])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
def test_every_successor_is_the_true_one(mode: str, vectorization: str, kind: type) -> None:
    if kind is odd.TaggedDict and mode == "same_step":
        kind = NewTaggedDict  # Gymnasium itself hands around an array that is written over
    vector = tagged(mode, vectorization, kind)
    algorithm = Keeper(masked=mode == "next_step", discount=0.9)
    session = HostSession(algorithm, HostEnvironment(vector), [0], 10**9)
    seen: dict[int, list[tuple[int, int]]] = {0: [], 1: [], 2: []}
    ended, count, invalid = [], 0, 0
    for _ in range(8):
        report = session.advance(0)
        batch = jax.tree.map(lambda x: np.asarray(x[0]), session.state.learner)
        valid = np.ones((7, 3), bool) if batch.valid is None else batch.valid
        assert valid.any(axis=1).all()
        before, after = tags(batch.observation), tags(batch.next_observation)
        for t, b in np.argwhere(valid):
            index, episode, time = (int(x) for x in before[t, b])
            assert index == b
            np.testing.assert_array_equal(after[t, b], [index, episode, time + 1])
            last = time + 1 == kind.length(index, episode)
            assert batch.terminated[t, b] == (last and episode % 2 == 0)
            assert batch.truncated[t, b] == (last and episode % 2 == 1)
            assert batch.reward[t, b] == kind.reward(index, episode, time)
            so_far = [0.9 ** (time - k) * kind.reward(index, episode, k) for k in range(time + 1)]
            np.testing.assert_allclose(batch.reward_sum[t, b], sum(so_far), rtol=1e-5, atol=1e-6)
            assert batch.extras.own["time"][t, b] == time
            seen[b].append((episode, time))
            count += 1
            if last:
                rewards = [kind.reward(index, episode, k) for k in range(time + 1)]
                ended.append((count, sum(rewards), time + 1))
        invalid += (~valid).sum()
        assert not (batch.terminated | batch.truncated)[~valid].any()
        assert session.steps.tolist() == [count]
        table = report.episodes
        rows = list(zip(table.step, table.returns, table.length, strict=True))
        assert rows == ended[len(ended) - len(rows) :]
    vector.close()
    assert (invalid > 0) == (mode == "next_step")
    for index, steps in seen.items():  # every step of every episode, once, in order
        expected = [(e, t) for e in range(99) for t in range(kind.length(index, e))]
        assert steps == expected[: len(steps)]
        assert len(steps) >= 35


def test_a_reset_row_earns_nothing() -> None:
    """Even where a wrapper gives every row a reward."""
    wrapped = TransformReward(tagged("next_step", "sync"), lambda reward: reward + 1.0)
    session = HostSession(Keeper(masked=True), HostEnvironment(wrapped), [0], 10**9)
    table = EpisodeTable.join([session.advance(0).episodes for _ in range(4)])
    wrapped.close()
    assert table.length.sum() > 30
    possible = set()
    for index, episode in np.ndindex(3, 99):
        length = odd.Tagged.length(index, episode)
        rewards = [odd.Tagged.reward(index, episode, time) for time in range(length)]
        possible.add((sum(rewards) + length, length))
    assert set(zip(table.returns, table.length, strict=True)) <= possible


class NewTaggedDict(odd.TaggedDict):
    def _observation(self) -> Any:
        observation = super()._observation()
        position, index = observation["a"]
        return {"z": observation["z"].copy(), "a": (position.copy(), index)}


@pytest.mark.parametrize("mode", MODES)
def test_value_targets_are_those_of_the_definition(mode: str) -> None:
    """G_t to the end of the episode; a time limit keeps γ^k V(s_T), a terminal state does not."""
    gamma, vector = 0.9, tagged(mode, "sync")
    algorithm = A2C(num_envs=3, num_steps=24, gamma=gamma, hidden_sizes=(8,))
    session = HostSession(
        Keeper(num_steps=24, masked=mode == "next_step"), HostEnvironment(vector), [0], 10**9
    )
    session.advance(0)
    spec = HostEnvironment(vector).spec
    batch = jax.tree.map(lambda x: jnp.asarray(x[0]), session.state.learner)
    learner = algorithm.init(jax.random.key(0), spec)

    encoded = algorithm._encode(learner, batch.observation)
    value, next_value = algorithm._values(learner, batch, encoded, jax.random.key(0))
    np.testing.assert_array_equal(value, algorithm.value(learner, batch.observation))
    _, target = algorithm.advantages(batch, batch.reward, value, next_value)

    compared = 0
    for t, b in np.ndindex(24, 3):
        index, episode, time = (int(x) for x in batch.observation[t, b])
        end = odd.Tagged.length(index, episode)
        if t + end - time > 24 or (batch.valid is not None and not batch.valid[t, b]):
            continue  # the episode goes on in the next batch; or not experience
        expected = sum(
            gamma ** (k - time) * odd.Tagged.reward(index, episode, k) for k in range(time, end)
        )
        if episode % 2:
            last = jnp.asarray([[index, episode, end]], jnp.float32)
            expected += gamma ** (end - time) * float(algorithm.value(learner, last)[0])
        np.testing.assert_allclose(target[t, b], expected, rtol=1e-5)
        compared += 1
    assert compared > 40
    vector.close()


@pytest.mark.parametrize("mode", MODES)
def test_whole_episodes(mode: str) -> None:
    vector = tagged(mode, "sync")
    algorithm = EpisodeKeeper(num_steps=3)
    session = HostSession(algorithm, HostEnvironment(vector), [0], 10**9)
    for _ in range(6):
        before = int(session.steps[0])
        report = session.advance(0)
        batch = jax.tree.map(lambda x: np.asarray(x[0]), session.state.learner)
        observation = tags(batch.observation)
        ended = []
        for b in range(3):
            length = odd.Tagged.length(b, int(observation[0, b, 1]))
            kept = min(length, 3)
            assert batch.valid[:, b].tolist() == [t < kept for t in range(3)]
            assert observation[:kept, b, 2].tolist() == list(range(kept))
            even = observation[0, b, 1] % 2 == 0
            assert batch.terminated[kept - 1, b] == (even and length <= 3)
            assert batch.truncated[kept - 1, b] == (not even or length > 3)  # cut, or a limit
            episode = int(observation[0, b, 1])
            rewards = [odd.Tagged.reward(b, episode, time) for time in range(kept)]
            ended.append((sum(rewards), kept))  # also of those that the batch cut
        table = report.episodes
        assert sorted(zip(table.returns, table.length, strict=True)) == sorted(ended)
        assert set(table.step) == {int(session.steps[0])}
        assert int(session.steps[0]) - before == batch.valid.sum()
    vector.close()


@pytest.mark.long
def test_own_environments_learn_the_same_in_every_mode() -> None:
    """Also where an environment writes over its observations, and in processes of their own."""
    algorithm = A2C(num_envs=1, num_steps=16, hidden_sizes=(8,))
    expected = trained(HostEnvironment(odd.Copied), algorithm)
    for mode in MODES:
        learner = trained(HostEnvironment(odd.InPlace, autoreset=mode), algorithm)  # type: ignore[arg-type]
        assert_close(learner, expected)
    two = A2C(**SMALL)
    for mode in MODES:
        there = HostEnvironment(odd.InPlace, autoreset=mode, vectorization="async")  # type: ignore[arg-type]
        here = HostEnvironment(odd.InPlace, autoreset=mode)  # type: ignore[arg-type]
        assert_close(trained(there, two), trained(here, two))


def test_a_vector_environment_must_say_its_mode_and_fit() -> None:
    vector = tagged("disabled", "sync")
    with pytest.raises(UserError, match="VectorEnv of 3 environments, but num_envs is 2"):
        HostSession(A2C(**SMALL), HostEnvironment(vector), [0], 100)
    del vector.metadata["autoreset_mode"]
    with pytest.raises(UserError, match="does not say how it resets"):
        HostSession(Keeper(), HostEnvironment(vector), [0], 100)
    with pytest.raises(UserError, match="no single environment can be made"):
        HostEnvironment(vector).make_single()


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_counts_whole_episodes(mode: str) -> None:
    vector = tagged(mode, "sync")
    environment = HostEnvironment(vector)
    ended: dict[int, list[tuple[float, int]]] = {0: [], 1: [], 2: []}
    policy = np.zeros(3, np.int64)
    found = environment.episodes(vector, lambda _: policy, 0, max_steps=3)
    for index, total, length, cut, each in found:
        assert each.tolist() == [total]
        whole = odd.Tagged.length(index, len(ended[index]))
        assert cut == (whole > 3)
        ended[index].append((total, length))
        if len(ended[2]) == 9:
            break
    vector.close()
    for index, rows in ended.items():
        for episode, row in enumerate(rows):
            length = min(odd.Tagged.length(index, episode), 3)
            rewards = [odd.Tagged.reward(index, episode, time) for time in range(length)]
            assert row == (sum(rewards), length)


def test_a_vector_environment_stays_open_for_its_owner() -> None:
    vector = tagged("disabled", "sync")
    HostSession(Keeper(), HostEnvironment(vector), [0], 100).close()
    vector.reset()
    vector.close()


# ------------------------------------------------------------------- environments of all kinds


TAXI = "Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3"  # one retires the other


@pytest.mark.parametrize(
    "id",
    [
        "LunarLander-v3",
        "FrozenLake-v1",
        TAXI,
        "Blackjack-v1",
        "InvertedPendulum-v5",
        "Hopper-v5",
    ],
)
def test_gymnasium_environments_train(id: str) -> None:
    trained(HostEnvironment(id))


@pytest.mark.parametrize(
    "kind",
    [
        odd.Walk,
        odd.OneStep,
        odd.Endless,
        odd.DictObservation,
        odd.ManyChoices,
        odd.Switches,
        odd.Double,
    ],
)
def test_odd_environments_train(kind: type) -> None:
    trained(HostEnvironment(kind))


def test_endless_and_one_step_episodes_train_in_whole_episodes() -> None:
    algorithm = Reinforce(**SMALL)
    trained(HostEnvironment(odd.Endless), algorithm)
    trained(HostEnvironment(odd.OneStep, autoreset="next_step"), algorithm)


def test_next_step_resets_never_fill_a_batch() -> None:
    """One environment with episodes of one step: every other step only resets."""
    trained(HostEnvironment(odd.OneStep, autoreset="next_step"), A2C(num_envs=1, num_steps=1))


@pytest.fixture
def user_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


USER_FILE = """
import gymnasium, numpy as np
from host_environments import Walk

class Mine(Walk):
    pass

def slope(drift=0.5):
    return Walk(drift)

gymnasium.register("Mine-v0", Mine, max_episode_steps=5)
"""


def test_environments_in_a_users_file(user_directory: Path) -> None:
    (user_directory / "my_walks.py").write_text(USER_FILE)
    assert HostEnvironment("my_walks:Mine").spec.max_episode_steps is None
    assert HostEnvironment("my_walks:Mine-v0").spec.max_episode_steps == 5
    assert HostEnvironment("my_walks:slope", options={"drift": 0.25}).make_single().drift == 0.25
    trained(HostEnvironment("my_walks:Mine", vectorization="async"))
    gymnasium.registry.pop("Mine-v0")

    with pytest.raises(UserError, match=r"'Min' is registered.*my_walks.*Did you mean 'Mine'"):
        HostEnvironment("my_walks:Min")
    with pytest.raises(UserError, match=f"no module 'my_walk'.*{user_directory}"):
        HostEnvironment("my_walk:Mine")
    (user_directory / "broken_file.py").write_text("import os\n\n1 / 0\n")
    with pytest.raises(UserError, match=r"ZeroDivisionError.*\(broken_file.py, line 3\)"):
        HostEnvironment("broken_file:Mine")


SCRIPT = """
import sys
sys.path.append({tests!r})
from host_environments import Walk
from actorcritic.algorithms.a2c import A2C
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.runners.host import HostSession

class Mine(Walk):
    pass

environment = HostEnvironment(Mine, vectorization="async")
session = HostSession(A2C(num_envs=2, hidden_sizes=(4,)), environment, [0], 20)
while not session.finished:
    session.advance(0)
session.close()
print("trained", session.steps)
"""


@pytest.mark.long
def test_workers_do_not_run_the_users_script_again(tmp_path: Path) -> None:
    """A script without `if __name__ == "__main__"`, which defines its environment itself."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=100, cwd=tmp_path
    )
    assert (done.stdout, done.stderr, done.returncode) == ("trained [20]\n", "", 0)


# ------------------------------------------------------------------- environments that fail


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (odd.ResetWithoutInfo, r"reset returned an array of shape \(2,\); expected \(observ"),
        (odd.OldReset, r"unexpected keyword argument.*Write `def reset\(self, \*, seed=None"),
        (odd.FourValues, "step returned a tuple of 4 values; expected five.*old 'gym' package"),
        (odd.WrongShape, r"observation of reset has shape \(3,\); expected \(2,\)"),
        (odd.WrongDtype, r"has dtype float64; expected float32.*astype\(np.float32\)"),
        (odd.WrongKeys, r"is the keys \['position'\]; expected a dict with the keys"),
        (odd.OutsideDiscrete, r"is 3, outside Discrete\(3\); expected 0 to 2"),
        (odd.NotANumber, "observation of reset is not finite"),
        (odd.InfiniteReward, "the reward -inf; expected a finite number"),
        (odd.NoFlag, "step returned truncated = None; expected True or False"),
        (odd.Unbounded, "Unbounded has unbounded actions.*expected finite bounds"),
        (odd.Reversed, "action bounds with low >= high"),
        (odd.TextAction, "action space Text.*expected Discrete, MultiDiscrete, MultiBinary or Box"),
        (odd.GraphObservation, "Observations of space Graph.*are not supported"),
        (odd.NoSpaces, "observation_space = None; expected a space of gymnasium.spaces"),
        (odd.RaisesInReset, r"failed in reset: LookupError: no map.*\(host_env.*, line \d+\)"),
        (odd.RaisesInStep, "RaisesInStep failed in step: ZeroDivisionError: the walk has no leng"),
        (odd.RaisesWhenMade, "could not be made: OSError: the simulator does not answer"),
        (lambda: "a string", "made a builtins.str; expected a gymnasium.Env"),
    ],
)
def test_bad_environments_are_told_in_one_message(kind: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        HostSession(A2C(**SMALL), HostEnvironment(kind), [0], 100)
    assert "\n" not in str(error.value)


def test_old_interface_behind_gymnasiums_wrappers() -> None:
    gymnasium.register("Old-v0", odd.FourValues, max_episode_steps=5)
    with pytest.raises(UserError, match="Old-v0: step returned a tuple of 4 values"):
        HostEnvironment("Old-v0").check()
    gymnasium.registry.pop("Old-v0")


def test_names_that_are_not_known() -> None:
    with pytest.raises(UserError, match=r"'Hoper-v5' is registered.*Did you mean 'Hopper-v5'"):
        HostEnvironment("Hoper-v5")
    with pytest.raises(UserError, match=r"CartPole-v7.*Did you mean 'CartPole-v1'"):
        HostEnvironment("CartPole-v7")
    if TAXI == "Taxi-v4":
        with pytest.raises(UserError, match="use `Taxi-v4` instead"):
            HostEnvironment("Taxi-v3")
    with pytest.raises(UserError, match=r"'package/Thing-v0' is registered.*write 'module:Name'"):
        HostEnvironment("package/Thing-v0")
    with pytest.raises(UserError, match=r"options \{'gravty': 1\}.*unexpected keyword"):
        HostEnvironment("CartPole-v1", options={"gravty": 1}).check()
    with pytest.raises(UserError, match="vectorization must be 'sync' or 'async'; got 'asinc'"):
        HostEnvironment("CartPole-v1", vectorization="asinc")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"autoreset must be .*; got 'off'"):
        HostEnvironment("CartPole-v1", autoreset="off")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="expected a Gymnasium id"):
        HostEnvironment(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("id", "package", "extra"),
    [("LunarLander-v3", "Box2D", "box2d"), ("Hopper-v5", "mujoco", "mujoco")],
)
def test_missing_packages_are_named(
    id: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith(("gymnasium.envs.box2d", "gymnasium.envs.mujoco", package)):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'{id} needs.*pip install "actorcritic\[{extra}\]"'):
        HostEnvironment(id).check()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        # 20 steps are well: the 21st is row 5 of the third batch of 8.
        ("observation", "Late gave an observation that is not finite.* at step 5 of update 3 "),
        ("reward", r"reward that is not finite.* at step 5 of update 3 \(seed 0\), environment 0"),
        (
            "raise",
            r"At step 5 of update 3 \(seed 0\): Late \(environment 0\) failed in step: "
            "Unpicklable: the sky and the sea",
        ),
    ],
)
def test_failures_during_the_training(fault: str, message: str) -> None:
    environment = HostEnvironment(odd.Late, options={"fault": fault})
    session = HostSession(A2C(**SMALL), environment, [0], 10**9)
    session.advance(0)
    session.advance(0)
    with pytest.raises(UserError, match=message):
        session.advance(0)
    assert session.steps.tolist() == [32]
    session.close()


def test_a_diverged_policy_is_told_from_a_bad_environment() -> None:
    session = HostSession(A2C(**SMALL), HostEnvironment("Pendulum-v1"), [0], 10**9)
    learner = session.state.learner
    params = jax.tree.map(lambda x: x * jnp.nan, learner.params)
    session.state = session.state._replace(learner=replace(learner, params=params))
    session.advance(0)
    session.close()
    assert session.finished
    (why,) = session.failures.values()
    assert re.search(r"diverged: .*action .* not finite at step 1 of update 1", why)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", r"Worker \d .*OneIsLate failed in step: Unpicklable: the sky and the sea"),
        ("exit", r"worker \d \(of 0 to 1\) ended by itself in step \(exit code 3\)"),
        ("kill", r"worker \d \(of 0 to 1\) ended by itself in step \(killed by signal 9\)"),
        ("hang", r"worker \d \(of 0 to 1\) did not answer for 0.5 seconds in step"),
    ],
)
def test_workers_that_fail_are_named_and_the_others_end(fault: str, message: str) -> None:
    environment = HostEnvironment(
        odd.OneIsLate, vectorization="async", worker_timeout=0.5, options={"fault": fault}
    )
    session = HostSession(A2C(**SMALL), environment, [0], 10**9)
    session.compile()
    start = time.perf_counter()
    with pytest.raises(UserError, match=message):
        finish(session)
    assert time.perf_counter() - start < 10
    session.close()
    assert not multiprocessing.active_children()


def test_a_worker_that_cannot_start() -> None:
    factories: list[Any] = [odd.Walk, partial(exec, "import os; os._exit(4)")]
    with pytest.raises(UserError, match=r"worker 1 .* ended by itself in starting \(exit code 4\)"):
        Workers("made", factories, AutoresetMode.DISABLED, 5)
    assert not multiprocessing.active_children()


def test_ctrl_c_is_left_to_the_main_process() -> None:
    """Ctrl-C reaches all processes of a terminal; the training decides when to stop."""
    session = HostSession(A2C(**SMALL), HostEnvironment(odd.Walk, vectorization="async"), [0], 48)
    session.advance(0)
    assert len(multiprocessing.active_children()) == 2
    for process in multiprocessing.active_children():
        os.kill(process.pid or 0, signal.SIGINT)
    finish(session)
    assert session.steps.tolist() == [48]


# ------------------------------------------------------------------- sessions


def test_resuming_continues_counters_with_new_episodes() -> None:
    assert "begin new episodes" in RESUME_NOTE

    def session() -> HostSession:
        return HostSession(A2C(**SMALL), HostEnvironment(odd.Seeded), [5, 6], 64)

    def finished(session: HostSession) -> tuple[Any, list[Report], list[int]]:
        odd.Seeded.given.clear()
        reports = finish(session)
        return session.state, reports, odd.Seeded.given.copy()

    first = session()
    odd.Seeded.given.clear()
    for _ in range(5):  # then the first seed is done, the second under way
        first.advance(0)
    assert first.steps.tolist() == [64, 16]
    begun, saved = odd.Seeded.given.copy(), first.state
    assert len(set(begun)) == 4  # two environments for each seed

    again, once_more = session(), session()
    again.state, once_more.state = saved, saved
    assert again.steps.tolist() == [64, 16]
    (state, reports, seeds), (same_state, _, same_seeds) = map(finished, (again, once_more))
    updates = np.concatenate([report.metrics.update for report in reports])
    assert updates.tolist() == [2, 3, 4]
    assert {int(seed) for report in reports for seed in report.metrics.seed} == {6}
    assert state.steps.numbers.tolist() == [64, 64]
    assert len(set(seeds) | set(begun)) == 6  # other episodes than before,
    assert seeds == same_seeds  # and yet the same each time
    assert_close(state.learner, same_state.learner)
    assert_close(  # the seed that was done is as it was
        jax.tree.map(lambda x: x[0], state.learner), jax.tree.map(lambda x: x[0], saved.learner)
    )

    first.advance(0)  # taking the state did no harm; setting it back leads the same way
    assert first.steps.tolist() == [64, 32]
    first.state = saved
    assert_close(finished(first)[0].learner, state.learner)


@pytest.mark.parametrize("kind", [odd.Walk, odd.Tiring])
def test_seeds_do_not_depend_on_their_company(kind: type) -> None:
    """Nor on environments that remember what another seed did in them."""

    def learners(seeds: list[int]) -> Any:
        session = HostSession(A2C(**SMALL), HostEnvironment(kind), seeds, 48)
        reports = finish(session)
        order = [int(seed) for report in reports for seed in report.metrics.seed]
        assert order == [seed for seed in seeds for _ in range(3)]
        assert session.finished
        assert session.advance(1).metrics.values.shape[0] == 0
        return session.state.learner

    both, alone = learners([7, 8]), learners([8])
    assert_close(jax.tree.map(lambda x: x[1], both), jax.tree.map(lambda x: x[0], alone))
    differ = jax.tree.map(lambda x: bool((x[0] != x[1]).any()), both.params)
    assert any(jax.tree.leaves(differ))


@pytest.mark.parametrize("name", ["NormalizeObservation", "NormalizeReward"])
@pytest.mark.parametrize("vector", [False, True])
def test_wrappers_with_statistics_of_their_own_are_refused(name: str, vector: bool) -> None:
    """Their statistics would be those of one environment, and new ones in each evaluation."""

    def make() -> gymnasium.Env:
        wrapper = getattr(gymnasium.wrappers, name)
        return gymnasium.wrappers.RecordEpisodeStatistics(wrapper(gymnasium.make("Pendulum-v1")))

    environment = HostEnvironment(SyncVectorEnv([make] * 2) if vector else make)
    with pytest.raises(UserError, match=rf"wrapped in {name}.* normalize_\w+=True"):
        environment.check()


def test_every_seed_has_environments_of_its_own() -> None:
    session = HostSession(A2C(**SMALL), HostEnvironment(odd.Tiring), [7, 8], 48)
    session.compile()
    odd.Tiring.made.clear()  # those of the check
    finish(session)
    # The first seed's two were made by then; the second's are made when it is its turn.
    assert len(odd.Tiring.made) == 2
    for environment in odd.Tiring.made:
        seeds = [seed for seed in environment.given if seed is not None]
        assert len(seeds) == 1
        assert environment.begun > 1


def test_a_vector_environment_of_the_users_serves_all_seeds() -> None:
    odd.Tiring.made.clear()
    vector = SyncVectorEnv([odd.Tiring] * 2, autoreset_mode=AutoresetMode.DISABLED)
    finish(HostSession(A2C(**SMALL), HostEnvironment(vector), [7, 8], 48))
    vector.close()
    assert len(odd.Tiring.made) == 2
    for environment in odd.Tiring.made:
        assert len([seed for seed in environment.given if seed is not None]) == 2


def test_evaluations_of_neighbouring_seeds_share_no_episode() -> None:
    """Each seed has new environments, and these have seeds of their own."""
    environment = HostEnvironment(odd.Tiring)
    algorithm = A2C(**SMALL)
    learner = algorithm.init(jax.random.key(0), environment.spec)
    several = jax.tree.map(lambda x: jnp.stack([x] * 3), algorithm.actor(learner))

    def evaluated(seeds: list[int]) -> tuple[Any, list[int]]:
        odd.Tiring.made.clear()
        actors = jax.tree.map(lambda x: x[: len(seeds)], several)
        found = evaluate_host(algorithm, environment, 20, False, actors, seeds)
        return found, [s for one in odd.Tiring.made for s in one.given if s is not None]

    found, given = evaluated([1_000_000, 1_000_001, 1_000_002])
    assert len(given) == len(set(given)) == 30  # ten copies for each
    alone, same = evaluated([1_000_001])
    assert same == given[10:20]
    np.testing.assert_array_equal(alone.returns[0], found.returns[1])
    assert (found.returns[0] != found.returns[1]).any()
