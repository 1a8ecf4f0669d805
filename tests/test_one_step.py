"""The one-step actor-critics against updates worked out by hand and exact values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_policy_gradient import DISCRETE, assert_close, experience, started, update

from actorcritic.algorithms import A2C, QActorCritic, TDActorCritic
from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec, Step, Transition
from actorcritic.runners.seeds import CompiledSession

LINEAR: dict[str, Any] = {"hidden_sizes": (), "optimizer": "sgd"}


def one_step(rng, terminated=False, truncated=False) -> Transition:
    """A single transition [1, 1] with three features and three actions."""
    return Transition(
        jnp.asarray(rng.normal(size=(1, 1, 3)), jnp.float32),
        jnp.asarray([[rng.integers(3)]], jnp.int32),
        jnp.asarray(rng.normal(size=(1, 1)), jnp.float32),
        jnp.asarray([[terminated]]),
        jnp.asarray([[truncated]]),
        jnp.asarray(rng.normal(size=(1, 1, 3)), jnp.float32),
    )


@pytest.mark.parametrize("end", ["neither", "terminated", "truncated"])
def test_with_linear_features_it_is_the_textbooks_update(end):
    """θ_b += α_θ δ (1[a = b] - π(b|s)) s and w += α_w δ s, each worked out in float64."""
    actor_rate, critic_rate, gamma = 0.3, 0.7, 0.9
    algorithm = TDActorCritic(
        **LINEAR, learning_rate=actor_rate, critic_learning_rate=critic_rate, gamma=gamma
    )
    rng = np.random.default_rng(3)
    learner = started(algorithm, DISCRETE)
    for _ in range(3):
        batch = one_step(rng, end == "terminated", end == "truncated")
        theta, theta_0 = (np.asarray(x, np.float64) for x in learner.params["policy_head"])
        w, w_0 = (np.asarray(x, np.float64) for x in learner.params["value_head"])
        s, after = (
            np.asarray(x[0, 0], np.float64) for x in (batch.observation, batch.next_observation)
        )
        a, reward = int(batch.action[0, 0]), float(batch.reward[0, 0])

        preference = s @ theta + theta_0
        pi = np.exp(preference) / np.exp(preference).sum()
        following = 0.0 if end == "terminated" else (after @ w + w_0)[0]
        delta = reward + gamma * following - (s @ w + w_0)[0]
        direction = np.eye(3)[a] - pi

        learner, _ = update(algorithm, learner, batch)
        new = learner.params
        assert_close(new["policy_head"].weight, theta + actor_rate * delta * np.outer(s, direction))
        assert_close(new["policy_head"].bias, theta_0 + actor_rate * delta * direction)
        assert_close(new["value_head"].weight, w + critic_rate * delta * s[:, None])
        assert_close(new["value_head"].bias, w_0 + critic_rate * delta)
        assert abs(delta) > 0.05


def test_it_is_a2c_of_one_step_with_lambda_0():
    options = {"num_envs": 4, "num_steps": 6, "hidden_sizes": (4,), "learning_rate": 0.01}
    td = TDActorCritic(**options, critic_learning_rate=None, value_coefficient=0.5)
    a2c = A2C(**options, gae_lambda=0.0, optimizer="adam", max_grad_norm=1e9)
    learner = other = started(td, DISCRETE)
    for seed in range(3):
        learner, _ = update(td, learner, experience(seed=seed))
        other, _ = update(a2c, other, experience(seed=seed))
    assert_close(learner.params, other.params, rtol=1e-5, atol=1e-6)


def test_actor_and_critic_have_an_optimiser_each():
    """A critic's step size moves the critic only, and an actor's the actor only."""
    batch = experience(steps=1, envs=4)
    base = TDActorCritic(num_envs=4, hidden_sizes=(4,))
    learner = started(base, DISCRETE)
    first, _ = update(base, learner, batch)
    for name, mine in (("learning_rate", "policy"), ("critic_learning_rate", "value")):
        second, _ = update(replace(base, **{name: 0.05}), learner, batch)
        for part in ("policy_trunk", "policy_head", "value_trunk", "value_head"):
            moved = jax.tree.map(
                lambda x, y: bool(np.any(x != y)), first.params[part], second.params[part]
            )
            assert any(jax.tree.leaves(moved)) == part.startswith(mine), (name, part)


def test_a_critics_own_step_size_needs_its_own_network():
    with pytest.raises(UserError, match="shared_network"):
        TDActorCritic(shared_network=True).check(DISCRETE)


# ------------------------------------------------------------------------------ Q actor-critic


def test_the_q_critic_is_regressed_on_the_sampled_successor_action():
    """With a policy that always takes action 1, the target is r + γ Q(s', 1)."""
    algorithm = QActorCritic(
        **LINEAR,
        num_envs=1,
        num_steps=1,
        gamma=0.9,
        critic_learning_rate=0.5,
        learning_rate=0.2,
        value_coefficient=1.0,
        max_grad_norm=1e9,
        normalize_advantage=False,
    )
    learner = algorithm.init(jax.random.key(0), DISCRETE)
    head = learner.params["policy_head"]
    certain = head._replace(bias=jnp.asarray([0.0, 50.0, 0.0]))
    learner = replace(learner, params=learner.params | {"policy_head": certain})
    batch = one_step(np.random.default_rng(1))
    weight, bias = (np.asarray(x, np.float64) for x in learner.params["value_head"])
    s, after = (
        np.asarray(x[0, 0], np.float64) for x in (batch.observation, batch.next_observation)
    )
    a = int(batch.action[0, 0])
    q, q_after = s @ weight + bias, after @ weight + bias
    delta = float(batch.reward[0, 0]) + 0.9 * q_after[1] - q[a]
    expected = weight + 0.5 * delta * np.outer(s, np.eye(3)[a])
    learned, _ = update(algorithm, learner, batch)
    assert_close(learned.params["value_head"].weight, expected)
    # The actor follows Q(s, a) itself, with no baseline.
    preference = s @ np.asarray(certain.weight, np.float64) + np.asarray(certain.bias, np.float64)
    pi = np.exp(preference - preference.max())
    pi /= pi.sum()
    step = 0.2 * q[a] * np.outer(s, np.eye(3)[a] - pi)
    assert_close(learned.params["policy_head"].weight, np.asarray(certain.weight) + step)


@dataclass(frozen=True)
class Chain:
    """Five states in a row, both moves slip with probability 0.2; +1 beyond the right end."""

    states = 5
    slip = 0.2

    @cached_property
    def spec(self) -> EnvSpec:
        return EnvSpec("Chain", gymnasium.spaces.Discrete(5), gymnasium.spaces.Discrete(2), None)

    def reset(self, key):
        state = jax.random.randint(key, (), 0, self.states)
        return state, state

    def step(self, key, state, action):
        slips = jax.random.uniform(key) < self.slip
        move = jnp.where(slips, 1 - action, action)
        after = jnp.maximum(state + 2 * move - 1, 0)
        ends = after == self.states
        after = jnp.minimum(after, self.states - 1)
        reward = jnp.where(ends, 1.0, -0.1)
        return after, Step(after, reward, ends, jnp.asarray(False))

    def exact_q(self, policy: np.ndarray, gamma: float) -> np.ndarray:
        """The solution of the Bellman equations of `policy` [5, 2], in float64."""
        transition, reward = np.zeros((5, 2, 5)), np.zeros((5, 2))
        for s in range(5):
            for a in range(2):
                for move, p in ((a, 1 - self.slip), (1 - a, self.slip)):
                    after = max(s + 2 * move - 1, 0)
                    if after == 5:
                        reward[s, a] += p
                    else:
                        reward[s, a] -= 0.1 * p
                        transition[s, a, after] += p
        system = np.eye(10) - gamma * np.einsum("sat,tb->satb", transition, policy).reshape(10, 10)
        return np.linalg.solve(system, reward.reshape(10)).reshape(5, 2)


def test_the_q_critic_of_a_frozen_policy_becomes_exact():
    environment, gamma = Chain(), 0.9
    algorithm = QActorCritic(
        hidden_sizes=(),
        initialization="zeros",
        num_envs=16,
        num_steps=16,
        gamma=gamma,
        learning_rate=1e-12,
        critic_learning_rate=0.5,
        learning_rate_schedule="linear",
        optimizer="sgd",
        max_grad_norm=1e9,
        value_coefficient=1.0,
    )
    session = CompiledSession(algorithm, environment, [0], 1_000_000)
    bias = jnp.asarray([[0.3, -0.4]])  # a policy that is not uniform
    state = session.state
    head = state.learner.params["policy_head"]
    params = state.learner.params | {"policy_head": head._replace(bias=bias)}
    session.state = state._replace(learner=replace(state.learner, params=params))
    while not session.finished:
        session.advance(5.0)
    learner = jax.tree.map(lambda x: x[0], session.state.learner)
    states = jnp.arange(5)
    learned = [algorithm.value(learner, states, jnp.full(5, action)) for action in range(2)]
    learned = np.stack(learned, axis=-1)
    logits = np.asarray(bias[0], np.float64)
    policy = np.tile(np.exp(logits) / np.exp(logits).sum(), (5, 1))
    exact = environment.exact_q(policy, gamma)
    np.testing.assert_allclose(learned, exact, atol=0.01)
    assert np.ptp(exact) > 0.5
