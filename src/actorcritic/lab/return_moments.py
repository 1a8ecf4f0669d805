"""Mean and variance of n-step returns and λ-returns, by the closed form. docs/lab.md derives it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from actorcritic.lab.critics import Critic
from actorcritic.lab.exact import going_on, one_step, solve
from actorcritic.lab.process import MDP


class PairMoments(NamedTuple):
    """Mean and variance of an estimate, given its state and action."""

    mean: Float[np.ndarray, "S A"]
    variance: Float[np.ndarray, "S A"]


def n_step_moments(mdp: MDP, policy: np.ndarray, critic: Critic, n: int) -> PairMoments:
    """Of the n-step return: of one step ahead of the (n − 1)-step return; 0 steps are V̂."""
    mean, variance = critic.table, np.full(mdp.states, critic.std**2)
    for _ in range(n):
        pair = _backed_up(mdp, mean, variance)
        mean, variance = over_actions(policy, pair)
    return pair


def lambda_moments(mdp: MDP, policy: np.ndarray, critic: Critic, lam: float) -> PairMoments:
    """Of the λ-return G_t = r_t + γ ((1 − λ) V̂(s_{t+1}) + λ G_{t+1}), without an end.

    Given s_{t+1}, the critic's error there and G_{t+1} are independent: G_{t+1} begins with V̂ of
    the state after that.
    """
    onward = going_on(mdp, policy)
    mixed = (1 - lam) * critic.table
    first, _ = over_actions(policy, PairMoments(*one_step(mdp, mixed)))
    mean = solve(mdp.gamma * lam * onward, first)
    own = np.full(mdp.states, ((1 - lam) * critic.std) ** 2)
    ahead = mixed + lam * mean
    _, first = over_actions(policy, _backed_up(mdp, ahead, own))
    variance = solve((mdp.gamma * lam) ** 2 * onward, first)
    return _backed_up(mdp, ahead, own + lam**2 * variance)


def less_value(pair: PairMoments, critic: Critic) -> PairMoments:
    """Of an advantage, from the return: V̂(s_t) is subtracted, whose error is independent of it."""
    return PairMoments(pair.mean - critic.table[:, None], pair.variance + critic.std**2)


def over_actions(policy: np.ndarray, pair: PairMoments) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance given the state alone, by the law of total variance."""
    mean = (policy * pair.mean).sum(1)
    return mean, (policy * (pair.variance + (pair.mean - mean[:, None]) ** 2)).sum(1)


def _backed_up(mdp: MDP, mean: np.ndarray, variance: np.ndarray) -> PairMoments:
    """Moments of r + γ X(s') from those of X, which is 0 in terminal states."""
    ahead, spread = one_step(mdp, mean)
    after = mdp.transition @ np.where(mdp.terminal, 0.0, variance)
    after = np.where(mdp.terminal[:, None], 0.0, after)
    return PairMoments(ahead, spread + mdp.gamma**2 * after)
