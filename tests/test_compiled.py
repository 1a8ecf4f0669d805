"""The compiled runner: what it collects, what it counts, and how it spreads over devices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actorcritic.algorithms import A2C, PPO, Reinforce
from actorcritic.core.counting import Count
from actorcritic.core.hyperparameters import hyperparameters
from actorcritic.core.types import Algorithm, Collects, Decision, EnvSpec, Extras, Step
from actorcritic.envs import CartPole
from actorcritic.envs.probes import ContinuousTarget, FiniteReward
from actorcritic.runners import compiled
from actorcritic.runners.seeds import CompiledSession, layout


class DiaryState(NamedTuple):
    t: jax.Array


@dataclass(frozen=True)
class Diary:
    """Its observations say which step this is, what key was used and what action was taken.

    Episodes end by termination or truncation at random; the reward is the step's number.
    """

    limit: int | None = 6

    @cached_property
    def spec(self) -> EnvSpec:
        space = gymnasium.spaces.Dict(
            t=gymnasium.spaces.Box(0.0, 1e9, ()),
            key=gymnasium.spaces.Box(0, 2**32 - 1, (2,), np.uint32),
            action=gymnasium.spaces.Box(-1.0, 1.0, (1,)),
        )
        return EnvSpec("Diary", space, gymnasium.spaces.Box(-0.5, 0.5, (1,)), self.limit)

    def reset(self, key):
        return DiaryState(jnp.zeros(())), self._observation(jnp.zeros(()), key, jnp.zeros(1))

    def step(self, key, state, action):
        t, luck = state.t + 1, jax.random.uniform(key)
        observation = self._observation(t, key, action)
        return DiaryState(t), Step(observation, t, luck < 0.15, luck > 0.9)

    def _observation(self, t, key, action):
        return {"t": t, "key": jax.random.key_data(key), "action": action}


@hyperparameters
class Wanderer(Algorithm):
    """A small algorithm: random actions, often out of bounds, nothing learned."""

    name: ClassVar[str] = "wanderer"
    num_envs: int = 3
    num_steps: int = 30
    discount: float | None = None

    @property
    def collects(self):
        return Collects(self.num_envs, self.num_steps, discount=self.discount)

    def init(self, key, spec):
        return jnp.zeros(())

    def actor(self, learner):
        return learner

    def act(self, actor, observation, key, *, explore=True):
        noise = jax.random.normal(key, (self.num_envs, 1))
        return Decision(noise, Extras(own={"noise": noise[:, 0]}))

    def update(self, learner, batch, key, progress):
        return learner + 1, {"progress": progress, "reward": batch.reward.mean()}


@hyperparameters
class WholeWanderer(Wanderer):
    @property
    def collects(self):
        return super().collects._replace(whole_episodes=True)


def collected(algorithm, environment, key=0):
    """Two batches in a row, as NumPy."""

    def run(key):
        now = compiled.reset(environment, jax.random.split(key, algorithm.num_envs))
        batches = []
        for act_key in jax.random.split(jax.random.fold_in(key, 1), 2):
            now, batch, ended = compiled.collect(
                algorithm, environment, jnp.zeros(()), now, act_key
            )
            batches.append((batch, ended))
        return batches

    return jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(key)))


@pytest.fixture(scope="module")
def rollout():
    """60 steps of three diaries: batch and ended episodes, the two batches joined."""
    first, second = collected(Wanderer(), Diary())
    return jax.tree.map(lambda *x: np.concatenate(x), first, second)


# ------------------------------------------------------------------------------------ collect


def test_next_observation_is_the_true_successor_never_that_after_a_reset(rollout):
    batch, _ = rollout
    done = batch.terminated | batch.truncated
    assert 10 < done.sum() < 100
    np.testing.assert_array_equal(batch.next_observation["t"], batch.observation["t"] + 1)
    following = batch.observation["t"][1:]
    expected = np.where(done, 0, batch.next_observation["t"])[:-1]
    np.testing.assert_array_equal(following, expected)


def test_the_time_limit_truncates_and_the_environments_own_ends_are_kept(rollout):
    batch, _ = rollout
    at_limit = batch.next_observation["t"] >= 6
    assert at_limit.any()
    assert batch.truncated[at_limit].all()
    assert (batch.next_observation["t"] <= 6).all()
    assert (batch.truncated & ~at_limit).any()  # its own truncation
    assert batch.terminated.any()
    assert not (batch.terminated & batch.truncated & ~at_limit).any()


def test_episode_returns_and_lengths(rollout):
    batch, ended = rollout
    done = batch.terminated | batch.truncated
    np.testing.assert_array_equal(ended.lengths, np.where(done, batch.next_observation["t"], 0))
    length = ended.lengths
    np.testing.assert_array_equal(ended.returns, length * (length + 1) / 2)  # 1 + 2 + … + n


def test_the_environment_gets_the_action_clipped_and_the_batch_keeps_it_as_drawn(rollout):
    batch, _ = rollout
    assert (np.abs(batch.action) > 0.5).mean() > 0.3
    given = np.clip(batch.action, -0.5, 0.5)
    np.testing.assert_array_equal(batch.next_observation["action"], given)
    np.testing.assert_array_equal(batch.extras.own["noise"], batch.action[..., 0])


def test_no_random_key_is_used_twice(rollout):
    """Not by two steps, two environments, or a step and a later reset."""
    batch, _ = rollout
    done = batch.terminated | batch.truncated
    resets = np.concatenate([np.ones((1, 3), bool), done[:-1]])
    keys = np.concatenate(
        [batch.next_observation["key"].reshape(-1, 2), batch.observation["key"][resets]]
    )
    assert len(np.unique(keys, axis=0)) == len(keys) == 180 + resets.sum()


def test_noise_differs_between_steps_and_environments(rollout):
    batch, _ = rollout
    assert len(np.unique(batch.extras.own["noise"])) == 180


def discounted(reward, starts, gamma):
    """Σ γ^k r_{t-k} over the episode so far, row by row in float64."""
    sums, running = np.zeros(reward.shape), np.zeros(reward.shape[1])
    for t in range(len(reward)):
        running = np.where(starts[t], 0.0, gamma * running) + reward[t]
        sums[t] = running
    return sums


def test_the_discounted_sum_of_rewards_goes_on_from_batch_to_batch():
    """It begins again with every episode, wherever a batch ends; nobody gets it unasked."""
    first, second = collected(Wanderer(discount=0.9), Diary())
    batch, _ = jax.tree.map(lambda *x: np.concatenate(x), first, second)
    starts = batch.observation["t"] == 0
    assert not starts[30].all()  # an episode goes on from one batch into the next
    expected = discounted(batch.reward, starts, 0.9)
    np.testing.assert_allclose(batch.reward_sum, expected, rtol=1e-6)
    assert collected(Wanderer(), Diary())[0][0].reward_sum is None


def test_the_discounted_sum_of_rewards_of_whole_episodes():
    algorithm = WholeWanderer(num_envs=8, num_steps=4, discount=0.9)
    for batch, _ in collected(algorithm, Diary(limit=20), key=2):
        expected = discounted(batch.reward, batch.observation["t"] == 0, 0.9)
        valid = batch.valid
        np.testing.assert_allclose(batch.reward_sum[valid], expected[valid], rtol=1e-6)


# --------------------------------------------------------------------------- whole episodes


@pytest.fixture(scope="module")
def whole():
    """Two batches of whole episodes, of at most 4 steps though the limit would be 20."""
    algorithm = WholeWanderer(num_envs=8, num_steps=4)
    return collected(algorithm, Diary(limit=20), key=2)


@pytest.mark.parametrize("which", [0, 1])
def test_whole_episodes_start_afresh_and_end_once(whole, which):
    batch, ended = whole[which]
    assert batch.reward.shape == (4, 8)
    np.testing.assert_array_equal(batch.observation["t"][0], 0)
    done = batch.terminated | batch.truncated
    assert done.any(axis=0).all()
    for b, last in enumerate(done.argmax(axis=0)):
        np.testing.assert_array_equal(batch.valid[:, b], np.arange(4) <= last)
        steps = np.arange(last + 1)
        np.testing.assert_array_equal(batch.observation["t"][: last + 1, b], steps)
        np.testing.assert_array_equal(batch.next_observation["t"][: last + 1, b], steps + 1)
        # Reported in the row it ended in, once; also where it was only cut.
        np.testing.assert_array_equal(np.flatnonzero(ended.lengths[:, b]), [last])
        assert ended.lengths[last, b] == last + 1
        assert ended.returns[last, b] == (last + 1) * (last + 2) / 2


def test_episodes_longer_than_the_batch_are_cut_by_truncation(whole):
    """And count among the episodes, as they are then."""
    cut = 0
    for batch, ended in whole:
        keys = jax.random.wrap_key_data(jnp.asarray(batch.next_observation["key"][-1]))
        luck = np.asarray(jax.vmap(jax.random.uniform)(keys))  # as `Diary.step` had it
        still_open = batch.valid[-1] & (luck >= 0.15) & (luck <= 0.9)
        assert batch.truncated[-1][still_open].all()
        assert not batch.terminated[-1][still_open].any()
        assert (ended.lengths[-1][still_open] == 4).all()
        assert (ended.returns[-1][still_open] == 10).all()
        cut += still_open.sum()
    assert cut > 0


def test_a_batch_of_whole_episodes_needs_no_more_room_than_the_time_limit():
    collects = WholeWanderer(num_steps=30).collects
    assert collects.longest(Diary(limit=6).spec) == 6
    assert collects.longest(Diary(limit=None).spec) == 30
    assert Wanderer(num_steps=30).collects.longest(Diary(limit=6).spec) == 30


# ----------------------------------------------------------------------------------- sessions

TINY: dict[str, Any] = {"num_envs": 2, "num_steps": 5, "hidden_sizes": (4,)}


def finish(session: CompiledSession, seconds: float = 0.2) -> list:
    reports = []
    while not session.finished:
        reports.append(session.advance(seconds))
        assert len(reports) < 200, "the session does not finish"
    return reports


def joined(reports: list, table: str, column: str) -> np.ndarray:
    return np.concatenate([getattr(getattr(report, table), column) for report in reports])


@pytest.fixture(scope="module")
def three_seeds():
    """Three seeds on two devices, 95 steps asked for: 10 updates of 10 steps."""
    session = CompiledSession(A2C(**TINY), FiniteReward(3), [5, 6, 7], 95)
    return session, finish(session)


def test_steps_updates_and_metrics_are_accounted_for(three_seeds):
    session, reports = three_seeds
    np.testing.assert_array_equal(session.steps, [100, 100, 100])
    np.testing.assert_array_equal(session.state.updates.numbers, [10, 10, 10])
    for seed in (5, 6, 7):
        mine = joined(reports, "metrics", "seed") == seed
        np.testing.assert_array_equal(joined(reports, "metrics", "update")[mine], range(1, 11))
        steps = joined(reports, "metrics", "step")[mine]
        np.testing.assert_array_equal(steps, range(10, 101, 10))
    names = reports[0].metrics.names
    values = joined(reports, "metrics", "values")
    assert values.shape == (30, len(names))
    losses = values[:, names.index("value_loss")]
    assert np.isfinite(losses).all()
    assert len(np.unique(losses)) == 30


def test_episode_table_by_hand(three_seeds):
    """Episodes of three steps in two environments: each ends two environment steps after …"""
    _, reports = three_seeds
    for seed in (5, 6, 7):
        mine = joined(reports, "episodes", "seed") == seed
        step = np.sort(joined(reports, "episodes", "step")[mine])
        # Both environments' third, sixth, … steps: 2 · 2 + 1, 2 · 2 + 2, 2 · 5 + 1, …
        expected = [2 * t + b for t in range(2, 50, 3) for b in (1, 2)]
        np.testing.assert_array_equal(step, expected)
        assert (joined(reports, "episodes", "length")[mine] == 3).all()
        assert (joined(reports, "episodes", "returns")[mine] == 3.0).all()


def test_a_seed_gives_the_same_result_alone_and_with_others(three_seeds):
    session, _ = three_seeds
    alone = CompiledSession(A2C(**TINY), FiniteReward(3), [6], 95)
    finish(alone)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[1], b[0]),
        data(session.state),
        data(alone.state),
    )
    weights = [x[k] for k in range(3) for x in [session.state.learner.params["policy_head"].weight]]
    assert not np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[1], weights[2])


def data(state: Any) -> Any:
    """Random keys as numbers, everything as NumPy."""

    def plain(x):
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return jax.tree.map(lambda x: np.asarray(plain(x)), state)


def test_progress_goes_from_0_towards_1():
    session = CompiledSession(Wanderer(), Diary(), [0], 900)
    reports = finish(session)
    progress = np.concatenate([r.metrics.column("progress") for r in reports])
    np.testing.assert_allclose(progress, np.arange(10) / 10, rtol=1e-6)


def test_a_state_that_was_taken_stays_readable_while_training_goes_on():
    """Not read before: an array that NumPy looks at is never given away."""
    sessions = [CompiledSession(A2C(**TINY), FiniteReward(3), [6], 10**6) for _ in range(2)]
    taken = sessions[0].state
    sessions[0].advance(0.0)
    expected = data(sessions[1].state)
    jax.tree.map(np.testing.assert_array_equal, data(taken), expected)

    again = sessions[1].state
    sessions[0].state = again
    sessions[0].advance(0.0)
    jax.tree.map(np.testing.assert_array_equal, data(again), expected)


def test_a_seed_that_is_done_does_not_hold_up_the_others():
    """Whole episodes: seeds make different numbers of steps in an update."""
    session = CompiledSession(Reinforce(**TINY), FiniteReward(3), [0, 1], 200)
    state = session.state
    steps = state.steps._replace(low=state.steps.low.at[0].set(200))
    session.state = state._replace(steps=steps)
    finish(session, seconds=0.0)  # in the shortest stretches
    # Seed 1 made its own 200 in steps of 2 environments × 3; seed 0 made none.
    np.testing.assert_array_equal(session.steps, [200, 204])
    np.testing.assert_array_equal(session.state.updates.numbers, [0, 34])


def test_counts_beyond_the_precision_of_float32_still_end():
    many = 2**24 + 1  # which float32 rounds down
    session = CompiledSession(A2C(**TINY), FiniteReward(3), [6], many)
    session.state = session.state._replace(steps=Count(*jnp.asarray([[2**24], [0]], jnp.uint32)))
    finish(session)
    np.testing.assert_array_equal(session.steps, [2**24 + 10])


# ------------------------------------------------------------------------------------- devices


def test_layout():
    spec = CartPole().spec

    def of(seeds, devices, spread=None, kind=PPO, **options):
        """(devices for the seeds, devices for the rows of one), and what each of these does."""
        options = {"num_envs": 4, "num_steps": 256} | options
        if issubclass(kind, PPO):
            options = {"num_minibatches": 1} | options
        whole = kind(**options)
        part, over_seeds, over_rows = layout(whole, spec, seeds, devices, spread)
        if over_rows == 1:
            assert part is whole
        else:
            assert part.num_envs * over_rows == whole.num_envs
            assert part == replace(whole, num_envs=part.num_envs, axis="rows")
        return over_seeds, over_rows

    assert of(1, 2) == (1, 2)
    assert of(3, 2) == (2, 1)  # several seeds are spread themselves
    assert of(2, 8) == (2, 1)
    assert of(1, 1) == (1, 1)
    assert of(1, 2, num_minibatches=8) == (1, 1)  # too few rows in a minibatch
    assert of(1, 2, num_envs=5) == (1, 1)  # environments cannot be halved
    assert of(1, 16, num_envs=16, num_steps=64) == (1, 8)  # as many as pay
    # Two devices' 257 rows each would not divide into two minibatches.
    assert of(1, 2, num_envs=2, num_steps=257, num_minibatches=2) == (1, 1)
    assert of(1, 2, kind=Reinforce) == (1, 1)
    assert of(1, 2, whole_episodes=True) == (1, 1)
    wanderer = Wanderer(num_envs=4, num_steps=256)
    assert layout(wanderer, Diary().spec, 1, 2) == (wanderer, 1, 1)
    # What was begun over so many devices goes on over so many, where they are there.
    assert of(1, 16, spread=2, num_envs=16, num_steps=64) == (1, 2)
    assert of(1, 16, spread=1, num_envs=16, num_steps=64) == (1, 1)
    assert of(1, 2, spread=8, num_envs=16, num_steps=64) == (1, 1)
    # What a subclass computes from a whole batch, nobody can spread for it; it may say so itself.
    assert of(1, 2, kind=Subclass) == (1, 1)
    assert of(1, 2, kind=SpreadSubclass) == (1, 2)


@hyperparameters
class Subclass(PPO):
    pass


@hyperparameters
class SpreadSubclass(PPO):
    spreads_rows: ClassVar[bool] = True


@hyperparameters
class LargestAdvantage(PPO):
    """Divides by a statistic of the whole minibatch, which a device with a part cannot know."""

    def policy_loss(self, log_prob, rows, progress):
        largest = jnp.max(jnp.abs(rows.advantage))
        return super().policy_loss(log_prob, rows, progress) / largest


def test_a_variant_with_a_statistic_of_the_batch_trains_alone_as_beside_others():
    options = {"num_envs": 4, "num_steps": 128, "num_minibatches": 1, "num_epochs": 2}
    algorithm = LargestAdvantage(**options, hidden_sizes=(4,))
    # PPO itself would be spread, so that one device would see half of the advantages.
    assert layout(PPO(**options), CartPole().spec, 1, jax.device_count())[2] == 2
    alone = CompiledSession(algorithm, CartPole(), [6], 1024)
    beside = CompiledSession(algorithm, CartPole(), [5, 6], 1024)
    for session in (alone, beside):
        assert session.spread == 1
        finish(session)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[1], b[0]),
        data(beside.state),
        data(alone.state),
    )


@hyperparameters
class Greedy(A2C):
    """A2C without noise, so that devices that draw their own act as one device does."""

    spreads_rows: ClassVar[bool] = True

    def act(self, actor, observation, key, *, explore=True):
        return super().act(actor, observation, key, explore=False)


def test_environments_spread_over_devices_train_as_on_one():
    options = {"normalize_observation": True, "normalize_reward": True, "learning_rate": 3e-3}
    algorithm = Greedy(num_envs=4, num_steps=64, hidden_sizes=(8,), **options)
    environment, total = CartPole(), 3 * 256
    session = CompiledSession(algorithm, environment, [3], total)
    assert session.spread == jax.device_count() == 2
    reports = finish(session)

    # The same updates on one device, without a session.
    state = compiled.begin(algorithm, environment, jax.random.key(3))
    once = jax.jit(partial(compiled.train_once, algorithm, environment))
    lengths, metrics = [], []
    for _ in range(3):
        state, of_update, ended = once(state, total_steps=Count.of(total))
        lengths.extend(ended.lengths[ended.lengths > 0].tolist())
        metrics.append(of_update)

    np.testing.assert_array_equal(session.steps, [int(state.steps)])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-3, atol=1e-5),
        data(session.state),
        data(state),
    )
    assert sorted(joined(reports, "episodes", "length")) == sorted(lengths)
    for name in ("policy_loss", "value_loss", "entropy", "explained_variance"):
        spread = np.concatenate([r.metrics.column(name) for r in reports])
        np.testing.assert_allclose(spread, [m[name] for m in metrics], rtol=1e-3, atol=1e-5)


def test_devices_draw_their_own_noise():
    """One-step episodes, whose return tells the action: no two are the same."""
    algorithm = A2C(num_envs=2, num_steps=128, hidden_sizes=(4,), initial_log_std=-3.0)
    session = CompiledSession(algorithm, ContinuousTarget(), [0], 256)
    assert session.spread == jax.device_count() == 2
    returns = joined(finish(session), "episodes", "returns")
    assert returns.size == 256
    assert np.unique(returns).size > 250


@pytest.mark.parametrize("algorithm", [PPO(num_envs=2, num_steps=8), Reinforce(num_envs=2)])
@pytest.mark.long
def test_seeds_side_by_side_learn_as_one_after_the_other(algorithm, monkeypatch):
    """On an accelerator seeds are one batch (`vmap`), with the number of updates common to all."""

    def trained(backend: str) -> CompiledSession:
        monkeypatch.setattr("actorcritic.runners.seeds.jax.default_backend", lambda: backend)
        session = CompiledSession(algorithm, CartPole(), [0, 1, 2], 320)
        session.advance(0.0)
        # One seed is as it was at the start again, as in a group whose members were stopped apart.
        fresh = CompiledSession(algorithm, CartPole(), [0, 1, 2], 320).state
        session.state = jax.tree.map(
            lambda new, old: jnp.concatenate([old[:1], new[1:]]), session.state, fresh
        )
        finish(session)
        return session

    here, there = trained("cpu"), trained("gpu")
    np.testing.assert_array_equal(here.steps, there.steps)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4),
        here.state.learner.params,
        there.state.learner.params,
    )
