"""Networks as (init, apply) pairs over plain pytrees, and the actor and critic built from them.

`init(key, x)` returns parameters for inputs like `x` [1, features]; `apply(params, x)` returns
features [..., n]. A flax.linen module's own `init` and `apply` are such a pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import Array, Float, Key, PyTree

from actorcritic.distributions import Categorical, Distribution, Gaussian, MultiCategorical
from actorcritic.spaces import feature_count
from actorcritic.types import EnvSpec, UserError

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "swish": jax.nn.swish,
    "gelu": jax.nn.gelu,
}


@runtime_checkable
class NetworkLike(Protocol):
    """What the pair must offer; it must be hashable, because it is part of the program."""

    @property
    def init(self) -> Callable[[Key[Array, ""], Float[Array, "1 n"]], PyTree]: ...
    @property
    def apply(self) -> Callable[[PyTree, Float[Array, "... n"]], Float[Array, "... m"]]: ...


class Network(NamedTuple):
    """A user's own pair of functions."""

    init: Callable[[Key[Array, ""], Float[Array, "1 n"]], PyTree]
    apply: Callable[[PyTree, Float[Array, "... n"]], Float[Array, "... m"]]


def orthogonal(key: Key[Array, ""], rows: int, columns: int, gain: float) -> Float[Array, "r c"]:
    """`gain` times a uniformly random matrix with orthonormal rows or columns (Saxe et al. 2014).

    Gram–Schmidt on a normal matrix, each column projected twice for accuracy. LAPACK's QR would
    do, but batched LAPACK calls can hang XLA's CPU thread pool on two cores.
    """
    tall, wide = max(rows, columns), min(rows, columns)
    normal = jax.random.normal(key, (tall, wide))

    def orthogonalise(k: Array, q: Array) -> Array:
        v = jax.lax.dynamic_index_in_dim(normal, k, axis=1, keepdims=False)
        for _ in range(2):
            v = v - q @ (v @ q)
        return jax.lax.dynamic_update_index_in_dim(q, v / jnp.linalg.norm(v), k, axis=1)

    q = jax.lax.fori_loop(0, wide, orthogonalise, jnp.zeros((tall, wide)))
    return gain * (q if rows == tall else q.T)


class Dense(NamedTuple):
    """Parameters of x @ weight + bias."""

    weight: Float[Array, "n m"]
    bias: Float[Array, " m"]

    @classmethod
    def init(cls, key: Key[Array, ""], n: int, m: int, gain: float) -> Dense:
        return cls(orthogonal(key, n, m, gain), jnp.zeros(m))

    def __call__(self, x: Float[Array, "... n"]) -> Float[Array, "... m"]:
        y = x @ self.weight
        return y + self.bias.reshape((1,) * (y.ndim - 1) + self.bias.shape)


@dataclass(frozen=True)
class MLP:
    """Dense layers, each followed by the activation; orthogonal weights with gain √2."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"

    def init(self, key: Key[Array, ""], x: Float[Array, "1 n"]) -> list[Dense]:
        sizes = (x.shape[-1], *self.hidden_sizes)
        keys = jax.random.split(key, len(self.hidden_sizes))
        pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
        return [Dense.init(k, n, m, math.sqrt(2)) for k, n, m in pairs]

    def apply(self, params: list[Dense], x: Float[Array, "... n"]) -> Float[Array, "... m"]:
        for layer in params:
            x = ACTIVATIONS[self.activation](layer(x))
        return x


@dataclass(frozen=True)
class ActorCritic:
    """A policy π(a|s) and a value V(s) over encoded observations [..., features].

    Separate networks, or one shared trunk with two heads. The heads are linear: gain 0.01 for
    the policy, so that it starts near uniform, and 1 for the value. A Gaussian's log σ is a
    learned vector, or with `state_dependent_std` a second half of the policy head, clamped to
    [-20, 2]. `critic=False` leaves the value out.
    """

    spec: EnvSpec
    network: NetworkLike
    shared: bool = False
    critic: bool = True
    state_dependent_std: bool = False
    initial_log_std: float | Float[Array, ""] = 0.0

    def init(self, key: Key[Array, ""]) -> dict[str, Any]:
        x = jnp.zeros((1, feature_count(self.spec.observation_space)))
        outputs = _policy_outputs(self.spec.action_space)
        box = isinstance(self.spec.action_space, spaces.Box)
        heads = {"policy": 2 * outputs if box and self.state_dependent_std else outputs}
        if self.critic:
            heads["value"] = 1
        params: dict[str, Any] = {}
        for name, size in heads.items():
            key, trunk_key, head_key = jax.random.split(key, 3)
            trunk = "trunk" if self.shared else f"{name}_trunk"
            if trunk not in params:
                params[trunk] = self.network.init(trunk_key, x)
            features = jax.eval_shape(self.network.apply, params[trunk], x)
            if features.ndim != 2 or features.shape[0] != 1:
                raise UserError(
                    f"The network turned an input of shape {x.shape} into {features.shape}; "
                    "expected features [1, n] (a batch in, a batch of vectors out)."
                )
            gain = 0.01 if name == "policy" else 1.0
            params[f"{name}_head"] = Dense.init(head_key, features.shape[1], size, gain)
        if box and not self.state_dependent_std:
            params["log_std"] = jnp.full(outputs, self.initial_log_std, x.dtype)
        return params

    def policy(self, params: dict[str, Any], x: Float[Array, "... n"]) -> Distribution:
        return self._distribution(params, self._features("policy", params, x))

    def value(self, params: dict[str, Any], x: Float[Array, "... n"]) -> Float[Array, "..."]:
        return params["value_head"](self._features("value", params, x)).squeeze(-1)

    def _features(self, name: str, params: dict[str, Any], x: Array) -> Array:
        return self.network.apply(params["trunk" if self.shared else f"{name}_trunk"], x)

    def _distribution(self, params: dict[str, Any], features: Array) -> Distribution:
        outputs = params["policy_head"](features)
        match self.spec.action_space:
            case spaces.Discrete():
                return Categorical(outputs)
            case spaces.MultiDiscrete(nvec=nvec):
                return MultiCategorical(outputs, tuple(int(n) for n in nvec.reshape(-1)))
            case spaces.MultiBinary(shape=shape):
                return MultiCategorical(outputs, (2,) * math.prod(shape))
        if self.state_dependent_std:
            mean, log_std = jnp.split(outputs, 2, axis=-1)
            return Gaussian(mean, jnp.clip(log_std, -20.0, 2.0))
        return Gaussian(outputs, jnp.broadcast_to(params["log_std"], outputs.shape))


def _policy_outputs(space: spaces.Space) -> int:
    match space:
        case spaces.Discrete():
            return int(space.n)
        case spaces.MultiDiscrete():
            return int(space.nvec.sum())
        case spaces.MultiBinary():
            return 2 * math.prod(space.shape)
    return math.prod(space.shape or ())
