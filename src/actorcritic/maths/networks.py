"""Networks as (init, apply) pairs over plain pytrees, and the actor and critic built from them.

`init(key, x)` returns parameters for inputs like `x` [1, features]; `apply(params, x)` returns
features [..., n]. A flax.linen module's own `init` and `apply` are such a pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, Key, PyTree

from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec
from actorcritic.core.words import told
from actorcritic.maths.distributions import (
    Categorical,
    Distribution,
    Gaussian,
    MultiCategorical,
    TanhGaussian,
)
from actorcritic.maths.spaces import feature_count, image_parts, policy_feature_count

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "swish": jax.nn.swish,
    "gelu": jax.nn.gelu,
}

Initialization = Literal["orthogonal", "lecun", "he", "glorot", "zeros"]
Torso = Literal["auto", "mlp", "cnn"]

INITIALIZERS: dict[str, Callable[..., Array]] = {
    "lecun": jax.nn.initializers.lecun_normal(),
    "he": jax.nn.initializers.he_normal(),
    "glorot": jax.nn.initializers.glorot_normal(),
    "zeros": jax.nn.initializers.zeros,
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


def check_network(network: Any, features: int) -> None:
    """UserError where something is no pair (init, apply), or does not take such inputs."""
    if isinstance(network, type):
        raise UserError(f"network is the class {network.__name__}; write {network.__name__}().")
    if not all(callable(getattr(network, name, None)) for name in ("init", "apply")):
        pair = isinstance(network, tuple) and len(network) == 2
        raise UserError(
            f"network must be a pair of functions by name, ac.Network(init, apply); got "
            f"{'a plain tuple' if pair else repr(network)}."
        )
    try:
        hash(network)
        x = jax.ShapeDtypeStruct((1, features), jnp.float32)
        params = jax.eval_shape(network.init, jax.random.key(0), x)
        jax.eval_shape(network.apply, params, x)
    except Exception as error:
        raise UserError(
            f"The network does not take inputs of shape (1, {features}), or cannot be hashed: "
            f"{told(error)}."
        ) from error


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


def initial_weight(
    key: Key[Array, ""], shape: tuple[int, ...], gain: float, initialization: Initialization
) -> Float[Array, "... m"]:
    """Weights of a matrix [n, m] or a convolution [3, 3, n, m]; `gain` is for orthogonal ones.

    lecun, he and glorot are normal, cut off at two deviations, with variances 1/a, 2/a and
    2/(a + b) for the a inputs and b outputs that a number is connected to.
    """
    if initialization == "orthogonal":
        return orthogonal(key, math.prod(shape[:-1]), shape[-1], gain).reshape(shape)
    return INITIALIZERS[initialization](key, shape)


class Dense(NamedTuple):
    """Parameters of x @ weight + bias."""

    weight: Float[Array, "n m"]
    bias: Float[Array, " m"]

    @classmethod
    def init(
        cls,
        key: Key[Array, ""],
        n: int,
        m: int,
        gain: float,
        initialization: Initialization = "orthogonal",
    ) -> Dense:
        return cls(initial_weight(key, (n, m), gain, initialization), jnp.zeros(m))

    def __call__(self, x: Float[Array, "... n"]) -> Float[Array, "... m"]:
        y = x @ self.weight
        return y + self.bias.reshape((1,) * (y.ndim - 1) + self.bias.shape)


class Convolution(NamedTuple):
    """Parameters of a 3 × 3 convolution with stride 2: h, w become ⌈h/2⌉, ⌈w/2⌉.

    It is one product of matrices, of all neighbourhoods and the kernel. XLA's own convolution has
    gradients that take 5 to 20 times as long inside of a loop on a CPU.
    """

    kernel: Float[Array, "3 3 c m"]
    bias: Float[Array, " m"]

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 m"]:
        n, h, w, c = x.shape
        h2, w2 = -(-h // 2), -(-w // 2)
        x = jnp.pad(x, ((0, 0), (h % 2, 2), (w % 2, 2), (0, 0)))
        # In pairs of rows and of columns, a neighbourhood is one pair and half of the next.
        x = x.reshape(n, h2 + 1, 2, w2 + 1, 2 * c)
        rows = (x[:, :h2, 0], x[:, :h2, 1], x[:, 1:, 0])
        parts = [part for row in rows for part in (row[:, :, :w2], row[:, :, 1:, :c])]
        # A matrix of two axes: with four, the gradient of the kernel would take twice as long.
        neighbourhoods = jnp.concatenate(parts, axis=-1).reshape(n * h2 * w2, 9 * c)
        y = neighbourhoods @ self.kernel.reshape(9 * c, -1)
        return (y + self.bias.reshape(1, -1)).reshape(n, h2, w2, -1)


@dataclass(frozen=True)
class MLP:
    """Dense layers, each followed by the activation; the gain of orthogonal weights is √2.

    Without hidden layers the features are the input: linear policies and values.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    initialization: Initialization = "orthogonal"

    def init(self, key: Key[Array, ""], x: Float[Array, "1 n"]) -> list[Dense]:
        sizes = (x.shape[-1], *self.hidden_sizes)
        keys = jax.random.split(key, len(self.hidden_sizes))
        pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
        return [Dense.init(k, n, m, math.sqrt(2), self.initialization) for k, n, m in pairs]

    def apply(self, params: list[Dense], x: Float[Array, "... n"]) -> Float[Array, "... m"]:
        for layer in params:
            x = ACTIVATIONS[self.activation](layer(x))
        return x


@dataclass(frozen=True)
class CNN:
    """Convolutions and then dense layers over flattened images, each followed by the activation.

    `image_shape` is [height, width, channels], or [channels, height, width] where its first
    number is smaller than its last. The input is an image, or with `start` it has one from there
    on; its other numbers then reach the dense layers beside what the convolutions made.
    """

    image_shape: tuple[int, int, int]
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    initialization: Initialization = "orthogonal"
    channels: tuple[int, ...] = (16, 32, 32)
    start: int | None = None

    def init(self, key: Key[Array, ""], x: Float[Array, "1 n"]) -> dict[str, Any]:
        dense_key, *keys = jax.random.split(key, 1 + len(self.channels))
        sizes = (self._images(x).shape[-1], *self.channels)
        convolutions = [
            Convolution(
                initial_weight(k, (3, 3, c, m), math.sqrt(2), self.initialization), jnp.zeros(m)
            )
            for k, (c, m) in zip(keys, pairwise(sizes), strict=True)
        ]
        features = self._convolve(convolutions, x)
        return {"convolutions": convolutions, "dense": self._dense.init(dense_key, features)}

    def apply(self, params: dict[str, Any], x: Float[Array, "... n"]) -> Float[Array, "... m"]:
        return self._dense.apply(params["dense"], self._convolve(params["convolutions"], x))

    @property
    def _dense(self) -> MLP:
        return MLP(self.hidden_sizes, self.activation, self.initialization)

    def _images(self, x: Float[Array, "... n"]) -> Float[Array, "batch h w c"]:
        if self.start is not None:
            x = x[..., self.start : self.start + math.prod(self.image_shape)]
        images = x.reshape(-1, *self.image_shape)
        if self.image_shape[0] < self.image_shape[-1]:
            images = jnp.moveaxis(images, 1, -1)
        return images

    def _convolve(self, layers: list[Convolution], x: Float[Array, "... n"]) -> Array:
        y = self._images(x)
        for layer in layers:
            y = ACTIVATIONS[self.activation](layer(y))
        y = y.reshape(*x.shape[:-1], math.prod(y.shape[1:]))
        if self.start is None:
            return y
        after = self.start + math.prod(self.image_shape)
        return jnp.concatenate([x[..., : self.start], y, x[..., after:]], axis=-1)


def default_network(
    space: spaces.Space,
    torso: Torso,
    hidden_sizes: tuple[int, ...],
    activation: str,
    initialization: Initialization,
) -> MLP | CNN:
    """The network of a user who gives none: "auto" is a CNN for an image of bytes, else an MLP.

    The image may be one of several parts of an observation; the others need not be images.
    """
    parts = image_parts(space)
    images = [(start, box) for start, box in parts if box.dtype == np.uint8]
    if torso == "cnn" and not images:
        images = parts
    if torso == "cnn" and len(images) != 1:
        raise UserError(
            f'torso="cnn" needs one image, a Box with three axes; the observation space is {space}.'
            ' Choose torso="mlp", or wrap the environment so that its observations have one image.'
        )
    if torso == "mlp" or len(images) != 1:
        return MLP(hidden_sizes, activation, initialization)
    ((start, box),) = images
    height, width, channels = box.shape
    shape = height, width, channels
    beside = None if feature_count(space) == math.prod(shape) else start  # the critic's, at least
    return CNN(shape, hidden_sizes, activation, initialization, start=beside)


@dataclass(frozen=True)
class ActorCritic:
    """A policy π(a|s) and a critic over encoded observations [..., features].

    The critic is V(s), or with `critic="action"` Q(s, ·) of discrete actions; None leaves it out.
    Separate networks, or one shared trunk with two heads. The heads are linear: orthogonal with
    gain 0.01 for the policy, so that it starts near uniform, and 1 for the critic (other
    initialisations have no gain). A Gaussian's log σ is a learned vector, or with
    `state_dependent_std` a second half of the policy head, clamped to [-20, 2]. With `squash`,
    continuous actions are a tanh-squashed Gaussian's. Of a global state, which comes last in the
    features, separate networks show the critic all and the policy nothing.
    """

    spec: EnvSpec
    network: NetworkLike
    shared: bool = False
    critic: Literal["state", "action"] | None = "state"
    state_dependent_std: bool = False
    initial_log_std: float | Float[Array, ""] = 0.0
    squash: bool = False
    initialization: Initialization = "orthogonal"

    def init(self, key: Key[Array, ""]) -> dict[str, Any]:
        everything = jnp.zeros((1, feature_count(self.spec.observation_space)))
        outputs = _policy_outputs(self.spec.action_space)
        box = isinstance(self.spec.action_space, spaces.Box)
        heads = {"policy": 2 * outputs if box and self.state_dependent_std else outputs}
        if self.critic:
            heads["value"] = outputs if self.critic == "action" else 1
        params: dict[str, Any] = {}
        for name, size in heads.items():
            key, trunk_key, head_key = jax.random.split(key, 3)
            trunk = "trunk" if self.shared else f"{name}_trunk"
            x = self._seen(everything) if name == "policy" else everything
            if trunk not in params:
                params[trunk] = self.network.init(trunk_key, x)
            features = jax.eval_shape(self.network.apply, params[trunk], x)
            if features.ndim != 2 or features.shape[0] != 1:
                raise UserError(
                    f"The network turned an input of shape {x.shape} into {features.shape}; "
                    "expected features [1, n] (a batch in, a batch of vectors out)."
                )
            gain = 0.01 if name == "policy" else 1.0
            params[f"{name}_head"] = Dense.init(
                head_key, features.shape[1], size, gain, self.initialization
            )
        if box and not self.state_dependent_std:
            params["log_std"] = jnp.full(outputs, self.initial_log_std, everything.dtype)
        return params

    def policy(
        self,
        params: dict[str, Any],
        x: Float[Array, "... n"],
        allowed: Bool[Array, "... a"] | None = None,
    ) -> Distribution:
        """π(·|s); where `allowed` is given, given that the action is allowed."""
        policy = self._distribution(params, self._features("policy", params, self._seen(x)))
        if allowed is None or not isinstance(policy, Categorical | MultiCategorical):
            return policy
        return policy.masked(allowed)

    def value(
        self, params: dict[str, Any], x: Float[Array, "... n"], action: Array | None = None
    ) -> Float[Array, "..."]:
        """V(s), or where the critic is one of actions Q(s, a)."""
        values = params["value_head"](self._features("value", params, x))
        if self.critic == "state":
            return values.squeeze(-1)
        return jnp.sum(values * jax.nn.one_hot(action, values.shape[-1]), axis=-1)

    def _seen(self, x: Float[Array, "... n"]) -> Float[Array, "... m"]:
        """What the policy sees of the features."""
        count = policy_feature_count(self.spec.observation_space)
        return x if count == x.shape[-1] else x[..., :count]

    @staticmethod
    def split(params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The actor's own parameters, and the critic's; of separate networks."""
        actor, critic = ({}, {})  # type: tuple[dict[str, Any], dict[str, Any]]
        for name, part in params.items():
            (critic if name.startswith("value") else actor)[name] = part
        return actor, critic

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
            log_std = jnp.clip(log_std, -20.0, 2.0)
        else:
            mean, log_std = outputs, jnp.broadcast_to(params["log_std"], outputs.shape)
        if not self.squash:
            return Gaussian(mean, log_std)
        box: Any = self.spec.action_space
        ends = (jnp.asarray(end.reshape(-1), mean.dtype) for end in (box.low, box.high))
        return TanhGaussian(mean, log_std, *ends)


def _policy_outputs(space: spaces.Space) -> int:
    match space:
        case spaces.Discrete():
            return int(space.n)
        case spaces.MultiDiscrete():
            return int(space.nvec.sum())
        case spaces.MultiBinary():
            return 2 * math.prod(space.shape)
    return math.prod(space.shape or ())
