"""Low-rank adapters (Hu et al. 2021, LoRA): W x + (alpha / rank) B A x, with W left as it is.

The reference of a policy that is an adapter is the base without it: there is no second copy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Array, Key

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.words import listed, nearest
from actorcritic.language import weights
from actorcritic.language.decoder import Config, Params

ABOUT, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names


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


# ------------------------------------------------------------------------------------ folders


def save(folder: Path, adapter: Adapter, config: Config, base: str | None = None) -> None:
    """Write an adapter as peft does; `base` names the folder of the model that it lies over."""
    files.make_folder(folder)
    arrays = {}
    for name, low in adapter.layers.items():
        for layer in range(config.num_layers):
            for part, theirs in (("a", "lora_A"), ("b", "lora_B")):
                array = np.asarray(low[part][layer], np.float32).T
                arrays[_tensor(config, layer, name, theirs)] = np.ascontiguousarray(array)
    with files.replacing(folder / WEIGHTS) as temporary:
        safetensors.numpy.save_file(arrays, temporary, metadata={"format": "pt"})
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "target_modules": [weights.module_name(config, name) for name in adapter.layers],
        "fan_in_fan_out": config.is_gpt2,
        "bias": "none",
        "inference_mode": True,
    }
    files.write(folder / ABOUT, json.dumps(about, indent=2))


def load(folder: Path, config: Config) -> Adapter:
    """The adapter in a folder of peft's form. UserError where it is of another kind or model."""
    about = weights.read_json(folder / ABOUT)
    strange = [
        k for k in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern") if about.get(k)
    ]
    if about.get("peft_type") != "LORA" or about.get("bias", "none") != "none" or strange:
        said = strange or [f"peft_type {about.get('peft_type')!r}, bias {about.get('bias')!r}"]
        raise UserError(
            f"{folder / ABOUT} is of an adapter that is not known here ({listed(said)}). Known is "
            "plain LORA with one rank."
        )
    rank, alpha = about.get("r"), about.get("lora_alpha")
    if type(rank) is not int or not 0 < rank < 2**16 or not isinstance(alpha, int | float):
        raise UserError(f"{folder / ABOUT}: r and lora_alpha must be numbers.")
    layers: Params = {}
    with weights.open_tensors(folder / WEIGHTS) as file:
        there = set(file.keys())
        for name, (into, out, _) in config.projections.items():
            if _tensor(config, 0, name, "lora_A") not in there:
                continue
            room = {
                "a": np.empty((config.num_layers, into, rank), np.float32),
                "b": np.empty((config.num_layers, rank, out), np.float32),
            }
            for layer in range(config.num_layers):
                for part, theirs in (("a", "lora_A"), ("b", "lora_B")):
                    key, place = _tensor(config, layer, name, theirs), room[part][layer]
                    if key not in there or list(file.get_slice(key).get_shape()) != [
                        *place.T.shape
                    ]:
                        raise UserError(
                            f"{folder / WEIGHTS}: {key} is missing, or not of the shape "
                            f"{list(place.T.shape)}: it is not of this model."
                        )
                    place[...] = file.get_tensor(key).T
                    there.discard(key)
            layers[name] = jax.tree.map(jnp.asarray, room)
    if there or not layers:
        raise UserError(
            f"{folder / WEIGHTS} holds {listed(sorted(there)[:3] or ['nothing'])}, for which this "
            "model has no place."
        )
    return Adapter(layers, rank, float(alpha))


def _tensor(config: Config, layer: int, name: str, part: str) -> str:
    return f"base_model.model.{weights.layer_name(config, layer, name)}.{part}.weight"


def size(tree: Any) -> int:
    """Numbers in a tree."""
    return sum(x.size for x in jax.tree.leaves(tree))
