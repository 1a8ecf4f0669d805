"""Advantages, returns and running statistics. Pure functions over [T, B] arrays.

Time index t counts steps; row t holds r_t, V(s_t) and V(s_{t+1}), where s_{t+1} is the *true*
successor of step t, also when the episode ended there.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def td_errors(
    reward: Float[Array, "T B"],
    value: Float[Array, "T B"],
    next_value: Float[Array, "T B"],
    terminated: Bool[Array, "T B"],
    gamma: float | Float[Array, ""],
) -> Float[Array, "T B"]:
    """δ_t = r_t + γ (1 - terminated_t) V(s_{t+1}) - V(s_t)   (Sutton & Barto 2018, eq. 6.5)."""
    return reward + gamma * jnp.where(terminated, 0.0, next_value) - value


def gae(
    reward: Float[Array, "T B"],
    value: Float[Array, "T B"],
    next_value: Float[Array, "T B"],
    terminated: Bool[Array, "T B"],
    truncated: Bool[Array, "T B"],
    gamma: float | Float[Array, ""],
    gae_lambda: float | Float[Array, ""],
) -> Float[Array, "T B"]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16).

    A_t = Σ_{l ≥ 0} (γλ)^l δ_{t+l}, the sum ending with the episode or the batch. A time limit
    (`truncated`) ends the sum but keeps γ V(s_{t+1}) in its last δ; a terminal state drops it.
    λ = 0 is the TD error; λ = 1 is the n-step return to the end of the batch, minus V(s_t).
    """
    delta = td_errors(reward, value, next_value, terminated, gamma)
    trace = jnp.where(terminated | truncated, 0.0, jnp.asarray(gamma * gae_lambda, delta.dtype))
    return _discounted_sums(delta, trace)


def monte_carlo_returns(
    reward: Float[Array, "T B"],
    next_value: Float[Array, "T B"],
    terminated: Bool[Array, "T B"],
    truncated: Bool[Array, "T B"],
    gamma: float | Float[Array, ""],
) -> Float[Array, "T B"]:
    """G_t = Σ_{l ≥ 0} γ^l r_{t+l} to the end of the episode, which the batch must contain.

    Where an episode was cut by a time limit, γ V(s_{t+1}) stands for the rest of the return;
    with no critic, pass zeros.
    """
    rest = jnp.where(truncated & ~terminated, gamma * next_value, 0.0)
    trace = jnp.where(terminated | truncated, 0.0, jnp.asarray(gamma, reward.dtype))
    return _discounted_sums(reward + rest, trace)


def vtrace(
    reward: Float[Array, "T B"],
    value: Float[Array, "T B"],
    next_value: Float[Array, "T B"],
    terminated: Bool[Array, "T B"],
    truncated: Bool[Array, "T B"],
    ratio: Float[Array, "T B"],
    gamma: float | Float[Array, ""],
    gae_lambda: float | Float[Array, ""] = 1.0,
    rho_clip: float | Float[Array, ""] = 1.0,
    c_clip: float | Float[Array, ""] = 1.0,
) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
    """V-trace targets and advantages (Espeholt et al. 2018, eq. 1), off-policy by `ratio` = π/μ.

    v_t = V(s_t) + Σ_{l ≥ 0} γ^l (Π_{i < l} c_{t+i}) ρ_{t+l} δ_{t+l}, the sum ending with the
    episode or the batch, where ρ = min(ρ̄, π/μ) and c = λ min(c̄, π/μ). The policy gradient is
    weighed by ρ_t (r_t + γ v_{t+1} - V(s_t)); where the sum ended, V(s_{t+1}) stands for v_{t+1}.
    """
    rho, c = jnp.minimum(ratio, rho_clip), gae_lambda * jnp.minimum(ratio, c_clip)
    delta = rho * td_errors(reward, value, next_value, terminated, gamma)
    ended = terminated | truncated
    target = value + _discounted_sums(delta, jnp.where(ended, 0.0, gamma * c))
    following = jnp.concatenate([target[1:], next_value[-1:]])
    following = jnp.where(ended, next_value, following)
    return target, rho * td_errors(reward, value, following, terminated, gamma)


def kl_shaped_rewards(
    score: Float[Array, " B"],
    log_prob: Float[Array, "T B"],
    reference_log_prob: Float[Array, "T B"],
    valid: Bool[Array, "T B"],
    kl_coefficient: float | Float[Array, ""],
) -> Float[Array, "T B"]:
    """r_t = -β (log π(y_t) - log π_ref(y_t)), and the score where the response ends.

    Ziegler et al. 2019, eq. 2: the sum over a response is its score less β times the estimate k1 of
    its KL divergence. `valid` are the tokens of the response, its end among them, from row 0 on;
    the rewards of other rows are 0. An empty response has no row, and gets nothing.
    """
    kl = jnp.where(valid, log_prob - reference_log_prob, 0.0)
    last = valid & ~jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])
    return jnp.where(last, score, 0.0) - kl_coefficient * kl


def _discounted_sums(x: Float[Array, "T B"], trace: Float[Array, "T B"]) -> Float[Array, "T B"]:
    """y_t = x_t + trace_t y_{t+1}, with y_T = 0."""

    def back(y: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        x, trace = row
        y = x + trace * y
        return y, y

    # Unrolled, because one turn of an XLA loop costs more than the few numbers in it.
    _, sums = jax.lax.scan(back, jnp.zeros_like(x[0]), (x, trace), reverse=True, unroll=16)
    return sums


class RunningStatistics(NamedTuple):
    """Mean and variance of everything seen so far, per feature. `count` 0 normalises nothing."""

    count: Float[Array, ""]  # type: ignore[assignment]
    mean: Float[Array, "..."]
    variance: Float[Array, "..."]  # population variance; 1 before anything was seen

    @classmethod
    def start(cls, shape: tuple[int, ...] = ()) -> RunningStatistics:
        return cls(jnp.zeros(()), jnp.zeros(shape), jnp.ones(shape))

    def merge(
        self,
        x: Float[Array, "N ..."],
        weight: Float[Array, " N"] | None = None,
        axis: str | None = None,
    ) -> RunningStatistics:
        """Exactly the statistics of the old data and the rows of `x` together.

        `weight` 0 leaves a row out; with `axis`, the rows of all devices along that mesh axis
        count.
        """

        def total(y: Array) -> Array:
            y = jnp.sum(y, axis=0) if weight is None else jnp.tensordot(weight, y, 1)
            return y if axis is None else jax.lax.psum(y, axis)

        count = total(jnp.ones(x.shape[:1], x.dtype))
        mean = total(x) / jnp.maximum(count, 1)
        variance = total((x - mean[None]) ** 2) / jnp.maximum(count, 1)
        return self.joined(RunningStatistics(count, mean, variance))

    def joined(self, other: RunningStatistics) -> RunningStatistics:
        """Exactly the statistics of both data together (Chan, Golub & LeVeque 1979)."""
        count, mean, variance = other
        share = count / jnp.maximum(self.count + count, 1)
        gap = mean - self.mean
        return RunningStatistics(
            self.count + count,
            self.mean + share * gap,
            (1 - share) * self.variance + share * variance + share * (1 - share) * gap**2,
        )

    def first(self, count: int) -> RunningStatistics:
        """Of the first `count` features alone."""
        return self._replace(mean=self.mean[:count], variance=self.variance[:count])

    def normalize(self, x: Float[Array, "..."], clip: float) -> Float[Array, "..."]:
        """(x - mean) / standard deviation, clipped to [-clip, clip]."""
        lead = (1,) * (x.ndim - self.mean.ndim)
        mean, variance = self.mean.reshape(lead + self.mean.shape), self.variance
        scale = jax.lax.rsqrt(variance.reshape(lead + variance.shape) + 1e-8)
        return jnp.clip((x - mean) * scale, -clip, clip)


class Moments(NamedTuple):
    """Mean and deviation of the recent past: exponential averages, debiased. `share` 0 is unknown.

    m ← β m + (1 - β) mean(x), and the same of x² and of 1; the last of them, `share`, is by how
    much the others have yet to grow, as in Adam (Kingma & Ba 2015, section 3). Yu et al. 2022
    normalise the targets of a critic in this way.
    """

    share: Float[Array, ""]
    mean: Float[Array, ""]  # times `share`
    square: Float[Array, ""]  # likewise, of x²

    @classmethod
    def start(cls) -> Moments:
        zero = jnp.zeros(())
        return cls(zero, zero, zero)

    def merge(
        self,
        x: Float[Array, " N"],
        valid: Bool[Array, " N"] | None,
        decay: float,
        axis: str | None = None,
    ) -> Moments:
        """With the valid rows of `x` (of all devices along `axis`); as it is where none is."""
        rows = jnp.ones_like(x) if valid is None else valid.astype(x.dtype)
        sums = jnp.stack([jnp.sum(rows), jnp.sum(rows * x), jnp.sum(rows * x**2)])
        sums = sums if axis is None else jax.lax.psum(sums, axis)
        means = sums / jnp.maximum(sums[0], 1)
        merged = decay * jnp.stack(self) + (1 - decay) * means
        return Moments(*jnp.where(sums[0] > 0, merged, jnp.stack(self)))

    @property
    def _scale(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Mean and deviation; 0 and 1 before anything was seen. A deviation is at least 0.01."""
        share = jnp.where(self.share > 0, self.share, 1.0)
        mean = self.mean / share
        variance = jnp.maximum(self.square / share - mean**2, 1e-4)
        return mean, jnp.sqrt(jnp.where(self.share > 0, variance, 1.0))

    def normalize(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        mean, deviation = self._scale
        return (x - mean) / deviation

    def denormalize(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The inverse of `normalize`."""
        mean, deviation = self._scale
        return x * deviation + mean
