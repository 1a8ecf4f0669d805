"""TRPO: its natural gradient against an explicit Fisher matrix, its promises about the KL."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from test_policy_gradient import (
    CONTINUOUS,
    DISCRETE,
    assert_close,
    experience,
    policy,
    started,
    update,
)

from actorcritic.algorithms import TRPO
from actorcritic.core import hyperparameters
from actorcritic.core.errors import UserError
from actorcritic.maths.networks import ActorCritic

SMALL: dict[str, Any] = {"num_envs": 4, "num_steps": 6, "hidden_sizes": (4,), "num_minibatches": 4}
SPECS = pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])


def mean_kl(algorithm, old, new, batch) -> float:
    """KL(π_old ‖ π_new), averaged over the batch, in float64 from the definition."""
    policies = [policy(algorithm, learner, batch.observation) for learner in (old, new)]
    if hasattr(policies[0], "logits"):
        p, q = (
            jax.tree.map(lambda x: np.asarray(x, np.float64), jax.nn.softmax(each.logits))
            for each in policies
        )
        return float((p * (np.log(p) - np.log(q))).sum(-1).mean())
    (m, s), (n, r) = (
        (np.asarray(x.mean, np.float64), np.exp(np.asarray(x.log_std, np.float64)))
        for x in policies
    )
    return float((np.log(r / s) + (s**2 + (m - n) ** 2) / (2 * r**2) - 0.5).sum(-1).mean())


def explicit(algorithm, learner, batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """θ, the gradient of E[log π A] and the Fisher matrix E[∇log π ∇log πᵀ], expected over π."""
    actor, critic = ActorCritic.split(learner.params)
    start, unravel = ravel_pytree(actor)
    rows = algorithm._rows(learner, batch, batch.reward, jax.random.key(0), learner.params)
    model = algorithm._model(learner.spec)

    def outputs(vector):  # what the distribution is made of, per row
        now = model.policy(unravel(vector) | critic, rows.observation)
        if hasattr(now, "logits"):
            return now.logits
        return jnp.concatenate([now.mean, now.log_std], axis=-1)

    def log_prob(vector):
        return model.policy(unravel(vector) | critic, rows.observation).log_prob(rows.action)

    advantage = np.asarray(rows.advantage, np.float64)
    if algorithm.normalize_advantage:
        advantage = (advantage - advantage.mean()) / advantage.std()
    jacobian = np.asarray(jax.jacobian(outputs)(start), np.float64)
    gradient = np.asarray(jax.jacobian(log_prob)(start), np.float64).T @ advantage
    z = np.asarray(outputs(start), np.float64)
    fisher = np.zeros((len(start), len(start)))
    for row, j in zip(z, jacobian, strict=True):
        if learner.spec is DISCRETE:
            p = np.exp(row) / np.exp(row).sum()
            inner = np.diag(p) - np.outer(p, p)
        else:  # of a normal distribution in (mean, log σ)
            inner = np.diag(np.concatenate([np.exp(-2 * row[2:]), [2.0, 2.0]]))
        fisher += j.T @ inner @ j
    return np.asarray(start), gradient / len(z), fisher / len(z)


@SPECS
def test_the_step_is_that_of_the_explicit_fisher_matrix(spec):
    algorithm = TRPO(**SMALL, cg_iterations=300, cg_damping=0.05, max_kl=0.002)
    learner, batch = started(algorithm, spec), experience(spec)
    learned, metrics = update(algorithm, learner, batch)
    start, gradient, fisher = explicit(algorithm, learner, batch)
    damped = fisher + 0.05 * np.eye(len(start))
    x = np.linalg.solve(damped, gradient)
    length = 0.8 ** (float(metrics["line_search_steps"]) - 1)
    expected = length * np.sqrt(2 * 0.002 / (x @ damped @ x)) * x
    moved = np.asarray(ravel_pytree(ActorCritic.split(learned.params)[0])[0]) - start
    assert metrics["accepted"] == 1
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(moved, expected, rtol=2e-2, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_allclose(metrics["policy_gradient_norm"], np.linalg.norm(gradient), rtol=1e-4)


@SPECS
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    max_kl=st.floats(1e-4, 0.5),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_every_step_is_within_the_bound_and_the_objective_never_falls(spec, seed, max_kl, scale):
    algorithm = TRPO(**SMALL, max_kl=max_kl)
    batch = experience(spec, seed)
    batch = batch._replace(reward=batch.reward * scale)
    learner = started(algorithm, spec)
    learned, metrics = update(algorithm, learner, batch)
    kl = mean_kl(algorithm, learner, learned, batch)
    assert kl <= max_kl * (1 + 1e-3) + 1e-6
    assert abs(float(metrics["approx_kl"]) - kl) <= 1e-3 * max_kl + 1e-6

    rows = algorithm._rows(learner, batch, batch.reward, jax.random.key(0), learner.params)
    advantage = np.asarray(rows.advantage, np.float64)
    advantage = (advantage - advantage.mean()) / advantage.std()
    log_prob = policy(algorithm, learned, batch.observation).log_prob(batch.action)
    ratio = np.exp(np.asarray(log_prob, np.float64).reshape(-1) - np.asarray(rows.old_log_prob))
    assert (ratio * advantage).mean() >= advantage.mean() - 1e-6


def test_a_step_that_cannot_be_made_is_not_made():
    """With one, far too long attempt: the actor stays as it was, the critic still learns."""
    algorithm = TRPO(**SMALL, max_kl=50.0, line_search_steps=1, cg_damping=0.0)
    learner, batch = started(algorithm, DISCRETE), experience()
    learned, metrics = update(algorithm, learner, batch)
    assert metrics["accepted"] == 0
    assert metrics["approx_kl"] == 0
    before, after = (ActorCritic.split(x.params) for x in (learner, learned))
    jax.tree.map(np.testing.assert_array_equal, before[0], after[0])
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), before[1], after[1])
    assert min(jax.tree.leaves(moved)) > 1e-4


def test_without_advantage_nothing_moves():
    algorithm = TRPO(**SMALL)
    learner = started(algorithm, DISCRETE)
    batch = experience()._replace(reward=jnp.zeros((6, 4)), terminated=jnp.ones((6, 4), bool))
    head = learner.params["value_head"]
    silent = jax.tree.map(jnp.zeros_like, head)  # V = 0 everywhere, which is right
    learner = replace(learner, params=learner.params | {"value_head": silent})
    learned, metrics = update(algorithm, learner, batch)
    for name, part in ActorCritic.split(learned.params)[0].items():
        jax.tree.map(np.testing.assert_array_equal, part, learner.params[name])
    assert np.isfinite(list(map(float, metrics.values()))).all()


def test_rows_spread_over_two_devices_are_learned_from_as_on_one():
    whole = TRPO(**SMALL | {"num_minibatches": 1}, num_epochs=2, cg_iterations=50)
    part = replace(whole, num_envs=2, axis="rows")
    learner, batch = started(whole, DISCRETE), experience()
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))

    def on_each(learner, batch):
        learner, metrics = part.update(learner, batch, jax.random.key(0), jnp.float32(0))
        return learner, jax.lax.pmean(metrics, "rows")

    together = partial(
        jax.shard_map, mesh=mesh, in_specs=(P(), P(None, "rows")), out_specs=P(), check_vma=False
    )
    learned, metrics = update(whole, learner, batch)
    other, spread = jax.jit(together(on_each))(learner, batch)
    for name in metrics:
        np.testing.assert_allclose(spread[name], metrics[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert_close(other.params, learned.params, rtol=1e-3, atol=1e-4)


def test_it_wants_separate_networks():
    with pytest.raises(UserError, match="shared_network"):
        TRPO(shared_network=True).check(DISCRETE)


def test_its_critic_has_a_loss_of_its_own_and_no_weight():
    """A weight of the value loss would be a second name for the critic's step size."""
    with pytest.raises(UserError, match="TRPO has no hyperparameter 'value_coefficient'"):
        hyperparameters.replace(TRPO(), value_coefficient=1.0)
    with pytest.raises(UserError, match="value_coefficient"):
        TRPO(value_coefficient=1.0)
