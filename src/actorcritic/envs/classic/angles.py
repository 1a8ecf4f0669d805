"""Angles in radians."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def wrap(angle: Float[Array, ""]) -> Float[Array, ""]:
    """The same angle in [−π, π]."""
    return angle - 2 * math.pi * jnp.round(angle / (2 * math.pi))
