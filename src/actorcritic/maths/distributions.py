"""Policies as probability distributions over actions.

Each has `sample`, `mode`, `log_prob`, `entropy` and `kl`, over any leading axes [...].
Log-probabilities and entropies are in nats and are summed over the action's own dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key


@runtime_checkable
class Distribution(Protocol):
    def sample(self, key: Key[Array, ""]) -> Array: ...
    def mode(self) -> Array: ...
    def log_prob(self, action: Array) -> Float[Array, "..."]: ...
    def entropy(self) -> Float[Array, "..."]: ...
    def kl(self, other: Any) -> Float[Array, "..."]: ...


NEAR_ONE = 1 - 1e-6
pytree = partial(partial, jax.tree_util.register_dataclass)


@pytree(data_fields=["logits"], meta_fields=[])
@dataclass(frozen=True)
class Categorical:
    """P(a = i) = softmax(logits)_i; `masked` gives actions that are not allowed probability 0."""

    logits: Float[Array, "... n"]

    def masked(self, allowed: Bool[Array, "... n"]) -> Categorical:
        """The same distribution given that the action is allowed (at least one must be)."""
        # The lowest finite number, not -inf: 0 * -inf is NaN in the entropy and its gradient.
        return Categorical(jnp.where(allowed, self.logits, jnp.finfo(self.logits.dtype).min))

    def sample(self, key: Key[Array, ""]) -> Int[Array, "..."]:
        return jax.random.categorical(key, self.logits)

    def mode(self) -> Int[Array, "..."]:
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, action: Int[Array, "..."]) -> Float[Array, "..."]:
        # A one-hot product instead of a gather: its gradient is no scatter, and faster on a CPU.
        chosen = jax.nn.one_hot(action, self.logits.shape[-1], dtype=self.logits.dtype)
        log_p = jax.nn.log_softmax(self.logits)
        return jnp.sum(jnp.where(chosen > 0, log_p, 0.0), axis=-1)

    def entropy(self) -> Float[Array, "..."]:
        log_p = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)

    def kl(self, other: Categorical) -> Float[Array, "..."]:
        """KL(self || other)."""
        log_p, log_q = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


@pytree(data_fields=["logits"], meta_fields=["sizes"])
@dataclass(frozen=True)
class MultiCategorical:
    """Independent categoricals, one a component; component k has `sizes[k]` choices.

    `logits` [..., sum(sizes)] holds them side by side. MultiBinary is `sizes = (2, 2, …)`.
    """

    logits: Float[Array, "... n"]
    sizes: tuple[int, ...]

    @property
    def components(self) -> list[Categorical]:
        ends = [sum(self.sizes[: k + 1]) for k in range(len(self.sizes) - 1)]
        return [Categorical(part) for part in jnp.split(self.logits, ends, axis=-1)]

    def masked(self, allowed: Bool[Array, "... n"]) -> MultiCategorical:
        """The same, given that each component's choice is allowed (mask side by side as logits)."""
        floor = jnp.finfo(self.logits.dtype).min
        return MultiCategorical(jnp.where(allowed, self.logits, floor), self.sizes)

    def sample(self, key: Key[Array, ""]) -> Int[Array, "... k"]:
        keys = jax.random.split(key, len(self.sizes))
        drawn = [c.sample(k) for c, k in zip(self.components, keys, strict=True)]
        return jnp.stack(drawn, axis=-1)

    def mode(self) -> Int[Array, "... k"]:
        return jnp.stack([c.mode() for c in self.components], axis=-1)

    def log_prob(self, action: Int[Array, "... k"]) -> Float[Array, "..."]:
        parts = [c.log_prob(action[..., k]) for k, c in enumerate(self.components)]
        return jnp.sum(jnp.stack(parts), axis=0)

    def entropy(self) -> Float[Array, "..."]:
        return jnp.sum(jnp.stack([c.entropy() for c in self.components]), axis=0)

    def kl(self, other: MultiCategorical) -> Float[Array, "..."]:
        """KL(self || other)."""
        pairs = zip(self.components, other.components, strict=True)
        return jnp.sum(jnp.stack([p.kl(q) for p, q in pairs]), axis=0)


@pytree(data_fields=["mean", "log_std"], meta_fields=[])
@dataclass(frozen=True)
class Gaussian:
    """A diagonal normal distribution over R^d. `mean` and `log_std` have the same shape."""

    mean: Float[Array, "... d"]
    log_std: Float[Array, "... d"]

    def sample(self, key: Key[Array, ""]) -> Float[Array, "... d"]:
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_std) * noise

    def mode(self) -> Float[Array, "... d"]:
        return self.mean

    def log_prob(self, action: Float[Array, "... d"]) -> Float[Array, "..."]:
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * z**2 + self.log_std + 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> Float[Array, "..."]:
        return jnp.sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def kl(self, other: Gaussian) -> Float[Array, "..."]:
        """KL(self || other)."""
        ratio = jnp.exp(2 * (self.log_std - other.log_std))
        distance = ((self.mean - other.mean) * jnp.exp(-other.log_std)) ** 2
        return jnp.sum(
            0.5 * (ratio + distance - 1) + other.log_std - self.log_std,
            axis=-1,
        )


def _logistic_as_normals() -> tuple[np.ndarray, np.ndarray]:
    """Weights w_k and deviations s_k with ½ sech²(x) = Σ_k w_k N(x; 0, s_k²), to 1e-8.

    That density is an exact mixture of normals; its deviation follows the Kolmogorov
    distribution (Andrews & Mallows 1974), here by the trapezoidal rule in log s.
    """
    step = 0.2
    s = np.exp(np.arange(math.log(0.25), math.log(3.0), step))
    j = np.arange(1, 40)[:, None]
    density = np.sum(8 * s * (-1.0) ** (j + 1) * j**2 * np.exp(-2 * (j * s) ** 2), axis=0)
    weights = density * s * step
    return weights / weights.sum(), s


_MIXTURE = list(zip(*(x.tolist() for x in _logistic_as_normals()), strict=True))


def _mean_log_2cosh(mean: Array, std: Array) -> Array:
    """E[log(2 cosh u)] for u ~ N(mean, std²), elementwise, to 1e-8.

    log(2 cosh u) = E|u + L| for L with the density ½ sech² (both sides have the second derivative
    sech² u and the asymptote |u|). With L a mixture of normals, u + L is one too, and E|x| of a
    normal x has a closed form.
    """

    def mean_abs(s: Array) -> Array:
        z = mean / (math.sqrt(2) * s)
        return mean * jax.lax.erf(z) + math.sqrt(2 / math.pi) * s * jnp.exp(-(z**2))

    return jnp.sum(jnp.stack([w * mean_abs(jnp.hypot(std, s)) for w, s in _MIXTURE]), axis=0)


@pytree(data_fields=["mean", "log_std", "low", "high"], meta_fields=[])
@dataclass(frozen=True)
class TanhGaussian:
    """A diagonal normal distribution, squashed by tanh into the box [low, high].

    A draw is the unsquashed u ~ N(mean, σ²), and `action(u)` is what is executed; in float32
    tanh has no inverse where it is saturated, so u is what to store. Densities are those of
    the action over the box: log N(u) - Σ log(1 - tanh² u) - Σ log((high - low) / 2).
    """

    mean: Float[Array, "... d"]
    log_std: Float[Array, "... d"]
    low: Float[Array, " d"]
    high: Float[Array, " d"]

    @property
    def unsquashed(self) -> Gaussian:
        """The distribution of u."""
        return Gaussian(self.mean, self.log_std)

    def sample(self, key: Key[Array, ""]) -> Float[Array, "... d"]:
        return self.unsquashed.sample(key)

    def mode(self) -> Float[Array, "... d"]:
        """The mean of u: the median action (the density itself may peak at a bound)."""
        return self.mean

    def action(self, u: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """low + (tanh(u) + 1) / 2 · (high - low); rounding never leaves the box."""
        low, high = (jnp.broadcast_to(end, u.shape) for end in (self.low, self.high))
        return jnp.clip(low + (jnp.tanh(u) + 1) * (high / 2 - low / 2), low, high)

    def unsquash(self, action: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """A u of which `action` is the action; at the bounds, the nearest that single precision
        tells from them.
        """
        low, high = (jnp.broadcast_to(end, action.shape) for end in (self.low, self.high))
        inside = (action - low) / (high / 2 - low / 2) - 1
        return jnp.arctanh(jnp.clip(inside, -NEAR_ONE, NEAR_ONE))

    def log_prob(self, u: Float[Array, "... d"]) -> Float[Array, "..."]:
        """The log-density of action(u)."""
        # log(1 - tanh² u), finite for every u; the plain formula is log 0 from |u| = 9 on.
        log_slope = 2 * (math.log(2) - u - jax.nn.softplus(-2 * u))
        return self.unsquashed.log_prob(u) - jnp.sum(log_slope, axis=-1) - self._log_scale

    def entropy(self) -> Float[Array, "..."]:
        """Of the action, which has no closed form; the error is below 2e-8 a dimension in float64.

        The entropy of u plus E[log(1 - tanh² u)] = 2 log 2 - 2 E[log(2 cosh u)]; the bound holds
        for every mean and σ, and for the gradient as well.
        """
        log_slope = 2 * (math.log(2) - _mean_log_2cosh(self.mean, jnp.exp(self.log_std)))
        return self.unsquashed.entropy() + jnp.sum(log_slope, axis=-1) + self._log_scale

    def kl(self, other: TanhGaussian) -> Float[Array, "..."]:
        """KL(self || other) for the same bounds: that of u, which a bijection does not change."""
        return self.unsquashed.kl(other.unsquashed)

    @property
    def _log_scale(self) -> Float[Array, ""]:
        return jnp.sum(jnp.log(self.high / 2 - self.low / 2))
