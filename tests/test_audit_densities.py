"""The audit of distributions: planted mistakes by name, and nothing right is blamed."""

import audit_subjects_losses as subjects
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorcritic.audit.densities import audit as densities
from actorcritic.audit.findings import CannotCall
from actorcritic.maths.distributions import Categorical, Gaussian, TanhGaussian

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def _lenient():
    """Subjects are code as people write it, under JAX's own defaults."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


WRONG = {n: check for n, (kind, check) in subjects.WRONG.items() if kind == "distribution"}
RIGHT = [n for n, kind in subjects.RIGHT.items() if kind == "distribution"]


@pytest.mark.parametrize("name", WRONG)
def test_planted_mistakes_are_found_by_name(name):
    report = densities.distribution(getattr(subjects, name))
    assert [found.check for found in report.findings] == [WRONG[name]]
    (found,) = report.findings
    assert WRONG[name] not in report.passed
    assert "expected" in found.example
    assert found.wrong.endswith(".")


@pytest.mark.parametrize("name", RIGHT)
def test_right_distributions_pass(name):
    report = densities.distribution(getattr(subjects, name))
    assert report.ok, str(report)
    assert {"integrates-to-one", "sums-to-one", "samples"} & set(report.passed)


def test_the_example_shows_the_numbers():
    (found,) = densities.distribution(subjects.squashed_without_scale).failures
    rows = dict(line.rsplit("  ", 1) for line in found.example.splitlines())
    numbers = {k.strip(): float(v.strip(" []")) for k, v in rows.items()}
    u, mean, std = numbers["pre_tanh"], numbers["mean"], np.exp(numbers["log_std"])
    normal = -0.5 * ((u - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    actual = normal - np.log(1 - np.tanh(u) ** 2)
    scale = (numbers["high"] - numbers["low"]) / 2
    assert numbers["log-probability, actual"] == pytest.approx(actual, abs=1e-3)
    assert numbers["log-probability, expected"] == pytest.approx(actual - np.log(scale), abs=1e-3)


def test_choices_are_named():
    words = " ".join(densities.distribution(subjects.squashed_with_epsilon).choices)
    assert "before the tanh" in words
    assert "ε in the logarithm" in words
    words = " ".join(densities.distribution(subjects.gaussian_per_dimension).choices)
    assert "each dimension" in words


def test_what_cannot_be_called_says_why():
    with pytest.raises(CannotCall, match="mean"):
        densities.distribution(lambda action, key: action)

    def broken(action, mean, std):
        raise RuntimeError("no such thing")

    with pytest.raises(CannotCall, match="no such thing"):
        densities.distribution(broken)


def test_a_case_is_taken_whole():
    def logp(c):
        return subjects.normal(c.x, c.mu, jnp.log(c.sigma))

    assert densities.distribution(lambda case: logp(case).sum(-1)).ok
    report = densities.distribution(lambda case: logp(case).mean(-1))
    assert [f.check for f in report.failures] == ["dimensions-summed"]


def test_a_density_that_nothing_explains():
    def laplace(action, mean, std):
        return (-jnp.abs(action - mean) / std * 1.3 - jnp.log(2.2 * std)).sum(-1)

    (found,) = densities.distribution(laplace).unjudged
    assert found.check == "normal-density"
    assert "no density" in found.wrong


def test_own_distributions():
    def gaussian(action, mean, log_std):
        return Gaussian(mean, log_std).log_prob(action)

    def squashed(u, mean, log_std, low, high):
        return TanhGaussian(mean, log_std, low, high).log_prob(u)

    def categorical(logits, action):
        return Categorical(logits).log_prob(action)

    def draw(key, mean, log_std):
        policy = Gaussian(mean, log_std)
        u = policy.sample(key)
        return u, policy.log_prob(u)

    def draw_squashed(key, mean, log_std, low, high):
        policy = TanhGaussian(mean, log_std, low, high)
        u = policy.sample(key)
        return policy.action(u), policy.log_prob(u)

    def draw_categorical(key, logits):
        policy = Categorical(logits)
        action = policy.sample(key)
        return action, policy.log_prob(action)

    for function in (gaussian, squashed, categorical, draw, draw_squashed, draw_categorical):
        report = densities.distribution(function)
        assert report.ok, str(report)


@given(
    squashed=st.booleans(),
    deviation=st.sampled_from(["std", "log_std"]),
    dtype=st.sampled_from(["float64", "float32"]),
    keep=st.booleans(),
    wrong=st.sampled_from(["", "mean", "jacobian", "scale", "constant"]),
)
def test_random_styles(squashed, deviation, dtype, keep, wrong):
    def log_prob(x, mean, spread, low, high):
        x, mean, spread = (np.asarray(y, dtype) for y in (x, mean, spread))
        log_std = np.log(spread) if deviation == "std" else spread
        each = -0.5 * ((x - mean) / np.exp(log_std)) ** 2 - log_std
        each = each - (0 if wrong == "constant" else 0.5 * np.log(2 * np.pi))
        if squashed and wrong != "jacobian":
            each = each - 2 * (np.log(2) - x - np.logaddexp(0, -2 * x))
        if squashed and wrong not in ("jacobian", "scale"):
            each = each - np.log((np.asarray(high) - low) / 2)
        reduce = np.mean if wrong == "mean" else np.sum
        return reduce(each, axis=-1, keepdims=keep)

    if squashed and deviation == "std":

        def function(u, mean, std, low, high):
            return log_prob(u, mean, std, low, high)

    elif squashed:

        def function(u, mean, log_std, low, high):
            return log_prob(u, mean, log_std, low, high)

    elif deviation == "std":

        def function(x, mean, std):
            return log_prob(x, mean, std, -1, 1)

    else:

        def function(x, mean, log_std):
            return log_prob(x, mean, log_std, -1, 1)

    checks = {
        "mean": "dimensions-summed",
        "constant": "normal-density",
        "jacobian": "tanh-jacobian" if squashed else None,
        "scale": "action-scale" if squashed else None,
    }
    report = densities.distribution(function)
    expected = checks.get(wrong)
    assert [f.check for f in report.findings] == ([expected] if expected else []), str(report)


def test_samples_of_right_policies_raise_no_false_alarm():
    """Other seeds, other numbers: the statistical checks hold for each."""
    for seed in range(5):

        def draw(mean, std, seed=seed):
            rng = np.random.default_rng(seed)
            u = mean + std * rng.normal(size=mean.shape)
            log_prob = -0.5 * ((u - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
            return u, log_prob.sum(-1)

        assert densities.distribution(draw).ok


def test_the_clip_of_a_censored_policy_is_right_with_the_mass_at_the_bound():
    from scipy import stats

    def censored(mean, std):
        u = mean + std * np.random.normal(size=mean.shape)
        log_prob = stats.norm.logpdf(u, mean, std)
        log_prob = np.where(u < -1, stats.norm.logcdf(-1, mean, std), log_prob)
        log_prob = np.where(u > 1, stats.norm.logsf(1, mean, std), log_prob)
        return np.clip(u, -1, 1), log_prob.sum(-1)

    report = densities.distribution(censored)
    assert "clipped-action" not in [found.check for found in report.failures]


@pytest.mark.extras
def test_pytorch():
    torch = pytest.importorskip("torch")
    Normal = torch.distributions.Normal

    def squashed(action, mean, log_std):
        """Of the draw before the tanh."""
        normal = Normal(mean, log_std.exp())
        correction = torch.log(1 - torch.tanh(action) ** 2 + 1e-6)
        return (normal.log_prob(action) - correction).sum(-1)

    def sample(mean, log_std, action_scale, action_bias):
        normal = Normal(mean, log_std.exp())
        x = normal.rsample()
        y = torch.tanh(x)
        log_prob = normal.log_prob(x) - torch.log(action_scale * (1 - y.pow(2)) + 1e-6)
        return y * action_scale + action_bias, log_prob.sum(1, keepdim=True)

    def sample_without_jacobian(mean, std):
        x = Normal(mean, std).rsample()
        return torch.tanh(x), Normal(mean, std).log_prob(x).sum(-1)

    def sample_clipped(mean, std):
        x = Normal(mean, std).sample()
        return x.clamp(-1, 1), Normal(mean, std).log_prob(x).sum(-1)

    def averaged(action, mean, std):
        return Normal(mean, std).log_prob(action).mean(-1)

    def categorical(logits, action):
        return torch.distributions.Categorical(logits=logits).log_prob(action)

    for function, check in (
        (squashed, None),
        (sample, None),
        (sample_without_jacobian, "tanh-jacobian"),
        (sample_clipped, "clipped-action"),
        (averaged, "dimensions-summed"),
        (categorical, None),
    ):
        report = densities.distribution(function)
        found = [finding.check for finding in report.findings]
        assert found == ([check] if check else []), f"{function.__name__}\n{report}"
        assert "PyTorch" in report.called
