"""Bias and variance of estimators and policy gradients, by the closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from actorcritic.core.errors import UserError
from actorcritic.lab.critics import Critic
from actorcritic.lab.estimators import Estimator
from actorcritic.lab.exact import (
    advantages,
    discounted_distribution,
    going_on,
    policy_gradient,
    score_norms,
    softmax,
    values,
    visits,
)
from actorcritic.lab.process import MDP, checked_policy
from actorcritic.lab.return_moments import PairMoments, over_actions


class Moments(NamedTuple):
    """Bias and variance of an estimate, by the closed form: [S] for values, [S, A] for advantages.

    Those of a value given the state, of an advantage given state and action.
    """

    bias: Float[np.ndarray, "..."]
    variance: Float[np.ndarray, "..."]

    @property
    def mse(self) -> Float[np.ndarray, "..."]:
        return self.bias**2 + self.variance


def moments(
    mdp: MDP, policy: Float[np.ndarray, "S A"], estimator: Estimator, critic: Critic
) -> Moments:
    """What `measure` should find, by linear solves."""
    policy = checked_policy(mdp, policy)
    found = _exact(mdp, policy, estimator, critic)
    if estimator.of == "A":
        bias, variance = found.mean - advantages(mdp, policy), found.variance
    else:
        mean, variance = over_actions(policy, found)
        bias = mean - values(mdp, policy)
    # In a terminal state nothing is estimated.
    over = mdp.terminal.reshape(-1, *[1] * (bias.ndim - 1))
    return Moments(np.where(over, 0.0, bias), np.where(over, 0.0, variance))


class GradientMoments(NamedTuple):
    """Bias and total variance of a policy gradient of one episode, by the closed form."""

    bias: Float[np.ndarray, "S A"]
    trace: float  # of the covariance matrix


def gradient_moments(
    mdp: MDP, logits: Float[np.ndarray, "S A"], estimator: Estimator, critic: Critic
) -> GradientMoments:
    """What `measure_gradient` should find, in a process in which no state comes twice.

    tr Cov = Σ_s d₂(s) Σ_a π(a|s) ‖∇log π(a|s)‖² E[Ψ² | s, a] − ‖E[g]‖²,
    with d₂(s) = Σ_t γ^2t P(s_t = s).
    """
    policy = softmax(logits)
    follows, path = going_on(mdp, policy) > 0, np.ones(mdp.states, bool)
    for _ in range(mdp.states):  # from which states there are paths of so many steps
        path = np.any(follows & path, axis=1)
    if path.any():
        raise UserError(
            "The variance of a policy gradient is known exactly only where no state can come "
            "twice in an episode, as in `chain` and `layers`; use measure_gradient."
        )
    found = _exact(mdp, policy, estimator, critic)
    # E[∇log π Ψ] of the logits of a state: π(a) (E[Ψ | a] − Σ_b π(b) E[Ψ | b]).
    centred = found.mean - (policy * found.mean).sum(1, keepdims=True)
    mean = discounted_distribution(mdp, policy)[:, None] * policy * centred
    second = (policy * score_norms(policy) * (found.mean**2 + found.variance)).sum(1)
    trace = visits(mdp, policy, mdp.gamma**2) @ second - (mean**2).sum()
    return GradientMoments(mean - policy_gradient(mdp, logits), float(trace))


def _exact(mdp: MDP, policy: np.ndarray, estimator: Estimator, critic: Critic) -> PairMoments:
    if estimator.exact is None:
        raise UserError(f"There is no closed form for {estimator.name}; use measure.")
    return estimator.exact(mdp, policy, critic)
