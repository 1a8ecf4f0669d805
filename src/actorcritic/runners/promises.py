"""An algorithm of the user's, held against the protocol before it is compiled."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from actorcritic.core.errors import UserError
from actorcritic.core.types import Decision, EnvSpec, Transition
from actorcritic.core.words import told
from actorcritic.envs.host.arrays import zeros

_kept: set[Any] = set()  # whose promises were kept


def check_algorithm(algorithm: Any, spec: EnvSpec) -> None:
    """UserError where `act` or `update` does not give what the protocol says.

    Algorithms that differ in floats only are one program, and are looked at once.
    """
    kind: Any = jax.tree.structure(algorithm), spec
    if kind in _kept:
        return
    key = jax.eval_shape(lambda: jax.random.key(0))
    learner = _called(algorithm, "init", key, spec)
    actor = _called(algorithm, "actor", learner)
    steps = algorithm.collects.longest(spec)
    count = algorithm.collects.num_envs * spec.columns
    observation = zeros(spec.observation_space, count)
    behaviour = _called(algorithm, "behaviour", learner)
    decision = _called(algorithm, "act", behaviour, observation, key)
    _check_decision(algorithm, decision, spec, count)
    _called(algorithm, "act", actor, observation, key, explore=False)

    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((steps, *x.shape), x.dtype), observation)
    more = jax.tree.map(lambda x: jax.ShapeDtypeStruct((steps, *x.shape), x.dtype), decision)
    flag: Any = jax.ShapeDtypeStruct((steps, count), jnp.bool_)
    number: Any = jax.ShapeDtypeStruct((steps, count), jnp.float32)
    asked = algorithm.collects
    batch = Transition(
        rows,
        more.action,
        number,
        flag,
        flag,
        rows,
        more.extras,
        flag if asked.whole_episodes else None,
        number if asked.discount is not None else None,
    )
    progress = jax.ShapeDtypeStruct((), jnp.float32)
    result = _called(algorithm, "update", learner, batch, key, progress)
    _check_updated(algorithm, learner, result)
    _kept.add(kind)


def _called(algorithm: Any, method: str, *given: Any, **options: Any) -> Any:
    """The shapes of what a method gives."""
    call = partial(getattr(algorithm, method), **options)
    constants = [part if isinstance(part, EnvSpec) else None for part in given]
    arrays = [part for part in given if not isinstance(part, EnvSpec)]

    def whole(*arrays: Any) -> Any:
        left = iter(arrays)
        return call(*(next(left) if constant is None else constant for constant in constants))

    try:
        return jax.eval_shape(whole, *arrays)
    except UserError:
        raise
    except Exception as error:
        name = type(algorithm).__name__
        raise UserError(f"{name} failed in {method}: {told(error)}.") from error


def _check_decision(algorithm: Any, decision: Any, spec: EnvSpec, count: int) -> None:
    name = type(algorithm).__name__
    if not isinstance(decision, Decision):
        raise UserError(
            f"{name}.act returned a {type(decision).__name__}; expected Decision(action)."
        )
    shape = spec.action_space.shape
    wanted = (count, math.prod(shape)) if shape else (count,)
    if decision.action.shape != wanted:
        raise UserError(
            f"{name}.act returned actions of shape {decision.action.shape} for {count} "
            f"observations; expected {wanted}, as {spec.action_space} has them."
        )


def _check_updated(algorithm: Any, learner: Any, result: Any) -> None:
    name = type(algorithm).__name__
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise UserError(
            f"{name}.update returned a {type(result).__name__}; expected (learner, metrics), "
            "metrics being a dict of numbers."
        )
    after, metrics = result
    kinds: list[Any] = [jax.tree.structure(tree) for tree in (learner, after)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"{name}.update returned a learner of other parts than `init` made. Return the same "
            "kind, with new values."
        )
    before = jax.tree_util.tree_leaves_with_path(learner)
    for (path, old), new in zip(before, jax.tree.leaves(after), strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            where = jax.tree_util.keystr(path)
            raise UserError(
                f"{name}.update changed learner{where} from {old.dtype}{list(old.shape)} to "
                f"{new.dtype}{list(new.shape)}. Keep shapes and dtypes as `init` made them."
            )
    for metric, value in metrics.items():
        if value.shape:
            raise UserError(
                f"{name}.update returned the metric '{metric}' of shape {value.shape}; expected "
                "one number. Take its mean."
            )
