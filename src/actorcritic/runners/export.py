"""A policy as a file that needs no JAX: a graph (ONNX), or its arrays (safetensors)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import safetensors.numpy
from gymnasium import spaces as gym_spaces

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.types import Observation
from actorcritic.core.words import told
from actorcritic.maths import spaces

if TYPE_CHECKING:
    from actorcritic.runners.evaluate import Policy


def export(policy: Policy, path: str | Path) -> Path:
    """Write the policy; the ending of `path` says how."""
    path = files.as_path(path, "The file of a policy, .onnx or .safetensors,")
    match path.suffix.lower():
        case ".onnx":
            data = _graph(policy)
        case ".safetensors":
            data = safetensors.numpy.save(arrays(policy))
        case _:
            raise UserError(
                f"A policy is exported as .onnx (a graph) or .safetensors (its arrays); got {path}."
            )
    return files.write(path, data)


def arrays(policy: Policy) -> dict[str, np.ndarray]:
    """The numbers that the policy acts by; the name of each is its path in the actor."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(policy.actor)
    named = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in leaves
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }
    return {name: np.ascontiguousarray(array) for name, array in named.items()}


def _graph(policy: Policy) -> bytes:
    """The deterministic policy, of a batch of observations, with its numbers inside."""
    try:
        import jax2onnx
    except ImportError as error:
        raise UserError(
            'Writing ONNX needs jax2onnx. Install it: pip install "actorcritic[onnx]". Without it, '
            "export the arrays: policy.export('policy.safetensors')."
        ) from error
    space = policy.spec.observation_space
    (batch,) = jax.export.symbolic_shape("N")
    parts = _parts(space, "observation")
    shapes = [
        jax.ShapeDtypeStruct((batch, *(part.shape or ())), spaces.kept_dtype(part))
        for part in parts.values()
    ]

    def act(*observation: Any) -> Any:
        whole = _whole(space, "observation", dict(zip(parts, observation, strict=True)))
        key = jax.random.key(0)  # nothing is drawn
        action, _ = policy.algorithm.act(policy.actor, whole, key, explore=False)
        return spaces.executable(policy.spec.action_space, action)

    log = logging.getLogger("onnx_ir")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of shapes that are nobody's business
    try:
        model = jax2onnx.to_onnx(
            act, shapes, model_name="policy", input_names=list(parts), output_names=["action"]
        )
    except Exception as error:
        raise UserError(
            f"The policy could not be written as ONNX: {told(error)}. Export its arrays instead: "
            "policy.export('policy.safetensors')."
        ) from error
    finally:
        log.setLevel(level)
    return model.SerializeToString()


def _parts(space: gym_spaces.Space, name: str) -> dict[str, gym_spaces.Space]:
    """The inputs of the graph: "observation", or one for each part, as "observation.camera"."""
    if not isinstance(space, gym_spaces.Dict | gym_spaces.Tuple):
        return {name: space}
    parts: Any = space.spaces
    pairs = parts.items() if isinstance(parts, dict) else enumerate(parts)
    return {k: s for key, part in pairs for k, s in _parts(part, f"{name}.{key}").items()}


def _whole(space: gym_spaces.Space, name: str, given: dict[str, Any]) -> Observation:
    """The observation that these inputs are the parts of."""
    match space:
        case gym_spaces.Dict():
            return {k: _whole(part, f"{name}.{k}", given) for k, part in space.spaces.items()}
        case gym_spaces.Tuple():
            return tuple(_whole(p, f"{name}.{k}", given) for k, p in enumerate(space.spaces))
    return given[name]
