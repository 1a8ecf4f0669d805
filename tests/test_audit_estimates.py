"""The audit of advantages, returns and V-trace: it finds every planted error, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import audit_subjects_estimates as subjects
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from audit_subjects_estimates import RIGHT, WRONG, Plan
from hypothesis import given, settings
from hypothesis import strategies as st

from actorcritic import audit
from actorcritic.audit import calling, truths
from actorcritic.audit.estimates import roles, trajectories
from actorcritic.audit.findings import CannotCall, Report
from actorcritic.maths import estimators

PLANTED = [(check, plan) for check, plans in WRONG.items() for plan in plans]


def audited(plan: Plan) -> Report:
    return getattr(audit, plan.kind)(plan.function, **plan.options)


@pytest.mark.parametrize("name", RIGHT)
def test_right_functions_in_every_style_are_clean(name):
    report = audited(RIGHT[name])
    assert report.ok, str(report)
    assert len(report.passed) >= 5
    assert not RIGHT[name].says or any(RIGHT[name].says in said for said in report.choices), (
        report.choices
    )


@pytest.mark.parametrize(
    ("check", "plan"), PLANTED, ids=[f"{check}:{p.function.__name__}" for check, p in PLANTED]
)
def test_planted_errors_are_found_by_their_check_and_by_no_other(check, plan):
    report = audited(plan)
    assert [found.check for found in report.findings] == [check], str(report)
    assert check not in report.passed
    found = report.findings[0]
    assert all(found), "every part of a finding says something"
    if check not in ("normalisation-of-one-element", "output-shape"):
        assert "expected" in found.example
        assert "actual" in found.example
        assert len(found.example.splitlines()) <= 7, "the case is small"


def test_two_mistakes_are_both_named():
    report = audit.advantages(subjects.two_mistakes)
    assert {f.check for f in report.failures} == {"lambda-applied-once", "last-bootstrap-used"}


def test_what_fits_no_definition_is_not_judged():
    report = audit.advantages(subjects.unheard_of)
    assert [found.check for found in report.unjudged] == ["definition"]
    assert not report.failures
    assert not report.ok
    assert report.exit_code() == 2
    assert "2.1" in report.unjudged[0].example  # expected 2, and 0.1 of the squared reward


def test_the_smallest_case_is_what_the_function_gives():
    report = audit.advantages(subjects.lambda_twice)
    head, names, first, _ = report.failures[0].example.splitlines()
    assert head == "gamma = 0.5, lambda = 0.5"
    assert names.split() == ["t", "reward", "value", "next", "value", "expected", "actual"]
    # δ_0 = 1 + 0.5·4 − 2 = 1 and δ_1 = 2 + 0.5·6 − 4 = 1; the trace is 0.25, or 0.125.
    assert first.split() == ["0", "1", "2", "4", "1.25", "1.125"]


# ------------------------------------------------------------------------------- this library's


@pytest.mark.parametrize(
    ("kind", "function", "quantity"),
    [
        ("advantages", estimators.gae, "generalised advantages"),
        ("advantages", estimators.td_errors, "the TD error"),
        ("returns", estimators.monte_carlo_returns, "Monte Carlo return"),
        ("vtrace", estimators.vtrace, "V-trace targets"),
    ],
)
def test_our_own_estimators(kind, function, quantity):
    report = getattr(audit, kind)(function)
    assert report.ok, str(report)
    assert any(quantity in said for said in report.choices)
    assert "JAX arrays" in report.called
    if function is not estimators.td_errors:
        assert "truncation-bootstraps" in report.passed
    if kind == "vtrace":
        assert "policy-gradient-advantages" in report.passed
        assert "rho-and-c-clips" in report.passed


def test_a_broken_copy_of_our_own_is_found():
    def gae(reward, value, next_value, terminated, truncated, gamma, gae_lambda):
        ended = terminated | truncated
        return estimators.gae(reward, value, next_value, ended, truncated, gamma, gae_lambda)

    report = audit.advantages(gae)
    assert [found.check for found in report.failures] == ["truncation-bootstraps"]


# ------------------------------------------------------------------------------- PyTorch


@pytest.mark.extras
def test_pytorch_tensors_and_lists_of_them():
    torch = pytest.importorskip("torch")

    def tensors(rewards, values, dones, last_value, gamma, lam):
        out, g = torch.zeros_like(rewards), torch.zeros_like(rewards[0])
        for t in reversed(range(rewards.size(0))):
            after = last_value if t == rewards.size(0) - 1 else values[t + 1]
            delta = rewards[t] + gamma * after * (1 - dones[t]) - values[t]
            g = delta + gamma * lam * (1 - dones[t]) * g
            out[t] = g
        return out.detach(), (out + values).detach()

    def bad(rewards, values, dones, last_value, gamma, lam):
        return tensors(rewards, values, dones, torch.zeros_like(last_value), gamma, lam)[0]

    def stacked(rewards, values, dones, next_value, gamma, lam):
        values = torch.stack([*values, torch.as_tensor(next_value)])
        gae, out = 0, []
        for step in reversed(range(len(rewards))):
            delta = rewards[step] + gamma * values[step + 1] * (1 - dones[step]) - values[step]
            gae = delta + gamma * lam * (1 - dones[step]) * gae
            out.insert(0, gae)
        return torch.stack(out)

    def concatenated(rewards, values, masks, next_value, gamma):
        total, out = next_value, []
        for step in reversed(range(len(rewards))):
            total = rewards[step] + gamma * total * masks[step]
            out.insert(0, total)
        return torch.cat(out) - torch.cat(values)

    def columns(rewards, values, next_values, dones, gamma):
        """values are [T, 1], as networks give them; the rewards are not."""
        rewards = torch.as_tensor(rewards, dtype=torch.float32).unsqueeze(1)
        return rewards + gamma * next_values * (1 - dones.unsqueeze(1)) - values

    def broadcast(rewards: torch.Tensor, values, next_values, dones, gamma):
        target = rewards + gamma * next_values * (1 - dones)
        return target - values.view(-1, 1)

    assert audit.advantages(concatenated).ok
    assert "lists of PyTorch tensors" in audit.advantages(concatenated).called
    assert audit.advantages(columns).ok
    assert [f.check for f in audit.advantages(broadcast).failures] == ["output-shape"]
    assert "PyTorch" in audit.advantages(tensors).called
    assert audit.advantages(tensors).ok
    assert audit.advantages(stacked).ok
    assert [f.check for f in audit.advantages(bad).failures] == ["last-bootstrap-used"]


# ------------------------------------------------------------------------------- no false alarm


@given(
    seed=st.integers(0, 10**6),
    steps=st.integers(1, 9),
    environments=st.integers(1, 4),
    gamma=st.one_of(st.just(1.0), st.floats(0.01, 1.0)),
    lam=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0)),
    chance=st.floats(0.0, 1.0),
)
def test_right_functions_agree_with_the_definition_everywhere(
    seed, steps, environments, gamma, lam, chance
):
    """The truth itself: what the audit compares with is what right implementations compute."""
    for ends, plan, quantity in (
        ("terminations", "loop", truths.advantages_by_definition),
        ("both", "full", truths.advantages_by_definition),
        ("terminations", "lambda_return", truths.lambda_returns),
        ("terminations", "n_step", lambda x: truths.n_step_returns(x, x.n)),
    ):
        scope = trajectories.Scope(ends, False, False, ends == "both")
        x = trajectories.drawn(seed, (steps, environments), scope, chance, gamma, lam)
        following = x.following[-1]
        known = {
            "rewards": x.rewards, "values": x.values, "next_values": x.next_values,
            "dones": 1.0 * x.ended, "terminated": 1.0 * x.terminated, "n": x.n, "lam": lam,
            "truncated": 1.0 * x.truncated, "last_value": following, "gamma": gamma,
            "gae_lambda": lam,
        }  # fmt: skip
        function = RIGHT[plan].function
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        result = function(**{name: known[name] for name in names})
        result = result[0] if isinstance(result, tuple) else result
        np.testing.assert_allclose(result, quantity(x), rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 10**6), gamma=st.floats(0.05, 1.0), steps=st.integers(1, 8))
def test_the_truths_agree_with_one_another(seed, gamma, steps):
    """λ-returns minus V are the sum of TD errors; on-policy V-trace is the λ = 1 return."""
    x = trajectories.drawn(
        seed, (steps, 3), trajectories.Scope("both", False, False, True), gamma=gamma
    )
    advantages = truths.advantages_by_definition(x)
    np.testing.assert_allclose(truths.lambda_returns(x) - x.values, advantages, atol=1e-9)
    one = x._replace(lam=1.0, ratio=np.ones_like(x.ratio), rho_clip=1.0, c_clip=1.0)
    np.testing.assert_allclose(truths.vtrace_targets(one), truths.n_step_returns(one), atol=1e-9)
    zero = x._replace(lam=0.0)
    np.testing.assert_allclose(
        truths.advantages_by_definition(zero), truths.td_errors(zero), atol=1e-9
    )


@given(seed=st.integers(1, 10**5))
@settings(max_examples=8)
@pytest.mark.long
def test_no_false_alarm_on_other_trajectories(seed):
    for name, plan in RIGHT.items():
        if name != "scanned":  # compiled again for every shape
            report = audited(plan._replace(options={**plan.options, "seed": seed}))
            assert report.ok, str(report)


@given(seed=st.integers(1, 10**5))
@settings(max_examples=4)
def test_planted_errors_are_found_on_other_trajectories(seed):
    for check, plan in PLANTED:
        report = audited(plan._replace(options={**plan.options, "seed": seed}))
        assert [found.check for found in report.findings] == [check], str(report)


@given(gamma=st.floats(0.05, 1.0), lam=st.floats(0.0, 1.0), kind=st.sampled_from(["loop", "full"]))
def test_no_false_alarm_whatever_is_fixed_inside(gamma, lam, kind):
    """γ and λ of its own, as attributes: nothing to be found in them."""

    class Fixed:
        def __init__(self) -> None:
            self.gamma, self.lam = gamma, lam

        def loop(self, rewards, values, dones, last_value):
            return subjects.loop(rewards, values, dones, last_value, self.gamma, self.lam)

        def full(self, rewards, values, next_values, terminated, truncated):
            return subjects.full(
                rewards, values, next_values, terminated, truncated, self.gamma, self.lam
            )

    report = audit.advantages(getattr(Fixed(), kind))
    assert report.ok, str(report)


# ------------------------------------------------------------------------------- calling


def test_what_cannot_be_called_says_what_was_tried():
    with pytest.raises(CannotCall, match=r"'wat'.*--map wat=NAME.*rewards=rewards"):
        audit.advantages(lambda rewards, wat: rewards)
    with pytest.raises(CannotCall, match="ZeroDivisionError"):
        audit.advantages(lambda rewards, values, gamma: 1 / 0)
    with pytest.raises(CannotCall, match="no parameter 'nothing'"):
        audit.advantages(subjects.loop, mapping={"nothing": "rewards"})
    with pytest.raises(CannotCall, match="there is no 'wonder'"):
        audit.advantages(subjects.loop, mapping={"rewards": "wonder"})
    with pytest.raises(CannotCall, match="wonders"):
        audit.advantages(lambda case: case.wonders)


def test_arguments_are_never_changed_for_the_next_call():
    seen: list[Any] = []

    def destroying(rewards, values, dones, last_value, gamma, lam):
        out = subjects.loop(rewards, values, dones, last_value, gamma, lam)[0]
        rewards *= 0
        seen.append(rewards.sum())
        return out

    assert audit.advantages(destroying).ok
    assert set(seen) == {0.0}


def test_random_state_of_the_caller_is_kept():
    np.random.seed(3)
    wanted = np.random.random(2)
    np.random.seed(3)
    first = np.random.random()
    audit.advantages(subjects.loop)
    assert [first, np.random.random()] == list(wanted)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("rewards", "rewards"), ("b_rewards", "rewards"), ("reward_buf", "rewards"),
        ("Rewards_t", "rewards"), ("rews", "rewards"), ("gae_lambda", "lam"), ("lmbda", "lam"),
        ("discount", "gamma"), ("discounts", "discounts"), ("discount_t", "discounts"),
        ("next_value", "next_values"), ("last_values", "last_value"), ("not_dones", "masks"),
        ("next_done", "last_done"), ("v_t", "values"), ("isTerminal", "terminated"),
        ("colour", None),
    ],
)  # fmt: skip
def test_usual_names(name, role):
    assert calling.match_name(name, roles.ROLES) == role


def test_kinds_are_guessed():
    assert audit.guess(subjects.loop) == "advantages"
    assert audit.guess(subjects.reward_to_go) == "returns"
    assert audit.guess(subjects.vtrace) == "vtrace"
    assert audit.guess(lambda new_log_probs, old_log_probs, advantages: 0) == "ppo-loss"
    assert audit.guess(lambda log_probs, advantages: 0) == "actor-loss"
    with pytest.raises(CannotCall, match="--kind"):
        audit.guess(lambda x: x)


def test_what_a_name_does_not_promise_is_no_error():
    def compute_gae(rewards, values, dones, last_value, gamma, lam):
        return subjects.loop(rewards, values, dones, last_value, gamma, lam)[1]

    def advantage(rewards, values, dones, last_value, gamma, lam):
        return compute_gae(rewards, values, dones, last_value, gamma, lam)

    assert audit.of(compute_gae).kind == "returns"
    assert audit.of(compute_gae).ok
    assert [f.check for f in audit.of(advantage).failures] == ["baseline-subtracted"]
    assert not audit.of(compute_gae, kind="advantages").ok


def test_r_t_discount_t_and_v_t_are_of_the_same_step():
    """In rlax and TRFL they follow the action: v_t is the value of the successor."""

    def lambda_returns(r_t, discount_t, v_t, lambda_):
        after, found = v_t[-1], []
        for r, discount, v in zip(r_t[::-1], discount_t[::-1], v_t[::-1], strict=True):
            after = r + discount * ((1 - lambda_) * v + lambda_ * after)
            found.insert(0, after)
        return np.array(found)

    report = audit.returns(lambda_returns)
    assert report.ok, str(report)
    assert "v_t as next_values" in report.called


def test_a_loop_of_jax_that_is_not_jitted_is_not_compiled_at_every_call():
    traced = []

    def gae(rewards, values, next_values, terminated, truncated, gamma, lam):
        def back(after, row):
            traced.append(isinstance(row[0], jax.core.Tracer))
            delta, going = row
            after = delta + gamma * lam * going * after
            return after, after

        delta = rewards + gamma * (1.0 - terminated) * next_values - values
        rows = delta, 1.0 - jnp.maximum(terminated, truncated)
        return jax.lax.scan(back, jnp.zeros_like(delta[0]), rows, reverse=True)[1]

    report = audit.advantages(gae)
    assert report.ok, str(report)
    assert traced
    assert not any(traced)


def test_a_report_can_be_read_as_json():
    data = json.loads(audit.advantages(subjects.no_lambda).json())
    assert data["ok"] is False
    assert data["failures"][0]["check"] == "lambda-applied-once"
