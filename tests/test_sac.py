"""SAC against its equations, written down in NumPy with scipy's densities, and its replay buffer.

Gradients are held against finite differences of the objectives, in double precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from actorcritic.algorithms import SAC, sac
from actorcritic.algorithms.sac import Sample
from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec, Transition
from actorcritic.maths.networks import Network

LOW, HIGH = np.float32([-3.0, 1.0]), np.float32([1.0, 9.0])
SPEC = EnvSpec(
    "box", gymnasium.spaces.Box(-9.0, 9.0, (3,)), gymnasium.spaces.Box(LOW, HIGH, dtype=np.float32)
)
SMALL: dict[str, Any] = {
    "num_envs": 2,
    "num_steps": 4,
    "hidden_sizes": (5,),
    "batch_size": 7,
    "buffer_size": 64,
    "learning_starts": 0,
}


@pytest.fixture
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def learner_of(algorithm: SAC) -> Any:
    return jax.jit(lambda key: algorithm.init(key, SPEC))(jax.random.key(0))


def experience(steps: int = 4, envs: int = 2, seed: int = 0, **changes: Any) -> Transition:
    rng = np.random.default_rng(seed)
    observation, after = rng.normal(size=(2, steps, envs, 3)).astype(np.float32)
    terminated, truncated = rng.random((2, steps, envs)) < 0.3
    action = rng.uniform(LOW, HIGH, (steps, envs, 2)).astype(np.float32)
    reward = rng.normal(size=(steps, envs)).astype(np.float32)
    batch = Transition(observation, action, reward, terminated, truncated, after)
    return jax.tree.map(jnp.asarray, batch._replace(**changes))


def update(algorithm: SAC, learner: Any, batch: Transition, key: int = 0) -> Any:
    return jax.jit(SAC.update)(algorithm, learner, batch, jax.random.key(key), jnp.float32(0))


def same(a: Any, b: Any) -> bool:
    def equal(x: Any, y: Any) -> bool:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        return np.array_equal(x, y)

    return all(jax.tree.leaves(jax.tree.map(equal, a, b)))


# --------------------------------------------------------------------------- the objectives


def forward(trunk: Any, head: Any, x: np.ndarray) -> np.ndarray:
    for layer in trunk:
        x = np.tanh(x @ layer.weight + layer.bias)
    return x @ head.weight + head.bias


def least_q(critics: Any, x: np.ndarray, action: np.ndarray) -> np.ndarray:
    inputs = np.concatenate([x, action], axis=-1)
    return np.min([forward(*params, inputs)[:, 0] for params in critics], axis=0)


def policy(actor: Any, x: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actions in [-1, 1], and the logarithms of their densities there."""
    outputs = forward(actor["policy_trunk"], actor["policy_head"], x)
    mean, log_std = outputs[:, :2], np.clip(outputs[:, 2:], -20, 2)
    u = mean + np.exp(log_std) * noise
    log_prob = stats.norm(mean, np.exp(log_std)).logpdf(u) - np.log(1 - np.tanh(u) ** 2)
    return np.tanh(u), log_prob.sum(axis=-1)


def slopes(objective: Any, params: Any) -> Any:
    """The gradient of `objective` by central differences."""
    leaves, structure = jax.tree.flatten(params)
    gradient = [np.zeros_like(leaf) for leaf in leaves]
    for leaf, slope in zip(leaves, gradient, strict=True):
        for at in np.ndindex(leaf.shape):
            kept = leaf[at]
            values = []
            for h in (1e-5, -1e-5):
                leaf[at] = kept + h
                values.append(objective(jax.tree.unflatten(structure, leaves)))
            leaf[at] = kept
            slope[at] = (values[0] - values[1]) / 2e-5
    return jax.tree.unflatten(structure, gradient)


def assert_close(one: Any, other: Any, **tolerance: float) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


class Started:
    """Parameters, none of them near 0, and a minibatch, in double precision."""

    def __init__(self, **options: Any) -> None:
        rng = np.random.default_rng(3)
        self.algorithm = SAC(**SMALL | {"activation": "tanh", "gamma": 0.9, "tau": 0.1, **options})
        learner = learner_of(self.algorithm)

        def shaken(x: Any) -> Any:
            real = jnp.issubdtype(x.dtype, jnp.floating)
            return jnp.asarray(x + rng.normal(size=x.shape) * 0.4) if real else x

        self.params = jax.tree.map(shaken, learner.params)
        optimizer = jax.tree.map(
            lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x,
            learner.optimizer,
        )
        self.learner = replace(learner, params=self.params, optimizer=optimizer)
        action = rng.uniform(-1, 1, (7, 2))
        observation, after = rng.normal(size=(2, 7, 3))
        self.sample = Sample(
            inputs=np.concatenate([observation, action], axis=-1),
            observation=observation,
            reward=rng.normal(size=7),
            terminated=np.float64([0, 1, 0, 0, 1, 0, 0]),
            next_observation=after,
        )
        self.key = jax.random.key(4)
        self.noise = np.asarray(jax.random.normal(self.key, (2, 7, 2), float))

    def step(self, **changes: Any) -> Any:
        algorithm = replace(self.algorithm, **changes)
        sample = jax.tree.map(jnp.asarray, self.sample)
        learner, metrics = jax.jit(algorithm.learn)(self.learner, sample, self.key)
        return jax.tree.map(np.array, (learner.params, learner.optimizer, metrics))


# What Adam keeps after one step from nothing is a tenth of the gradient.
def gradient_in(state: Any) -> Any:
    return jax.tree.map(lambda m: 10 * m, state.mu)


@pytest.mark.usefixtures("double")
@pytest.mark.long
def test_a_gradient_step_follows_the_papers_objectives() -> None:
    start = Started(critic_learning_rate=0.05)
    before = jax.tree.map(np.array, start.params)
    after, optimizer, metrics = start.step()
    s, (first, second) = start.sample, start.noise
    temperature = np.exp(before.log_temperature)

    action, log_prob = policy(before.actor, s.next_observation, first)
    soft_value = least_q(before.targets, s.next_observation, action) - temperature * log_prob
    target = np.where(s.terminated == 1, s.reward, s.reward + 0.9 * soft_value)

    def critics_objective(critics: Any) -> float:
        values = [forward(*params, s.inputs)[:, 0] for params in critics]
        return sum(0.5 * np.mean((q - target) ** 2) for q in values)

    assert_close(
        gradient_in(optimizer.critics), slopes(critics_objective, before.critics), rtol=1e-6
    )
    np.testing.assert_allclose(metrics["value_loss"], critics_objective(before.critics))

    # The actor follows the critics as they have become.
    def actor_objective(actor: Any) -> float:
        action, log_prob = policy(actor, s.observation, second)
        q = least_q(after.critics, s.observation, action)
        return np.mean(temperature * log_prob - q)

    expected = slopes(actor_objective, before.actor)
    assert_close(gradient_in(optimizer.actor), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(metrics["policy_loss"], actor_objective(before.actor))
    assert not same(before.critics, after.critics)

    _, log_prob = policy(before.actor, s.observation, second)
    np.testing.assert_allclose(metrics["entropy"], -log_prob.mean())
    np.testing.assert_allclose(metrics["temperature"], temperature)
    slope = gradient_in(optimizer.log_temperature)
    np.testing.assert_allclose(slope, -(log_prob.mean() - 2), rtol=1e-9)  # the target is -2

    assert_close(
        after.targets,
        jax.tree.map(lambda t, q: 0.9 * t + 0.1 * q, before.targets, after.critics),
        rtol=1e-12,
    )


@pytest.mark.usefixtures("double")
@pytest.mark.long
def test_the_temperature_rises_where_the_entropy_is_too_low() -> None:
    start = Started()
    entropy = float(start.step()[2]["entropy"])
    for target, sign in ((entropy + 0.1, 1), (entropy - 0.1, -1)):
        after = start.step(target_entropy=target)[0].log_temperature
        assert np.sign(after - start.params.log_temperature) == sign
        np.testing.assert_allclose(after, start.params.log_temperature + sign * 3e-4, rtol=1e-6)
    fixed = start.step(learn_temperature=False)
    assert fixed[0].log_temperature == start.params.log_temperature


@pytest.mark.usefixtures("double")
@pytest.mark.long
def test_each_step_size_moves_its_own_part() -> None:
    start = Started()
    plain = start.step()[0]
    moved = {
        name: {
            part
            for part, a, b in zip(plain._fields, plain, start.step(**{name: 1e-2})[0], strict=True)
            if not same(a, b)
        }
        for name in ("learning_rate", "critic_learning_rate", "temperature_learning_rate")
    }
    assert moved == {
        "learning_rate": {"actor"},
        "critic_learning_rate": {"actor", "critics", "targets"},  # the actor follows the critics
        "temperature_learning_rate": {"log_temperature"},
    }


@pytest.mark.usefixtures("double")
def test_gradients_are_cut_part_by_part() -> None:
    _, plain, metrics = Started().step()
    _, cut, others = Started().step(max_grad_norm=1e-3)

    def norm(state: Any) -> float:
        return np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(gradient_in(state))))

    for part in ("actor", "critics"):
        assert norm(getattr(plain, part)) > 1e-2
        np.testing.assert_allclose(norm(getattr(cut, part)), 1e-3)
    both = np.hypot(norm(plain.actor), norm(plain.critics))
    np.testing.assert_allclose(metrics["gradient_norm"], both)
    assert others["gradient_norm"] > 1e-2


# --------------------------------------------------------------------------- storing


@pytest.mark.long
def test_rows_hold_what_happened() -> None:
    algorithm, batch = SAC(**SMALL), experience()
    learner, _ = update(algorithm, learner_of(algorithm), batch)
    rows = learner.buffer.at(jnp.arange(8).reshape(4, 2))
    inside = 2 * (np.asarray(batch.action) - LOW) / (HIGH - LOW) - 1
    np.testing.assert_array_equal(rows.observation, batch.observation)
    np.testing.assert_allclose(rows.action, inside, atol=1e-6)
    np.testing.assert_array_equal(rows.reward, batch.reward)
    np.testing.assert_array_equal(rows.terminated, batch.terminated)  # a truncation is no end
    np.testing.assert_array_equal(rows.next_observation, batch.next_observation)
    assert int(learner.buffer.seen) == 8
    sample = sac._sample(SPEC, jax.tree.map(lambda x: x[:, 0], rows))
    both = np.concatenate([rows.observation, rows.action], axis=-1)[:, 0]
    np.testing.assert_array_equal(sample.inputs, both)
    np.testing.assert_array_equal(sample.terminated, np.float32(batch.terminated)[:, 0])


def test_rows_that_are_not_valid_leave_no_trace() -> None:
    algorithm = SAC(**SMALL)
    valid = jnp.asarray(np.random.default_rng(1).random((4, 2)) < 0.5)
    whole = experience()
    spoilt = jax.tree.map(
        lambda x: jnp.where(valid.reshape(4, 2, *(1,) * (x.ndim - 2)), x, jnp.full_like(x, 99)),
        whole,
    )
    learned = [
        update(algorithm, learner_of(algorithm), batch._replace(valid=valid))
        for batch in (whole, spoilt)
    ]
    assert same(*learned)
    assert int(learned[0][0].buffer.seen) == valid.sum()
    nothing = whole._replace(valid=jnp.zeros((4, 2), bool))
    learner, metrics = update(algorithm, learner_of(algorithm), nothing)
    untouched = replace(learner_of(algorithm), warm_up=learner.warm_up)  # only that is drawn anew
    assert same(learner, untouched)
    assert set(map(float, metrics.values())) == {0.0}


# --------------------------------------------------------------------------- acting and starting


def test_random_actions_are_held_for_a_rollout_and_then_drawn_anew() -> None:
    algorithm = SAC(**SMALL | {"learning_starts": 1000})
    learner, observation = learner_of(algorithm), jnp.zeros((5, 3))
    actor = algorithm.actor(learner)
    held = [algorithm.act(actor, observation, jax.random.key(k)).action for k in range(3)]
    np.testing.assert_array_equal(held[0], held[1])
    np.testing.assert_array_equal(held[0], held[2])
    assert len(np.unique(np.asarray(held[0]))) == 10  # each environment its own
    learner, _ = update(algorithm, learner, experience())
    later = algorithm.act(algorithm.actor(learner), observation, jax.random.key(0)).action
    assert not np.any(np.asarray(later) == np.asarray(held[0]))


def test_actions_fill_the_box_and_the_mean_is_scaled_to_it() -> None:
    algorithm = SAC(**SMALL | {"learning_starts": 1})
    learner = learner_of(algorithm)
    observation = jnp.asarray(np.random.default_rng(0).normal(size=(20_000, 3)), jnp.float32)
    act = jax.jit(SAC.act, static_argnames="explore")
    random, extras = act(algorithm, algorithm.actor(learner), observation, jax.random.key(1))
    assert jax.tree.leaves(extras) == []
    for k in range(2):  # uniform over the box until the learning starts
        assert stats.kstest(random[:, k], stats.uniform(LOW[k], HIGH[k] - LOW[k]).cdf)[1] > 1e-3
    assert abs(np.corrcoef(random.T)[0, 1]) < 0.03

    transitions = replace(learner.buffer.transitions, count=jnp.int32(1))
    begun = replace(learner, buffer=learner.buffer._replace(transitions=transitions))
    actor = jax.tree.map(lambda x: np.asarray(x) * 20, learner.params.actor)
    begun = replace(begun, params=learner.params._replace(actor=actor))
    # Of σ clamped to e² at most, most draws lie at the bounds; none beyond.
    drawn = act(algorithm, algorithm.actor(begun), observation, jax.random.key(1)).action
    drawn = np.asarray(drawn)
    assert (drawn >= LOW - 1e-6).all()
    assert (drawn <= HIGH + 1e-6).all()
    assert (np.ptp(drawn, axis=0) > 0.99 * (HIGH - LOW)).all()

    for state in (begun, replace(begun, buffer=learner.buffer)):  # also before the start
        mean = algorithm.actor(state)
        best = act(algorithm, mean, observation, jax.random.key(1), explore=False).action
        outputs = np.maximum(0, observation @ actor["policy_trunk"][0].weight)
        outputs = outputs @ actor["policy_head"].weight
        expected = LOW + (np.tanh(outputs[:, :2]) + 1) / 2 * (HIGH - LOW)
        np.testing.assert_allclose(best, expected, atol=1e-4)


@pytest.mark.long
def test_nothing_is_learned_before_learning_starts() -> None:
    algorithm = SAC(**SMALL | {"learning_starts": 16})
    learner = start = learner_of(algorithm)
    for k in range(2):
        valid = None if k else jnp.asarray(np.arange(8).reshape(4, 2) < 7)
        learner, metrics = update(algorithm, learner, experience(seed=k, valid=valid))
        assert same(learner.params, start.params)
        assert same(learner.optimizer, start.optimizer)
        assert set(map(float, metrics.values())) == {0.0}
    learner, metrics = update(algorithm, learner, experience(seed=2))  # 15 were stored, now 23
    assert not same(learner.params, start.params)
    assert all(metrics.values())


@pytest.mark.parametrize("gradient_steps", [1, 3])
def test_gradient_steps_follow_each_batch(gradient_steps: int) -> None:
    algorithm = SAC(**SMALL, gradient_steps=gradient_steps)
    learner, metrics = update(algorithm, learner_of(algorithm), experience())
    learner, metrics = update(algorithm, learner, experience(seed=1), key=1)
    counts = [part.count for part in learner.optimizer]
    assert counts == [2 * gradient_steps] * 3
    assert int(learner.buffer.seen) == 16
    np.testing.assert_allclose(metrics["temperature"], 1.0, atol=1e-2)  # a mean, not a sum


def test_a_network_of_ones_own() -> None:
    network = Network(
        lambda key, x: jax.random.normal(key, (x.shape[-1], 4)), lambda w, x: jnp.tanh(x @ w)
    )
    algorithm = SAC(**SMALL, network=network)
    learner, metrics = update(algorithm, learner_of(algorithm), experience())
    assert all(np.isfinite(x) for x in metrics.values())
    assert learner.params.actor["policy_trunk"].shape == (3, 4)
    assert learner.params.critics[0][0].shape == (5, 4)


@pytest.mark.parametrize(
    "options", [{"batch_size": 65}, {"learning_starts": 65}, {"num_envs": 13, "num_steps": 5}]
)
def test_a_buffer_that_is_too_small_is_told(options: dict[str, Any]) -> None:
    SAC(**SMALL).check(SPEC)
    with pytest.raises(UserError, match=r"buffer_size = 64 is too small .*at least 65"):
        SAC(**SMALL | options).check(SPEC)


def test_a_buffer_beyond_the_memory_is_told_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = EnvSpec(
        "frames", gymnasium.spaces.Box(0, 255, (96, 96, 3), np.uint8), SPEC.action_space
    )
    monkeypatch.setattr(sac.machine, "memory", lambda: 32_000_000_000)
    with pytest.raises(UserError) as error:
        SAC(buffer_size=2_000_000).check(frames)
    text = str(error.value)
    assert "buffer_size = 2000000 would take 62.3 GB" in text  # frames are bytes, and kept once
    assert "32.0 GB" in text
    fits = int(text.rpartition("buffer_size = ")[2].rstrip("."))
    half = jax.eval_shape(lambda: SAC(buffer_size=fits)._buffer(frames)).nbytes
    assert 15.9e9 < half < 16e9
    SAC(buffer_size=fits).check(frames)
    SAC(buffer_size=1_000_000).check(frames)  # a run may ask for more than half
    monkeypatch.setattr(sac.machine, "memory", lambda: None)
    SAC(buffer_size=2_000_000).check(frames)


def test_the_memory_of_this_machine() -> None:
    memory = sac.machine.memory()
    assert memory is None or 1e8 < memory < 1e14
