"""Sampling answers: one compiled program with a cache, which ends when every row has stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from actorcritic.core.errors import UserError
from actorcritic.language import decoder
from actorcritic.language.decoder import Cache, Config, Params

NO_STOP = -1


class Generated(NamedTuple):
    """Answers, each up to and with the token that ended it; what follows is not `valid`.

    `log_prob` is of the distribution softmax(logits / temperature), before top-k and top-p leave
    tokens out: what a policy-gradient method of the same temperature compares with. Where the
    temperature is 0, it is that of temperature 1.
    """

    tokens: Int[Array, "B N"]
    valid: Bool[Array, "B N"]
    log_prob: Float[Array, "B N"]


def generate(
    params: Params,
    config: Config,
    tokens: Int[Array | np.ndarray, "B P"],
    valid: Bool[Array | np.ndarray, "B P"],
    key: Key[Array, ""],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Sequence[int] | None = None,
    adapter: Any = None,
) -> Generated:
    """Continue prompts that are padded on the left.

    `temperature` 0 takes the most probable token. `top_k` keeps that many of the most probable
    tokens, `top_p` after that the smallest set of them with this much of the probability. `stop`
    are the tokens that end an answer, by default the config's.

    Lengths are rounded up, so that prompts of other lengths need no other program.
    """
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1; got {max_new_tokens}.")
    if temperature < 0 or not math.isfinite(temperature):
        raise UserError(f"temperature must be 0 or more; got {temperature}.")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k must be at least 1; got {top_k}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p must lie in (0, 1]; got {top_p}.")
    ends = config.eos if stop is None else tuple(stop)
    prompts, there = np.asarray(tokens, np.int32), np.asarray(valid, bool)
    most = int(there.sum(1).max()) + max_new_tokens
    if most > config.max_positions:
        raise UserError(
            f"Prompts of up to {most - max_new_tokens} tokens and {max_new_tokens} new ones are "
            f"{most} together, and the model knows {config.max_positions} positions. Ask for fewer "
            "new tokens, or shorten the prompts."
        )
    more = rounded(prompts.shape[1]) - prompts.shape[1]
    prompts, there = (np.pad(x, ((0, 0), (more, 0))) for x in (prompts, there))
    room = rounded(max_new_tokens)
    found = _generate(
        params,
        config,
        prompts,
        there,
        key,
        np.int32(max_new_tokens),
        np.float32(temperature or 1.0),
        np.asarray(sorted(ends) or [NO_STOP], np.int32),
        adapter,
        None if top_p is None or top_p == 1 else np.float32(top_p),
        room=room,
        greedy=temperature == 0,
        top_k=None if top_k is None else min(top_k, config.vocab_size),
    )
    return Generated(*(x[:, :max_new_tokens] for x in found))


def rounded(length: int) -> int:
    """A length that is not below this one, of few that there are: 16, 32, 48, 64, 96, 128, …"""
    step = max(16, 2 ** (max(length - 1, 1).bit_length() - 2))
    return -(-length // step) * step


STAGES, LEAST_STAGE = 4, 32  # of a generation at most, and tokens of a stage


class _State(NamedTuple):
    made: Array  # tokens sampled so far
    cache: Cache
    last: Array  # [B] the newest tokens
    running: Array  # [B]
    found: Generated


@partial(jax.jit, static_argnames=("config", "room", "greedy", "top_k"))
def _generate(
    params: Params,
    config: Config,
    tokens: Array,
    valid: Array,
    key: Array,
    most: Array,
    temperature: Array,
    stop: Array,
    adapter: Any,
    top_p: Array | None,
    *,
    room: int,
    greedy: bool,
    top_k: int | None,
) -> Generated:
    batch, length = tokens.shape
    cache = decoder.empty_cache(params, config, batch, length)
    hidden, filled = decoder.hidden(params, config, tokens, valid, cache=cache, adapter=adapter)
    assert filled is not None
    layers = decoder.unstacked(params, config)
    filled = filled._replace(
        keys=tuple(filled.keys[i] for i in range(config.num_layers)),
        values=tuple(filled.values[i] for i in range(config.num_layers)),
    )

    uniform = jax.random.uniform(key, (room, 2, batch, 1))

    def sampled(hidden: Array, made: Array) -> tuple[Array, Array]:
        """Tokens [B] and their log-probabilities, from what the decoder made of the last ones."""
        logits = decoder.logits(params, config, hidden) / temperature
        highest = logits.max(-1, keepdims=True)
        weights = jnp.exp(logits - highest)
        total = highest[:, 0] + jnp.log(weights.sum(-1))
        if greedy:
            token = first(logits == highest)
        else:
            token = drawn(uniform[made], truncated(weights, top_k, top_p))
        return token, jnp.take_along_axis(logits, token[:, None], 1)[:, 0] - total

    def with_token(
        found: Generated, at: Array, token: Array, running: Array, log_prob: Array
    ) -> Generated:
        return Generated(
            found.tokens.at[:, at].set(jnp.where(running, token, config.pad or 0)),
            found.valid.at[:, at].set(running),
            found.log_prob.at[:, at].set(jnp.where(running, log_prob, 0)),
        )

    def stops(token: Array) -> Array:
        return (token[:, None] == stop[None]).any(1)

    empty = Generated(
        jnp.full((batch, room), config.pad or 0, jnp.int32),
        jnp.zeros((batch, room), bool),
        jnp.zeros((batch, room), jnp.float32),
    )
    running = valid.any(1)  # a row without a prompt is padding of the batch
    token, log_prob = sampled(hidden[:, -1], jnp.int32(0))
    found = with_token(empty, jnp.int32(0), token, running, log_prob)
    state = _State(jnp.int32(1), filled, token, running & ~stops(token), found)

    def going(state: _State, limit: int) -> Array:
        return (state.made < jnp.minimum(most, limit)) & state.running.any()

    def step(state: _State) -> _State:
        hidden, cache = decoder.hidden(
            layers,
            config,
            state.last[:, None],
            state.running[:, None],
            cache=state.cache,
            adapter=adapter,
        )
        assert cache is not None
        token, log_prob = sampled(hidden[:, 0], state.made)
        found = with_token(state.found, state.made, token, state.running, log_prob)
        return _State(state.made + 1, cache, token, state.running & ~stops(token), found)

    # Each token reads the whole cache, filled or not; so the cache grows with the answer. Each
    # stage is a loop of its own to compile, hence few of them.
    stages = min(STAGES, max(1, room // LEAST_STAGE))
    for stage in range(1, stages + 1):
        limit = room * stage // stages
        state = state._replace(cache=decoder.with_room(state.cache, length + limit))
        state = jax.lax.while_loop(partial(going, limit=limit), step, state)
    return state.found


def truncated(
    weights: Float[Array, "B V"], top_k: int | None, top_p: Float[Array, ""] | None
) -> Float[Array, "B V"]:
    """Weights of tokens, 0 for those that top-k and then top-p leave out. Ties stay together."""
    if top_k is not None:
        weights = _least(weights, jnp.ones_like(weights), jnp.float32(top_k))
    if top_p is not None:
        weights = _least(weights, weights, top_p * weights.sum(-1, keepdims=True))
    return weights


def _least(weights: Float[Array, "B V"], mass: Float[Array, "B V"], enough: Array) -> Array:
    """The weights of the fewest tokens, the largest first, whose mass is enough; others are 0.

    The smallest weight among them is found by bisection of float32's bit patterns, which are
    ordered as the numbers are: exact, and no sort of the vocabulary.
    """
    highest = jax.lax.bitcast_convert_type(weights.max(-1, keepdims=True), jnp.int32)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends  # tokens from `low` on suffice; those from `high` on do not
        middle = low + (high - low) // 2
        limit = jax.lax.bitcast_convert_type(middle, jnp.float32)
        suffices = jnp.where(weights >= limit, mass, 0).sum(-1, keepdims=True) >= enough
        return jnp.where(suffices, middle, low), jnp.where(suffices, high, middle)

    low, _ = jax.lax.fori_loop(0, 31, halve, (jnp.zeros_like(highest), highest + 1))
    return jnp.where(weights >= jax.lax.bitcast_convert_type(low, jnp.float32), weights, 0)


BLOCK = 128  # tokens


def drawn(uniform: Float[Array, "2 B 1"], weights: Float[Array, "B V"]) -> Int[Array, " B"]:
    """A token of each row, with probabilities in proportion to the weights.

    A block of tokens is drawn first and then one in it: two uniform numbers a row, where Gumbel
    noise would take one for each token of the vocabulary.
    """
    batch, size = weights.shape
    blocks = -(-size // BLOCK)
    table = jnp.pad(weights, ((0, 0), (0, blocks * BLOCK - size))).reshape(batch, blocks, BLOCK)
    block = _inverse(uniform[0], table.sum(-1))
    inside = jnp.take_along_axis(table, block[:, None, None], 1)[:, 0]
    return block * BLOCK + _inverse(uniform[1], inside)


def _inverse(uniform: Float[Array, "B 1"], weights: Float[Array, "B n"]) -> Int[Array, " B"]:
    """The first place where the running sum passes this share of it; never one of weight 0."""
    running = jnp.cumsum(weights, axis=-1)
    place = first((running > uniform * running[:, -1:]) & (weights > 0))
    last = weights.shape[1] - 1 - first(weights[:, ::-1] > 0)  # where rounding left none
    return jnp.minimum(place, last)


def first(which: Bool[Array, "B n"]) -> Int[Array, " B"]:
    """The first place that is true, or n. XLA's argmax is several times slower on a CPU."""
    places = jnp.arange(which.shape[1], dtype=jnp.int32)
    return jnp.where(which, places[None], which.shape[1]).min(-1)
