"""A3C and IMPALA: staleness as a number, against A2C and against its definition, turn by turn."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_policy_gradient import assert_close, experience, started, update

from actorcritic.algorithms import A2C, A3C, IMPALA
from actorcritic.core.counting import Count
from actorcritic.core.types import Asynchronous, EnvSpec, Extras, Transition
from actorcritic.envs import CartPole
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.maths import optimizers
from actorcritic.runners import compiled
from actorcritic.runners.host import HostSession

SMALL: dict[str, Any] = {"num_envs": 4, "num_steps": 6, "hidden_sizes": (4,)}
SCALED: dict[str, Any] = {"normalize_observation": True, "normalize_reward": True}


def recorded(algorithm: Any, learner: Any, batch: Transition, key: int = 3) -> Transition:
    """The batch with actions and log-probabilities of the policy as it is."""
    observation = batch.observation.reshape(-1, 3)
    drawn = algorithm.act(algorithm.actor(learner), observation, jax.random.key(key))
    shape = batch.reward.shape
    return batch._replace(
        action=drawn.action.reshape(shape),
        extras=Extras(log_prob=drawn.extras.log_prob.reshape(shape)),
    )


@pytest.mark.parametrize("more", [{}, SCALED, {"entropy_coefficient": 0.1}])
def test_without_staleness_both_are_a2c(more):
    batch = experience()
    a2c, a3c, impala = (cls(**SMALL, **more) for cls in (A2C, partial(A3C, num_workers=1), IMPALA))
    learner = started(a2c, EnvSpec("discrete", *spaces_of(batch)))
    acted = recorded(impala, learner, batch)
    plain = acted._replace(extras=Extras())
    for _ in range(3):  # so that the optimiser's memory counts
        expected, metrics = update(a2c, learner, plain)
        for other, given in ((a3c, plain), (impala, acted)):
            found, more_metrics = update(other, learner, given)
            assert_close(found.params, expected.params)
            assert_close(found.optimizer, expected.optimizer)
            assert_close(
                (found.observations, found.returns), (expected.observations, expected.returns)
            )
            assert_close({name: more_metrics[name] for name in metrics}, metrics)
        learner = expected
        acted = recorded(impala, learner, batch)
        plain = acted._replace(extras=Extras())


def spaces_of(batch: Transition) -> Any:
    from test_policy_gradient import DISCRETE

    return DISCRETE.observation_space, DISCRETE.action_space


# ------------------------------------------------------------------------------------ turns


def by_turns(algorithm: A3C, environment: Any, key: Any, rounds: int) -> tuple[Any, list]:
    """A3C as its paper tells it: one worker after the other, in a loop of Python.

    Each worker is an A2C with its own environments; only the parameters and the optimiser's state
    are shared. The numbers of the environments and the noise are those of the runner.
    """
    alone = algorithm.worker()
    state = compiled.begin(algorithm, environment, key)
    shared = replace(state.learner, past=None)
    count = algorithm.num_workers
    own = [shared] * count
    each = algorithm.num_envs
    running = [
        jax.tree.map(lambda x, w=w: x[w * each : (w + 1) * each], state.environments)
        for w in range(count)
    ]
    key, stale = state.key, []
    newest, seen = 0, [0] * count
    for _ in range(rounds):
        key, act_key, _ = jax.random.split(key, 3)
        noise = jax.random.split(act_key, algorithm.num_steps)
        for w in range(count):
            rows = []
            for t in range(algorithm.num_steps):
                mine = jax.random.split(noise[t], count)[w]
                action, extras = alone.act(alone.actor(own[w]), running[w].observation, mine)
                running[w], row, _ = compiled.advance(
                    environment, running[w], action, alone.collects
                )
                rows.append(row._replace(extras=extras))
            batch = jax.tree.map(lambda *x: jnp.stack(x), *rows)
            reward, _ = alone._scaled_reward(own[w], batch)
            made = alone._rows(own[w], batch, reward, jax.random.key(0), own[w].params)
            gradient, _ = jax.grad(alone.loss, has_aux=True)(
                own[w].params, own[w].spec, made, jnp.float32(0)
            )
            params, optimizer, _ = optimizers.step(
                alone.optimizer,
                shared.params,
                gradient,
                shared.optimizer,
                alone.learning_rate,
                alone.max_grad_norm,
            )
            stale.append(newest - seen[w])
            newest, seen[w] = newest + 1, newest + 1
            shared = replace(shared, params=params, optimizer=optimizer)
            own[w] = shared
    return shared, stale


@pytest.mark.long
def test_workers_take_turns_each_with_its_own_snapshot():
    environment = CartPole()
    algorithm = A3C(num_workers=3, num_envs=2, num_steps=4, hidden_sizes=(8,), learning_rate=1e-2)
    key = jax.random.key(5)
    expected, stale = by_turns(algorithm, environment, key, rounds=6)
    assert set(stale[3:]) == {2}  # from the second round on, as many as there are others

    state = compiled.begin(algorithm, environment, key)
    once = jax.jit(
        lambda state: compiled.train_once(algorithm, environment, state, Count.of(1000))[0]
    )
    for _ in range(6):
        state = once(state)
    assert_close(state.learner.params, expected.params, rtol=2e-4, atol=2e-6)
    newest = jax.tree.map(lambda x: x[-1], state.learner.past.params)
    assert_close(newest, state.learner.params)  # who had the last turn knows all
    first = jax.tree.map(lambda x: x[0], state.learner.past.params)
    assert not np.allclose(first["policy_head"].weight, newest["policy_head"].weight)


# ------------------------------------------------------------------------------------ lags


@pytest.mark.parametrize("lag", [1, 3])
def test_who_acts_is_lag_updates_behind(lag):
    algorithm, environment = IMPALA(**SMALL, lag=lag), CartPole()
    state = compiled.begin(algorithm, environment, jax.random.key(0))
    once = jax.jit(
        lambda state: compiled.train_once(algorithm, environment, state, Count.of(1000))[0]
    )
    policies = [algorithm.actor(state.learner)]
    for made in range(2 * lag + 3):
        behind = algorithm.behaviour(state.learner)
        assert_close(behind.params, policies[max(made - lag, 0)].params, rtol=0, atol=0)
        state = once(state)
        policies.append(algorithm.actor(state.learner))


@pytest.mark.parametrize("vtrace", [True, False])
def test_an_update_learns_from_the_ratio_to_who_acted_or_does_not(vtrace):
    """Against V-trace as a double sum, and the gradient of its objective."""
    algorithm = IMPALA(**SMALL, vtrace=vtrace, rho_clip=1.2, c_clip=0.9, gae_lambda=0.8)
    batch = experience()
    learner = started(algorithm, EnvSpec("discrete", *spaces_of(batch)))
    rng = np.random.default_rng(1)
    policy = algorithm.policy(algorithm.actor(learner), batch.observation)
    now = policy.log_prob(batch.action)
    acted = now - jnp.asarray(rng.normal(0.0, 0.5, now.shape), jnp.float32)
    batch = batch._replace(extras=Extras(log_prob=acted))
    ratio = np.exp(np.asarray(now - acted, np.float64)) if vtrace else np.ones(now.shape)
    value, after = (
        np.asarray(algorithm.value(learner, x), np.float64)
        for x in (batch.observation, batch.next_observation)
    )
    target, advantage = v_trace(batch, value, after, ratio, algorithm)

    def objective(params: Any) -> Any:
        changed = replace(learner, params=params)
        chosen = algorithm.policy(algorithm.actor(changed), batch.observation)
        policy_loss = -jnp.mean(advantage * chosen.log_prob(batch.action))
        error = algorithm.value(changed, batch.observation) - target
        return policy_loss + algorithm.value_coefficient * jnp.mean(0.5 * error**2)

    rows = algorithm._rows(learner, batch, batch.reward, jax.random.key(0), learner.params)
    np.testing.assert_allclose(rows.advantage.reshape(target.shape), advantage, atol=1e-5)
    np.testing.assert_allclose(rows.target.reshape(target.shape), target, atol=1e-5)
    found = jax.grad(lambda p: algorithm.loss(p, learner.spec, rows, jnp.float32(0))[0])(
        learner.params
    )
    assert_close(found, jax.grad(objective)(learner.params), rtol=1e-4, atol=1e-5)


def v_trace(batch: Any, value: Any, after: Any, ratio: Any, algorithm: Any) -> Any:
    """v_t = V(s_t) + Σ_l γ^l (Π_{i<l} c_{t+i}) δ_{t+l}, in float64, as it is written."""
    rho, c = np.minimum(ratio, algorithm.rho_clip), np.minimum(ratio, algorithm.c_clip)
    ended = np.asarray(batch.terminated | batch.truncated)
    gamma, steps = algorithm.gamma, len(value)
    stays = np.where(np.asarray(batch.terminated), 0.0, after)
    delta = rho * (np.asarray(batch.reward, np.float64) + gamma * stays - value)
    target = value.copy()
    for t, b in np.ndindex(value.shape):
        factor = 1.0
        for k in range(t, steps):
            target[t, b] += factor * delta[k, b]
            if ended[k, b]:
                break
            factor *= gamma * algorithm.gae_lambda * c[k, b]
    following = np.concatenate([target[1:], after[-1:]])
    following = np.where(np.asarray(batch.terminated), 0.0, np.where(ended, after, following))
    return target, rho * (np.asarray(batch.reward, np.float64) + gamma * following - value)


# ------------------------------------------------------------------------------ a worker alone


@pytest.mark.parametrize("kind", [A3C, IMPALA])
def test_what_a_worker_sends_is_what_an_update_does(kind):
    algorithm = kind(**SMALL, **SCALED).worker()
    assert isinstance(algorithm, Asynchronous)
    batch = experience()
    learner = started(algorithm, EnvSpec("discrete", *spaces_of(batch)))
    batch = recorded(IMPALA(**SMALL, **SCALED), learner, batch)
    key, progress = jax.random.key(1), jnp.float32(0.5)
    expected, _ = algorithm.update(learner, batch, key, progress)
    sent = algorithm.prepare(algorithm.snapshot(learner), batch, key, progress)
    found, _ = algorithm.absorb(learner, sent, key, progress)
    assert_close(found.params, expected.params)
    assert_close(found.observations, expected.observations)


@pytest.mark.parametrize("algorithm", [A3C(num_workers=2, **SMALL), IMPALA(lag=2, **SMALL)])
def test_the_host_runner_has_stale_actors_too(algorithm):
    """To a float's tolerance what the compiled runner does, in the same environment."""
    from actorcritic.envs import AsGymnasium

    environment = CartPole()
    steps = 6 * algorithm.collects.num_envs * algorithm.num_steps
    state = compiled.begin(algorithm, environment, jax.random.key(0))
    first = state.environments.observation
    session = HostSession(algorithm, HostEnvironment(lambda: AsGymnasium(environment)), [0], steps)
    try:
        while not session.finished:
            session.advance(1.0)
    finally:
        session.close()
    assert int(session.steps[0]) == steps
    assert first.shape[0] == algorithm.collects.num_envs
    behind = algorithm.behaviour(jax.tree.map(lambda x: x[0], session.state.learner))
    weights = jax.tree.leaves(behind)
    newest = jax.tree.leaves(jax.tree.map(lambda x: x[0], session.actors))
    assert not all(np.allclose(x, y) for x, y in zip(weights, newest, strict=False))
