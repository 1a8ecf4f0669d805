"""Distributions against scipy, enumeration and numerical integration, in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from actorcritic.maths.distributions import Categorical, Gaussian, MultiCategorical, TanhGaussian

DRAWS = 20_000


@jax.jit
def facts(policy, action, other):
    """log π(action), entropy, KL(π || other) and the mode."""
    return policy.log_prob(action), policy.entropy(), policy.kl(other), policy.mode()


sample = jax.jit(lambda policy, key: policy.sample(key))


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def arrays(seed: int, *shape: int, scale: float = 1.5) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=shape)


def joint_table(logits: np.ndarray, sizes: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """The probability of every joint action of independent components, by enumeration."""
    parts = np.split(logits, np.cumsum(sizes)[:-1])
    p = [special.softmax(part) for part in parts]
    actions = itertools.product(*(range(n) for n in sizes))
    return {a: float(np.prod([p[k][i] for k, i in enumerate(a)])) for a in actions}


# ------------------------------------------------------------------------------- categorical


@given(st.integers(0, 999), st.sampled_from([1, 2, 5]))
def test_categorical_is_the_softmax_distribution(seed, n):
    logits, others = arrays(seed, 2, 3, n), arrays(seed + 1, 2, 3, n)
    p, q = special.softmax(logits, axis=-1), special.softmax(others, axis=-1)
    action = np.random.default_rng(seed).integers(n, size=(2, 3))
    policies = (Categorical(jnp.asarray(x)) for x in (logits, others))
    log_prob, entropy, kl, mode = facts(next(policies), action, next(policies))

    expected = stats.multinomial.logpmf(np.eye(n)[action], 1, p)
    np.testing.assert_allclose(log_prob, expected, atol=1e-12)
    np.testing.assert_allclose(entropy, stats.entropy(p, axis=-1), atol=1e-12)
    np.testing.assert_allclose(kl, stats.entropy(p, q, axis=-1), atol=1e-12)
    np.testing.assert_array_equal(mode, p.argmax(axis=-1))


def test_categorical_log_prob_gradient_is_onehot_minus_probabilities():
    logits = jnp.asarray(arrays(3, 4))
    for action in range(4):
        gradient = jax.grad(lambda z, a=action: Categorical(z).log_prob(jnp.asarray(a)))(logits)
        np.testing.assert_allclose(
            gradient, np.eye(4)[action] - special.softmax(logits), atol=1e-12
        )


def test_categorical_samples_have_their_probabilities():
    logits = jnp.asarray([0.3, -1.0, 1.2, 0.0])
    drawn = Categorical(jnp.broadcast_to(logits, (DRAWS, 4))).sample(jax.random.key(0))
    counts = np.bincount(np.asarray(drawn), minlength=4)
    assert stats.chisquare(counts, DRAWS * special.softmax(logits)).pvalue > 0.01


# ------------------------------------------------------------------------- several categoricals


@given(st.integers(0, 999), st.sampled_from([(2,), (2, 2, 2), (3, 1, 4)]))
def test_multicategorical_is_the_product_of_its_components(seed, sizes):
    logits, others = arrays(seed, sum(sizes)), arrays(seed + 1, sum(sizes))
    p, q = joint_table(logits, sizes), joint_table(others, sizes)
    actions = np.asarray(list(p))  # all of them
    policies = (
        MultiCategorical(jnp.asarray(np.tile(x, (len(p), 1))), sizes) for x in (logits, others)
    )
    log_prob, entropy, kl, mode = facts(next(policies), actions, next(policies))

    np.testing.assert_allclose(log_prob, np.log(list(p.values())), atol=1e-12)
    np.testing.assert_allclose(entropy, stats.entropy(list(p.values())), atol=1e-12)
    np.testing.assert_allclose(kl, stats.entropy(list(p.values()), list(q.values())), atol=1e-12)
    assert tuple(np.asarray(mode)[0]) == max(p, key=lambda a: p[a])


@pytest.mark.parametrize("sizes", [(2, 3), (2, 2)])
def test_multicategorical_samples_have_their_joint_probabilities(sizes):
    logits = jnp.asarray([0.5, -0.5, 0.0, 1.0, -1.0][: sum(sizes)])
    policy = MultiCategorical(jnp.broadcast_to(logits, (DRAWS, len(logits))), sizes)
    drawn = np.asarray(sample(policy, jax.random.key(1)))
    p = joint_table(np.asarray(logits), sizes)
    counts = [np.sum((drawn == a).all(axis=-1)) for a in p]
    # Joint, not one component after the other: the same noise for both would fail here.
    assert stats.chisquare(counts, DRAWS * np.asarray(list(p.values()))).pvalue > 0.01


# ------------------------------------------------------------------------------------- masks


@st.composite
def masks(draw, n):
    allowed = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    allowed[draw(st.integers(0, n - 1))] = True
    return np.asarray(allowed)


@given(st.integers(0, 999), masks(5), st.sampled_from([1.0, 1e3]))
def test_mask_renormalises_over_the_allowed_actions(seed, allowed, scale):
    logits = np.float32(arrays(seed, 5, scale=scale))  # float32: what policies are made of
    policy = Categorical(jnp.asarray(logits)).masked(jnp.asarray(allowed))
    p = np.zeros(5)
    p[allowed] = special.softmax(logits[allowed].astype(np.float64))

    log_p = np.asarray([policy.log_prob(jnp.asarray(a)) for a in range(5)])
    assert np.isfinite(log_p).all()
    np.testing.assert_allclose(np.exp(log_p), p, atol=1e-6)
    assert (np.exp(log_p)[~allowed] == 0).all()
    np.testing.assert_allclose(policy.entropy(), stats.entropy(p), atol=1e-5)
    assert allowed[int(policy.mode())]

    several = Categorical(jnp.broadcast_to(policy.logits, (500, 5)))
    drawn = np.asarray(sample(several, jax.random.key(seed)))
    assert allowed[drawn].all()


@given(st.integers(0, 999), masks(5))
def test_mask_leaves_gradients_finite(seed, allowed):
    allowed = jnp.asarray(allowed)

    def policy(logits):
        return Categorical(logits).masked(allowed)

    logits = jnp.asarray(arrays(seed, 5), jnp.float32)
    entropy = jax.grad(lambda z: policy(z).entropy())(logits)
    assert np.isfinite(entropy).all()
    assert (np.asarray(entropy)[~allowed] == 0).all()
    for action in np.flatnonzero(allowed):
        gradient = jax.grad(lambda z, a=action: policy(z).log_prob(jnp.asarray(a)))(logits)
        assert np.isfinite(gradient).all()


def test_masked_multicategorical_masks_each_component():
    logits = jnp.asarray(arrays(0, 5), jnp.float32)
    allowed = jnp.asarray([True, False, False, True, True])
    policy = MultiCategorical(logits, (2, 3)).masked(allowed)
    first, second = Categorical(logits[:2]), Categorical(logits[2:])
    first, second = first.masked(allowed[:2]), second.masked(allowed[2:])

    np.testing.assert_allclose(policy.entropy(), first.entropy() + second.entropy(), rtol=1e-6)
    several = MultiCategorical(jnp.broadcast_to(policy.logits, (500, 5)), (2, 3))
    drawn = np.asarray(sample(several, jax.random.key(0)))
    assert (drawn[:, 0] == 0).all()
    assert set(drawn[:, 1]) == {1, 2}
    assert np.isfinite(several.log_prob(jnp.asarray(drawn))).all()


# ----------------------------------------------------------------------------------- gaussian


@given(st.integers(0, 999), st.sampled_from([1, 2, 3]))
def test_gaussian_is_scipys_multivariate_normal(seed, d):
    mean, log_std, action = arrays(seed, 3, d)
    policy = Gaussian(jnp.asarray(mean), jnp.asarray(log_std))
    truth = stats.multivariate_normal(mean, np.diag(np.exp(2 * log_std)))
    log_prob, entropy, kl, mode = facts(policy, action, policy)
    np.testing.assert_allclose(log_prob, truth.logpdf(action), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(entropy, truth.entropy(), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(kl, 0.0, atol=1e-12)
    np.testing.assert_array_equal(mode, mean)


def test_gaussian_keeps_leading_axes():
    mean, log_std, action = (jnp.asarray(arrays(k, 4, 2, 3)) for k in range(3))
    policy = Gaussian(mean, log_std)
    assert sample(policy, jax.random.key(0)).shape == (4, 2, 3)
    assert policy.log_prob(action).shape == policy.entropy().shape == (4, 2)
    truth = stats.norm(mean, np.exp(log_std)).logpdf(action).sum(axis=-1)
    np.testing.assert_allclose(policy.log_prob(action), truth, rtol=1e-10)


def test_gaussian_kl_and_entropy_by_integration():
    p = Gaussian(jnp.asarray([0.3, -1.0]), jnp.asarray([-0.2, 0.4]))
    q = Gaussian(jnp.asarray([-0.5, 0.2]), jnp.asarray([0.3, 0.1]))

    def expectation(f):
        """∫ p(a) f(a) da over a square that holds all but 1e-15 of it."""
        axis = np.linspace(-14.0, 14.0, 401)
        grid = jnp.asarray(np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1))
        density = np.exp(log_prob(p, grid)) * f(grid)
        return integrate.simpson(integrate.simpson(density, x=axis), x=axis)

    def log_prob(policy, x):
        mean, log_std = (jnp.broadcast_to(y, x.shape) for y in (policy.mean, policy.log_std))
        return np.asarray(Gaussian(mean, log_std).log_prob(x))

    np.testing.assert_allclose(expectation(lambda x: 1.0), 1.0, rtol=1e-9)
    entropy = expectation(lambda x: -log_prob(p, x))
    np.testing.assert_allclose(p.entropy(), entropy, rtol=1e-9)
    kl = expectation(lambda x: log_prob(p, x) - log_prob(q, x))
    np.testing.assert_allclose(p.kl(q), kl, rtol=1e-9)
    np.testing.assert_allclose(p.kl(p), 0.0, atol=1e-12)


def test_gaussian_samples_pass_a_kolmogorov_smirnov_test():
    mean, log_std = jnp.asarray([1.0, -2.0]), jnp.asarray([-0.7, 0.6])
    shape = (DRAWS, 2)
    policy = Gaussian(jnp.broadcast_to(mean, shape), jnp.broadcast_to(log_std, shape))
    drawn = np.asarray(sample(policy, jax.random.key(2)))
    for k in range(2):
        truth = stats.norm(mean[k], np.exp(log_std[k]))
        assert stats.kstest(drawn[:, k], truth.cdf).pvalue > 0.01
    assert abs(stats.pearsonr(drawn[:, 0], drawn[:, 1]).statistic) < 0.03  # independent


# ------------------------------------------------------------------------- squashed gaussian

# Gauss–Legendre nodes and weights on [-1, 1], an action box before it is scaled.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(100)


def box_integral(policy: TanhGaussian, *functions):
    """∫ p(a) f(a) da over the box for each f(u), where a = action(u); one [d] policy.

    The grid lies in the box, and its u come from numpy: neither `action` nor a Jacobian is used.
    """
    d = policy.mean.shape[0]
    t = np.stack(np.meshgrid(*[NODES] * d, indexing="ij"), axis=-1).reshape(-1, d)
    weight = np.stack(np.meshgrid(*[WEIGHTS] * d, indexing="ij"), axis=-1).reshape(-1, d)
    volume = weight.prod(axis=-1) * np.prod(np.asarray(policy.high - policy.low) / 2)
    u = jnp.asarray(np.arctanh(t))
    density = np.exp(squashed_log_prob(policy, u))
    return [float(np.sum(volume * density * f(u))) for f in functions]


@jax.jit
def squashed_log_prob(policy: TanhGaussian, u):
    return jax.vmap(policy.log_prob)(u)


def squashed(seed: int, low, high) -> TanhGaussian:
    """With σ between 0.3 and 0.7, so that the density vanishes at the bounds."""
    rng = np.random.default_rng(seed)
    mean, log_std = rng.uniform(-0.8, 0.8, len(low)), rng.uniform(-1.2, -0.35, len(low))
    return TanhGaussian(*(jnp.asarray(x, jnp.float64) for x in (mean, log_std, low, high)))


def expected_squashed_entropy(mean: float, log_std: float) -> float:
    """-E[log p] for bounds -1 and 1, integrated over u; 1 - tanh² u is 1 / cosh² u."""
    z = np.linspace(-13.0, 13.0, 8001)
    u = mean + np.exp(log_std) * z
    log_density = stats.norm.logpdf(z) - log_std + 2 * np.log(np.cosh(u))
    return float(integrate.simpson(-stats.norm.pdf(z) * log_density, x=z))


bounds = st.tuples(st.floats(-100, 100), st.floats(1e-2, 1e3)).map(lambda x: (x[0], x[0] + x[1]))


@pytest.mark.parametrize("d", [1, 2, 3])
@given(st.integers(0, 999), st.data())
@settings(max_examples=8)
def test_squashed_density_integrates_to_1_over_any_box(d, seed, data):
    low, high = zip(*data.draw(st.lists(bounds, min_size=d, max_size=d)), strict=True)
    (total,) = box_integral(squashed(seed, low, high), lambda u: 1.0)
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)


@given(st.integers(0, 999), bounds, bounds)
def test_squashed_density_has_the_jacobian_of_action(seed, first, second):
    low, high = zip(first, second, strict=True)
    policy = squashed(seed, low, high)
    u = jnp.asarray(arrays(seed, 2))
    jacobian = jax.jacfwd(policy.action)(u)
    truth = stats.norm(policy.mean, np.exp(policy.log_std)).logpdf(u).sum()
    truth -= np.log(np.linalg.det(jacobian))
    np.testing.assert_allclose(policy.log_prob(u), truth, rtol=1e-9, atol=1e-9)


def test_squashed_density_and_gradients_are_finite_and_right_where_tanh_is_saturated():
    @jax.jit
    @jax.vmap
    def both(u):
        def log_prob(mean, log_std, u):
            ends = jnp.full_like(u, -1), jnp.full_like(u, 3)
            return TanhGaussian(mean, log_std, *ends).log_prob(u)

        return jax.value_and_grad(log_prob, argnums=(0, 1, 2))(jnp.ones_like(u), 0 * u, u)

    u = np.append(np.linspace(-20, 20, 81), [-500, 500]).astype(np.float32)
    value, gradients = both(jnp.asarray(u[:, None]))
    assert value.dtype == jnp.float32
    u = u.astype(np.float64)
    truth = stats.norm(1, 1).logpdf(u) + 2 * np.log(np.cosh(u)) - np.log(2)
    np.testing.assert_allclose(value, truth, rtol=1e-5, atol=1e-5)
    truths = (u - 1, (u - 1) ** 2 - 1, 1 - u + 2 * np.tanh(u))
    for gradient, truth in zip(gradients, truths, strict=True):
        np.testing.assert_allclose(gradient[:, 0], truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("log_std", [-20.0, -6.0, -2.0, -1.0, 0.0, 1.0, 2.0])
def test_squashed_entropy_and_its_gradient_by_integration(log_std):
    @jax.jit
    @jax.vmap
    @jax.value_and_grad
    def entropy(x):
        mean, log_std = jnp.split(x, 2)
        ends = jnp.full(1, -1.0), jnp.full(1, 1.0)
        return TanhGaussian(mean, log_std, *ends).entropy()

    means = np.linspace(-10, 10, 21)
    value, gradient = entropy(jnp.stack([means, jnp.full_like(means, log_std)], axis=-1))
    truth = [expected_squashed_entropy(mean, log_std) for mean in means]
    np.testing.assert_allclose(value, truth, rtol=0, atol=2e-8)
    for k, e in enumerate(1e-4 * np.eye(2)):  # central differences
        ends = [
            [expected_squashed_entropy(mean + s * e[0], log_std + s * e[1]) for mean in means]
            for s in (-1, 1)
        ]
        slope = (np.asarray(ends[1]) - ends[0]) / 2e-4
        np.testing.assert_allclose(gradient[:, k], slope, rtol=0, atol=1e-7)


def test_squashed_entropy_and_kl_by_integration_over_the_box():
    low, high = (-3.0, 0.5), (1.0, 40.0)
    p, q = squashed(0, low, high), squashed(1, low, high)
    entropy, kl = box_integral(
        p,
        lambda u: -squashed_log_prob(p, u),
        lambda u: squashed_log_prob(p, u) - squashed_log_prob(q, u),
    )
    np.testing.assert_allclose(p.entropy(), entropy, rtol=1e-6)
    np.testing.assert_allclose(p.kl(q), kl, rtol=1e-6)
    assert kl > 0.1
    np.testing.assert_allclose(p.kl(p), 0.0, atol=1e-12)


def test_squashed_actions_stay_in_the_box_and_reach_its_ends():
    """In 1000 boxes, because rounding would cross the ends of only some."""
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.normal(size=(2, 1000)) * [[10], [0.1]], axis=0).astype(np.float32)
    u = jnp.asarray([-1e6, -40, -9, -3, 0, 3, 9, 40, 1e6], jnp.float32)
    u = jnp.broadcast_to(u[:, None], (9, 1000))
    action = TanhGaussian(u, 0 * u, jnp.asarray(low), jnp.asarray(high)).action(u)
    assert action.dtype == jnp.float32
    a = np.asarray(action)
    assert (np.diff(a, axis=0) >= 0).all()
    assert (a >= low).all()
    assert (a <= high).all()
    np.testing.assert_allclose(a[[0, 4, -1]], [low, (low + high) / 2, high], atol=1e-5)


def test_squashed_actions_are_distributed_by_the_density():
    low, high, bins = -2.0, 5.0, 20
    one = TanhGaussian(*(jnp.full(1, x) for x in (0.4, -0.3, low, high)))
    many = TanhGaussian(jnp.full((DRAWS, 1), 0.4), jnp.full((DRAWS, 1), -0.3), one.low, one.high)
    drawn = np.asarray(many.action(sample(many, jax.random.key(4))))[:, 0]

    width = (high - low) / bins
    starts = low + width * np.arange(bins)
    actions = starts[:, None] + width * (NODES + 1) / 2
    u = np.arctanh((2 * actions - low - high) / (high - low))
    density = np.exp(squashed_log_prob(one, jnp.asarray(u.reshape(-1, 1)))).reshape(u.shape)
    mass = density * WEIGHTS * width / 2
    expected = mass.sum(axis=-1)
    counts, _ = np.histogram(drawn, bins=bins, range=(low, high))
    np.testing.assert_allclose(expected.sum(), 1.0, rtol=1e-6)
    assert stats.chisquare(counts, DRAWS * expected / expected.sum()).pvalue > 0.01
    mean = np.sum(mass * actions)
    deviation = np.sqrt(np.sum(mass * (actions - mean) ** 2))
    assert abs(drawn.mean() - mean) < 3 * deviation / np.sqrt(DRAWS)
    np.testing.assert_allclose(drawn.std(), deviation, rtol=0.02)


def test_squashed_gaussian_keeps_leading_axes():
    mean, log_std, u = (jnp.asarray(arrays(k, 4, 2, 3)) for k in range(3))
    low, high = jnp.asarray([-1.0, 0.0, 5.0]), jnp.asarray([1.0, 10.0, 5.5])
    policy = TanhGaussian(mean, log_std, low, high)
    drawn = sample(policy, jax.random.key(0))
    assert drawn.shape == policy.action(drawn).shape == (4, 2, 3)
    np.testing.assert_array_equal(policy.mode(), mean)
    for k in np.ndindex(4, 2):
        row = TanhGaussian(mean[k], log_std[k], low, high)
        np.testing.assert_allclose(policy.log_prob(u)[k], row.log_prob(u[k]), rtol=1e-12)
        np.testing.assert_allclose(policy.entropy()[k], row.entropy(), rtol=1e-12)
        np.testing.assert_allclose(policy.action(u)[k], row.action(u[k]), rtol=1e-12)


def test_distributions_are_pytrees():
    """So that a policy can be returned from a compiled function and mapped over."""
    policy = jax.jit(lambda z: MultiCategorical(z, (2, 3)))(jnp.zeros(5))
    assert policy.sizes == (2, 3)
    entropies = jax.vmap(lambda z: Categorical(z).entropy())(jnp.zeros((4, 3)))
    np.testing.assert_allclose(entropies, np.full(4, np.log(3)), rtol=1e-12)
