"""Small decoders for tests: every family, with no parameter left as it was initialised."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from actorcritic.language import decoder
from actorcritic.language.decoder import Config, Params, RopeScaling

VOCABULARY = 41
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 24,
    "max_positions": 64,
    "bos": 1,
    "eos": (2,),
    "pad": 0,
}
_BIASES = {"qkv_bias": True, "output_bias": True, "mlp_bias": True}
LLAMA3 = RopeScaling("llama3", 8.0, 1.0, 4.0, 32)
CONFIGS = {
    "gpt2": Config(
        family="gpt2",
        num_key_value_heads=4,
        head_dim=4,
        activation="gelu_new",
        norm_epsilon=1e-5,
        **_BIASES,
        **_SIZES,
    ),
    "llama": Config(
        family="llama",
        num_key_value_heads=2,
        head_dim=4,
        rope_theta=500.0,
        rope_scaling=LLAMA3,
        **_SIZES,
    ),
    "llama-untied": Config(
        family="llama",
        num_key_value_heads=4,
        head_dim=6,
        tied=False,
        rope_scaling=RopeScaling("linear", 4.0),
        **_BIASES,
        **_SIZES,
    ),
    "qwen2": Config(
        family="qwen2", num_key_value_heads=2, head_dim=4, tied=False, qkv_bias=True, **_SIZES
    ),
    "qwen3": Config(family="qwen3", num_key_value_heads=1, head_dim=6, **_SIZES),
}


def parameters(config: Config, seed: int = 0, dtype: type = jnp.float32) -> Params:
    """Every number drawn: norms' scales around 1, biases around 0, matrices larger than usual."""
    leaves, tree = jax.tree.flatten(decoder.init(jax.random.key(seed), config))
    rng = np.random.default_rng(seed)
    drawn = [np.asarray(x) + 0.3 * rng.standard_normal(x.shape) for x in leaves]
    return jax.tree.unflatten(tree, [jnp.asarray(x, dtype) for x in drawn])


def prompts(rows: int = 3, length: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and which are valid: padded on the left by 0, 3, 6 … tokens."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, VOCABULARY, (rows, length)).astype(np.int32)
    valid = np.arange(length) >= 3 * np.arange(rows)[:, None]
    return np.where(valid, tokens, 0).astype(np.int32), valid
