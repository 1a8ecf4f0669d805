"""Low-rank adapters (Hu et al. 2021, LoRA): W x + (alpha / rank) B A x, with W left as it is.

The reference of a policy that is an adapter is the base without it: there is no second copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from actorcritic.core.errors import UserError
from actorcritic.core.words import nearest
from actorcritic.language.decoder import Config, Params


@partial(jax.tree_util.register_dataclass, data_fields=["layers"], meta_fields=["rank", "alpha"])
@dataclass(frozen=True)
class Adapter:
    """Of each adapted matrix "a" [L in rank] and "b" [L rank out]; float32, and what is trained."""

    layers: Params
    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def init(
    key: Key[Array, ""],
    config: Config,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Sequence[str] | None = None,
) -> Adapter:
    """An adapter that changes nothing yet: B is 0, A as a layer of its size is drawn.

    `targets` are names of `Config.projections`; by default all of them.
    """
    layers = {}
    for i, name in enumerate(targets or config.projections):
        if name not in config.projections:
            raise UserError(
                f"There is no matrix '{name}' to adapt.{nearest(name, config.projections)} There "
                f"are: {', '.join(config.projections)}."
            )
        into, out, _ = config.projections[name]
        bound = into**-0.5
        shape = (config.num_layers, into, rank)
        a = jax.random.uniform(jax.random.fold_in(key, i), shape, jnp.float32, -bound, bound)
        layers[name] = {"a": a, "b": jnp.zeros((config.num_layers, rank, out))}
    return Adapter(layers, rank, float(alpha))


def merge(params: Params, adapter: Adapter) -> Params:
    """Plain parameters that compute what the adapted ones do."""
    layers = dict(params["layers"])
    for name, low in adapter.layers.items():
        kernel = layers[name]["kernel"]
        change = adapter.scale * jnp.einsum("lir,lro->lio", low["a"], low["b"])
        merged = (kernel.astype(jnp.float32) + change).astype(kernel.dtype)
        layers[name] = layers[name] | {"kernel": merged}
    return params | {"layers": layers}


def size(tree: Any) -> int:
    """Numbers in a tree."""
    return sum(x.size for x in jax.tree.leaves(tree))
