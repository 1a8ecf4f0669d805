"""Where a compiled environment's random keys come from, in every runner.

Each episode has a key. Its reset folds in 0, its step t (from 0) folds in t + 1, and the key of
the next episode folds in a number that no step has. `split` would not do beside these: the first
two keys it gives are those of folding in 0 and 1.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Int, Key

_NEXT_EPISODE = 2**31 - 1


def next_episode(key: Key[Array, ""]) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """From the key of an episode: that of the next one, and the key of its reset."""
    key = jax.random.fold_in(key, _NEXT_EPISODE)
    return key, jax.random.fold_in(key, 0)


def step_key(key: Key[Array, ""], length: Int[Array, ""]) -> Key[Array, ""]:
    """The key of the step after `length` steps of the episode."""
    return jax.random.fold_in(key, length + 1)
