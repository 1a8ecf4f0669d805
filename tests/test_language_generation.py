"""Generation: what is drawn, how often, where it stops, and with which log-probability."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from language_models import CONFIGS, parameters, prompts

from actorcritic.core.errors import UserError
from actorcritic.language import decoder, generation
from actorcritic.language.generation import drawn, generate, rounded, truncated

CONFIG = CONFIGS["llama"]
PARAMS = parameters(CONFIG)


@pytest.mark.parametrize("count", [6, 50])  # of 50 tokens, the cache grows on the way
@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_greedy_answers_are_the_most_probable_tokens_step_by_step(name, count):
    config = CONFIGS[name]
    params = parameters(config)
    tokens, valid = prompts()
    found = generate(
        params,
        config,
        tokens,
        valid,
        jax.random.key(0),
        max_new_tokens=count,
        temperature=0,
        stop=(),
    )
    assert found.valid.all()
    assert found.tokens.shape == (3, count)
    whole = np.concatenate([tokens, found.tokens], axis=1)
    there = np.concatenate([valid, found.valid], axis=1)
    hidden, _ = decoder.hidden(params, config, whole, there)  # causal: each place as it was then
    logits = np.asarray(decoder.logits(params, config, hidden), np.float64)[:, -count - 1 : -1]
    np.testing.assert_array_equal(found.tokens, logits.argmax(-1))
    expected = logits.max(-1) - np.log(np.exp(logits).sum(-1))
    np.testing.assert_allclose(found.log_prob, expected, atol=5e-5)


@pytest.mark.parametrize("settings", [{}, {"top_k": 5}, {"top_p": 0.6}], ids=str)
def test_log_prob_is_of_the_tempered_distribution_before_truncation(settings):
    tokens, valid = prompts()
    found = generate(
        PARAMS, CONFIG, tokens, valid, jax.random.key(1),
        max_new_tokens=8, temperature=0.6, stop=(), **settings,
    )  # fmt: skip
    whole = np.concatenate([tokens, found.tokens], axis=1)
    there = np.concatenate([valid, found.valid], axis=1)
    scores = decoder.next_token_scores(PARAMS, CONFIG, whole, there, temperature=0.6)
    np.testing.assert_allclose(found.log_prob, scores.log_prob[:, -8:], atol=5e-5)


def test_an_answer_ends_with_its_first_stop_token_and_others_go_on():
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 41, (16, 5)).astype(np.int32)
    valid = np.ones_like(tokens, bool)
    free = generate(PARAMS, CONFIG, tokens, valid, jax.random.key(2), max_new_tokens=20, stop=())
    stop = tuple(np.unique(free.tokens)[::3].tolist())
    found = generate(PARAMS, CONFIG, tokens, valid, jax.random.key(2), max_new_tokens=20, stop=stop)
    lengths = found.valid.sum(1)
    assert lengths.min() < lengths.max()
    for row, (length, answer) in enumerate(zip(lengths, found.tokens, strict=True)):
        np.testing.assert_array_equal(answer[:length], free.tokens[row, :length])
        assert not np.isin(answer[: length - 1], stop).any()
        assert length == 20 or answer[length - 1] in stop
        assert (answer[length:] == CONFIG.pad).all()
        assert (found.log_prob[row, length:] == 0).all()
        assert found.valid[row, :length].all()


def test_rows_without_a_prompt_generate_nothing():
    tokens, valid = prompts()
    valid[1] = False
    found = generate(PARAMS, CONFIG, tokens, valid, jax.random.key(0), max_new_tokens=4, stop=())
    assert found.valid.sum(1).tolist() == [4, 0, 4]


def test_prompts_of_other_lengths_need_no_other_program():
    before = generation._generate._cache_size()
    for length in (3, 9, 14, 16):
        tokens, valid = prompts(rows=2, length=length, seed=length)
        for new in (18, 25):
            generate(PARAMS, CONFIG, tokens, valid, jax.random.key(0), max_new_tokens=new)
    assert generation._generate._cache_size() == before + 1


@given(st.integers(1, 10_000))
def test_rounded_lengths_are_few_and_not_much_longer(length):
    assert length <= rounded(length) <= max(16, 1.5 * length)
    assert rounded(rounded(length)) == rounded(length)


def test_few_lengths_are_enough():
    assert len({rounded(n) for n in range(1, 4097)}) < 24


# Weights whose sums are exact, so that "at least this much" has one answer.
WEIGHTS = arrays.arrays(np.int32, st.integers(1, 12), elements=st.integers(0, 50))


@given(WEIGHTS, st.integers(1, 12), st.integers(1, 16))
def test_truncation_keeps_the_smallest_sets(counts, top_k, sixteenths):
    counts[0] += 1
    weights = jnp.asarray(counts[None], jnp.float32)
    order = np.sort(counts)[::-1]
    some = np.asarray(truncated(weights, top_k, None))[0]
    least = order[min(top_k, len(order)) - 1]
    np.testing.assert_array_equal(some, np.where(counts >= least, counts, 0))
    top_p = sixteenths / 16
    enough = next(n for n in range(1, len(order) + 1) if order[:n].sum() >= top_p * order.sum())
    kept = np.asarray(truncated(weights, None, jnp.float32(top_p)))[0]
    np.testing.assert_array_equal(kept, np.where(counts >= order[enough - 1], counts, 0))


@given(WEIGHTS, st.floats(0, 0.9999999), st.floats(0, 0.9999999))
def test_a_token_of_weight_0_is_never_drawn(counts, one, other):
    counts[-1] += 1
    weights = jnp.asarray(counts[None], jnp.float32)
    token = int(drawn(jnp.asarray([[[one]], [[other]]], jnp.float32), weights)[0])
    assert counts[token] > 0


def test_tokens_are_drawn_as_often_as_their_weights_say():
    """Over several blocks of the vocabulary; by χ², on a fixed key."""
    size, draws = 300, 60_000
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=size) * (rng.random(size) < 0.7)
    uniform = jax.random.uniform(jax.random.key(0), (2, draws, 1))
    rows = jnp.broadcast_to(jnp.asarray(weights, jnp.float32)[None], (draws, size))
    counts = np.bincount(np.asarray(drawn(uniform, rows)), minlength=size)
    expected = draws * weights / weights.sum()
    assert counts[weights == 0].sum() == 0
    used = expected > 5
    freedom = used.sum() - 1
    chi = ((counts - expected)[used] ** 2 / expected[used]).sum()
    assert abs(chi - freedom) < 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1; got 0"),
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"temperature": float("nan")}, "temperature must be 0 or more"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
        ({"max_new_tokens": 60}, "9 tokens and 60 new ones are 69 together.*knows 64 positions"),
    ],
)
def test_settings_that_cannot_be_meant(settings, said):
    tokens, valid = prompts()
    given_ = {"max_new_tokens": 4} | settings
    with pytest.raises(UserError, match=said):
        generate(PARAMS, CONFIG, tokens, valid, jax.random.key(0), **given_)
