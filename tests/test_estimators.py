"""Estimators against their definitions, written as double loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorcritic.maths import estimators
from actorcritic.maths.estimators import RunningStatistics

gae = jax.jit(estimators.gae)
td_errors = jax.jit(estimators.td_errors)
monte_carlo_returns = jax.jit(estimators.monte_carlo_returns)
merge = jax.jit(RunningStatistics.merge)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


class Batch:
    """Random experience of B environments over T steps; inside an episode, s_{t+1} is the next
    row's state, as it is in a rollout."""

    def __init__(self, seed: int, steps: int, envs: int, ends: float) -> None:
        rng = np.random.default_rng(seed)
        shape = (steps, envs)
        self.reward, self.value = rng.normal(size=shape), rng.normal(size=shape)
        self.terminated, self.truncated = rng.random((2, *shape)) < ends  # now and then both
        self.next_value = rng.normal(size=shape)
        inside = ~(self.terminated | self.truncated)[:-1]
        self.next_value[:-1][inside] = self.value[1:][inside]

    def episode(self, t: int, b: int) -> range:
        """The steps from t to the end of its episode, or of the batch."""
        end = t
        while end < len(self.reward) - 1 and not (self.terminated | self.truncated)[end, b]:
            end += 1
        return range(t, end + 1)

    def each(self, of) -> np.ndarray:
        steps, envs = self.reward.shape
        return np.asarray([[of(t, b) for b in range(envs)] for t in range(steps)])

    def gae(self, gamma: float, gae_lambda: float) -> np.ndarray:
        """Σ_l (γλ)^l δ_{t+l}, with δ = r + γ (1 - terminated) V(s') - V(s)."""

        def delta(t, b):
            after = 0.0 if self.terminated[t, b] else gamma * self.next_value[t, b]
            return self.reward[t, b] + after - self.value[t, b]

        return self.each(
            lambda t, b: sum(
                (gamma * gae_lambda) ** (k - t) * delta(k, b) for k in self.episode(t, b)
            )
        )

    def bootstrapped_return(self, gamma: float, at_batch_end: bool = True) -> np.ndarray:
        """r_t + γ r_{t+1} + … + γ^n V(s_{t+n}), the last term only where the task goes on."""

        def of(t, b):
            steps = self.episode(t, b)
            total = sum(gamma ** (k - t) * self.reward[k, b] for k in steps)
            last = steps[-1]
            goes_on = at_batch_end or self.truncated[last, b]
            if goes_on and not self.terminated[last, b]:
                total += gamma ** len(steps) * self.next_value[last, b]
            return total

        return self.each(of)


# 17 is one more than the loops are unrolled by.
batches = st.builds(
    Batch,
    st.integers(0, 10**6),
    st.sampled_from([1, 6, 17]),
    st.just(3),
    st.sampled_from([0.0, 0.2, 0.5, 1.0]),
)
shares = st.sampled_from([0.0, 0.3, 0.9, 1.0])


def run_gae(batch: Batch, gamma: float, gae_lambda: float) -> np.ndarray:
    return np.asarray(
        gae(
            batch.reward,
            batch.value,
            batch.next_value,
            batch.terminated,
            batch.truncated,
            jnp.asarray(gamma),
            jnp.asarray(gae_lambda),
        )
    )


@given(batches, shares, shares)
def test_gae_is_the_sum_of_td_errors(batch, gamma, gae_lambda):
    actual = run_gae(batch, gamma, gae_lambda)
    np.testing.assert_allclose(actual, batch.gae(gamma, gae_lambda), atol=1e-12)


@given(batches, shares)
def test_gae_with_lambda_0_is_the_td_error(batch, gamma):
    after = np.where(batch.terminated, 0.0, batch.next_value)
    td_error = batch.reward + gamma * after - batch.value
    np.testing.assert_allclose(run_gae(batch, gamma, 0.0), td_error, atol=1e-12)
    direct = td_errors(batch.reward, batch.value, batch.next_value, batch.terminated, gamma)
    np.testing.assert_allclose(direct, td_error, atol=1e-12)


@given(batches, shares)
def test_gae_with_lambda_1_is_the_n_step_return_minus_the_value(batch, gamma):
    expected = batch.bootstrapped_return(gamma) - batch.value
    np.testing.assert_allclose(run_gae(batch, gamma, 1.0), expected, atol=1e-12)


def test_termination_drops_the_next_value_and_truncation_keeps_it():
    """One step by hand: r = 1, γ = 0.5, V(s) = 0.25, V(s') = 8."""
    ends = [(True, False, 0.75), (False, True, 4.75), (True, True, 0.75), (False, False, 4.75)]
    for terminated, truncated, advantage in ends:
        actual = gae(
            jnp.ones((1, 1)),
            jnp.full((1, 1), 0.25),
            jnp.full((1, 1), 8.0),
            jnp.asarray([[terminated]]),
            jnp.asarray([[truncated]]),
            jnp.asarray(0.5),
            jnp.asarray(0.9),
        )
        assert float(actual[0, 0]) == advantage


@given(batches, shares, shares)
def test_what_follows_a_terminal_state_cannot_matter(batch, gamma, gae_lambda):
    expected = run_gae(batch, gamma, gae_lambda)
    returns = run_returns(batch, gamma)
    batch.next_value = np.where(batch.terminated, np.nan, batch.next_value)
    np.testing.assert_array_equal(run_gae(batch, gamma, gae_lambda), expected)
    # Without a critic's bootstrap, only a truncated step reads its successor.
    batch.next_value = np.where(batch.truncated, batch.next_value, np.nan)
    np.testing.assert_array_equal(run_returns(batch, gamma), returns)


halves = st.builds(Batch, st.integers(0, 10**6), st.just(3), st.just(3), st.just(0.3))


@given(halves, halves, shares, shares)
def test_joined_trajectories_are_estimated_as_if_apart(first, second, gamma, gae_lambda):
    first.truncated[-1] |= ~first.terminated[-1]  # the first one's last step ends its episode
    expected = np.concatenate([run_gae(x, gamma, gae_lambda) for x in (first, second)])
    returns = np.concatenate([run_returns(x, gamma) for x in (first, second)])
    for name in ("reward", "value", "next_value", "terminated", "truncated"):
        setattr(first, name, np.concatenate([getattr(first, name), getattr(second, name)]))
    np.testing.assert_allclose(run_gae(first, gamma, gae_lambda), expected, atol=1e-12)
    np.testing.assert_allclose(run_returns(first, gamma), returns, atol=1e-12)


def run_returns(batch: Batch, gamma: float) -> np.ndarray:
    return np.asarray(
        monte_carlo_returns(
            batch.reward, batch.next_value, batch.terminated, batch.truncated, jnp.asarray(gamma)
        )
    )


@given(batches, shares)
def test_monte_carlo_returns_are_discounted_sums_to_the_end_of_the_episode(batch, gamma):
    expected = batch.bootstrapped_return(gamma, at_batch_end=False)
    np.testing.assert_allclose(run_returns(batch, gamma), expected, atol=1e-12)


# ------------------------------------------------------------------------ running statistics


@given(st.data())
def test_merged_statistics_are_those_of_everything_at_once(data):
    seed = data.draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    x = rng.normal(loc=rng.normal(scale=5), scale=rng.uniform(0.1, 3), size=(24, 2))
    weight = rng.random(24) < data.draw(st.sampled_from([0.3, 1.0]))
    kept = x[weight]

    size = data.draw(st.sampled_from([1, 3, 8, 24]))  # of a part; some may be left out whole
    parts = data.draw(st.permutations(np.split(np.arange(24), 24 // size)))
    statistics = RunningStatistics.start((2,))
    for part in parts:
        rows, weights = jnp.asarray(x[part]), jnp.asarray(weight[part], float)
        statistics = merge(statistics, rows, weights)
    assert float(statistics.count) == len(kept)
    if len(kept):
        np.testing.assert_allclose(statistics.mean, kept.mean(axis=0), atol=1e-10)
        np.testing.assert_allclose(statistics.variance, kept.var(axis=0), atol=1e-10)
    else:
        np.testing.assert_array_equal(statistics.variance, np.ones(2))


def test_merging_nothing_changes_nothing():
    before = RunningStatistics.start().merge(jnp.asarray([1.0, 2.0, 4.0]))
    after = before.merge(jnp.asarray([1e6, -1e6]), jnp.zeros(2))
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_statistics_of_all_devices_together():
    x = np.random.default_rng(0).normal(size=(2, 5, 3))

    def of_device(rows):
        return RunningStatistics.start((3,)).merge(rows, axis="devices")

    statistics = jax.vmap(of_device, axis_name="devices")(jnp.asarray(x))
    rows = x.reshape(10, 3)
    for device in range(2):
        np.testing.assert_allclose(statistics.mean[device], rows.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(statistics.variance[device], rows.var(axis=0), atol=1e-12)
        assert float(statistics.count[device]) == 10


def test_statistics_stay_accurate_far_from_zero_in_float32():
    """E[x²] - E[x]² would lose the variance altogether here."""
    x = np.random.default_rng(0).normal(loc=1e4, scale=0.5, size=(50, 64)).astype(np.float32)
    statistics = RunningStatistics(jnp.zeros((), "f4"), jnp.zeros((), "f4"), jnp.ones((), "f4"))
    for rows in x:
        statistics = statistics.merge(jnp.asarray(rows))
    truth = x.astype(np.float64)
    assert statistics.variance.dtype == jnp.float32
    np.testing.assert_allclose(statistics.mean, truth.mean(), rtol=1e-6)
    np.testing.assert_allclose(statistics.variance, truth.var(), rtol=0.01)


def test_normalize_shifts_scales_and_clips():
    x = np.random.default_rng(0).normal(loc=3.0, scale=2.0, size=(4, 5, 2))
    rows = x.reshape(-1, 2)
    normal = (
        RunningStatistics.start((2,)).merge(jnp.asarray(rows)).normalize(jnp.asarray(x), clip=1.5)
    )
    z = (x - rows.mean(axis=0)) / rows.std(axis=0)
    np.testing.assert_allclose(normal, np.clip(z, -1.5, 1.5), atol=1e-6)
    assert np.abs(z).max() > 1.5

    untouched = RunningStatistics.start((2,)).normalize(jnp.asarray(x), clip=100.0)
    np.testing.assert_allclose(untouched, x, rtol=1e-7)
