"""REINFORCE, A2C and PPO against their equations.

The gradient that an update follows is held against finite differences of the objective, written
down in NumPy from its definition: double loops for the estimates, scipy's densities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from scipy import special, stats

from actorcritic.algorithms import A2C, PPO, TRPO, QActorCritic, Reinforce, TDActorCritic
from actorcritic.algorithms.family import Rows
from actorcritic.algorithms.ppo import in_minibatches
from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameters
from actorcritic.core.types import Decision, EnvSpec, Extras, Transition
from actorcritic.envs import Pendulum
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.maths import losses
from actorcritic.maths.distributions import Categorical
from actorcritic.maths.estimators import RunningStatistics
from actorcritic.maths.networks import Network
from actorcritic.runners import compiled
from actorcritic.runners.collector import Collector

OBSERVATIONS = gymnasium.spaces.Box(-9.0, 9.0, (3,))
DISCRETE = EnvSpec("discrete", OBSERVATIONS, gymnasium.spaces.Discrete(3))
CONTINUOUS = EnvSpec("continuous", OBSERVATIONS, gymnasium.spaces.Box(-1.0, 1.0, (2,)))
SMALL: dict[str, Any] = {"num_envs": 4, "num_steps": 6, "hidden_sizes": (4,)}
# Without the scaling of a plain gradient: no clipping, no normalisation.
PLAIN = SMALL | {"max_grad_norm": 1e9, "normalize_advantage": False, "optimizer": "adam"}


def experience(
    spec: EnvSpec = DISCRETE,
    seed: int = 0,
    steps: int = 6,
    envs: int = 4,
    squashed: bool = False,
):
    """A batch with ends of every kind, as a runner would collect it."""
    rng = np.random.default_rng(seed)
    observation = rng.normal(size=(steps + 1, envs, 3)).astype(np.float32)
    terminated, truncated = rng.random((2, steps, envs)) < 0.2
    after = np.where((terminated | truncated)[..., None], 2.0, 1.0) * observation[1:]
    if spec is DISCRETE:
        action = rng.integers(3, size=(steps, envs)).astype(np.int32)
    else:
        action = rng.normal(size=(steps, envs, 2)).astype(np.float32)
    extras = Extras()
    if squashed:
        extras, action = Extras(draw=action), np.tanh(action)
    batch = Transition(
        observation[:-1],
        action,
        rng.normal(size=(steps, envs)).astype(np.float32),
        terminated,
        truncated,
        after.astype(np.float32),
        extras=extras,
    )
    return with_sums(jax.tree.map(jnp.asarray, batch))


def with_sums(batch: Transition, gamma: float = 0.99) -> Transition:
    """With the discounted sums of rewards, of episodes that are cut or begin with the batch."""
    reward, done = (np.asarray(x) for x in (batch.reward, batch.terminated | batch.truncated))
    sums, running = np.zeros_like(reward), np.zeros(reward.shape[1])
    for t in range(len(reward)):
        running = gamma * running + reward[t]
        sums[t] = running
        running = np.where(done[t], 0.0, running)
    return batch._replace(reward_sum=jnp.asarray(sums))


def episodes(spec: EnvSpec = DISCRETE, seed: int = 0, steps: int = 6, envs: int = 4):
    """Whole episodes: each ends once, by termination or truncation; the rest is not valid."""
    batch = experience(spec, seed, steps, envs)
    last = np.asarray([2, 5, 0, 3] * envs)[:envs]
    t = np.arange(steps)[:, None]
    by_time = np.arange(envs) % 2 == 1
    return with_sums(
        batch._replace(
            terminated=jnp.asarray((t == last) & ~by_time),
            truncated=jnp.asarray((t == last) & by_time),
            valid=jnp.asarray(t <= last),
        )
    )


# The policy heads of fresh networks are near 0; here they are not. And statistics of observations
# know nothing at first, so that nothing would be learned.
@partial(jax.jit, static_argnums=1)
def started(algorithm: Any, spec: EnvSpec):
    learner = algorithm.init(jax.random.key(0), spec)
    head = learner.params["policy_head"]
    head = head._replace(weight=head.weight * 50, bias=head.bias + 0.3)
    learner = replace(learner, params=learner.params | {"policy_head": head})
    if learner.observations is not None:
        seen = 1.0 + 2.0 * jax.random.normal(jax.random.key(1), (32, 3))
        learner = replace(learner, observations=learner.observations.merge(seen))
    return learner


@jax.jit
def update(algorithm, learner, batch, key=None, progress=0.0):
    key = jax.random.key(0) if key is None else key
    return algorithm.update(learner, batch, key, jnp.asarray(progress, jnp.float32))


def assert_close(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def assert_identical(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


# ------------------------------------------------------------------------ the objective in NumPy


@dataclass
class Truth:
    """The objective of an algorithm on a batch, in float64, from its definition."""

    algorithm: Any
    spec: EnvSpec
    batch: Transition

    def __post_init__(self) -> None:
        self.batch = jax.tree.map(np.asarray, self.batch)
        valid = self.batch.valid
        self.valid = np.ones_like(self.batch.terminated) if valid is None else valid

    def network(self, params: Any, name: str, x: np.ndarray) -> np.ndarray:
        trunk = "trunk" if self.algorithm.shared_network else f"{name}_trunk"
        for weight, bias in params[trunk]:
            x = np.tanh(x @ np.asarray(weight) + np.asarray(bias))
        weight, bias = params[f"{name}_head"]
        return x @ np.asarray(weight) + np.asarray(bias)

    def policy(self, params: Any) -> tuple[np.ndarray, np.ndarray]:
        """log π(a_t|s_t) and the entropy of π(·|s_t)."""
        outputs = self.network(params, "policy", self.batch.observation.astype(np.float64))
        if self.spec is DISCRETE:
            log_p = special.log_softmax(outputs, axis=-1)
            log_prob = np.take_along_axis(log_p, self.batch.action[..., None], axis=-1)
            return log_prob[..., 0], stats.entropy(np.exp(log_p), axis=-1)
        if self.algorithm.state_dependent_std:
            mean, log_std = np.split(outputs, 2, axis=-1)
            normal = stats.norm(mean, np.exp(log_std))
        else:
            normal = stats.norm(outputs, np.exp(params["log_std"]))
        if self.algorithm.squash:  # da/du = (1 - tanh² u) (high - low) / 2
            low, high = (np.float64(end) for end in (self.spec.action_space.low[0], 1.0))
            u = self.batch.extras.draw.astype(np.float64)
            slope = (1 - np.tanh(u) ** 2) * (high - low) / 2
            return (normal.logpdf(u) - np.log(slope)).sum(axis=-1), np.zeros(u.shape[:-1])
        entropy = np.broadcast_to(normal.entropy(), (*outputs.shape[:-1], 2))
        return normal.logpdf(self.batch.action).sum(axis=-1), entropy.sum(axis=-1)

    def value(self, params: Any, observation: np.ndarray) -> np.ndarray:
        if "value_head" not in params:
            return np.zeros(observation.shape[:-1])
        return self.network(params, "value", observation.astype(np.float64))[..., 0]

    def advantage_and_target(self, params: Any) -> tuple[np.ndarray, np.ndarray]:
        """Ψ_t and what V(s_t) is regressed on, for the parameters that collected the batch."""
        batch, gamma = self.batch, self.algorithm.gamma
        value = self.value(params, batch.observation)
        after = np.where(batch.terminated, 0.0, self.value(params, batch.next_observation))
        done = batch.terminated | batch.truncated
        steps, envs = batch.reward.shape
        target = np.zeros((steps, envs))
        for t in range(steps):
            for b in range(envs):
                end = next((k for k in range(t, steps) if done[k, b]), steps - 1)
                if isinstance(self.algorithm, Reinforce):
                    target[t, b] = sum(
                        gamma ** (k - t) * batch.reward[k, b] for k in range(t, end + 1)
                    )
                    target[t, b] += gamma ** (end + 1 - t) * after[end, b]
                else:
                    delta = batch.reward + gamma * after - value
                    decay = gamma * self.algorithm.gae_lambda
                    target[t, b] = value[t, b] + sum(
                        decay ** (k - t) * delta[k, b] for k in range(t, end + 1)
                    )
        advantage = target - value
        if self.algorithm.normalize_advantage:
            kept = advantage[self.valid]
            advantage = (advantage - kept.mean()) / kept.std()
        return advantage, target

    def loss(self, params: Any, old: Any) -> float:
        """Of parameters, on a batch that the parameters `old` collected."""
        advantage, target = self.advantage_and_target(old)
        log_prob, entropy = self.policy(params)
        value = self.value(params, self.batch.observation)
        if isinstance(self.algorithm, PPO):
            ratio = np.exp(log_prob - self.policy(old)[0])
            epsilon = self.algorithm.clip_range
            inside = np.clip(ratio, 1 - epsilon, 1 + epsilon)
            policy_loss = -np.minimum(ratio * advantage, inside * advantage)
        else:
            policy_loss = -log_prob * advantage
        value_loss = (value - target) ** 2 / 2
        if getattr(self.algorithm, "clip_value", False):
            before = self.value(old, self.batch.observation)
            inside = before + np.clip(value - before, -epsilon, epsilon)
            value_loss = np.maximum(value_loss, (inside - target) ** 2 / 2)
        rows = policy_loss - self.algorithm.entropy_coefficient * entropy
        if "value_head" in params:
            rows = rows + self.algorithm.value_coefficient * value_loss
        return rows[self.valid].mean()

    def gradient(self, params: Any, old: Any = None, h: float = 1e-6) -> np.ndarray:
        """Central differences, parameter by parameter."""
        old = jax.tree.map(lambda x: np.asarray(x, np.float64), params if old is None else old)
        leaves, tree = jax.tree.flatten(params)
        leaves = [np.array(x, np.float64) for x in leaves]
        slopes = []
        for leaf in leaves:
            flat = leaf.reshape(-1)
            for k in range(flat.size):
                around = []
                for step in (h, -2 * h):
                    flat[k] += step
                    around.append(self.loss(jax.tree.unflatten(tree, leaves), old))
                flat[k] += h
                slopes.append((around[0] - around[1]) / (2 * h))
        return np.asarray(slopes)


ENTROPY = {"entropy_coefficient": 0.05}
OBJECTIVES = {
    "REINFORCE": (Reinforce(**PLAIN, baseline=False), DISCRETE),
    "REINFORCE with baseline": (Reinforce(**PLAIN), DISCRETE),
    "REINFORCE, normalised": (Reinforce(**PLAIN | {"normalize_advantage": True}), CONTINUOUS),
    "A2C": (A2C(**PLAIN, **ENTROPY), DISCRETE),
    "A2C, GAE, shared trunk": (A2C(**PLAIN, gae_lambda=0.9, shared_network=True), DISCRETE),
    "A2C, continuous": (A2C(**PLAIN, **ENTROPY), CONTINUOUS),
    "A2C, σ(s)": (A2C(**PLAIN, **ENTROPY, state_dependent_std=True), CONTINUOUS),
    "A2C, squashed": (A2C(**PLAIN, squash=True), CONTINUOUS),
    "PPO": (
        PPO(**SMALL, **ENTROPY, max_grad_norm=1e9, num_epochs=1, num_minibatches=1),
        CONTINUOUS,
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.long
def test_an_update_follows_the_gradient_of_its_objective(name):
    algorithm, spec = OBJECTIVES[name]
    whole = algorithm.collects.whole_episodes
    batch = episodes(spec) if whole else experience(spec, squashed=algorithm.squash)
    learner = started(algorithm, spec)
    learned, metrics = update(algorithm, learner, batch)

    truth = Truth(algorithm, spec, batch)
    expected = truth.gradient(learner.params)
    # After its first step, Adam's first moment is (1 - 0.9) times the gradient.
    actual = np.asarray(learned.optimizer.mu) / 0.1
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=2e-5)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(expected), rtol=1e-3)
    _, target = truth.advantage_and_target(learner.params)
    error = (target - truth.value(learner.params, truth.batch.observation))[truth.valid]
    explained = 1 - error.var() / target[truth.valid].var()
    np.testing.assert_allclose(metrics["explained_variance"], explained, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("clip_value", [False, True])
@pytest.mark.long
def test_the_second_epoch_of_ppo_is_clipped_around_the_policy_that_collected(clip_value):
    """The ratio's denominator and V_old are those from before the first epoch."""
    options = SMALL | {"max_grad_norm": 1e9, "num_minibatches": 1, "learning_rate": 0.03}
    once, twice = (PPO(**options, num_epochs=n, clip_value=clip_value) for n in (1, 2))
    learner, batch = started(once, DISCRETE), experience()
    middle, _ = update(once, learner, batch)
    learned, metrics = update(twice, learner, batch)
    assert 0.05 < float(metrics["clip_fraction"]) < 0.45  # of both; nothing was clipped in one

    truth = Truth(once, DISCRETE, batch)
    expected = truth.gradient(middle.params, old=learner.params)
    actual = (np.asarray(learned.optimizer.mu) - 0.9 * np.asarray(middle.optimizer.mu)) / 0.1
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=5e-5)


def test_recomputed_advantages_are_those_of_the_epochs_own_critic():
    options = SMALL | {"max_grad_norm": 1e9, "num_minibatches": 1, "learning_rate": 0.03}
    once = PPO(**options, num_epochs=1)
    twice = PPO(**options, num_epochs=2, recompute_advantages=True)
    learner, batch = started(once, DISCRETE), experience()
    middle, _ = update(once, learner, batch)
    learned, _ = update(twice, learner, batch)

    @dataclass
    class Recomputed(Truth):
        def advantage_and_target(self, params):
            return super().advantage_and_target(middle.params)

    expected = Recomputed(once, DISCRETE, batch).gradient(middle.params, old=learner.params)
    stale = Truth(once, DISCRETE, batch).gradient(middle.params, old=learner.params)
    actual = (np.asarray(learned.optimizer.mu) - 0.9 * np.asarray(middle.optimizer.mu)) / 0.1
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=5e-5)
    assert np.abs(stale - expected).max() > 1e-3


@pytest.mark.long
def test_no_epoch_is_made_beyond_the_target_kl():
    options = SMALL | {"num_minibatches": 1, "learning_rate": 0.02}
    learner, batch = started(PPO(**options), DISCRETE), experience()
    kls = []  # of the policy before each epoch, which is what an epoch reports
    for n in range(1, 7):
        made = update(PPO(**options, num_epochs=n), learner, batch)[1]["approx_kl"]
        kls.append(float(made) * n - sum(kls))
    assert kls[0] == 0
    assert kls[3] < 0.9 * kls[4] < kls[5]
    limit = (kls[3] + kls[4]) / 2  # exceeded by the fifth epoch's report
    stopped, metrics = update(PPO(**options, num_epochs=20, target_kl=limit), learner, batch)
    five, _ = update(PPO(**options, num_epochs=5), learner, batch)
    assert metrics["epochs"] == 5
    assert_close(stopped.params, five.params)
    every, metrics = update(PPO(**options, num_epochs=6, target_kl=1e9), learner, batch)
    assert metrics["epochs"] == 6
    assert_close(every.params, update(PPO(**options, num_epochs=6), learner, batch)[0].params)


def test_a2c_over_whole_episodes_is_reinforce_with_a_baseline():
    """λ = 1 without a cut is the Monte Carlo return minus V."""
    options = PLAIN | {"learning_rate": 0.01, "optimizer": "sgd"}
    batch = episodes()
    following = jnp.concatenate([batch.observation[1:], batch.next_observation[-1:]])
    ended = (batch.terminated | batch.truncated)[..., None]
    batch = batch._replace(next_observation=jnp.where(ended, batch.next_observation, following))
    a2c, reinforce = A2C(**options, whole_episodes=True), Reinforce(**options)
    learner = started(a2c, DISCRETE)
    learned, other = (update(algorithm, learner, batch)[0] for algorithm in (a2c, reinforce))
    assert_close(learned.params, other.params)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), learner.params, learned.params)
    assert min(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_ppo_with_one_epoch_and_no_clipping_is_a2c(spec):
    options = SMALL | {"gae_lambda": 0.95, "normalize_advantage": False, "optimizer": "rmsprop"}
    options |= {"learning_rate": 1e-3, "entropy_coefficient": 0.01}
    a2c = A2C(**options)
    ppo = PPO(**options, num_epochs=1, num_minibatches=1, clip_range=1e9)
    learner = other = started(a2c, spec)
    for seed in range(3):
        batch = experience(spec, seed)
        learner, _ = update(a2c, learner, batch)
        other, _ = update(ppo, other, batch)
    assert_close(other.params, learner.params, rtol=1e-5, atol=1e-7)
    moved = jax.tree.map(
        lambda x, y: np.abs(x - y).max(), learner.params, started(a2c, spec).params
    )
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_the_entropy_bonus_alone_makes_the_policy_more_random():
    algorithm = Reinforce(**PLAIN, baseline=False, entropy_coefficient=1.0, learning_rate=0.005)
    batch = episodes()._replace(reward=jnp.zeros((6, 4)))
    learner, entropies = started(algorithm, DISCRETE), []
    for _ in range(10):
        learner, metrics = update(algorithm, learner, batch)
        entropies.append(float(metrics["entropy"]))
    assert np.diff(entropies).min() > 0
    assert entropies[-1] > entropies[0] + 0.01


def test_better_actions_become_likelier():
    """Action 2 is always followed by reward 1, the others by 0."""
    for algorithm in (A2C(**SMALL, learning_rate=0.01), PPO(**SMALL, learning_rate=0.01)):
        batch = experience()
        batch = batch._replace(
            reward=(batch.action == 2).astype(jnp.float32),
            terminated=jnp.ones_like(batch.terminated),
        )
        learner = algorithm.init(jax.random.key(0), DISCRETE)
        for k in range(5):
            learner, _ = update(algorithm, learner, batch, jax.random.key(k))
        p = np.exp(policy(algorithm, learner, batch.observation).log_prob(jnp.full((6, 4), 2)))
        assert p.mean() > 0.36


def policy(algorithm, learner, observation) -> Categorical:
    return algorithm.policy(algorithm.actor(learner), observation)


# --------------------------------------------------------------------------- rows and their order


def test_environments_may_stand_in_any_order():
    algorithm = A2C(**SMALL)
    batch, order = experience(), jnp.asarray([2, 0, 3, 1])
    learner = started(algorithm, DISCRETE)
    expected, _ = update(algorithm, learner, batch)
    actual, _ = update(algorithm, learner, jax.tree.map(lambda x: x[:, order], batch))
    assert_close(actual.params, expected.params)


@hyperparameters
class Counting(PPO):
    """Reports sums of powers of every row's target: they tell which rows a minibatch held."""

    def diagnostics(self, log_prob, rows, progress):
        sums = {f"power {k}": jnp.sum(rows.target**k) for k in (0, 1, 2, 3)}
        return sums | {"square": sums["power 1"] ** 2}  # depends on which rows go together


def test_every_epoch_visits_every_row_once():
    algorithm = Counting(**SMALL, num_epochs=2, num_minibatches=4)
    learner, batch = started(algorithm, DISCRETE), experience()
    _, metrics = update(algorithm, learner, batch)
    _, target = Truth(algorithm, DISCRETE, batch).advantage_and_target(learner.params)
    for k in (0, 1, 2, 3):  # metrics are means over the minibatches
        np.testing.assert_allclose(metrics[f"power {k}"], (target**k).sum() / 4, rtol=1e-4)


def test_every_epoch_shuffles_anew():
    once, twice = (Counting(**SMALL, num_epochs=n, num_minibatches=4) for n in (1, 2))
    learner, batch, key = started(once, DISCRETE), experience(), jax.random.key(5)
    both = update(twice, learner, batch, key)[1]["square"]
    # Had both epochs had the same minibatches, one epoch alone would give the same mean.
    for only in (key, *jax.random.split(key)):
        assert abs(float(update(once, learner, batch, only)[1]["square"] - both)) > 1e-3


def test_minibatches_are_drawn_anew():
    algorithm = PPO(**SMALL, num_epochs=1)
    learner, batch = started(algorithm, DISCRETE), experience()
    by_key = [update(algorithm, learner, batch, jax.random.key(k))[0] for k in (0, 0, 1)]
    assert_identical(by_key[0].params, by_key[1].params)
    with pytest.raises(AssertionError):
        assert_identical(by_key[0].params, by_key[2].params)


@pytest.mark.long
def test_rows_spread_over_two_devices_are_learned_from_as_on_one():
    """Everything that is averaged, summed or normalised is so over both devices."""
    options = {
        "normalize_observation": True,
        "normalize_reward": True,
        "normalize_advantage": True,
        "num_minibatches": 1,
        "num_epochs": 2,
        "learning_rate": 0.01,
    }
    whole = PPO(**SMALL | options)
    part = replace(whole, num_envs=2, axis="rows")
    learner = started(whole, DISCRETE)
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))

    def on_each(learner, batch):
        learner, metrics = part.update(learner, batch, jax.random.key(0), jnp.float32(0))
        return learner, jax.lax.pmean(metrics, "rows")

    together = jax.jit(
        jax.shard_map(
            on_each,
            mesh=mesh,
            in_specs=(P(), P(None, "rows")),
            out_specs=P(),
            check_vma=False,
        )
    )
    other = learner
    for seed in range(2):
        batch = experience(seed=seed)
        learner, metrics = update(whole, learner, batch)
        other, spread_metrics = together(other, batch)
        for name in metrics:
            np.testing.assert_allclose(spread_metrics[name], metrics[name], rtol=1e-4, atol=1e-5)
    assert_close(other.params, learner.params, rtol=1e-4, atol=1e-5)
    assert_close(other.observations, learner.observations, rtol=1e-4)
    assert_close(other.returns, learner.returns, rtol=1e-4)


# ------------------------------------------------------------------------- rows that do not count


def test_padding_may_as_well_be_left_out():
    algorithm = Reinforce(**SMALL, normalize_observation=True, normalize_reward=True)
    short = episodes(steps=6)
    long = episodes(steps=9)  # the same episodes, longer padding
    long = jax.tree.map(lambda s, x: jnp.concatenate([s, x[6:]]), short, long)
    long = long._replace(valid=long.valid.at[6:].set(False))
    learner = started(algorithm, DISCRETE)
    expected, metrics = update(algorithm, learner, short)
    actual, padded_metrics = update(algorithm, learner, long)
    assert_close(actual.params, expected.params)
    assert_close(actual.observations, expected.observations)
    assert_close(actual.returns, expected.returns)
    assert_close(padded_metrics, metrics, rtol=1e-4)


@pytest.mark.parametrize("kind", [A2C, PPO, Reinforce, QActorCritic, TDActorCritic, TRPO])
@pytest.mark.long
def test_what_stands_in_rows_that_are_not_valid_cannot_matter(kind):
    """A reset row after every end, as an environment with NEXT_STEP autoreset gives it."""
    options = {"normalize_observation": True, "normalize_reward": True}
    if kind is TRPO:
        options["num_minibatches"] = 4
    algorithm = kind(**SMALL | options | {"normalize_advantage": True})
    whole = algorithm.collects.whole_episodes
    batch = episodes() if whole else experience()
    done = batch.terminated | batch.truncated
    if not whole:
        reset = jnp.concatenate([jnp.zeros((1, 4), bool), done[:-1]])
        batch = batch._replace(valid=~reset)
    ends = {
        "terminated": batch.terminated & batch.valid,
        "truncated": batch.truncated & batch.valid,
    }
    batch = batch._replace(**ends)

    def with_garbage(scale: float) -> Transition:
        def spoil(x):
            keep = batch.valid.reshape(batch.valid.shape + (1,) * (x.ndim - 2))
            return jnp.where(keep, x, jnp.full_like(x, scale))

        return batch._replace(
            observation=spoil(batch.observation),
            next_observation=spoil(batch.next_observation),
            reward=spoil(batch.reward),
            reward_sum=spoil(batch.reward_sum),
        )

    learner = started(algorithm, DISCRETE)
    learned = [update(algorithm, learner, with_garbage(scale))[0] for scale in (0.0, 1e3, np.nan)]
    for other in learned[1:]:
        assert_close(other.params, learned[0].params, rtol=1e-6, atol=1e-7)
        assert_close(other.observations, learned[0].observations)
        assert_close(other.returns, learned[0].returns)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), learner.params, learned[0].params)
    assert max(jax.tree.leaves(moved)) > 1e-4


# ----------------------------------------------------------------------------------- normalisation


def test_acting_and_learning_see_the_same_normalised_observations():
    """Both equal an algorithm without normalisation that is given normalised observations."""
    plain, normal = A2C(**SMALL), A2C(**SMALL, normalize_observation=True)
    seen = np.random.default_rng(5).normal(loc=2.0, scale=3.0, size=(50, 3)).astype(np.float32)
    statistics = RunningStatistics.start((3,)).merge(jnp.asarray(seen))
    learner = started(plain, DISCRETE)
    with_statistics = replace(learner, observations=statistics)

    batch = experience()
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)

    def z(x):
        return jnp.asarray((np.asarray(x) - mean) / deviation)

    key = jax.random.key(3)
    for explore in (True, False):
        actors = normal.actor(with_statistics), plain.actor(learner)
        action, _ = normal.act(actors[0], batch.observation[0], key, explore=explore)
        expected, _ = plain.act(actors[1], z(batch.observation[0]), key, explore=explore)
        np.testing.assert_array_equal(action, expected)

    learned, _ = update(normal, with_statistics, batch)
    shifted = batch._replace(
        observation=z(batch.observation), next_observation=z(batch.next_observation)
    )
    expected, _ = update(plain, learner, shifted)
    assert_close(learned.params, expected.params, rtol=1e-4, atol=1e-6)

    everything = np.concatenate([seen, np.asarray(batch.observation).reshape(-1, 3)])
    np.testing.assert_allclose(learned.observations.mean, everything.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(learned.observations.variance, everything.var(axis=0), rtol=1e-5)


def test_normalised_observations_are_clipped_and_one_hot_parts_left_alone():
    space = gymnasium.spaces.Dict(
        a=gymnasium.spaces.Discrete(2), b=gymnasium.spaces.Box(-9, 9, (1,))
    )
    spec = EnvSpec("mixed", space, gymnasium.spaces.Discrete(2))
    algorithm = A2C(**SMALL, normalize_observation=True)
    learner = algorithm.init(jax.random.key(0), spec)
    statistics = RunningStatistics(
        jnp.asarray(10.0), jnp.asarray([0.5, 0.5, 1.0]), jnp.asarray([0.25, 0.25, 4.0])
    )
    learner = replace(learner, observations=statistics)
    observation = {"a": jnp.asarray([0, 1]), "b": jnp.asarray([[5.0], [1000.0]])}
    x = algorithm._encode(learner, observation)
    np.testing.assert_allclose(x, [[1, 0, 2], [0, 1, 10]], rtol=1e-5)


@pytest.mark.parametrize("kind", [A2C, Reinforce])
@pytest.mark.long
def test_rewards_are_divided_by_the_deviation_of_the_discounted_return(kind):
    plain, normal = kind(**SMALL, gamma=0.9), kind(**SMALL, gamma=0.9, normalize_reward=True)
    learner = started(plain, DISCRETE)
    other = started(normal, DISCRETE)
    sums: list[float] = []
    running = np.zeros(4)  # of the episodes under way
    for seed in range(3):
        whole = normal.collects.whole_episodes
        batch = episodes(seed=seed) if whole else experience(seed=seed)
        batch = batch._replace(reward=batch.reward * 7 + 3)
        valid = np.ones((6, 4), bool) if batch.valid is None else np.asarray(batch.valid)
        done = np.asarray(batch.terminated | batch.truncated)
        if whole:
            running = np.zeros(4)
        rows = []
        for t in range(6):
            running = 0.9 * running + np.asarray(batch.reward[t])
            rows.append(running)
            sums.extend(running[valid[t]])
            running = np.where(done[t], 0.0, running)
        batch = batch._replace(reward_sum=jnp.asarray(np.stack(rows), jnp.float32))
        scaled = np.clip(np.asarray(batch.reward) / np.std(sums), -10, 10)
        learner, _ = update(plain, learner, batch._replace(reward=jnp.asarray(scaled, jnp.float32)))
        other, _ = update(normal, other, batch)
        np.testing.assert_allclose(other.returns.variance, np.var(sums), rtol=1e-4)
        assert_close(other.params, learner.params, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------------------- schedules, networks


def test_schedules_end_at_zero():
    algorithm = PPO(**SMALL, learning_rate_schedule="linear", clip_range_schedule="linear")
    learner, batch = started(algorithm, DISCRETE), experience()
    for progress, rate in ((0.0, 2.5e-4), (0.5, 1.25e-4), (1.0, 0.0)):
        learned, metrics = update(algorithm, learner, batch, jax.random.key(0), progress)
        assert float(metrics["learning_rate"]) == pytest.approx(rate)
    assert_identical(learned.params, learner.params)

    rows = {"old_log_prob": jnp.zeros(1), "advantage": jnp.ones(1)}
    for progress, loss in ((0.0, -1.2), (0.5, -1.1), (1.0, -1.0)):
        clipped = algorithm.policy_loss(jnp.ones(1), type("Rows", (), rows), jnp.asarray(progress))
        assert float(clipped[0]) == pytest.approx(loss)


def test_a_users_network_is_trained():
    own = Network(
        init=lambda key, x: {"w": jax.random.normal(key, (x.shape[-1], 5))},
        apply=lambda params, x: jax.nn.relu(x @ params["w"]),
    )
    algorithm = A2C(**SMALL, network=own)
    learner = algorithm.init(jax.random.key(0), DISCRETE)
    assert learner.params["policy_trunk"]["w"].shape == (3, 5)
    learned, _ = update(algorithm, learner, experience())
    for trunk in ("policy_trunk", "value_trunk"):
        assert np.any(learned.params[trunk]["w"] != learner.params[trunk]["w"])
    action, _ = algorithm.act(algorithm.actor(learned), jnp.zeros((7, 3)), jax.random.key(1))
    assert action.shape == (7,)


def test_a_variant_overrides_one_method():
    @hyperparameters
    class SquaredAdvantage(A2C):
        def policy_loss(self, log_prob, rows, progress):
            return losses.policy_gradient_loss(log_prob, rows.advantage**2)

    learner = started(A2C(**SMALL), DISCRETE)
    first, _ = update(A2C(**SMALL), learner, experience())
    second, _ = update(SquaredAdvantage(**SMALL), learner, experience())
    with pytest.raises(AssertionError):
        assert_close(first.params, second.params)


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (
            PPO(num_envs=3, num_steps=5, num_minibatches=4),
            "3 × 5 = 15 rows.*choose a divisor of 15",
        ),
        (PPO(num_envs=2, num_steps=2, num_minibatches=4), "minibatches of at least 2 rows"),
        (
            Reinforce(baseline=False, value_coefficient=1.0),
            "value_coefficient weighs the loss of the baseline, and baseline is off",
        ),
    ],
    ids=["minibatches", "one row", "weight of no loss"],
)
def test_hyperparameters_that_do_not_fit_each_other_are_named(algorithm, message):
    with pytest.raises(UserError, match=message):
        algorithm.check(DISCRETE)


def test_a_reinforce_without_a_baseline_is_allowed():
    Reinforce(baseline=False).check(DISCRETE)
    Reinforce(value_coefficient=1.0).check(DISCRETE)


# --------------------------------------------------------------------------------- whole episodes

LIMITED = EnvSpec("limited", OBSERVATIONS, gymnasium.spaces.Discrete(3), max_episode_steps=500)


def test_minibatches_of_whole_episodes_have_to_divide_what_is_collected():
    """The time limit is what a batch has room for, where it is shorter than num_steps."""
    options = {"num_envs": 8, "num_steps": 1024, "whole_episodes": True}
    with pytest.raises(UserError, match=r"the time limit of limited = 8 × 500 = 4000 rows.* = 64;"):
        PPO(**options, num_minibatches=64).check(LIMITED)
    PPO(**options, num_minibatches=50).check(LIMITED)
    PPO(**options, num_minibatches=64).check(DISCRETE)  # without a limit, 8 × 1024
    with pytest.raises(UserError, match="num_steps = 8 × 300 = 2400 rows"):
        PPO(**options | {"num_steps": 300}, num_minibatches=64).check(LIMITED)


@pytest.mark.parametrize("count", [64, 61, 17, 3])
def test_every_minibatch_gets_as_many_valid_rows(count):
    """One more or less; and every row is in one of them."""
    number, size = 16, 64
    valid = np.random.default_rng(count).permutation(np.arange(size) < count)
    index = jnp.arange(size, dtype=jnp.float32)
    rows = Rows(index[:, None], None, index, index, index, index, index, jnp.asarray(valid))

    def step(carry, part):
        seen, k = carry
        return (seen.at[k].set(part.advantage), k + 1), {
            "valid": jnp.sum(part.valid, dtype=jnp.float32)
        }

    carry = jnp.zeros((number, size // number)), jnp.asarray(0)
    shuffled = []
    for key in map(jax.random.key, (0, 1)):
        (seen, _), metrics = in_minibatches(step, carry, rows, key, number)
        np.testing.assert_array_equal(np.sort(np.ravel(seen)), index)
        counts = valid[np.asarray(seen, int)].sum(axis=1)
        assert counts.sum() == count
        assert np.ptp(counts) <= 1
        np.testing.assert_allclose(metrics["valid"], count / number)
        shuffled.append(np.asarray(seen))
    assert (shuffled[0] != shuffled[1]).any()


@pytest.mark.parametrize("kind", [A2C, PPO, TRPO])
@pytest.mark.long
def test_a_minibatch_of_padding_alone_is_no_step(kind):
    """Not even of the optimiser, whose moments would fade."""
    algorithm = kind(**SMALL, **{} if kind is A2C else {"num_minibatches": 4}, optimizer="adam")
    learner, _ = update(algorithm, started(algorithm, DISCRETE), experience())
    batch = episodes()
    rows = algorithm._rows(learner, batch, batch.reward, jax.random.key(0), learner.params)
    carry, padding = (learner.params, learner.optimizer), ~rows.valid
    only = jax.tree.map(lambda x: x[padding], rows)
    assert not only.valid.any()
    after, metrics = algorithm.gradient_step(carry, learner, only, jnp.float32(0))
    assert_identical(after, carry)
    assert np.isfinite(list(map(float, metrics.values()))).all()
    # With a single valid row, it is a step.
    one = only._replace(valid=only.valid.at[0].set(True))
    after, _ = algorithm.gradient_step(carry, learner, one, jnp.float32(0))
    for part in (0, 1):
        with pytest.raises(AssertionError):
            assert_identical(after[part], carry[part])


# ---------------------------------------------------------------------- before anything is known


@pytest.mark.parametrize("kind", [A2C, PPO, Reinforce, QActorCritic, TDActorCritic, TRPO])
@pytest.mark.long
def test_nothing_is_learned_until_the_observations_are_known(kind):
    options = {"num_minibatches": 4} if kind is TRPO else {}
    algorithm = kind(**SMALL | options, normalize_observation=True)
    batch = episodes() if algorithm.collects.whole_episodes else experience()
    learner = algorithm.init(jax.random.key(0), DISCRETE)
    known = batch.reward.size if batch.valid is None else int(batch.valid.sum())
    seen = 0
    for _ in range(4):
        learned, metrics = update(algorithm, learner, batch)
        still = (learned.params, learned.optimizer), (learner.params, learner.optimizer)
        if seen < 16:
            assert_identical(*still)
        else:
            with pytest.raises(AssertionError):
                assert_identical(still[0][0], still[1][0])
        assert np.isfinite(list(map(float, metrics.values()))).all()
        seen += known
        assert float(learned.observations.count) == seen
        learner = learned


def test_a_few_observations_are_not_enough():
    """Steps of five: after three there are 15 observations, after four 20."""
    algorithm = A2C(num_envs=1, num_steps=5, hidden_sizes=(4,), normalize_observation=True)
    learner = algorithm.init(jax.random.key(0), DISCRETE)
    moved = []
    for seed in range(6):
        learned, _ = update(algorithm, learner, experience(seed=seed, steps=5, envs=1))
        differ = jax.tree.map(lambda x, y: bool(jnp.any(x != y)), learned.params, learner.params)
        moved.append(any(jax.tree.leaves(differ)))
        learner = learned
    assert moved == [False, False, False, False, True, True]


def test_rewards_cannot_be_normalised_without_their_sums():
    algorithm = A2C(**SMALL, normalize_reward=True)
    assert float(algorithm.collects.discount) == pytest.approx(0.99)
    learner = algorithm.init(jax.random.key(0), DISCRETE)
    with pytest.raises(UserError, match=r"normalize_reward needs .*reward_sum"):
        algorithm.update(
            learner, experience()._replace(reward_sum=None), jax.random.key(0), jnp.float32(0)
        )


# --------------------------------------------------------------------------------------- extras


@hyperparameters
class Noted(A2C):
    """Records a number of its own beside every action."""

    def act(self, actor, observation, key, *, explore=True):
        action, extras = super().act(actor, observation, key, explore=explore)
        return Decision(action, extras._replace(own={"first": observation[..., 0] + 1}))


@hyperparameters
class Forgetful(A2C):
    """Overwrites what `act` of the family records."""

    def act(self, actor, observation, key, *, explore=True):
        action, _ = super().act(actor, observation, key, explore=explore)
        return Decision(action, Extras(own=observation))


@pytest.mark.parametrize("where", ["compiled", "host"])
@pytest.mark.long
def test_what_a_variant_records_leaves_the_draw_of_a_squashed_policy(where):
    options = {"num_envs": 2, "num_steps": 16, "hidden_sizes": (4,), "squash": True}
    algorithm, plain, environment = Noted(**options), A2C(**options), Pendulum()
    learner = started(algorithm, environment.spec)
    actor = algorithm.actor(learner)
    if where == "compiled":
        now = compiled.reset(environment, jax.random.split(jax.random.key(1), 2))
        key = jax.random.key(2)
        batch = compiled.collect(algorithm, environment, actor, now, key)[1]
    else:
        host = HostEnvironment("Pendulum-v1")
        collector = Collector(algorithm, host, actor)
        collector.start(3)
        batch, _ = collector.collect(actor, jax.random.split(jax.random.key(2), 16))
        batch = jax.tree.map(jnp.array, batch)
        collector.close()
    np.testing.assert_allclose(batch.extras.own["first"], batch.observation[..., 0] + 1, rtol=1e-6)
    np.testing.assert_allclose(batch.action, 2 * np.tanh(batch.extras.draw), rtol=1e-4, atol=1e-5)
    rows = algorithm._rows(learner, batch, batch.reward, jax.random.key(0), learner.params)
    np.testing.assert_array_equal(rows.action, batch.extras.draw.reshape(-1, 1))
    density = policy(algorithm, learner, batch.observation).log_prob(batch.extras.draw)
    np.testing.assert_allclose(rows.old_log_prob, density.reshape(-1), rtol=1e-4, atol=1e-5)
    # Its own record changes nothing of what is learned.
    learned, _ = update(algorithm, learner, batch)
    expected, _ = update(plain, learner, batch._replace(extras=Extras(draw=batch.extras.draw)))
    assert_identical(learned.params, expected.params)


def test_a_squashed_policy_whose_draw_was_not_recorded_is_refused():
    algorithm = Forgetful(**SMALL, squash=True)
    learner = started(algorithm, CONTINUOUS)
    batch = experience(CONTINUOUS)._replace(extras=Extras(own=jnp.zeros((6, 4))))
    with pytest.raises(UserError, match=r"a2c squashes its actions.*Extras\(draw=…\)"):
        algorithm.update(learner, batch, jax.random.key(0), jnp.float32(0))
