"""The decoder against the papers' formulas in float64, by loops over tokens, heads and pairs."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from language_models import CONFIGS, LLAMA3, VOCABULARY, parameters, prompts

from actorcritic.core.errors import UserError
from actorcritic.language import decoder, lora
from actorcritic.language.decoder import Config, RopeScaling

FAMILIES = pytest.mark.parametrize("name", CONFIGS)


def reference(params, config: Config, tokens: list[int]) -> np.ndarray:
    """Logits [T V] of one sequence, by loops over tokens, heads and pairs; no masks, no batches."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    n, k, h = config.num_heads, config.num_key_value_heads, config.head_dim

    def norm(w, x):
        centred = x - x.mean() if "bias" in w else x
        y = centred / math.sqrt((centred**2).mean() + config.norm_epsilon) * w["scale"]
        return y + w.get("bias", 0.0)

    def turn(x, position):
        out = x.copy()
        for i in range(h // 2):
            angle = position * frequency(config, i)
            a, b = x[i], x[i + h // 2]
            out[i] = a * math.cos(angle) - b * math.sin(angle)
            out[i + h // 2] = b * math.cos(angle) + a * math.sin(angle)
        return out

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    xs = [p["embedding"][t] for t in tokens]
    if config.is_gpt2:
        xs = [x + p["positions"][i] for i, x in enumerate(xs)]
    for number in range(config.num_layers):
        w = jax.tree.map(lambda x, number=number: x[number], p["layers"])

        def dense(name, x, w=w):
            return x @ w[name]["kernel"] + w[name].get("bias", 0.0)

        keys, values, after = [], [], []
        for position, x in enumerate(xs):
            y = norm(w["attention_norm"], x)
            if config.is_gpt2:
                q, key, value = np.split(dense("qkv", y), 3)
            else:
                q, key, value = dense("query", y), dense("key", y), dense("value", y)
            q, key, value = q.reshape(n, h), key.reshape(k, h), value.reshape(k, h)
            if "query_norm" in w:
                q = np.stack([norm(w["query_norm"], one) for one in q])
                key = np.stack([norm(w["key_norm"], one) for one in key])
            if not config.is_gpt2:
                q = np.stack([turn(one, position) for one in q])
                key = np.stack([turn(one, position) for one in key])
            keys.append(key)
            values.append(value)
            heads = []
            for i in range(n):
                mine = i // (n // k)
                score = np.array([q[i] @ other[mine] / math.sqrt(h) for other in keys])
                weight = np.exp(score - score.max())
                weight /= weight.sum()
                heads.append(sum(a * v[mine] for a, v in zip(weight, values, strict=True)))
            x = x + dense("output", np.concatenate(heads))
            y = norm(w["mlp_norm"], x)
            if config.is_gpt2:
                inner = gelu(dense("up", y))
            else:
                gate = dense("gate", y)
                inner = gate / (1 + np.exp(-gate)) * dense("up", y)
            after.append(x + dense("down", inner))
        xs = after
    head = p["embedding"] if config.tied else p["head"]
    return np.stack([head @ norm(p["norm"], x) for x in xs])


def frequency(config: Config, pair: int) -> float:
    """Radians a position of a pair, as Llama 3.1's paper and code say it."""
    plain = config.rope_theta ** (-2 * pair / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    wavelength = 2 * math.pi / plain
    if wavelength < scaling.original_positions / scaling.high_frequency:
        return plain
    if wavelength > scaling.original_positions / scaling.low_frequency:
        return plain / scaling.factor
    low, high = scaling.low_frequency, scaling.high_frequency
    smooth = (scaling.original_positions / wavelength - low) / (high - low)
    return (1 - smooth) * plain / scaling.factor + smooth * plain


@FAMILIES
def test_logits_are_those_of_the_formulas_whatever_the_padding(name):
    config = CONFIGS[name]
    params = parameters(config)
    tokens, valid = prompts()
    found, _ = decoder.hidden(params, config, tokens, valid)
    logits = np.asarray(decoder.logits(params, config, found))
    assert logits.dtype == np.float32
    for row in range(len(tokens)):
        expected = reference(params, config, tokens[row][valid[row]].tolist())
        np.testing.assert_allclose(logits[row][valid[row]], expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("theta", [500.0, 10_000.0])
def test_llama3_scaling_goes_through_all_three_ranges(theta):
    config = dataclasses.replace(CONFIGS["llama"], head_dim=16, rope_theta=theta)
    found = np.asarray(decoder.frequencies(config))
    expected = [frequency(config, i) for i in range(8)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    plain = dataclasses.replace(config, rope_scaling=None)
    ratio = found / np.asarray(decoder.frequencies(plain))
    assert ratio.max() > 0.999
    assert ratio.min() == pytest.approx(1 / LLAMA3.factor)
    assert ((ratio > 0.13) & (ratio < 0.99)).any()


@FAMILIES
def test_a_cache_changes_nothing(name):
    config = CONFIGS[name]
    params = parameters(config)
    tokens, valid = prompts(length=12)
    whole, _ = decoder.hidden(params, config, tokens, valid)
    for layers in (params, decoder.unstacked(params, config)):
        cache = decoder.empty_cache(params, config, len(tokens), 16)
        if layers is not params:
            cache = cache._replace(keys=tuple(cache.keys), values=tuple(cache.values))
        parts = []
        for start, end in ((0, 7), (7, 8), (8, 12)):
            part, cache = decoder.hidden(
                layers, config, tokens[:, start:end], valid[:, start:end], cache=cache
            )
            parts.append(part)
        found = jnp.concatenate(parts, axis=1)
        np.testing.assert_allclose(found[valid], whole[valid], atol=2e-5)
        assert int(cache.length) == 12


@pytest.mark.parametrize("pieces", [1, 3])
def test_scores_are_log_probabilities_and_entropies(pieces, monkeypatch):
    config = CONFIGS["llama"]
    params = parameters(config)
    tokens, valid = prompts()
    monkeypatch.setattr(decoder, "AT_ONCE", tokens.size * VOCABULARY // pieces)
    temperature = 0.7
    found = decoder.next_token_scores(params, config, tokens, valid, temperature=temperature)
    hidden, _ = decoder.hidden(params, config, tokens, valid)
    logits = np.asarray(decoder.logits(params, config, hidden), np.float64)[:, :-1] / temperature
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(probability.sum(-1), 1)
    for row, place in np.ndindex(found.log_prob.shape):
        expected = math.log(probability[row, place, tokens[row, place + 1]])
        assert found.log_prob[row, place] == pytest.approx(expected, abs=2e-5)
    entropy = -(probability * np.log(probability)).sum(-1)
    np.testing.assert_allclose(found.entropy, entropy, atol=2e-5)


@pytest.mark.parametrize("pieces", [1, 4])
def test_the_gradient_is_the_slope(pieces, monkeypatch):
    """In the direction of a random change, by central differences; rematerialised or not."""
    config = CONFIGS["qwen3"]
    params = parameters(config)
    tokens, valid = prompts()
    monkeypatch.setattr(decoder, "AT_ONCE", tokens.size * VOCABULARY // pieces)

    def loss(params, rematerialise=False):
        found = decoder.next_token_scores(
            params, config, tokens, valid, rematerialise=rematerialise
        )
        return (
            jnp.where(valid[:, :-1], found.log_prob, 0).sum() + found.entropy[valid[:, :-1]].sum()
        )

    slope = jax.grad(loss)(params)
    again = jax.grad(lambda p: loss(p, True))(params)
    for one, other in zip(jax.tree.leaves(slope), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3, rtol=1e-4)
    change = parameters(config, seed=5)
    expected = sum(
        float((a * b).sum())
        for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(change), strict=True)
    )
    step = 1e-3
    moved = [
        float(loss(jax.tree.map(lambda p, c, s=s: p + s * step * c, params, change)))
        for s in (1, -1)
    ]
    assert (moved[0] - moved[1]) / (2 * step) == pytest.approx(expected, rel=2e-2)


@FAMILIES
def test_an_adapter_begins_as_the_base_and_merges_into_it(name):
    config = CONFIGS[name]
    params = parameters(config)
    tokens, valid = prompts()
    adapter = lora.init(jax.random.key(3), config, rank=3, alpha=12.0)
    base, _ = decoder.hidden(params, config, tokens, valid)
    begun, _ = decoder.hidden(params, config, tokens, valid, adapter=adapter)
    np.testing.assert_array_equal(begun, base)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype("f"), adapter)
    adapted, _ = decoder.hidden(params, config, tokens, valid, adapter=moved)
    assert np.abs(adapted - base).max() > 0.1
    merged, _ = decoder.hidden(lora.merge(params, moved), config, tokens, valid)
    np.testing.assert_allclose(adapted, merged, atol=2e-5)
    assert moved.scale == 4


def test_an_adapter_of_some_matrices():
    config = CONFIGS["llama"]
    adapter = lora.init(jax.random.key(0), config, targets=["query", "value"])
    assert set(adapter.layers) == {"query", "value"}
    with pytest.raises(UserError, match=r"no matrix 'quary'.*Did you mean 'query'"):
        lora.init(jax.random.key(0), config, targets=["quary"])


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_weights_in_bfloat16_give_logits_in_float32(name):
    config = CONFIGS[name]
    params = parameters(config, dtype=jnp.bfloat16)
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    tokens, valid = prompts()
    found, _ = decoder.hidden(params, config, tokens, valid)
    assert found.dtype == jnp.bfloat16
    scores = decoder.next_token_scores(params, config, tokens, valid)
    assert scores.log_prob.dtype == jnp.float32
    expected = decoder.next_token_scores(exact, config, tokens, valid)
    error = np.abs(scores.log_prob - expected.log_prob)[valid[:, :-1]]
    assert 0 < error.max() < 0.5


def test_shapes_are_those_of_init():
    for config in CONFIGS.values():
        made = decoder.init(jax.random.key(0), config)
        assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, decoder.shapes(config))


def test_a_rope_scaling_is_part_of_what_programs_are_compiled_for():
    one = dataclasses.replace(CONFIGS["llama"], rope_scaling=RopeScaling("linear", 2.0))
    assert hash(one) != hash(CONFIGS["llama"])
    assert one != CONFIGS["llama"]
