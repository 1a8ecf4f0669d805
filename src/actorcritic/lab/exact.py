"""The exact truth of a policy: values, where it goes, its gradient; by linear solves."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from actorcritic.core.errors import UserError
from actorcritic.lab.process import MDP, checked_policy, numbers


def softmax(logits: Float[np.ndarray, "S A"]) -> Float[np.ndarray, "S A"]:
    """π(a|s) = exp θ[s, a] / Σ_b exp θ[s, b]."""
    logits = numbers("logits", logits)
    if logits.ndim != 2:
        raise UserError(f"Logits have the shape [S, A], not {list(logits.shape)}.")
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def values(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> Float[np.ndarray, " S"]:
    """V = (I − γ P_π)⁻¹ r_π, the solution of Bellman's equation (Sutton & Barto 2018, eq. 3.14)."""
    policy = checked_policy(mdp, policy)
    reward = np.einsum("sa,sax,sax->s", policy, mdp.transition, mdp.reward)
    return solve(mdp.gamma * going_on(mdp, policy), reward)


def action_values(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> Float[np.ndarray, "S A"]:
    """Q(s, a) = Σ_s' P(s'|s, a) (R(s, a, s') + γ V(s')); 0 in terminal states."""
    return one_step(mdp, values(mdp, policy))[0]


def advantages(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> Float[np.ndarray, "S A"]:
    """A(s, a) = Q(s, a) − V(s)."""
    return action_values(mdp, policy) - values(mdp, policy)[:, None]


def objective(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> float:
    """J = Σ_s start(s) V(s), the expected discounted return of an episode."""
    return float(mdp.start @ values(mdp, policy))


def optimal_values(mdp: MDP) -> Float[np.ndarray, " S"]:
    """V*(s), the greatest value that any policy has there; by policy iteration.

    Each step solves for the values of a policy and takes the best action wherever one is better
    (Howard 1960; Sutton & Barto 2018, section 4.3). It starts from the uniform policy. With γ = 1
    a UserError says so where to go on for ever pays without end.
    """
    policy = np.full((mdp.states, mdp.actions), 1 / mdp.actions)
    before = np.full(mdp.states, -np.inf)
    while True:
        v = values(mdp, policy)
        q, _ = one_step(mdp, v)
        rounding = 1e-12 * (1 + np.abs(q).max())
        better = q.max(1) > v + rounding
        if not better.any() or np.max(v - before) <= rounding:
            return v
        policy[better] = np.eye(mdp.actions)[q[better].argmax(1)]
        before = v


def discounted_distribution(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> Float[np.ndarray, " S"]:
    """d(s) = Σ_t γ^t P(s_t = s), not normalised; 0 for terminal states, where nothing is decided.

    d = (I − γ P_πᵀ)⁻¹ start; where nothing terminates it sums to 1 / (1 − γ).
    """
    return visits(mdp, checked_policy(mdp, policy), mdp.gamma)


def policy_gradient(mdp: MDP, logits: Float[np.ndarray, "S A"]) -> Float[np.ndarray, "S A"]:
    """dJ/dθ[s, a] = d(s) π(a|s) A(s, a) for π = softmax(θ) (Sutton et al. 2000, theorem 1)."""
    policy = softmax(logits)
    return discounted_distribution(mdp, policy)[:, None] * policy * advantages(mdp, policy)


def optimal_baseline(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> Float[np.ndarray, " S"]:
    """b(s) = E[‖∇log π(a|s)‖² Q(s, a)] / E[‖∇log π(a|s)‖²], for a softmax of logits.

    Of all baselines it gives each term ∇log π (G − b) the least variance (after Greensmith,
    Bartlett & Baxter 2004; docs/lab.md has the two lines of algebra).
    """
    policy = checked_policy(mdp, policy)
    weight = policy * score_norms(policy)
    total = weight.sum(1)
    # A policy that leaves no choice has no gradient, and any baseline is as good.
    q, v = action_values(mdp, policy), values(mdp, policy)
    return np.where(total > 0, (weight * q).sum(1) / np.where(total > 0, total, 1), v)


def clipped_policy(
    policy: Float[np.ndarray, "S A"], behaviour: Float[np.ndarray, "S A"], rho_clip: float
) -> Float[np.ndarray, "S A"]:
    """min(ρ̄ μ, π), normalised: whose values V-trace estimates (Espeholt et al. 2018, sec. 4.1)."""
    clipped = np.minimum(rho_clip * behaviour, policy)
    return clipped / clipped.sum(1, keepdims=True)


def one_step(
    mdp: MDP, after: Float[np.ndarray, " S"]
) -> tuple[Float[np.ndarray, "S A"], Float[np.ndarray, "S A"]]:
    """Mean and variance of r + γ after(s') given (s, a); `after` counts as 0 where it ends."""
    target = mdp.reward + mdp.gamma * np.where(mdp.terminal, 0.0, after)
    mean = (mdp.transition * target).sum(2)
    variance = (mdp.transition * (target - mean[:, :, None]) ** 2).sum(2) + mdp.reward_std**2
    return mean, variance


def going_on(mdp: MDP, policy: np.ndarray) -> Float[np.ndarray, "S S"]:
    """P(s', and the episode goes on | s), 0 in the rows of terminal states too."""
    moves = np.einsum("sa,sax->sx", policy, mdp.transition)
    return np.where(mdp.terminal[:, None] | mdp.terminal, 0.0, moves)


def solve(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """y = x + matrix y."""
    return np.linalg.solve(np.eye(len(x)) - matrix, x)


def visits(mdp: MDP, policy: np.ndarray, factor: float) -> Float[np.ndarray, " S"]:
    """Σ_t factor^t P(s_t = s) of states that are not terminal."""
    return solve(factor * going_on(mdp, policy).T, mdp.start)


def score_norms(policy: np.ndarray) -> Float[np.ndarray, "S A"]:
    """‖∇log π(a|s)‖² of logits: 1 − 2 π(a|s) + Σ_b π(b|s)²."""
    return 1 - 2 * policy + (policy**2).sum(1, keepdims=True)
