"""Gradient steps, on one flat vector or leaf by leaf, and schedules.

One vector instead of a tree: one fused loop instead of a dozen small ones in the program, the
global norm is a single reduction, and several devices need one exchange a step. But matrices of
hundreds of rows are worth a loop of their own, and copying them together costs more than it saves:
for them, `flat=False`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

Kind = Literal["adam", "rmsprop", "sgd"]
if TYPE_CHECKING:
    Schedule = Literal["constant", "linear"] | Callable[[Any], Any]
else:  # what can be written on a command line; functions are for Python
    Schedule = Literal["constant", "linear"]


def scheduled(
    initial: float | Float[Array, ""], schedule: Any, progress: Float[Array, ""]
) -> Float[Array, ""]:
    """`initial`, or `initial` falling linearly to 0 at the end of the training (progress 1).

    Or `initial` times what a function of the progress gives.
    """
    value = jnp.asarray(initial, progress.dtype)
    if callable(schedule):
        return value * jnp.asarray(schedule(progress), progress.dtype)
    return value * (1 - progress) if schedule == "linear" else value


EPSILON = 1e-5  # beside the root of Adam's and RMSprop's second moment


def _direction(kind: Kind, epsilon: float) -> optax.GradientTransformation:
    if kind == "adam":
        return optax.scale_by_adam(eps=epsilon)
    if kind == "sgd":
        return optax.identity()
    return optax.scale_by_rms(decay=0.99, eps=epsilon, eps_in_sqrt=False)


def _as_it_is(tree: PyTree) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    return tree, lambda stepped: stepped


def init(kind: Kind, params: PyTree, *, flat: bool = True) -> Any:
    """A fresh optimiser state for these parameters."""
    return _direction(kind, EPSILON).init(ravel_pytree(params)[0] if flat else params)


def step(
    kind: Kind,
    params: PyTree,
    gradient: PyTree,
    state: Any,
    learning_rate: float | Float[Array, ""] | PyTree,
    max_grad_norm: float | Float[Array, ""],
    axis: str | None = None,
    *,
    flat: bool = True,
    epsilon: float = EPSILON,
) -> tuple[PyTree, Any, Float[Array, ""]]:
    """One step down: returns new parameters, new state, and the gradient's norm before clipping.

    `learning_rate` is one number, or with `flat` a tree of them like `params`. The gradient is
    scaled down as a whole when its Euclidean norm exceeds `max_grad_norm`. With `axis`, it is first
    averaged over the devices of that mesh axis. `flat` is as it was in `init`.
    """
    shaped = ravel_pytree if flat else _as_it_is
    (params, unshaped), (gradient, _) = shaped(params), shaped(gradient)
    if isinstance(learning_rate, dict | list | tuple):
        learning_rate = shaped(learning_rate)[0]
    if axis is not None:
        gradient = jax.lax.pmean(gradient, axis)
    norm = optax.tree.norm(gradient)
    cut = max_grad_norm / jnp.maximum(norm, max_grad_norm)
    gradient = jax.tree.map(lambda g: g * cut, gradient)
    direction, state = _direction(kind, epsilon).update(gradient, state)
    return (
        unshaped(jax.tree.map(lambda p, d: p - learning_rate * d, params, direction)),
        state,
        norm,
    )
