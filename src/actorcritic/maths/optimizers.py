"""Gradient steps on one flat vector, and schedules.

One vector instead of a tree: one fused loop instead of a dozen small ones in the program, the
global norm is a single reduction, and several devices need one exchange a step.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

Kind = Literal["adam", "rmsprop", "sgd"]
Schedule = Literal["constant", "linear"]


def scheduled(
    initial: float | Float[Array, ""], schedule: Schedule, progress: Float[Array, ""]
) -> Float[Array, ""]:
    """`initial`, or `initial` falling linearly to 0 at the end of the training (progress 1)."""
    value = jnp.asarray(initial, progress.dtype)
    return value * (1 - progress) if schedule == "linear" else value


def _direction(kind: Kind) -> optax.GradientTransformation:
    if kind == "adam":
        return optax.scale_by_adam(eps=1e-5)
    if kind == "sgd":
        return optax.identity()
    return optax.scale_by_rms(decay=0.99, eps=1e-5, eps_in_sqrt=False)


def init(kind: Kind, params: PyTree) -> Any:
    """A fresh optimiser state for these parameters."""
    return _direction(kind).init(ravel_pytree(params)[0])


def step(
    kind: Kind,
    params: PyTree,
    gradient: PyTree,
    state: Any,
    learning_rate: float | Float[Array, ""] | PyTree,
    max_grad_norm: float | Float[Array, ""],
    axis: str | None = None,
) -> tuple[PyTree, Any, Float[Array, ""]]:
    """One step down: returns new parameters, new state, and the gradient's norm before clipping.

    `learning_rate` is one number, or a tree of them like `params`. The gradient is scaled down as
    a whole when its Euclidean norm exceeds `max_grad_norm`.
    With `axis`, it is first averaged over the devices of that mesh axis.
    """
    vector, _ = ravel_pytree(gradient)
    if axis is not None:
        vector = jax.lax.pmean(vector, axis)
    norm = jnp.linalg.norm(vector)
    vector = vector * (max_grad_norm / jnp.maximum(norm, max_grad_norm))
    direction, state = _direction(kind).update(vector, state)
    flat, unravel = ravel_pytree(params)
    if isinstance(learning_rate, dict | list | tuple):
        learning_rate = ravel_pytree(learning_rate)[0]
    return unravel(flat - learning_rate * direction), state, norm
