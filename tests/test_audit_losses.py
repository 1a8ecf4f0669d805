"""The audit of losses: every planted mistake is found by its check, and nothing right is blamed."""

import math
import time

import audit_subjects_losses as subjects
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actorcritic import audit as everything
from actorcritic.audit import calling
from actorcritic.audit.findings import CannotCall
from actorcritic.audit.losses import audit
from actorcritic.maths import losses

pytestmark = pytest.mark.long
stop = jax.lax.stop_gradient


@pytest.fixture(autouse=True)
def _lenient():
    """Subjects are code as people write it, under JAX's own defaults."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def audited(name: str, kind: str, **options):
    return getattr(audit, kind)(getattr(subjects, name), **options)


WRONG = {n: x for n, x in subjects.WRONG.items() if x[0] != "distribution"}
RIGHT = {n: kind for n, kind in subjects.RIGHT.items() if kind != "distribution"}


@pytest.mark.parametrize("name", WRONG)
def test_planted_mistakes_are_found_by_name(name):
    kind, check = WRONG[name]
    report = audited(name, kind)
    assert [found.check for found in report.findings] == [check]  # one cause, one finding
    (found,) = report.findings
    assert check not in report.passed
    assert "actual" in found.example
    assert found.wrong.endswith(".")
    assert found.effect.endswith(".")
    assert found.mend in str(report)


@pytest.mark.parametrize("name", RIGHT)
def test_right_losses_pass(name):
    report = audited(name, RIGHT[name])
    assert report.ok, str(report)
    assert len(report.passed) >= 4


@pytest.mark.parametrize("name", subjects.STRICT)
def test_strictly_data_is_detached_inside(name):
    kind, check = subjects.STRICT[name]
    assert audited(name, kind).ok
    assert check in [found.check for found in audited(name, kind, strict=True).failures]


def test_the_example_shows_the_numbers():
    """The table can be worked out by hand: -min(ρ A, clip(ρ) A) against max for min."""
    (found,) = audited("ppo_max_for_min", "ppo_loss").failures
    rows = dict(line.rsplit("  ", 1) for line in found.example.splitlines())
    numbers = {name.strip(): float(text.strip(" []")) for name, text in rows.items()}
    ratio = math.exp(numbers["log_probs"] - numbers["old_log_probs"])
    clipped = min(max(ratio, 0.8), 1.2)
    both = [ratio * numbers["advantages"], clipped * numbers["advantages"]]
    assert numbers["clip_range"] == 0.2
    assert numbers["loss, expected"] == pytest.approx(-min(both), abs=1e-4)
    assert numbers["loss, actual"] == pytest.approx(-max(both), abs=1e-4)


def test_several_mistakes_are_several_findings():
    def ppo(log_probs, old_log_probs, advantages, values, returns, entropy, vf_coef, ent_coef):
        ratio = jnp.exp(old_log_probs - log_probs)
        policy = subjects.surrogate(ratio, advantages)
        return policy + vf_coef * ((values - returns) ** 2).mean() + ent_coef * entropy.mean()

    report = audit.ppo_loss(ppo)
    assert {found.check for found in report.failures} == {"ratio-direction", "entropy-sign"}
    assert "value-loss" in report.passed


def test_choices_are_named():
    words = " ".join(audited("ppo_full", "ppo_loss").choices)
    for word in ("population", "½ (V − R)²", "larger of two losses", "mean"):
        assert word in words
    inside = " ".join(audited("ppo_with_constants_inside", "ppo_loss").choices)
    assert "ε = 0.2" in inside
    assert "0.01" in inside
    assert "objective" in " ".join(audited("policy_objective", "actor_loss").choices)
    assert "dual clip at 3" in " ".join(audited("ppo_dual_clip", "ppo_loss").choices)
    assert "Huber" in " ".join(audited("critic_huber", "critic_loss").choices)


def test_numpy_has_no_gradients_and_the_report_says_so():
    report = audited("actor_in_numpy", "actor_loss")
    assert report.ok
    assert any("gradients" in text for text in report.not_checked)
    assert "policy-gradient" not in report.passed


def test_plain_lists():
    def mean_square(values: list, returns: list):
        return sum((v - r) ** 2 for v, r in zip(values, returns, strict=True)) / len(values)

    assert audit.critic_loss(mean_square).ok

    def wrong(values: list, returns: list):
        return -sum(math.pow(v - r, 2) for v, r in zip(values, returns, strict=True)) / len(values)

    assert [f.check for f in audit.critic_loss(wrong).failures] == ["value-sign"]


def test_names_can_be_mapped_and_a_case_taken_whole():
    def loss(foo, bar):
        return -(foo * bar).mean()

    with pytest.raises(CannotCall, match="foo"):
        audit.actor_loss(loss)
    assert audit.actor_loss(loss, mapping={"foo": "log_probs", "bar": "advantages"}).ok
    report = audit.actor_loss(lambda case: -(case.log_probs * case.advantages).mean())
    assert report.ok
    assert "advantages" in report.called
    report = audit.actor_loss(lambda case: (case.log_probs * case.advantages).mean())
    assert [f.check for f in report.failures] == ["policy-sign"]


def test_what_cannot_be_called_says_why():
    def broken(log_probs, advantages):
        raise RuntimeError("no such thing")

    with pytest.raises(CannotCall, match="no such thing"):
        audit.actor_loss(broken)
    with pytest.raises(CannotCall, match="values"):
        audit.critic_loss(subjects.actor_of_advantages)


def test_a_loss_that_nothing_explains():
    def strange(log_probs, advantages):
        return -(log_probs**3 * jnp.sin(advantages)).mean()

    report = audit.actor_loss(strange)
    (found,) = report.unjudged
    assert not report.failures
    assert found.check == "policy-loss"
    assert "no definition" in found.wrong

    def infinite(log_probs, advantages):
        return -(jnp.log(advantages - 100) * log_probs).mean()

    assert [f.check for f in audit.actor_loss(infinite).failures] == ["finite"]


def test_own_losses():
    def clipped(log_prob, old_log_prob, advantage, clip_range):
        return losses.clipped_surrogate_loss(log_prob, old_log_prob, advantage, clip_range)

    def clipped_value(value, old_value, target, clip_range):
        return losses.clipped_value_loss(value, old_value, target, clip_range)

    for report in (
        audit.actor_loss(losses.policy_gradient_loss, strict=True),
        audit.ppo_loss(losses.clipped_surrogate_loss, strict=True),
        audit.ppo_loss(clipped, strict=True),
        audit.actor_loss(losses.surrogate_loss, strict=True),
        audit.critic_loss(losses.value_loss, strict=True),
        audit.critic_loss(losses.clipped_value_loss, strict=True),
        audit.critic_loss(clipped_value, strict=True),
    ):
        assert report.ok, str(report)
        assert any(check.endswith("-detached") for check in report.passed)


def test_a_surrogate_is_clipped_where_its_name_or_its_parameters_say_so():
    def policy_loss(log_probs, old_log_probs, advantages, clip_range):
        return -(jnp.exp(log_probs - old_log_probs) * advantages).mean()

    assert everything.of(losses.surrogate_loss).ok
    assert [f.check for f in everything.of(policy_loss).failures] == ["clip-range"]


def test_fast_enough():
    start = time.monotonic()
    audited("ppo_full", "ppo_loss")
    assert time.monotonic() - start < 20


# A PPO loss in every combination of choices; the mistakes, one at a time, in any of them.
MISTAKES = {
    "": None,
    "max": "surrogate-min",
    "inverse": "ratio-direction",
    "entropy": "entropy-sign",
    "clip": "value-clip",
    "value": "value-sign",
    "dead": "entropy-gradient",
}


@settings(max_examples=4)
@given(
    normalised=st.sampled_from(["", "population"]),
    clip=st.sampled_from([0.1, 0.2, 0.3, 0.37]),
    value_weight=st.floats(0.1, 1.5),
    entropy_weight=st.floats(0.005, 0.5),
    value_clip=st.sampled_from(["", "larger", "only"]),
    reduce=st.sampled_from([np.mean, np.sum]),
    inside=st.booleans(),
    dtype=st.sampled_from(["float64", "float32"]),
    mistake=st.sampled_from(list(MISTAKES)),
)
def test_random_choices(
    normalised, clip, value_weight, entropy_weight, value_clip, reduce, inside, dtype, mistake
):
    mean = jnp.mean if reduce is np.mean else jnp.sum

    def terms(x, eps, value_weight, entropy_weight):
        log_probs, old, advantages, values, old_values, returns, entropy = (
            jnp.asarray(y).astype(dtype) for y in x
        )
        if normalised:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        ratio = jnp.exp(old - log_probs if mistake == "inverse" else log_probs - old)
        both = ratio * advantages, jnp.clip(ratio, 1 - eps, 1 + eps) * advantages
        policy = -mean(jnp.maximum(*both) if mistake == "max" else jnp.minimum(*both))
        error = (values - returns) ** 2
        near = (old_values + jnp.clip(values - old_values, -eps, eps) - returns) ** 2
        if mistake == "clip":
            error = jnp.minimum(error, near)
        elif value_clip:
            error = jnp.maximum(error, near) if value_clip == "larger" else near
        signs = (-1 if mistake == "value" else 1), (1 if mistake == "entropy" else -1)
        entropy = stop(entropy) if mistake == "dead" else entropy
        total = policy + signs[0] * value_weight * mean(error)
        return total + signs[1] * entropy_weight * mean(entropy)

    if inside:

        def loss(log_probs, old_log_probs, advantages, values, old_values, returns, entropy):
            x = log_probs, old_log_probs, advantages, values, old_values, returns, entropy
            return terms(x, clip, value_weight, entropy_weight)

    else:

        def loss(
            log_probs, old_log_probs, advantages, values, old_values, returns, entropy,
            clip_range, vf_coef, ent_coef,
        ):  # fmt: skip
            x = log_probs, old_log_probs, advantages, values, old_values, returns, entropy
            return terms(x, clip_range, vf_coef, ent_coef)

    report = audit.ppo_loss(loss)
    expected = [MISTAKES[mistake]] if mistake else []
    # An ε that is written inside a helper is found among the usual ones only.
    if not (inside and clip == 0.37):
        assert [found.check for found in report.failures] == expected, str(report)


# ------------------------------------------------------------------------------ PyTorch


def torch_subjects():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional

    def actor(log_probs, returns, values):
        return -(log_probs * (returns - values).detach()).mean()

    def actor_leaks(log_probs, returns, values):
        return -torch.mean(log_probs * (returns - values))

    def reinforce(saved_log_probs, rewards, gamma=0.99):
        returns, total = [], 0.0
        for reward in reversed(rewards):
            total = reward + gamma * total
            returns.insert(0, total)
        returns = torch.tensor(returns)
        returns = (returns - returns.mean()) / (returns.std() + 1e-8)
        losses = [-log_prob * R for log_prob, R in zip(saved_log_probs, returns, strict=True)]
        return torch.stack(losses).sum()

    def in_place(log_probs, advantages):
        advantages -= torch.mean(advantages)
        advantages /= advantages.std(unbiased=False) + 1e-8
        return -(log_probs * advantages).mean()

    def critic(values, targets):
        return F.mse_loss(values, targets)

    def smooth(values, targets):
        return F.smooth_l1_loss(values, targets.detach())

    def td(values, rewards, next_values, dones, gamma):
        with torch.no_grad():
            target = rewards + gamma * (1 - dones) * next_values
        return 0.5 * F.mse_loss(values, target)

    def td_leaks(values, rewards, next_values, dones, gamma):
        return F.mse_loss(values, rewards + gamma * (1 - dones) * next_values)

    def critic_broadcast(values, returns):
        return F.mse_loss(values.unsqueeze(-1), returns)

    def ppo(new_log_probs, old_log_probs, advantages, values, returns, entropy, clip_eps=0.2):
        ratio = (new_log_probs - old_log_probs).exp()
        clipped = torch.clamp(ratio, 1 - clip_eps, 1 + clip_eps)
        policy = -torch.min(ratio * advantages, clipped * advantages).mean()
        return policy + 0.5 * F.mse_loss(values, returns) - 0.01 * entropy.mean()

    def ppo_max(new_log_probs, old_log_probs, advantages, clip_eps):
        ratio = (new_log_probs - old_log_probs).exp()
        clipped = torch.clamp(ratio, 1 - clip_eps, 1 + clip_eps)
        return -torch.max(ratio * advantages, clipped * advantages).mean()

    def ppo_kl(log_probs, old_log_probs, ref_log_probs, advantages, beta):
        ratio = (log_probs - old_log_probs).exp()
        clipped = torch.clamp(ratio, 0.8, 1.2)
        with torch.no_grad():
            d = ref_log_probs - log_probs
            kl = (d.exp() - 1 - d).mean()
        return -torch.min(ratio * advantages, clipped * advantages).mean() + beta * kl

    def entropy_dead(logits, actions, advantages, entropy_coef):
        policy = torch.distributions.Categorical(logits=logits)
        loss = -(policy.log_prob(actions) * advantages).mean()
        return loss - entropy_coef * policy.entropy().mean().item()

    def entropy_live(logits, actions, advantages, entropy_coef):
        policy = torch.distributions.Categorical(logits=logits)
        loss = -(policy.log_prob(actions) * advantages).mean()
        return loss - entropy_coef * policy.entropy().mean()

    def entropy_of_probs(probs, actions, advantages):
        policy = torch.distributions.Categorical(probs)
        return -(policy.log_prob(actions) * advantages + 0.01 * policy.entropy()).mean()

    def one_element(log_probs, advantages):
        advantages = (advantages - advantages.mean()) / (torch.std(advantages) + 1e-8)
        return -(log_probs * advantages).mean()

    return {
        "actor": (actor, "actor_loss", None),
        "actor_leaks": (actor_leaks, "actor_loss", "advantage-detached"),
        "reinforce": (reinforce, "actor_loss", "normalisation-finite"),
        "in_place": (in_place, "actor_loss", None),
        "critic": (critic, "critic_loss", None),
        "smooth": (smooth, "critic_loss", None),
        "td": (td, "critic_loss", None),
        "td_leaks": (td_leaks, "critic_loss", "target-detached"),
        "critic_broadcast": (critic_broadcast, "critic_loss", "broadcast"),
        "ppo": (ppo, "ppo_loss", None),
        "ppo_max": (ppo_max, "ppo_loss", "surrogate-min"),
        "ppo_kl": (ppo_kl, "ppo_loss", "kl-gradient"),
        "entropy_dead": (entropy_dead, "actor_loss", "entropy-gradient"),
        "entropy_live": (entropy_live, "actor_loss", None),
        "entropy_of_probs": (entropy_of_probs, "actor_loss", None),
        "one_element": (one_element, "actor_loss", "normalisation-finite"),
    }


@pytest.mark.extras
def test_pytorch():
    for name, (function, kind, check) in torch_subjects().items():
        report = getattr(audit, kind)(function)
        found = [finding.check for finding in report.findings]
        assert found == ([check] if check else []), f"{name}\n{report}"
        assert "PyTorch" in report.called


@pytest.mark.extras
def test_code_that_names_no_library_runs_in_the_one_that_its_file_imports(tmp_path):
    pytest.importorskip("torch")
    text = """
import torch


def loss(log_probs, advantages):
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    return -(log_probs * advantages).mean()
"""
    (tmp_path / "mine.py").write_text(text)
    report = audit.actor_loss(calling.load(f"{tmp_path / 'mine.py'}:loss"))
    assert "PyTorch" in report.called  # whose deviation is the sample one
    assert report.ok
    assert [found.check for found in report.risks] == ["normalisation-finite"]
    assert report.exit_code(strict=True) == 1
