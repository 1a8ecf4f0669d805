"""Losses and their gradients against formulas worked out by hand and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from actorcritic.maths import losses


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def derivative(f, x: float, h: float = 1e-6) -> float:
    return (f(x + h) - f(x - h)) / (2 * h)


def value_and_gradients(loss, *arguments: float):
    """The loss of one row, and its derivative by every argument."""
    numbers = tuple(jnp.asarray(float(x)) for x in arguments)
    value, gradients = jax.value_and_grad(loss, argnums=range(len(numbers)))(*numbers)
    return float(value), [float(g) for g in gradients]


numbers = st.floats(-3, 3).map(lambda x: round(x, 3))
ranges = st.sampled_from([0.1, 0.2, 0.5])


@given(numbers, numbers)
def test_policy_gradient_loss(log_prob, advantage):
    value, gradients = value_and_gradients(losses.policy_gradient_loss, log_prob, advantage)
    assert value == pytest.approx(-log_prob * advantage)
    assert gradients == pytest.approx([-advantage, 0.0])  # by log π; none by A


# ρ, A, the loss and its derivative by log π, for ε = 0.2. The derivative of ρ by log π is ρ.
CASES = {
    "good action, ratio in range": (1.1, 2.0, -2.2, -2.2),
    "bad action, ratio in range": (0.9, -2.0, 1.8, 1.8),
    "good action, already likelier: clipped": (1.5, 2.0, -2.4, 0.0),
    "good action, made less likely: pulled back": (0.5, 2.0, -1.0, -1.0),
    "bad action, already less likely: clipped": (0.5, -2.0, 1.6, 0.0),
    "bad action, made likelier: pulled back": (1.5, -2.0, 3.0, 3.0),
}


@pytest.mark.parametrize("case", CASES)
def test_clipped_surrogate_by_hand(case):
    ratio, advantage, loss, slope = CASES[case]
    old = -1.3
    value, gradients = value_and_gradients(
        lambda *x: losses.clipped_surrogate_loss(*x, 0.2), old + np.log(ratio), old, advantage
    )
    assert value == pytest.approx(loss)
    assert gradients == pytest.approx([slope, 0.0, 0.0])  # none by log π_old, none by A


@given(numbers, numbers, numbers, ranges)
def test_clipped_surrogate_is_the_papers_minimum(log_prob, old, advantage, epsilon):
    ratio = np.exp(log_prob - old)
    assume(min(abs(ratio - 1 - epsilon), abs(ratio - 1 + epsilon)) > 1e-4)  # no kink nearby

    def truth(log_prob):
        ratio = np.exp(log_prob - old)
        inside = min(max(ratio, 1 - epsilon), 1 + epsilon)
        return -min(ratio * advantage, inside * advantage)

    value, gradients = value_and_gradients(
        lambda *x: losses.clipped_surrogate_loss(*x, epsilon), log_prob, old, advantage
    )
    assert value == pytest.approx(truth(log_prob))
    assert gradients[0] == pytest.approx(derivative(truth, log_prob), rel=1e-5, abs=1e-6)
    assert gradients[1:] == [0.0, 0.0]


@given(numbers, numbers)
def test_value_loss(value, target):
    loss, gradients = value_and_gradients(losses.value_loss, value, target)
    assert loss == pytest.approx((value - target) ** 2 / 2)
    assert gradients == pytest.approx([value - target, 0.0])


@given(numbers, numbers, numbers, ranges)
def test_clipped_value_loss_is_the_larger_of_two(value, old, target, epsilon):
    def truth(value):
        inside = old + min(max(value - old, -epsilon), epsilon)
        return max((value - target) ** 2, (inside - target) ** 2) / 2

    kinks = (old - epsilon, old + epsilon, 2 * target - old - epsilon, 2 * target - old + epsilon)
    assume(min(abs(value - kink) for kink in kinks) > 1e-4)
    loss, gradients = value_and_gradients(
        lambda *x: losses.clipped_value_loss(*x, epsilon), value, old, target
    )
    assert loss == pytest.approx(truth(value))
    assert gradients[0] == pytest.approx(derivative(truth, value), rel=1e-5, abs=1e-6)
    assert gradients[1:] == [0.0, 0.0]


def test_losses_are_one_number_a_row():
    rows = jnp.ones((4, 3))
    for loss in (
        losses.policy_gradient_loss(rows, rows),
        losses.clipped_surrogate_loss(rows, rows, rows, 0.2),
        losses.value_loss(rows, rows),
        losses.clipped_value_loss(rows, rows, rows, 0.2),
    ):
        assert loss.shape == (4, 3)
