"""Learning from data: each loss against its definition, the runner, runs, estimates."""

from __future__ import annotations

import dataclasses
import json

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import final_hashes

import actorcritic as ac
from actorcritic import lab
from actorcritic.algorithms import sac
from actorcritic.algorithms.cql import ConservativeSAC, importance_log_sum_exp
from actorcritic.core.errors import UserError
from actorcritic.envs import CartPole, Pendulum
from actorcritic.maths import losses
from actorcritic.maths.distributions import Categorical
from actorcritic.runners.dataset import DatasetSession
from actorcritic.runners.evaluate import Policy
from actorcritic.runners.session import MetricTable
from actorcritic.runs import off_policy
from actorcritic.runs.collecting import Part, recorded

SMALL = {"hidden_sizes": (8,), "batch_size": 16}


@pytest.fixture(scope="module")
def data():
    return {
        world.spec.id: recorded(world, [Part("random", None, (), 400)], seed=0)
        for world in (CartPole(), Pendulum())
    }


def one_update(algorithm, data, rows=64):
    """Before, after, the metrics and the batch of one update."""
    batch = jax.tree.map(jnp.asarray, data.at(np.arange(rows)))
    before = algorithm.init(jax.random.key(0), data.spec)
    after, metrics = algorithm.update(before, batch, jax.random.key(1), jnp.float32(0))
    return before, after, metrics, jax.tree.map(lambda x: x[0], batch)


# ------------------------------------------------------------------------------ losses


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.9])
def test_the_expectile_loss_is_least_at_the_expectile(tau):
    """Of numbers x, the expectile e solves τ Σ (x - e)₊ = (1 - τ) Σ (e - x)₊."""
    x = np.random.default_rng(0).normal(size=200)
    low, high = x.min(), x.max()
    for _ in range(200):
        e = (low + high) / 2
        more = tau * np.maximum(x - e, 0).sum() > (1 - tau) * np.maximum(e - x, 0).sum()
        low, high = (e, high) if more else (low, e)
    slope = jax.grad(lambda v: jnp.sum(losses.expectile_loss(jnp.asarray(x) - v, tau)))
    assert abs(slope(jnp.float32(e))) < 1e-3
    assert slope(jnp.float32(e - 0.1)) < -1
    assert slope(jnp.float32(e + 0.1)) > 1


def test_importance_sampling_finds_the_integral_over_actions():
    """log ∫ exp Q da on [-1, 1] by quadrature, and from uniform and squashed Gaussian draws."""
    a = np.linspace(-1, 1, 20_001)
    exact = np.log(np.trapezoid(np.exp(3 * np.sin(2 * a) - a**2), a))
    rng = np.random.default_rng(0)
    uniform = rng.uniform(-1, 1, 40_000)
    u = 0.3 + 0.8 * rng.normal(size=40_000)
    drawn = np.tanh(u)
    log_normal = -0.5 * ((u - 0.3) / 0.8) ** 2 - np.log(0.8 * np.sqrt(2 * np.pi))
    for action, log_prob in (
        (uniform, np.full(40_000, -np.log(2))),
        (drawn, log_normal - np.log(1 - drawn**2)),
    ):
        q = 3 * np.sin(2 * action) - action**2
        found = importance_log_sum_exp(jnp.asarray(q)[:, None], jnp.asarray(log_prob)[:, None])
        np.testing.assert_allclose(found, [exact], atol=0.03)


def test_no_gradient_flows_through_the_actions_that_are_proposed():
    spec, algorithm = Pendulum().spec, ConservativeSAC(hidden_sizes=(8,))
    model = algorithm._model(spec)
    params = model.init(jax.random.key(0), 1.0)
    x = jnp.ones((4, 3))
    sample = sac.Sample(jnp.ones((4, 4)), x, jnp.zeros(4), jnp.zeros(4), -x)

    def size(actor):
        found = algorithm.propose(model, actor, sample, 3, jax.random.key(1))
        assert found.action.shape == (9, 4, 1)
        return jnp.sum(found.action) + jnp.sum(found.log_prob)

    assert all(not np.any(g) for g in jax.tree.leaves(jax.grad(size)(params.actor)))
    found = algorithm.propose(model, params.actor, sample, 3, jax.random.key(1))
    np.testing.assert_allclose(found.log_prob[:3], -np.log(2), rtol=1e-6)
    # Those of π(s') have the density at s', although they are valued at s.
    for rows, at in ((slice(3, 6), x), (slice(6, 9), -x)):
        policy = model.policy(params.actor, jnp.broadcast_to(at, (3, 4, 3)))
        expected = policy.log_prob(policy.unsquash(found.action[rows]))
        np.testing.assert_allclose(found.log_prob[rows], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_iql_learns_q_and_policy_with_the_new_v_and_the_old_targets(name, data):
    algorithm = ac.IQL(**SMALL, gamma=0.9, expectile=0.8, inverse_temperature=2.0)
    algorithm = dataclasses.replace(algorithm, largest_weight=1.3, learning_rate=0.05)
    before, after, metrics, rows = one_update(algorithm, data[name])
    critic = algorithm._critic(before.spec)
    action = rows.action
    if name == "Pendulum-v1":
        action = action / 2
    x, ahead = rows.observation, rows.next_observation
    targets = [critic.q(each, x, action) for each in before.params.targets]
    q = np.minimum(*(np.asarray(each, np.float64) for each in targets))
    old = np.asarray(algorithm.value(before, x), np.float64)
    new = np.asarray(algorithm.value(after, x), np.float64)
    assert np.abs(new - old).max() > 0.01
    u = q - old
    weight = np.where(u < 0, 0.2, 0.8)
    np.testing.assert_allclose(metrics["expectile_loss"], np.mean(weight * u**2), rtol=1e-4)
    np.testing.assert_allclose(metrics["advantage"], np.mean(q - new), rtol=1e-3, atol=1e-5)
    expected = np.minimum(np.exp(2.0 * (q - new)), 1.3)
    np.testing.assert_allclose(metrics["weight"], expected.mean(), rtol=1e-4)
    y = np.asarray(rows.reward, np.float64)
    y = y + 0.9 * (1 - np.asarray(rows.terminated)) * np.asarray(algorithm.value(after, ahead))
    errors = [np.asarray(critic.q(e, x, action), np.float64) - y for e in before.params.critics]
    loss = sum(np.mean(0.5 * e**2) for e in errors)
    np.testing.assert_allclose(metrics["value_loss"], loss, rtol=1e-4)
    moved = jax.tree.map(
        lambda t, q: t + algorithm.tau * (q - t), before.params.targets, after.params.critics
    )
    jax.tree.map(np.testing.assert_allclose, after.params.targets, moved)


def test_cql_of_discrete_actions_is_double_q_learning_and_the_term(data):
    algorithm = ac.CQL(**SMALL, gamma=0.9)
    before, _, metrics, rows = one_update(algorithm, data["CartPole-v1"])
    spec, params = before.spec, before.params
    # Targets that differ from Q, so that which of them chooses can be told.
    params = params._replace(targets=jax.tree.map(lambda x: -2 * x, params.policy))
    before = dataclasses.replace(before, params=params)
    batch = jax.tree.map(lambda x: x[None], rows)
    _, metrics = algorithm.update(before, batch, jax.random.key(1), jnp.float32(0))
    critic = algorithm._critic(spec)
    q = np.asarray(critic.values(params.policy, rows.observation), np.float64)
    ahead = np.asarray(critic.values(params.policy, rows.next_observation), np.float64)
    others = np.asarray(critic.values(params.targets, rows.next_observation), np.float64)
    each, a = np.arange(len(q)), np.asarray(rows.action)
    y = rows.reward + 0.9 * (1 - np.asarray(rows.terminated)) * others[each, ahead.argmax(1)]
    np.testing.assert_allclose(
        metrics["value_loss"], np.mean(0.5 * (q[each, a] - y) ** 2), rtol=1e-4
    )
    term = np.mean(np.log(np.exp(q).sum(1)) - q[each, a])
    np.testing.assert_allclose(metrics["conservative_loss"], term, rtol=1e-4)


@pytest.mark.long
def test_cql_without_the_term_is_sac(data):
    """The same numbers as `SAC.learn` on the same sample; and with the term, others."""
    algorithm = ac.CQL(**SMALL, conservative_weight=0.0, policy_learning_rate=None)
    before, after, _, rows = one_update(algorithm, data["Pendulum-v1"])
    plain = ac.SAC(hidden_sizes=(8,))
    action = rows.action / 2
    sample = sac.Sample(
        jnp.concatenate([rows.observation, action], axis=-1),
        rows.observation,
        rows.reward,
        rows.terminated.astype(jnp.float32),
        rows.next_observation,
    )
    _, key = jax.random.split(jax.random.key(1))
    expected, _ = plain.learn(before, sample, key)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        after.params,
        expected.params,
    )
    _, other, _, _ = one_update(
        dataclasses.replace(algorithm, conservative_weight=5.0), data["Pendulum-v1"]
    )
    gap = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), other.params, after.params)
    assert max(jax.tree.leaves(gap.critics)) > 1e-5


def test_behaviour_cloning_finds_the_shares_of_the_data():
    """Tabular: π(a|s) comes to how often a was recorded in s."""
    rng = np.random.default_rng(0)
    mdp = lab.layers(1, 1, 3, rng)
    data = lab.record(mdp, np.array([[0.6, 0.3, 0.1]] * 2), 400, 2, rng)
    algorithm = ac.BC(hidden_sizes=(), learning_rate=0.05, learning_rate_schedule="linear")
    session = DatasetSession(algorithm, data, data.spec, [0], 1_000)
    while not session.finished:
        session.advance(1.0)
    actor = jax.tree.map(lambda x: x[0], session.actors)
    found = np.exp(algorithm.policy(actor, jnp.zeros(1, jnp.int32)).logits[0])
    shares = np.bincount(data.action, minlength=3) / data.steps
    np.testing.assert_allclose(found / found.sum(), shares, atol=0.01)


# ------------------------------------------------------------------------------ the lab


@pytest.mark.long
@pytest.mark.parametrize("name", ["cql", "iql"])
def test_random_data_of_a_process_give_the_best_policy_that_they_support(name):
    rng = np.random.default_rng(0)
    mdp = lab.layers(4, 3, 3, rng, gamma=0.95)
    uniform = np.full((mdp.states, 3), 1 / 3)
    data = lab.record(mdp, uniform, 4_000, 8, rng)
    shared = {"hidden_sizes": (), "learning_rate": 1e-2, "gamma": 0.95, "tau": 0.05}
    shared |= {"learning_rate_schedule": "linear"}
    algorithm = (
        ac.CQL(**shared, conservative_weight=0.05)
        if name == "cql"
        else ac.IQL(**shared, expectile=0.98, inverse_temperature=20.0)
    )
    session = DatasetSession(algorithm, data, data.spec, [0, 1], 4_000)
    while not session.finished:
        session.advance(1.0)
    support = lab.seen(mdp, data.observation[data.place], data.action)
    best = mdp.start @ lab.supported_values(mdp, support)
    for s in (0, 1):
        actor = jax.tree.map(lambda x, s=s: x[s], session.actors)
        states = jnp.arange(mdp.states)
        action = algorithm.act(actor, states, jax.random.key(0), explore=False).action
        reached = lab.objective(mdp, np.eye(3)[np.asarray(action)])
        assert reached > best - 0.01
    assert lab.objective(mdp, uniform) < best - 1


class Table:
    """A table of probabilities as an algorithm that only acts."""

    name, gamma = "table", 0.95

    def __init__(self, table):
        self._logits = jnp.log(jnp.asarray(table, jnp.float32))

    def policy(self, actor, observation):
        return Categorical(self._logits[observation])


@pytest.fixture(scope="module")
def recorded_process():
    rng = np.random.default_rng(4)
    mdp = lab.layers(3, 2, 2, rng, gamma=0.95)
    table = lab.softmax(rng.normal(size=(mdp.states, 2)))
    data = lab.record(mdp, np.full_like(table, 0.5), 2_000, 8, rng)
    return mdp, table, data


def test_fitted_q_evaluation_says_that_it_has_not_settled(recorded_process):
    _, table, data = recorded_process
    policy = Policy(Table(table), (), data.spec)
    short = {"updates": 1_000, "bootstraps": 8, "hidden_sizes": (), "deterministic": False}
    constant = {"learning_rate_schedule": "constant"}
    found = ac.evaluate_off_policy(policy, data, **short, **constant)
    assert "has not settled: the last quarter of its 1,000 updates" in str(found)


def by_counts(mdp, table, data):
    """The return in the process that the data show: frequencies for probabilities, solved."""
    states = data.observation
    now, ahead = states[data.place], states[data.place + 1]
    count, reward = np.zeros(table.shape), np.zeros(table.shape)
    moves = np.zeros((*table.shape, mdp.states))
    np.add.at(count, (now, data.action), 1.0)
    np.add.at(reward, (now, data.action), data.reward.astype(np.float64))
    np.add.at(moves, (now, data.action, ahead), ~data.terminated)
    reward, moves = reward / np.maximum(count, 1), moves / np.maximum(count, 1)[..., None]
    step = np.eye(mdp.states) - mdp.gamma * np.einsum("sa,sat->st", table, moves)
    value = np.linalg.solve(step, (table * reward).sum(1))
    return value[now[data.starts]].mean()


@pytest.mark.long
def test_off_policy_estimates_hold_the_exact_value(recorded_process):
    mdp, table, data = recorded_process
    found = ac.evaluate_off_policy(
        Policy(Table(table), (), data.spec),
        data,
        deterministic=False,
        updates=1_500,
        hidden_sizes=(),
        learning_rate=1e-2,
    )
    assert found.fitted_q is not None
    assert abs(found.fitted_q.value - by_counts(mdp, table, data)) < 0.003
    exact = lab.objective(mdp, table)
    for name in ("fitted_q", "weighted", "per_decision"):
        one = getattr(found, name)
        assert one.low < exact < one.high, name
        assert one.high - one.low < 0.5, name
    assert found.data.high < exact or found.data.low > exact  # it is not the data's own return
    assert 1 < found.effective_episodes < data.episodes
    assert str(found).count("\n") == 5
    json.dumps(found.json())


def test_importance_weights_are_those_of_the_definition(recorded_process):
    """Σ w G / Σ w with w = Π π/μ, by loops in float64."""
    _, table, data = recorded_process
    states = data.observation[data.place]
    ratios = off_policy.ratios(data, np.log(table[states, data.action]), 0.95)
    total, weights, by_time = 0.0, 0.0, {}
    for start, length in zip(data.starts, data.lengths, strict=True):
        w, g = 1.0, 0.0
        for t in range(length):
            i = start + t
            w *= table[states[i], data.action[i]] / 0.5
            g += 0.95**t * float(data.reward[i])
            by_time.setdefault(t, []).append((w, 0.95**t * float(data.reward[i])))
        total, weights = total + w * g, weights + w
    once = np.ones((1, data.episodes))
    np.testing.assert_allclose(off_policy.weighted(ratios, once), [total / weights], rtol=1e-6)
    expected = sum(
        sum(w * r for w, r in each) / sum(w for w, _ in each) for each in by_time.values()
    )
    np.testing.assert_allclose(off_policy.per_decision(ratios, once), [expected], rtol=1e-6)


def test_estimates_say_why_they_cannot_be_had(data):
    known = data["Pendulum-v1"]
    run = ac.train(ac.BC(**SMALL), data=known, total_steps=5, quiet=True, seeds=1)
    short = {"updates": 5, "bootstraps": 2}
    found = ac.evaluate_off_policy(run.policy(), known, **short)
    assert found.weighted is None
    assert "deterministic policy of continuous actions" in str(found)
    found = ac.evaluate_off_policy(run.policy(), known, deterministic=False, **short)
    assert "clipped to the bounds" in str(found)
    silent = dataclasses.replace(known, log_prob=None)
    assert "do not say how likely" in str(ac.evaluate_off_policy(run.policy(), silent, **short))


# ------------------------------------------------------------------------------ runs


def test_the_environment_is_optional_and_what_data_tell_is_kept(tmp_path, data):
    run = ac.train(
        ac.CQL(**SMALL), data=data["CartPole-v1"], total_steps=60, out=tmp_path / "run", quiet=True
    )
    assert run.final_evaluation is None
    assert run.finished
    known = json.loads((tmp_path / "run" / "known.json").read_text())
    assert 0 <= known["agreement"] <= 1
    assert known["steps"] == 400
    gamma = data["CartPole-v1"].returns_to_go(0.99)
    assert known["recorded_return"] == pytest.approx(gamma.mean())
    opened = ac.open_run(tmp_path / "run")
    with pytest.raises(UserError, match="no environment to be evaluated in"):
        opened.evaluate(2)
    evaluated = ac.open_run(tmp_path / "run", environment="CartPole-v1").evaluate(2)
    assert evaluated.returns.shape == (1, 2)
    with pytest.raises(UserError, match="evaluate_every needs an environment"):
        ac.train(ac.BC(**SMALL), data=data["CartPole-v1"], evaluate_every=5, total_steps=9)


def test_with_an_environment_the_curve_is_of_evaluations_and_steps_are_updates(tmp_path, data):
    run = ac.train(
        ac.BC(**SMALL),
        "CartPole-v1",
        data=data["CartPole-v1"],
        total_steps=40,
        seeds=2,
        out=tmp_path / "run",
        evaluation_episodes=2,
        evaluate_every=20,
        quiet=True,
    )
    assert np.unique(run.episodes.step).tolist() == [20, 40]
    assert run.step_unit == "updates"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["step"] == "update"
    assert (tmp_path / "run" / "curve.png").exists()
    names = run.metrics.names
    assert {"policy_loss", "agreement"} <= set(names)
    # A row for every 25 updates, and where a stretch ended: for an evaluation, or by the clock.
    assert {20, 25, 40} <= set(run.metrics.step.tolist())


@pytest.mark.parametrize("first", [37, 50])
def test_rows_of_metrics_do_not_depend_on_how_long_stretches_are(data, first):
    """Also where a stretch ended early, as for an evaluation."""
    known = data["Pendulum-v1"]

    def rows(seconds):
        session = DatasetSession(ac.BC(**SMALL), known, known.spec, [0, 1], 240)
        reports = [session.advance(seconds, until=np.full(2, first))]
        while session.steps.min() < first:
            reports.append(session.advance(seconds, until=np.full(2, first)))
        while not session.finished:
            reports.append(session.advance(seconds))
        table = MetricTable.join([report.metrics for report in reports])
        order = np.lexsort((table.update, table.seed))
        return table.update[order], table.values[order]

    for x, y in zip(rows(0.0), rows(1e3), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.long
def test_a_run_from_data_resumes_bit_for_bit_and_knows_its_data(tmp_path, data):
    from actorcritic.data import folder

    place = folder.save(data["Pendulum-v1"], tmp_path / "data")
    options = {"data": place, "seeds": 3, "evaluation_episodes": 0, "quiet": True}
    algorithm = ac.IQL(**SMALL, normalize_observation=True)
    ac.train(algorithm, "Pendulum-v1", total_steps=90, out=tmp_path / "whole", **options)
    ac.train(algorithm, "Pendulum-v1", total_steps=37, out=tmp_path / "parts", **options)
    ac.resume(tmp_path / "parts", total_steps=90, evaluation_episodes=0, quiet=True)
    assert final_hashes(tmp_path / "whole") == final_hashes(tmp_path / "parts")
    moved = tmp_path / "moved"
    place.rename(moved)
    with pytest.raises(UserError, match="There is no data set in"):
        ac.resume(tmp_path / "parts", total_steps=99, quiet=True)
    other = folder.save(data["CartPole-v1"], tmp_path / "other")
    with pytest.raises(UserError, match="is not the one that"):
        ac.resume(tmp_path / "parts", total_steps=99, data=other, quiet=True)
    again = ac.resume(
        tmp_path / "parts", total_steps=99, data=moved, quiet=True, evaluation_episodes=0
    )
    assert again.steps == 99


def test_what_needs_data_or_an_environment_says_so(data):
    with pytest.raises(UserError, match="bc learns from a data set, and none was given"):
        ac.train("bc", "CartPole-v1")
    with pytest.raises(UserError, match="neither an environment nor a data set"):
        ac.train("ppo")
    with pytest.raises(UserError, match="neither learns from a data set nor keeps experience"):
        ac.train("ppo", "CartPole-v1", data=data["CartPole-v1"])
    with pytest.raises(UserError, match="has observations of"):
        ac.train("bc", "CartPole-v1", data=data["Pendulum-v1"])
    with pytest.raises(UserError, match="learns from an environment, and none was named"):
        ac.train(ac.SAC(), data=data["Pendulum-v1"])


@pytest.mark.long
def test_variants_on_data_are_compared_as_one_program(tmp_path, data):
    found = ac.compare(
        {"low": ac.IQL(**SMALL, expectile=0.6), "high": ac.IQL(**SMALL, expectile=0.9)},
        "CartPole-v1",
        data=data["CartPole-v1"],
        seeds=3,
        total_steps=50,
        evaluation_episodes=2,
        out=tmp_path / "both",
        quiet=True,
    )
    page = (tmp_path / "both" / "report.html").read_text()
    assert "updates" in found.score
    assert "updates, per seed" in page
    alone = ac.train(
        ac.IQL(**SMALL, expectile=0.9),
        "CartPole-v1",
        data=data["CartPole-v1"],
        seeds=3,
        total_steps=50,
        evaluation_episodes=2,
        quiet=True,
    )
    np.testing.assert_array_equal(
        alone.final_evaluation.returns, found.runs["high"].final_evaluation.returns
    )


# ------------------------------------------------------------------------------ offline to online


def test_a_replay_buffer_begins_with_the_data(data):
    known, algorithm = data["Pendulum-v1"], ac.SAC(buffer_size=1_000, hidden_sizes=(8,), num_envs=2)
    learner = algorithm.init(jax.random.key(0), known.spec)
    batch = jax.tree.map(lambda x: jnp.swapaxes(jnp.asarray(x), 0, 1), known.at(np.arange(400)))
    learner = algorithm.remember(learner, batch)
    assert int(learner.buffer.seen) == 400
    assert not algorithm.actor(learner).uniform  # it need not begin with random actions
    rows = learner.buffer.at(jnp.arange(400))
    np.testing.assert_array_equal(rows.observation, known.observation[known.place])
    np.testing.assert_array_equal(rows.next_observation, known.observation[known.place + 1])
    np.testing.assert_allclose(rows.action, known.action / 2, atol=1e-6)
    np.testing.assert_array_equal(rows.reward, known.reward)
    assert learner.buffer.latest.tolist() == [-1, -1]


@pytest.mark.long
def test_sac_goes_on_where_cql_ended(tmp_path, data):
    options = {"evaluation_episodes": 0, "quiet": True}
    first = ac.train(
        ac.CQL(**SMALL),
        "Pendulum-v1",
        data=data["Pendulum-v1"],
        total_steps=30,
        out=tmp_path / "cql",
        **options,
    )
    again = ac.train(
        ac.SAC(hidden_sizes=(8,), learning_starts=50, buffer_size=300),
        "Pendulum-v1",
        start_from=tmp_path / "cql",
        total_steps=20,
        **options,
    )
    jax.tree.map(np.testing.assert_array_equal, again.learners.params, first.learners.params)
    with pytest.raises(UserError, match="do not keep the same"):
        ac.train(
            ac.SAC(hidden_sizes=(9,), buffer_size=300),
            "Pendulum-v1",
            start_from=tmp_path / "cql",
            total_steps=20,
            **options,
        )


# ------------------------------------------------------------------------------ kinds of spaces


@pytest.mark.long
@pytest.mark.parametrize("cls", [ac.BC, ac.IQL, ac.CQL])
def test_forbidden_actions_are_never_taken(cls):
    space = gymnasium.spaces.Dict(
        {"x": gymnasium.spaces.Box(-1, 1, (1,)), "action_mask": gymnasium.spaces.MultiBinary(3)}
    )
    rng = np.random.default_rng(0)
    mask = np.ones((41, 3), np.int8)
    mask[np.arange(41), rng.integers(3, size=41)] = 0
    episode = {
        "observation": {"x": rng.uniform(-1, 1, (41, 1)), "action_mask": mask},
        "action": np.array([rng.choice(np.flatnonzero(row)) for row in mask[:40]]),
        "reward": rng.normal(size=40),
        "terminated": True,
        "truncated": False,
    }
    data = ac.Dataset.from_episodes([episode], space, gymnasium.spaces.Discrete(3))
    algorithm = cls(**SMALL)
    _, after, metrics, _ = one_update(algorithm, data, rows=40)
    assert all(np.isfinite(x) for x in metrics.values())
    seen = jax.tree.map(jnp.asarray, data.observation)
    for explore in (True, False):
        action = algorithm.act(
            algorithm.actor(after), seen, jax.random.key(0), explore=explore
        ).action
        assert mask[np.arange(41), np.asarray(action)].all()


@pytest.mark.long
@pytest.mark.parametrize("cls", [ac.BC, ac.IQL])
@pytest.mark.parametrize(
    "actions", [gymnasium.spaces.MultiDiscrete([2, 3]), gymnasium.spaces.MultiBinary(2)]
)
def test_several_choices_at_once_are_learned_from(cls, actions):
    rng = np.random.default_rng(0)
    actions.seed(0)
    image = gymnasium.spaces.Box(0, 255, (8, 8, 1), np.uint8)
    episode = {
        "observation": rng.integers(256, size=(13, 8, 8, 1)),
        "action": np.array([actions.sample() for _ in range(12)]),
        "reward": rng.normal(size=12),
        "terminated": True,
        "truncated": False,
    }
    data = ac.Dataset.from_episodes([episode], image, actions)
    assert data.observation.dtype == np.uint8  # frames stay bytes until a minibatch is encoded
    _, _, metrics, _ = one_update(cls(**SMALL), data, rows=12)
    assert all(np.isfinite(x) for x in metrics.values())


@pytest.mark.long
def test_continuous_actions_beside_an_image_reach_the_critics():
    rng = np.random.default_rng(0)
    image = gymnasium.spaces.Box(0, 255, (8, 8, 1), np.uint8)
    torque = gymnasium.spaces.Box(-2.0, 2.0, (2,), np.float32)
    episode = {
        "observation": rng.integers(256, size=(13, 8, 8, 1)),
        "action": rng.uniform(-2, 2, (12, 2)),
        "reward": rng.normal(size=12),
        "terminated": True,
        "truncated": False,
    }
    data = ac.Dataset.from_episodes([episode], image, torque)
    algorithm = ac.IQL(**SMALL)
    _, after, _, rows = one_update(algorithm, data, rows=12)
    critic = algorithm._critic(data.spec)
    x = rows.observation.reshape(12, -1).astype(jnp.float32) / 255
    one, other = (critic.q(after.params.critics[0], x, a) for a in (rows.action, -rows.action))
    assert not np.allclose(one, other)
