"""Losses, one number a row: pure functions of log-probabilities, advantages and values.

All are to be *minimised*. Advantages, targets and old quantities are data: no gradient flows
through them (stopped here, so that no caller can forget).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def policy_gradient_loss(
    log_prob: Float[Array, "..."], advantage: Float[Array, "..."]
) -> Float[Array, "..."]:
    """-log π(a_t|s_t) A_t; its gradient is the policy-gradient estimate (Williams 1992)."""
    return -log_prob * jax.lax.stop_gradient(advantage)


def surrogate_loss(
    log_prob: Float[Array, "..."], old_log_prob: Float[Array, "..."], advantage: Float[Array, "..."]
) -> Float[Array, "..."]:
    """-ρ_t A_t, ρ_t = π(a_t|s_t) / π_old(a_t|s_t)   (Schulman et al. 2015, eq. 14)."""
    ratio = jnp.exp(log_prob - jax.lax.stop_gradient(old_log_prob))
    return -ratio * jax.lax.stop_gradient(advantage)


def clipped_surrogate_loss(
    log_prob: Float[Array, "..."],
    old_log_prob: Float[Array, "..."],
    advantage: Float[Array, "..."],
    clip_range: float | Float[Array, ""],
) -> Float[Array, "..."]:
    """-min(ρ_t A_t, clip(ρ_t, 1-ε, 1+ε) A_t), ρ_t = π(a_t|s_t) / π_old(a_t|s_t).

    Schulman et al. 2017, eq. 7; ε is `clip_range`.
    """
    advantage = jax.lax.stop_gradient(advantage)
    ratio = jnp.exp(log_prob - jax.lax.stop_gradient(old_log_prob))
    clipped = jnp.clip(ratio, 1 - clip_range, 1 + clip_range)
    return -jnp.minimum(ratio * advantage, clipped * advantage)


def value_loss(
    value: Float[Array, "..."],
    target: Float[Array, "..."],
    huber_delta: float | Float[Array, ""] | None = None,
) -> Float[Array, "..."]:
    """½ (V(s_t) - target_t)²; beyond an error of `huber_delta`, linear with the same slope there.

    Huber 1964: δ (|e| - δ/2) where |e| > δ, for the error e. None: squared everywhere.
    """
    error = value - jax.lax.stop_gradient(target)
    if huber_delta is None:
        return 0.5 * error**2
    inside = jnp.clip(error, -huber_delta, huber_delta)
    return inside * (error - 0.5 * inside)


def clipped_value_loss(
    value: Float[Array, "..."],
    old_value: Float[Array, "..."],
    target: Float[Array, "..."],
    clip_range: float | Float[Array, ""],
    huber_delta: float | Float[Array, ""] | None = None,
) -> Float[Array, "..."]:
    """½ max((V - target)², (V_clip - target)²), V_clip = V_old + clip(V - V_old, -ε, ε).

    The larger of the two: a step that leaves the range is never rewarded for leaving it. It is
    in the code that came with Schulman et al. 2017, not in the paper. `huber_delta` as above.
    """
    old_value = jax.lax.stop_gradient(old_value)
    clipped = old_value + jnp.clip(value - old_value, -clip_range, clip_range)
    plain = value_loss(value, target, huber_delta)
    return jnp.maximum(plain, value_loss(clipped, target, huber_delta))


def soft_target(
    reward: Float[Array, "..."],
    terminated: Float[Array, "..."],
    next_q: Float[Array, "..."],
    next_log_prob: Float[Array, "..."],
    temperature: float | Float[Array, ""],
    gamma: float | Float[Array, ""],
) -> Float[Array, "..."]:
    """r + γ (1 - terminated) (Q(s', a') - α log π(a'|s')), a' ~ π(s').

    Haarnoja et al. 2018 (arXiv 1812.05905), eq. 3 with eq. 5; `terminated` is 0 or 1.
    """
    soft_value = next_q - temperature * next_log_prob
    return jax.lax.stop_gradient(reward + gamma * (1 - terminated) * soft_value)


def soft_policy_loss(
    q: Float[Array, "..."], log_prob: Float[Array, "..."], temperature: float | Float[Array, ""]
) -> Float[Array, "..."]:
    """α log π(a|s) - Q(s, a), with a a differentiable draw (ibid., eq. 9)."""
    return jax.lax.stop_gradient(temperature) * log_prob - q


def temperature_loss(
    log_temperature: Float[Array, ""],
    log_prob: Float[Array, "..."],
    target_entropy: float | Float[Array, ""],
) -> Float[Array, "..."]:
    """-log α (log π(a|s) + H̄): α grows where the entropy is below its target H̄.

    Ibid., eq. 18, with log α in the place of α, as in the authors' own program: it has the same
    zero, and a step changes α by a factor.
    """
    return -log_temperature * jax.lax.stop_gradient(log_prob + target_entropy)


def preference_loss(
    margin: Float[Array, "..."], label_smoothing: float | Float[Array, ""] = 0.0
) -> Float[Array, "..."]:
    """-(1-ε) log σ(m) - ε log σ(-m): the chosen answer wins with probability σ(m).

    Bradley & Terry 1952. The margin m is r(chosen) - r(rejected) of a reward model (Ouyang et al.
    2022, eq. 1), or of DPO's implicit reward (Rafailov et al. 2023, eq. 7). ε is the chance that a
    label is the wrong way round.
    """
    return -(1 - label_smoothing) * jax.nn.log_sigmoid(
        margin
    ) - label_smoothing * jax.nn.log_sigmoid(-margin)


def identity_preference_loss(
    log_ratio_margin: Float[Array, "..."], beta: float | Float[Array, ""]
) -> Float[Array, "..."]:
    """(h - 1/(2β))², h = log π/π_ref (chosen) - log π/π_ref (rejected); Azar et al. 2023, eq. 17.

    It pulls the margin to a finite place, where the loss of Bradley and Terry goes on for ever.
    """
    return (log_ratio_margin - 1 / (2 * beta)) ** 2


def kl_k1(
    log_prob: Float[Array, "..."], reference_log_prob: Float[Array, "..."]
) -> Float[Array, "..."]:
    """log π - log π_ref of a draw of π: its mean is KL(π‖π_ref); one may be negative.

    For a reward; as a loss its gradient has the mean 0 (Schulman 2020, estimator k1).
    """
    return log_prob - reference_log_prob


def kl_k3(
    log_prob: Float[Array, "..."], reference_log_prob: Float[Array, "..."]
) -> Float[Array, "..."]:
    """ρ - 1 - log ρ, ρ = π_ref/π, of a draw of π: the same mean, never negative (ibid., k3).

    As a loss on draws of π, its gradient is in the mean that of KL(π_ref‖π), the other way round:
    near π_ref the two are alike, far from it they are not (docs/rlhf.md).
    """
    log_ratio = jax.lax.stop_gradient(reference_log_prob) - log_prob
    return jnp.exp(log_ratio) - 1 - log_ratio


def expectile_loss(
    difference: Float[Array, "..."], expectile: float | Float[Array, ""]
) -> Float[Array, "..."]:
    """|τ - 1(u < 0)| u² for u = target - value; its minimum is the τ-expectile of the targets.

    Kostrikov et al. 2021 (arXiv 2110.06169), eq. 2; at τ = ½ it is half of the squared error.
    """
    weight = jnp.where(difference < 0, 1 - expectile, expectile)
    return weight * difference**2


def conservative_loss(
    log_sum_exp: Float[Array, "..."], q: Float[Array, "..."]
) -> Float[Array, "..."]:
    """log Σ_a exp Q(s, a) - Q(s, a) of the recorded action: how much of the value is others'.

    Kumar et al. 2020 (arXiv 2006.04779), eq. 4, the variant CQL(H).
    """
    return log_sum_exp - q
