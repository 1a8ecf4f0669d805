"""Several agents: columns, groups that learn together, and a critic that sees more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import actorcritic as ac
from actorcritic.algorithms.family import VALUE_DECAY
from actorcritic.algorithms.mappo import _of, _together
from actorcritic.core.errors import UserError
from actorcritic.core.types import Agent, Collects, EnvSpec, Step, Transition
from actorcritic.envs import CartPole, SimpleSpeakerListener, SimpleSpread, SimpleTag, columns
from actorcritic.maths import losses, spaces
from actorcritic.maths.estimators import Moments
from actorcritic.runners import compiled
from actorcritic.runners.evaluate import CompiledEvaluation, Policy

SMALL: dict[str, Any] = {
    "num_envs": 2,
    "num_steps": 5,
    "num_minibatches": 1,
    "num_epochs": 2,
    "hidden_sizes": (8,),
}


def batch_of(algorithm: Any, environment: Any, learner: Any) -> Transition:
    """One batch, as the compiled runner collects it."""
    now = compiled.reset(environment, jax.random.split(jax.random.key(1), algorithm.num_envs))
    actor = algorithm.actor(learner)
    return compiled.collect(algorithm, environment, actor, now, jax.random.key(2))[1]


def same(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


# ------------------------------------------------------------------------------------- columns


class Where(NamedTuple):
    time: jax.Array


@dataclass(frozen=True)
class Shift:
    """Three agents: one stays for 4 steps, one is out after 2, one comes after 1.

    Each sees (agent, time) and gains 10 agent + time, also where it is not there: that is not to
    be counted.
    """

    limit: int | None = 6
    leaving: bool = True

    @cached_property
    def spec(self) -> EnvSpec:
        box = gymnasium.spaces.Box(0.0, 10.0, (2,))
        agents = tuple(Agent(f"worker_{k}", "worker") for k in range(3))
        return EnvSpec("Shift", box, gymnasium.spaces.Discrete(2), self.limit, agents)

    def _seen(self, time: jax.Array) -> jax.Array:
        return jnp.stack([jnp.arange(3.0), jnp.full(3, time.astype(float))], axis=1)

    def reset(self, key: Any) -> Any:
        time = jnp.zeros((), jnp.int32)
        return Where(time), self._seen(time)

    def step(self, key: Any, state: Where, action: Any) -> Any:
        time = state.time + 1
        agent = jnp.arange(3)
        reward = 10.0 * agent.astype(float) + state.time.astype(float)
        over = jnp.full(3, time >= 4)
        out = over | ((agent == 1) & jnp.full(3, time >= 2))
        valid = jnp.stack([jnp.asarray(True), state.time < 2, state.time >= 1])
        flags = out if self.leaving else over, jnp.zeros(3, bool)
        step = Step(self._seen(time), reward, *flags, valid if self.leaving else None)
        return Where(time), step


def test_columns_are_agents_of_environments() -> None:
    algorithm = ac.PPO(num_envs=2, num_steps=8, num_minibatches=1, hidden_sizes=(4,))
    environment = Shift()
    learner = algorithm.init(jax.random.key(0), environment.spec)
    batch = batch_of(algorithm, environment, learner)
    agent, time = np.asarray(batch.observation[..., 0]), np.asarray(batch.observation[..., 1])
    np.testing.assert_array_equal(agent, np.tile(np.arange(3), (8, 2)))
    np.testing.assert_array_equal(time, np.tile(np.r_[0:4, 0:4][:, None], (1, 6)))
    there = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 1], [1, 0, 1]], bool)
    np.testing.assert_array_equal(batch.valid, np.tile(there, (2, 2)))
    np.testing.assert_array_equal(batch.reward, np.where(batch.valid, 10 * agent + time, 0))
    # A true successor, never the observation after a reset.
    np.testing.assert_array_equal(batch.next_observation[..., 1], time + 1)
    out = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 0], [1, 1, 1]], bool)
    np.testing.assert_array_equal(batch.terminated, np.tile(out, (2, 2)))
    assert int(batch.steps(3)) == 16


def test_returns_are_means_over_agents_and_steps_are_the_environments() -> None:
    environment, algorithm = Shift(), ac.PPO(**SMALL)
    learner = algorithm.init(jax.random.key(0), environment.spec)
    now = compiled.reset(environment, jax.random.split(jax.random.key(1), 2))
    _, _, episodes = compiled.collect(
        algorithm, environment, algorithm.actor(learner), now, jax.random.key(2)
    )
    # Each agent gains while it is there: 0+1+2+3, 10+11 and 21+22+23.
    each = np.array([6.0, 21.0, 66.0])
    np.testing.assert_array_equal(episodes.lengths[3], [4, 4])
    np.testing.assert_allclose(episodes.returns[3], each.mean())
    assert not np.any(np.asarray(episodes.lengths)[[0, 1, 2, 4]])

    evaluate = CompiledEvaluation(
        jax.tree.map(lambda x: jnp.asarray(x)[None], algorithm),
        environment,
        jax.tree.map(lambda x: x[None], algorithm.actor(learner)),
        5,
    )
    found = evaluate(jax.tree.map(lambda x: x[None], algorithm.actor(learner)), [0])
    np.testing.assert_allclose(found.agents, np.tile(each, (1, 5, 1)))
    np.testing.assert_allclose(found.returns, np.full((1, 5), each.mean()))


def test_whole_episodes_of_agents_that_leave() -> None:
    algorithm = ac.PPO(**SMALL | {"num_steps": 9, "whole_episodes": True})
    environment = Shift()
    learner = algorithm.init(jax.random.key(0), environment.spec)
    batch = batch_of(algorithm, environment, learner)
    assert batch.valid is not None
    assert batch.valid.shape == (6, 6)
    assert not np.any(batch.valid[4:])
    assert int(batch.valid.sum()) == 2 * 9
    assert int(batch.steps(3)) == 8
    after, _ = algorithm.update(learner, batch, jax.random.key(3), jnp.zeros(()))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


def test_what_is_not_there_is_not_learned_from() -> None:
    algorithm = ac.MAPPO(**SMALL, normalize_reward=True, normalize_observation=True)
    environment = Shift()
    learner = algorithm.init(jax.random.key(0), environment.spec)
    batch = batch_of(algorithm, environment, learner)
    assert batch.valid is not None
    noise = jnp.where(batch.valid, batch.reward, jnp.nan)
    spoilt = batch._replace(reward=noise)
    update = jax.jit(partial(algorithm.update, key=jax.random.key(4), progress=jnp.zeros(())))
    assert same(update(learner, batch)[0], update(learner, spoilt)[0])


# ------------------------------------------------------------------------------------- MAPPO


def test_of_one_agent_it_is_ppo_bit_for_bit() -> None:
    environment = CartPole()
    results = []
    for algorithm in (ac.PPO(**SMALL), ac.MAPPO(**SMALL), ac.IPPO(**SMALL)):
        learner = algorithm.init(jax.random.key(0), environment.spec)
        batch = batch_of(algorithm, environment, learner)
        after, _ = algorithm.update(learner, batch, jax.random.key(3), jnp.zeros(()))
        results.append((batch, after))
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_of_one_team_it_is_ppo_on_the_columns() -> None:
    environment = SimpleSpread()
    results = []
    for algorithm in (ac.PPO(**SMALL), ac.MAPPO(**SMALL)):
        learner = algorithm.init(jax.random.key(0), environment.spec)
        batch = batch_of(algorithm, environment, learner)
        after, _ = algorithm.update(learner, batch, jax.random.key(3), jnp.zeros(()))
        results.append((batch, after))
    assert same(*results)


def names_of(algorithm: Any, environment: Any) -> list[tuple[str, tuple[int, ...]]]:
    return [(group.name, group.columns) for group in algorithm.groups(environment.spec)]


def test_who_learns_together() -> None:
    shared, apart = ac.MAPPO(), ac.MAPPO(share_policy=False)
    assert names_of(shared, SimpleSpread()) == [("agent", (0, 1, 2))]
    assert names_of(shared, SimpleTag()) == [("adversary", (0, 1, 2)), ("agent", (3,))]
    assert names_of(shared, SimpleSpeakerListener()) == [("speaker", (0,)), ("listener", (1,))]
    assert names_of(apart, SimpleSpread(agents=2)) == [("agent_0", (0,)), ("agent_1", (1,))]
    assert names_of(shared, CartPole()) == [("", (0,))]


@pytest.mark.parametrize(
    ("options", "group"), [({}, 1), ({"share_policy": False}, 2)], ids=["teams", "each"]
)
def test_a_group_learns_from_its_own_columns_only(options: dict[str, Any], group: int) -> None:
    environment = SimpleTag(adversaries=2)
    algorithm = ac.MAPPO(**SMALL, **options)
    learner = algorithm.init(jax.random.key(0), environment.spec)
    batch = batch_of(algorithm, environment, learner)
    own = set(algorithm.groups(environment.spec)[group].columns)
    others = np.array([column % 3 not in own for column in range(6)])
    assert others.any()
    changed = batch._replace(reward=batch.reward + jnp.asarray(others, float)[None])
    update = jax.jit(partial(algorithm.update, key=jax.random.key(4), progress=jnp.zeros(())))
    (one, metrics), (other, _) = update(learner, batch), update(learner, changed)
    assert same(one.parts[group], other.parts[group])
    assert not same(one.parts, other.parts)
    name = algorithm.groups(environment.spec)[group].name
    assert f"value_loss/{name}" in metrics


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.integers(0, 2), min_size=n, max_size=n))
    ),
    st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_columns_are_taken_apart_and_put_together(teams: tuple[int, list[int]], envs: int) -> None:
    count, team = teams
    x = np.arange(envs * count * 2).reshape(envs * count, 2)
    groups = [tuple(k for k in range(count) if team[k] == name) for name in dict.fromkeys(team)]
    parts = [_of(x, group, count, 0) for group in groups]
    for group, part in zip(groups, parts, strict=True):
        expected = x.reshape(envs, count, 2)[:, list(group)].reshape(-1, 2)
        np.testing.assert_array_equal(part, expected)
    np.testing.assert_array_equal(_together(parts, groups), x)


def test_spread_rows_count_agents() -> None:
    spec = SimpleSpread().spec
    algorithm = ac.MAPPO(num_envs=16, num_steps=25, num_minibatches=2)
    part = algorithm.spread("rows", 2, spec)
    assert part.num_envs == 8
    assert ac.MAPPO(num_envs=2, num_steps=25, num_minibatches=2).spread("rows", 2, spec) is None


def test_minibatches_are_of_columns() -> None:
    ac.MAPPO(num_envs=2, num_steps=5, num_minibatches=3).check(SimpleSpread().spec)
    with pytest.raises(UserError, match="× agents = 2 × 5 × 3 = 30 rows do not divide"):
        ac.MAPPO(num_envs=2, num_steps=5, num_minibatches=4).check(SimpleSpread().spec)


# ------------------------------------------------------------------------ a critic that sees more


class Blind(NamedTuple):
    inner: Any


@dataclass(frozen=True)
class BlindCartPole:
    """A cart-pole whose policy sees no velocities, while its critic sees the whole state."""

    central: bool = True

    @cached_property
    def spec(self) -> EnvSpec:
        whole = CartPole().spec
        seen = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
        parts = [("observation", seen)]
        if self.central:  # first, to see that the order of keys does not matter
            parts.insert(0, (spaces.GLOBAL, whole.observation_space))  # type: ignore[arg-type]
        space = gymnasium.spaces.Dict(parts)
        return replace(whole, id="BlindCartPole", observation_space=space)

    def _seen(self, whole: jax.Array) -> dict[str, jax.Array]:
        seen = {"observation": whole[jnp.asarray([0, 2])]}
        return seen | ({spaces.GLOBAL: whole} if self.central else {})

    def reset(self, key: Any) -> Any:
        state, observation = CartPole().reset(key)
        return state, self._seen(observation)

    def step(self, key: Any, state: Any, action: Any) -> Any:
        state, step = CartPole().step(key, state, action)
        return state, step._replace(observation=self._seen(step.observation))


def test_features_have_what_only_the_critic_sees_last() -> None:
    space = BlindCartPole().spec.observation_space
    assert (spaces.feature_count(space), spaces.policy_feature_count(space)) == (6, 2)
    x = {spaces.GLOBAL: np.arange(4.0), "observation": np.array([8.0, 9.0])}
    np.testing.assert_array_equal(spaces.encode(space, x), [8, 9, 0, 1, 2, 3])
    assert spaces.for_policy(BlindCartPole().spec).observation_space == gymnasium.spaces.Dict(
        observation=gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    )


@pytest.mark.parametrize("name", ["ppo", "a2c", "trpo", "reinforce", "td-actor-critic", "mappo"])
def test_only_the_critic_sees_the_global_state(name: str) -> None:
    environment = BlindCartPole()
    algorithm = _named(name)
    learner = algorithm.init(jax.random.key(0), environment.spec)
    part = learner.parts[0] if name == "mappo" else learner
    batch = batch_of(algorithm, environment, learner)
    hidden = {**batch.observation, spaces.GLOBAL: batch.observation[spaces.GLOBAL] + 1.0}
    actor = algorithm.actor(learner)
    flat = jax.tree.map(lambda x: x[0], (batch.observation, hidden))
    actions = [algorithm.act(actor, x, jax.random.key(1)).action for x in flat]
    np.testing.assert_array_equal(*actions)
    if name != "reinforce" or algorithm.critic is not None:
        values = [algorithm.value(part, x) for x in (batch.observation, hidden)]
        assert not np.allclose(*values)
    acting = actor.parts[0] if name == "mappo" else actor
    assert not any(key.startswith("value") for key in acting.params)
    assert spaces.GLOBAL not in acting.spec.observation_space.spaces
    # To act, nobody needs it.
    own = {"observation": np.zeros(2, np.float32)}
    assert Policy(algorithm, actor, environment.spec)(own).shape == ()
    after, _ = algorithm.update(learner, batch, jax.random.key(3), jnp.zeros(()))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


def _named(name: str) -> Any:
    from actorcritic.algorithms import ALGORITHMS

    cls = ALGORITHMS[name]
    known = {"num_envs": 2, "num_steps": 6, "num_minibatches": 1, "hidden_sizes": (8,)}
    return cls(**{key: value for key, value in known.items() if hasattr(cls, key)})


def test_statistics_of_observations_are_cut_to_what_the_policy_sees() -> None:
    environment = BlindCartPole()
    algorithm = ac.PPO(**SMALL | {"num_steps": 20}, normalize_observation=True)
    learner = algorithm.init(jax.random.key(0), environment.spec)
    batch = batch_of(algorithm, environment, learner)
    learner, _ = algorithm.update(learner, batch, jax.random.key(3), jnp.zeros(()))
    actor = algorithm.actor(learner)
    assert learner.observations is not None
    assert actor.observations is not None
    assert actor.observations.mean.shape == (2,)
    np.testing.assert_array_equal(actor.observations.mean, learner.observations.mean[:2])
    seen = {"observation": batch.observation["observation"]}
    ours = algorithm.policy(actor, seen).logits  # type: ignore[attr-defined]
    whole = algorithm._encode(learner, batch.observation)
    model = algorithm._model(environment.spec)
    np.testing.assert_allclose(ours, model.policy(learner.params, whole).logits, atol=1e-6)  # type: ignore[attr-defined]


def test_a_shared_trunk_would_tell_the_policy() -> None:
    with pytest.raises(UserError, match="shared_network is on, but BlindCartPole"):
        ac.PPO(**SMALL, shared_network=True).check(BlindCartPole().spec)


def test_sac_refuses_what_it_cannot_learn_from() -> None:
    box = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    spec = replace(BlindCartPole().spec, action_space=box)
    with pytest.raises(UserError, match="sac has none that sees more"):
        ac.SAC().check(spec)
    several = replace(SimpleSpread().spec, action_space=box, observation_space=box)
    with pytest.raises(UserError, match="has 3 agents, and sac is for one"):
        ac.SAC().check(several)


def test_a_data_set_is_of_one_agent() -> None:
    run = ac.train(ac.MAPPO(**SMALL), SimpleSpread(), total_steps=100, quiet=True)
    with pytest.raises(UserError, match="simple-spread has 3 agents, and a data set is of one"):
        ac.collect(run, 50)


@pytest.mark.learning
def test_an_asymmetric_critic_explains_more() -> None:
    """Of a partially observed cart-pole: five seeds each, the same number of steps."""
    algorithm = ac.PPO(
        num_envs=8, num_steps=64, num_minibatches=4, num_epochs=10, learning_rate=1e-3
    )
    explained = []
    for central in (True, False):
        run = ac.train(algorithm, BlindCartPole(central), seeds=5, total_steps=100_000)
        values = run.metrics.column("explained_variance")
        late = run.metrics.step > 50_000
        explained.append([np.mean(values[late & (run.metrics.seed == seed)]) for seed in run.seeds])
    assert np.median(explained[0]) > np.median(explained[1]) + 0.1


# ------------------------------------------------------------------------ the critic's targets


def test_moments_are_debiased_averages() -> None:
    random = np.random.default_rng(0)
    moments, decay = Moments.start(), 0.9
    batches = [random.normal(3.0 + t, 2.0, 50).astype(np.float32) for t in range(12)]
    masks = [random.random(50) < 0.7 for _ in batches]
    for x, mask in zip(batches, masks, strict=True):
        moments = moments.merge(jnp.asarray(x), jnp.asarray(mask), decay)
    weight = (1 - decay) * decay ** np.arange(len(batches))[::-1]
    weight = weight.astype(np.float64) / weight.sum()
    means = [x[m].astype(np.float64).mean() for x, m in zip(batches, masks, strict=True)]
    squares = [(x[m].astype(np.float64) ** 2).mean() for x, m in zip(batches, masks, strict=True)]
    mean = np.sum(weight * means)
    deviation = np.sqrt(np.sum(weight * squares) - mean**2)
    x = jnp.asarray([0.0, 1.0, 7.5])
    np.testing.assert_allclose(moments.normalize(x), (x - mean) / deviation, rtol=1e-4)
    np.testing.assert_allclose(moments.denormalize(moments.normalize(x)), x, atol=1e-5)


def test_moments_of_nothing_change_nothing() -> None:
    x = jnp.asarray([2.0, -1.0])
    none = jnp.zeros(2, bool)
    assert same(Moments.start().merge(x, none, 0.9), Moments.start())
    np.testing.assert_array_equal(Moments.start().normalize(x), x)
    once = Moments.start().merge(x, None, 0.9)  # one batch: its own mean and deviation, unbiased
    np.testing.assert_allclose(once.normalize(x), [1.0, -1.0], rtol=1e-5)


def test_the_critic_is_in_the_units_of_rewards() -> None:
    environment = SimpleSpread()
    algorithm = ac.PPO(**SMALL, normalize_value=True)
    learner = algorithm.init(jax.random.key(0), environment.spec)
    batch = batch_of(algorithm, environment, learner)
    assert learner.values is not None
    before = algorithm._rows(learner, batch, batch.reward, jax.random.key(0), learner.params)
    after, _ = algorithm.update(learner, batch, jax.random.key(3), jnp.zeros(()))
    assert after.values is not None
    target = np.asarray(before.target, np.float64)
    np.testing.assert_allclose(after.values.mean / after.values.share, target.mean(), rtol=1e-4)
    np.testing.assert_allclose(after.values.share, 1 - VALUE_DECAY, rtol=1e-4)
    head = algorithm._model(environment.spec).value(
        after.params, algorithm._encode(after, batch.observation)
    )
    deviation = target.std()
    np.testing.assert_allclose(
        algorithm.value(after, batch.observation),
        np.asarray(head) * deviation + target.mean(),
        rtol=1e-3,
        atol=1e-3,
    )


def test_a_normalised_critic_learns_large_values_sooner() -> None:
    """Returns of thousands: one head has to grow that far, the other starts there."""
    environment = SimpleSpread()
    errors = []
    for normalize in (True, False):
        algorithm = ac.PPO(**SMALL | {"gamma": 0.5, "normalize_value": normalize})
        learner = algorithm.init(jax.random.key(0), environment.spec)
        batch = batch_of(algorithm, environment, learner)
        batch = batch._replace(reward=batch.reward * 1000)
        update = jax.jit(partial(algorithm.update, key=jax.random.key(3), progress=jnp.zeros(())))
        for _ in range(10):
            learner, _ = update(learner, batch)
        rows = algorithm._rows(learner, batch, batch.reward, jax.random.key(0), learner.params)
        errors.append(float(jnp.mean((rows.target - rows.old_value) ** 2)))
    assert errors[0] < errors[1] / 10


@given(st.floats(-50, 50, width=32), st.floats(-50, 50, width=32), st.floats(0.125, 20, width=32))
def test_huber_loss(value: float, target: float, delta: float) -> None:
    error = abs(np.float64(value) - np.float64(target))
    expected = 0.5 * error**2 if error <= delta else delta * (error - delta / 2)
    found = losses.value_loss(jnp.asarray(value), jnp.asarray(target), delta)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    slope = jax.grad(losses.value_loss)(jnp.asarray(value), jnp.asarray(target), delta)
    np.testing.assert_allclose(
        slope, np.clip(np.float64(value) - np.float64(target), -delta, delta), rtol=1e-4, atol=1e-4
    )


def test_huber_delta_reaches_the_loss() -> None:
    rows: Any = type("Rows", (), {"target": jnp.zeros(3), "old_value": jnp.zeros(3)})()
    value, progress = jnp.asarray([0.5, 3.0, -40.0]), jnp.zeros(())
    plain = ac.PPO(huber_delta=1.0).value_loss(value, rows, progress)
    np.testing.assert_allclose(plain, [0.125, 2.5, 39.5])
    clipped = ac.PPO(huber_delta=1.0, clip_value=True).value_loss(value, rows, progress)
    np.testing.assert_allclose(clipped, [0.125, 2.5, 39.5])
    np.testing.assert_allclose(ac.A2C(huber_delta=1.0).value_loss(value, rows, progress), plain)


# ------------------------------------------------------------------------ acting by name


def test_a_policy_acts_by_name() -> None:
    environment = SimpleSpeakerListener()
    algorithm = ac.MAPPO(**SMALL)
    learner = algorithm.init(jax.random.key(0), environment.spec)
    policy = Policy(algorithm, algorithm.actor(learner), environment.spec)
    seen = {"speaker_0": np.ones(3, np.float32), "listener_0": np.ones(11, np.float32)}
    both = policy(seen)
    assert set(both) == {"speaker_0", "listener_0"}
    assert int(both["speaker_0"]) in range(3)
    assert int(both["listener_0"]) in range(5)
    assert policy({"listener_0": seen["listener_0"]}) == {"listener_0": both["listener_0"]}
    for _ in range(30):  # exploring, too, only what is its own
        assert int(policy(seen, deterministic=False)["speaker_0"]) in range(3)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"listner_0": np.zeros(11)}, "Did you mean 'listener_0'"),
        ({"listener_0": np.zeros(10)}, r"shape is \(10,\), not \(11,\)"),
        (np.zeros(11), "expects a dict"),
        ({}, "expects a dict"),
    ],
)
def test_a_policy_says_whom_it_expects(given: Any, wanted: str) -> None:
    environment = SimpleSpeakerListener()
    algorithm = ac.MAPPO(**SMALL)
    learner = algorithm.init(jax.random.key(0), environment.spec)
    with pytest.raises(UserError, match=wanted):
        Policy(algorithm, algorithm.actor(learner), environment.spec)(given)


@pytest.mark.long
def test_a_run_of_two_teams(tmp_path: Any) -> None:
    algorithm = ac.MAPPO(**SMALL)
    out = tmp_path / "run"
    run = ac.train(algorithm, SimpleTag(), total_steps=40, seeds=2, out=out)
    assert run.final_evaluation is not None
    again = ac.open_run(out)
    found = again.final_evaluation
    assert found is not None
    assert list(found.by_agent) == ["adversary_0", "adversary_1", "adversary_2", "agent_0"]
    assert found.by_team["adversary"] == pytest.approx(3 * found.mean, rel=1e-5)
    assert found.agent_returns is not None
    np.testing.assert_allclose(found.returns, found.agent_returns[..., :3].mean(axis=-1))
    assert "the mean over adversary_0, adversary_1 and adversary_2" in found.of_agents[0]
    assert again.spec.agents == SimpleTag().spec.agents
    policy = ac.load(out, seed=0)
    seen = {agent.name: np.zeros(agent.features, np.float32) for agent in again.spec.agents}
    assert set(policy(seen)) == set(seen)
    resumed = ac.resume(out, ac.ResumeSettings(total_steps=80, quiet=True))
    whole = ac.train(algorithm, SimpleTag(), total_steps=80, seeds=2)
    assert same(resumed.learners, whole.learners)


def test_agents_of_a_run_are_checked() -> None:
    from actorcritic.runs.configuration import agents_from_json

    assert agents_from_json([["a_0", "a", 3, None]]) == (Agent("a_0", "a", 3, None),)
    for wrong in ("agents", [["a_0", "a", "3", None]], [["a_0"]], [3]):
        with pytest.raises(UserError, match="agents of the run"):
            agents_from_json(wrong)


def test_a_collected_batch_fits_what_was_promised() -> None:
    collects = Collects(4, 8)
    assert collects.longest(SimpleSpread().spec) == 8
    assert SimpleSpread().spec.columns == 3
    assert CartPole().spec.columns == 1
    assert columns.team_of("adversary_12") == "adversary"
    assert columns.team_of("7") == "7"
