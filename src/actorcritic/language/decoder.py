"""A decoder-only transformer: the families GPT-2, Llama, Qwen2 and Qwen3 by one function.

Parameters are a nested dict of arrays. Those of all layers lie in one array each, with the layer as
leading axis, so that a program holds one layer and not all of them:

    embedding [V d]   positions [P d] (GPT-2)   head [V d] (where it is not the embedding again)
    norm.{scale, bias}
    layers.NAME.{kernel [L in out], bias [L out]}    qkv | query, key, value; output; gate, up, down
    layers.NAME.{scale, bias}                        attention_norm, mlp_norm, query_norm, key_norm

Weights may be bfloat16. Norms, softmax, logits and log-probabilities are float32 in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, Key

Family = Literal["gpt2", "llama", "qwen2", "qwen3"]
Params = dict[str, Any]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "gelu": partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are slowed for longer contexts.

    "linear" divides all by `factor`. "llama3" leaves those of wavelengths below
    original_positions / high_frequency as they are, divides those above
    original_positions / low_frequency, and goes from one to the other between (Llama 3.1).
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    original_positions: int = 8192


@dataclass(frozen=True)
class Config:
    """The shape of a decoder. Hashable, so that programs can be compiled for it."""

    family: Family
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int
    activation: str = "silu"
    norm_epsilon: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    tied: bool = True  # the logits' matrix is the embedding
    bos: int | None = None
    eos: tuple[int, ...] = ()  # every token that ends an answer
    pad: int | None = None

    @property
    def is_gpt2(self) -> bool:
        return self.family == "gpt2"

    @property
    def projections(self) -> dict[str, tuple[int, int, bool]]:
        """The matrices of a layer: numbers in, numbers out, and whether there is a bias."""
        d, inner, wide = self.hidden_size, self.intermediate_size, self.num_heads * self.head_dim
        narrow = self.num_key_value_heads * self.head_dim
        if self.is_gpt2:
            first = {"qkv": (d, wide + 2 * narrow, self.qkv_bias)}
        else:
            first = {
                "query": (d, wide, self.qkv_bias),
                "key": (d, narrow, self.qkv_bias),
                "value": (d, narrow, self.qkv_bias),
            }
        gate = {} if self.is_gpt2 else {"gate": (d, inner, self.mlp_bias)}
        return (
            first
            | {"output": (wide, d, self.output_bias)}
            | gate
            | {"up": (d, inner, self.mlp_bias), "down": (inner, d, self.mlp_bias)}
        )

    @property
    def norms(self) -> dict[str, int]:
        """The normalisations of a layer, and of how many numbers each is."""
        own = {"query_norm": self.head_dim, "key_norm": self.head_dim}
        both = {"attention_norm": self.hidden_size, "mlp_norm": self.hidden_size}
        return both | (own if self.family == "qwen3" else {})

    def with_tokens(self, bos: int | None, eos: tuple[int, ...], pad: int | None) -> Config:
        return replace(self, bos=bos, eos=eos, pad=pad)


class Cache(NamedTuple):
    """Keys and values of the tokens so far, with room for more.

    [L B K S h], or of a decoder whose layers are a tuple, a tuple of [B K S h].
    """

    keys: Any
    values: Any
    valid: Bool[Array, "B S"]
    length: Int[Array, ""]  # columns that are taken, padding among them


def init(key: Key[Array, ""], config: Config, dtype: Any = jnp.float32) -> Params:
    """Random parameters, as GPT-2's: N(0, 0.02²), and less at the ends of residual branches."""
    count = config.num_layers

    def normal(name: int, shape: tuple[int, ...], scale: float = 0.02) -> Array:
        drawn = jax.random.normal(jax.random.fold_in(key, name), shape, jnp.float32)
        return (scale * drawn).astype(dtype)

    def norm(*shape: int) -> dict[str, Array]:
        found = {"scale": jnp.ones(shape, dtype)}
        return found | ({"bias": jnp.zeros(shape, dtype)} if config.is_gpt2 else {})

    layers: Params = {name: norm(count, size) for name, size in config.norms.items()}
    for i, (name, (into, out, bias)) in enumerate(config.projections.items()):
        scale = 0.02 / math.sqrt(2 * count) if name in ("output", "down") else 0.02
        layers[name] = {"kernel": normal(i, (count, into, out), scale)}
        if bias:
            layers[name]["bias"] = jnp.zeros((count, out), dtype)
    params: Params = {
        "embedding": normal(100, (config.vocab_size, config.hidden_size)),
        "layers": layers,
        "norm": norm(config.hidden_size),
    }
    if config.is_gpt2:
        params["positions"] = normal(101, (config.max_positions, config.hidden_size), 0.01)
    if not config.tied:
        params["head"] = normal(102, (config.vocab_size, config.hidden_size))
    return params


def shapes(config: Config, dtype: Any = jnp.float32) -> Params:
    """What `init` would give, as `jax.ShapeDtypeStruct`s."""
    return jax.eval_shape(lambda: init(jax.random.key(0), config, dtype))


def unstacked(params: Params, config: Config) -> Params:
    """With a tuple of layers: `hidden` then repeats the layer in the program."""
    layers = tuple(
        jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(config.num_layers)
    )
    return params | {"layers": layers}


def empty_cache(params: Params, config: Config, batch: int, length: int) -> Cache:
    """Room for `length` tokens of each row."""
    shape = (batch, config.num_key_value_heads, length, config.head_dim)
    room = jnp.zeros((config.num_layers, *shape), params["embedding"].dtype)
    return Cache(room, room, jnp.zeros((batch, length), bool), jnp.zeros((), jnp.int32))


def with_room(cache: Cache, length: int) -> Cache:
    """The cache with room for `length` tokens of each row."""

    def longer(x: Array, axis: int) -> Array:
        more = [(0, length - x.shape[axis] if i == axis else 0) for i in range(x.ndim)]
        return jnp.pad(x, more)

    keys, values = jax.tree.map(lambda x: longer(x, x.ndim - 2), (cache.keys, cache.values))
    return Cache(keys, values, longer(cache.valid, 1), cache.length)


def hidden(
    params: Params,
    config: Config,
    tokens: Int[Array, "B T"],
    valid: Bool[Array, "B T"],
    *,
    cache: Cache | None = None,
    adapter: Any = None,
    rematerialise: bool = False,
) -> tuple[Float[Array, "B T d"], Cache | None]:
    """What the decoder makes of each token, after the last norm; and the cache with them.

    Tokens that are not `valid` are seen by none, and count no position: padding on the left shifts
    nothing. `adapter` is a `lora.Adapter` over these parameters. A gradient keeps the products with
    matrices and computes the rest of a layer again: attention, norms, activations, which take more
    time to store than to compute. With `rematerialise` it keeps only what goes into each layer.
    """
    batch, length = tokens.shape
    if cache is None:
        before, seen, start = jnp.zeros((batch, 1), jnp.int32), valid, jnp.zeros((), jnp.int32)
    else:
        before, start = cache.valid.sum(1, keepdims=True, dtype=jnp.int32), cache.length
        seen = jax.lax.dynamic_update_slice(cache.valid, valid, (0, start))
    position = jnp.maximum(before + jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)
    column, row = jnp.arange(seen.shape[1]), start + jnp.arange(length)
    mask = (column[None, None] <= row[None, :, None]) & seen[:, None]  # [B T S]
    x = params["embedding"][tokens]
    rope = None
    if config.is_gpt2:
        x = x + params["positions"][position]
    else:
        angle = position[..., None].astype(jnp.float32) * frequencies(config)[None, None]
        rope = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]  # [B 1 T h/2]

    def layer(x: Array, part: tuple[Params, Any, Any]) -> tuple[Array, Any]:
        weights, extra, room = part
        scale = 0.0 if adapter is None else adapter.scale
        return _layer(config, weights, extra, scale, room, x, rope, mask, start)

    policy = None if rematerialise else jax.checkpoint_policies.save_only_these_names(PRODUCT)
    step = jax.checkpoint(layer, policy=policy, prevent_cse=False)  # type: ignore[attr-defined]
    layers, extra = params["layers"], None if adapter is None else adapter.layers
    rooms: Any = None if cache is None else (cache.keys, cache.values)
    if isinstance(layers, tuple):
        kept: list[Any] = []
        for i, weights in enumerate(layers):
            mine = None if extra is None else jax.tree.map(lambda w, i=i: w[i], extra)
            room = None if rooms is None else (rooms[0][i], rooms[1][i])
            x, room = step(x, (weights, mine, room))
            kept.append(room)
        rooms = None if cache is None else (tuple(k for k, _ in kept), tuple(v for _, v in kept))
    else:
        x, rooms = jax.lax.scan(step, x, (layers, extra, rooms))
    x = _norm(config, params["norm"], x)
    return x, None if rooms is None else Cache(rooms[0], rooms[1], seen, start + length)


def logits(params: Params, config: Config, hidden: Float[Array, "... d"]) -> Float[Array, "... V"]:
    """The logits of the next token, float32."""
    head = params["embedding"] if config.tied else params["head"]
    return jnp.einsum("...d,vd->...v", hidden, head, preferred_element_type=jnp.float32)


class Scores(NamedTuple):
    """Of given tokens, each under the distribution of its place."""

    log_prob: Float[Array, "..."]
    entropy: Float[Array, "..."]


PRODUCT = "product"  # the name of what a gradient keeps
AT_ONCE = 2**24  # logits that `scores` holds at a time, about


def scores(
    params: Params,
    config: Config,
    hidden: Float[Array, "B T d"],
    tokens: Int[Array, "B T"],
    temperature: float | Float[Array, ""] = 1.0,
) -> Scores:
    """log π(token) and the entropy of π, where π is softmax(logits of `hidden` / temperature).

    The places go through the vocabulary in pieces, and a gradient computes the logits of a piece
    again: [B T V] is never held as a whole.
    """
    width, places = hidden.shape[-1], tokens.size
    pieces = max(1, -(-places * config.vocab_size // AT_ONCE))
    size = -(-places // pieces)
    more = size * pieces - places
    rows = jnp.pad(hidden.reshape(places, width), ((0, more), (0, 0)))
    asked = jnp.pad(tokens.reshape(places), (0, more))

    def piece(part: tuple[Array, Array]) -> Scores:
        rows, asked = part
        found = logits(params, config, rows) / temperature
        total = jax.nn.logsumexp(found, axis=-1)
        log_prob = jnp.take_along_axis(found, asked[:, None], 1)[:, 0] - total
        entropy = total - (jnp.exp(found - total[:, None]) * found).sum(-1)
        return Scores(log_prob, entropy)

    if pieces == 1:
        found = piece((rows, asked))
    else:
        parts = rows.reshape(pieces, size, width), asked.reshape(pieces, size)
        found = jax.lax.map(jax.checkpoint(piece), parts)  # type: ignore[attr-defined]
    return jax.tree.map(lambda x: x.reshape(-1)[:places].reshape(tokens.shape), found)


def next_token_scores(
    params: Params,
    config: Config,
    tokens: Int[Array, "B T"],
    valid: Bool[Array, "B T"],
    *,
    temperature: float | Float[Array, ""] = 1.0,
    adapter: Any = None,
    rematerialise: bool = False,
) -> Scores:
    """Of tokens[:, 1:], each given those before it: leaves [B T-1]. Rows may be padded anywhere."""
    found, _ = hidden(params, config, tokens, valid, adapter=adapter, rematerialise=rematerialise)
    return scores(params, config, found[:, :-1], tokens[:, 1:], temperature)


# ------------------------------------------------------------------------------------ one layer


def _layer(
    config: Config,
    layer: Params,
    extra: Any,
    scale: float,
    room: tuple[Array, Array] | None,
    x: Array,
    rope: tuple[Array, Array] | None,
    mask: Array,
    start: Array,
) -> tuple[Array, tuple[Array, Array] | None]:
    def project(name: str, x: Array) -> Array:
        weights = layer[name]
        kernel = weights["kernel"]
        # As two matrices: of three axes, the gradient of the kernel would copy a transposed one.
        y = (x.reshape(-1, kernel.shape[0]) @ kernel).reshape(*x.shape[:-1], kernel.shape[1])
        if "bias" in weights:
            y = y + _along(weights["bias"], y)
        if extra is not None and name in extra:
            low = extra[name]
            change = scale * (x.astype(jnp.float32) @ low["a"]) @ low["b"]
            y = y + change.astype(y.dtype)
        return checkpoint_name(y, PRODUCT)

    def heads(x: Array) -> Array:  # [B T n·h] → [B n T h]
        return x.reshape(*x.shape[:2], -1, config.head_dim).transpose(0, 2, 1, 3)

    normed = _norm(config, layer["attention_norm"], x)
    if config.is_gpt2:
        query, key, value = map(heads, jnp.split(project("qkv", normed), 3, axis=-1))
    else:
        query, key, value = (heads(project(name, normed)) for name in ("query", "key", "value"))
    if "query_norm" in layer:
        query, key = (
            _norm(config, layer["query_norm"], query),
            _norm(config, layer["key_norm"], key),
        )
    if rope is not None:
        query, key = _rotated(query, *rope), _rotated(key, *rope)
    if room is not None:
        room = tuple(  # type: ignore[assignment]
            jax.lax.dynamic_update_slice(old, new, (0, 0, start, 0))
            for old, new in zip(room, (key, value), strict=True)
        )
        key, value = room  # type: ignore[misc]
    x = x + project("output", _attend(query, key, value, mask))
    normed = _norm(config, layer["mlp_norm"], x)
    act = ACTIVATIONS[config.activation]
    if config.is_gpt2:
        inner = act(project("up", normed))
    else:
        inner = act(project("gate", normed)) * project("up", normed)
    return x + project("down", inner), room


def _attend(
    query: Float[Array, "B n T h"],
    key: Float[Array, "B k S h"],
    value: Float[Array, "B k S h"],
    mask: Bool[Array, "B T S"],
) -> Float[Array, "B T n·h"]:
    """Softmax attention; n / k query heads share a key head."""
    batch, count, length, size = query.shape
    shared = key.shape[1]
    grouped = query.reshape(batch, shared, count // shared, length, size)
    weight = jnp.einsum("bkgth,bksh->bkgts", grouped, key, preferred_element_type=jnp.float32)
    weight = jnp.where(mask[:, None, None], weight / math.sqrt(size), -1e30)
    weight = jax.nn.softmax(weight, axis=-1).astype(value.dtype)
    found = jnp.einsum("bkgts,bksh->btkgh", weight, value)
    return found.reshape(batch, length, count * size)


def _norm(config: Config, weights: Params, x: Array) -> Array:
    """LayerNorm where there is a bias, RMSNorm where there is none; computed in float32."""
    y = x.astype(jnp.float32)
    if "bias" in weights:
        y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + config.norm_epsilon)
    y = y * _along(weights["scale"], y)
    if "bias" in weights:
        y = y + _along(weights["bias"], y)
    return y.astype(x.dtype)


def _along(vector: Array, like: Array) -> Array:
    """A vector along the last axis of an array, in its type."""
    return vector.astype(like.dtype).reshape((1,) * (like.ndim - 1) + vector.shape)


def _rotated(x: Array, cosine: Array, sine: Array) -> Array:
    """Rotary position embedding (Su et al. 2021), the two halves of a head as pairs."""
    one, other = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = one * cosine - other * sine, other * cosine + one * sine
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def frequencies(config: Config) -> Float[Array, " h/2"]:
    """Radians a position, of each pair of a head."""
    exponent = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    plain = 1.0 / config.rope_theta**exponent
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    slow = plain / scaling.factor
    if scaling.kind == "linear":
        return slow
    turns = scaling.original_positions * plain / (2 * math.pi)  # in the original context
    low, high = scaling.low_frequency, scaling.high_frequency
    kept = jnp.clip((turns - low) / (high - low), 0, 1)
    return kept * plain + (1 - kept) * slow
