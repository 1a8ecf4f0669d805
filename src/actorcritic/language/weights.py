"""Folders of the ecosystem's form: config.json and safetensors, one file or many.

What is read here was written by transformers or by this module, and what is written here opens in
transformers. Nothing that is read can execute code: pickles (pytorch_model.bin) are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.words import listed, nearest
from actorcritic.language.decoder import ACTIVATIONS, Config, Params, RopeScaling, shapes

CONFIG, GENERATION = "config.json", "generation_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_JSON = 64 * 2**20  # bytes
SHARD = 5 * 2**30  # bytes of a file of weights
ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
DTYPES = {"F32": jnp.float32, "BF16": jnp.bfloat16, "F16": jnp.float32, "F64": jnp.float32}
# Buffers that older folders hold beside the weights.
NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")

# ------------------------------------------------------------------------------------ the config


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; UserError where there is none."""
    try:
        found = json.loads(files.read(path, LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}). Restore it from where it came.") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a JSON object; it holds {type(found).__name__}.")
    return found


def read_config(folder: Path) -> Config:
    """The config of a model's folder. UserError where this library has no such decoder."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(
            f"{folder} is no model's folder: it has no {CONFIG}. Name a folder with {CONFIG}, "
            f"{WEIGHTS} and tokenizer.json, or new:tiny."
        )
    config = config_of(read_json(path), str(path))
    generation = folder / GENERATION
    if generation.is_file():  # where the ecosystem says which tokens end an answer
        ends = _ids(read_json(generation).get("eos_token_id"), str(generation))
        config = config.with_tokens(config.bos, ends or config.eos, config.pad)
    return config


class _Read:
    """A config.json under the names it uses, with checks."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data, self.where = data, where

    def number(self, name: str, default: Any = None, kind: type = int) -> Any:
        value = self.data.get(name)
        value = default if value is None else value
        fits = isinstance(value, int if kind is int else int | float)
        if isinstance(value, bool) or not fits or not 0 < value < 2**40:
            raise UserError(f"{self.where}: {name} must be a positive number; it is {value!r}.")
        return kind(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.data.get(name, default)
        if not isinstance(value, bool):
            raise UserError(f"{self.where}: {name} must be true or false; it is {value!r}.")
        return value

    def only(self, name: str, *values: Any) -> None:
        """Refuse a setting that the decoder does not know; a missing one is as the first value."""
        value = self.data.get(name, values[0])
        if value not in values:
            known = " or ".join(json.dumps(v) for v in values)
            raise UserError(
                f"{self.where}: {name} is {json.dumps(value)}, and this decoder knows {known} only."
            )


def config_of(data: Mapping[str, Any], where: str = CONFIG) -> Config:
    """The config that the contents of a config.json stand for."""
    read = _Read(data, where)
    family = data.get("model_type")
    if family not in ARCHITECTURES:
        hint = nearest(str(family), ARCHITECTURES)
        raise UserError(
            f"{where} is of a model_type {family!r}, which is not known here.{hint} Known: "
            f"{', '.join(ARCHITECTURES)}."
        )
    if data.get("quantization_config") is not None:
        raise UserError(
            f"{where} is of a quantised model, which cannot be trained here. Name the folder of "
            "the same model in bfloat16 or float32."
        )
    activation = data.get("activation_function" if family == "gpt2" else "hidden_act")
    activation = activation or ("gelu_new" if family == "gpt2" else "silu")
    if activation not in ACTIVATIONS:
        raise UserError(
            f"{where}: the activation {activation!r} is not known here. Known: "
            f"{', '.join(ACTIVATIONS)}."
        )
    tokens: dict[str, Any] = {
        "bos": next(iter(_ids(data.get("bos_token_id"), where)), None),
        "eos": _ids(data.get("eos_token_id"), where),
        "pad": next(iter(_ids(data.get("pad_token_id"), where)), None),
    }
    if family == "gpt2":
        for name, *values in (
            ("scale_attn_weights", True),
            ("scale_attn_by_inverse_layer_idx", False),
            ("reorder_and_upcast_attn", False, True),  # the same numbers, in another order
            ("add_cross_attention", False),
        ):
            read.only(name, *values)
        width, heads = read.number("n_embd", 768), read.number("n_head", 12)
        _divides(where, "n_embd", width, "n_head", heads)
        return Config(
            family="gpt2",
            vocab_size=read.number("vocab_size", 50257),
            hidden_size=width,
            num_layers=read.number("n_layer", 12),
            num_heads=heads,
            num_key_value_heads=heads,
            head_dim=width // heads,
            intermediate_size=read.number("n_inner", 4 * width),
            max_positions=read.number("n_positions", 1024),
            activation=activation,
            norm_epsilon=read.number("layer_norm_epsilon", 1e-5, float),
            qkv_bias=True,
            output_bias=True,
            mlp_bias=True,
            tied=read.flag("tie_word_embeddings", True),
            **tokens,
        )
    read.only("use_sliding_window", False)
    if any(kind != "full_attention" for kind in data.get("layer_types") or ()):
        raise UserError(f"{where}: layer_types other than full_attention are not known here.")
    width, heads = read.number("hidden_size"), read.number("num_attention_heads")
    shared = read.number("num_key_value_heads", heads)
    _divides(where, "num_attention_heads", heads, "num_key_value_heads", shared)
    if data.get("head_dim") is None and family != "qwen3":
        _divides(where, "hidden_size", width, "num_attention_heads", heads)
    size = read.number("head_dim", 128 if family == "qwen3" else width // heads)
    if size % 2:
        raise UserError(f"{where}: head_dim must be even; it is {size}.")
    bias = read.flag("attention_bias", False)
    theta, scaling = _rope(read)
    return Config(
        family=family,
        vocab_size=read.number("vocab_size"),
        hidden_size=width,
        num_layers=read.number("num_hidden_layers"),
        num_heads=heads,
        num_key_value_heads=shared,
        head_dim=size,
        intermediate_size=read.number("intermediate_size"),
        max_positions=read.number("max_position_embeddings", 2048),
        activation=activation,
        norm_epsilon=read.number("rms_norm_eps", 1e-6, float),
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=True if family == "qwen2" else bias,
        output_bias=False if family == "qwen2" else bias,
        mlp_bias=read.flag("mlp_bias", False) if family == "llama" else False,
        tied=read.flag("tie_word_embeddings", False),
        **tokens,
    )


def _divides(where: str, one: str, larger: int, other: str, smaller: int) -> None:
    if larger % smaller:
        raise UserError(f"{where}: {one} ({larger}) must be a multiple of {other} ({smaller}).")


def _ids(value: Any, where: str) -> tuple[int, ...]:
    """Ids of tokens, which are null, one or several."""
    several = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(one) is int and one >= 0 for one in several):
        raise UserError(f"{where}: ids of tokens must be whole numbers; got {value!r}.")
    return tuple(several)


def _rope(read: _Read) -> tuple[float, RopeScaling | None]:
    """The settings of the rotary embedding, in the older and in the newer spelling."""
    new = read.data.get("rope_parameters") or {}
    old = read.data.get("rope_scaling") or {}
    if not isinstance(new, dict) or not isinstance(old, dict):
        raise UserError(f"{read.where}: rope_parameters must be an object; got {new or old!r}.")
    found = _Read({**old, **new}, read.where)
    theta = found.number("rope_theta", read.number("rope_theta", 10_000.0, float), float)
    kind = found.data.get("rope_type", found.data.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", found.number("factor", kind=float))
    if kind == "llama3":
        return theta, RopeScaling(
            "llama3",
            found.number("factor", kind=float),
            found.number("low_freq_factor", kind=float),
            found.number("high_freq_factor", kind=float),
            found.number("original_max_position_embeddings"),
        )
    raise UserError(
        f"{read.where}: rope scaling of the kind {kind!r} is not known here. Known: default, "
        "linear, llama3."
    )


def config_json(config: Config, dtype: Any = jnp.float32) -> dict[str, Any]:
    """What config.json says of a config; `config_of` reads it back."""
    name = jnp.dtype(dtype).name
    common: dict[str, Any] = {
        "architectures": [ARCHITECTURES[config.family]],
        "model_type": config.family,
        "dtype": name,
        "torch_dtype": name,  # transformers before version 5
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied,
        "bos_token_id": config.bos,
        "eos_token_id": _one_or_several(config.eos),
        "pad_token_id": config.pad,
    }
    if config.is_gpt2:
        return common | {
            "n_embd": config.hidden_size,
            "n_layer": config.num_layers,
            "n_head": config.num_heads,
            "n_inner": config.intermediate_size,
            "n_positions": config.max_positions,
            "activation_function": config.activation,
            "layer_norm_epsilon": config.norm_epsilon,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        }
    scaling = config.rope_scaling
    rope: dict[str, Any] = {"rope_type": "default" if scaling is None else scaling.kind}
    if scaling is not None:
        rope["factor"] = scaling.factor
    if scaling is not None and scaling.kind == "llama3":
        rope |= {
            "low_freq_factor": scaling.low_frequency,
            "high_freq_factor": scaling.high_frequency,
            "original_max_position_embeddings": scaling.original_positions,
        }
    found = common | {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "hidden_act": config.activation,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": None if scaling is None else rope,
        "rope_parameters": rope | {"rope_theta": config.rope_theta},
        "attention_dropout": 0.0,
    }
    if config.family in ("llama", "qwen3"):
        found["attention_bias"] = config.qkv_bias
    if config.family == "llama":
        found["mlp_bias"] = config.mlp_bias
    if config.family.startswith("qwen"):
        found["use_sliding_window"] = False
    return found


def _one_or_several(ids: tuple[int, ...]) -> Any:
    return None if not ids else ids[0] if len(ids) == 1 else list(ids)


# ------------------------------------------------------------------------------------ names

GPT2_NAMES = {
    "qkv": "attn.c_attn",
    "output": "attn.c_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
    "attention_norm": "ln_1",
    "mlp_norm": "ln_2",
}
LLAMA_NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}


class Tensor(NamedTuple):
    """Where a parameter's array lies in a file."""

    path: tuple[str, ...]  # in `Params`
    layer: int | None
    name: str  # there, with its prefix
    shape: tuple[int, ...]  # there
    transposed: bool = False


def module_name(config: Config, part: str) -> str:
    """What the ecosystem calls a part of a layer."""
    return (GPT2_NAMES if config.is_gpt2 else LLAMA_NAMES)[part]


def layer_name(config: Config, layer: int, part: str) -> str:
    """The same, with its place in the model."""
    block = "transformer.h" if config.is_gpt2 else "model.layers"
    return f"{block}.{layer}.{module_name(config, part)}"


def tensors(config: Config) -> Iterator[Tensor]:
    """Every tensor of a model's files.

    GPT-2 keeps a matrix as [in, out], as it is here; the others as [out, in].
    """
    prefix = "transformer." if config.is_gpt2 else "model."
    embedding = "wte" if config.is_gpt2 else "embed_tokens"
    table = (config.vocab_size, config.hidden_size)
    yield Tensor(("embedding",), None, f"{prefix}{embedding}.weight", table)
    if config.is_gpt2:
        shape = (config.max_positions, config.hidden_size)
        yield Tensor(("positions",), None, f"{prefix}wpe.weight", shape)
    last = "ln_f" if config.is_gpt2 else "norm"
    norm_parts = {"scale": "weight", "bias": "bias"} if config.is_gpt2 else {"scale": "weight"}
    for part, name in norm_parts.items():
        yield Tensor(("norm", part), None, f"{prefix}{last}.{name}", (config.hidden_size,))
    if not config.tied:
        yield Tensor(("head",), None, "lm_head.weight", table)
    for layer in range(config.num_layers):
        for part, (into, out, bias) in config.projections.items():
            name = layer_name(config, layer, part)
            path, turned = ("layers", part), not config.is_gpt2
            shape = (out, into) if turned else (into, out)
            yield Tensor((*path, "kernel"), layer, f"{name}.weight", shape, turned)
            if bias:
                yield Tensor((*path, "bias"), layer, f"{name}.bias", (out,))
        for part, size in config.norms.items():
            name = layer_name(config, layer, part)
            for own, theirs in norm_parts.items():
                yield Tensor(("layers", part, own), layer, f"{name}.{theirs}", (size,))


# ------------------------------------------------------------------------------------ reading


def read(
    folder: Path, config: Config, dtype: Any = None, beside: Sequence[str] = ()
) -> tuple[Params, Config]:
    """The parameters in a model's folder, and the config: tied where the folder has no head.

    They have the type that they are stored in (float16 becomes float32), or `dtype`. Tensors named
    in `beside` may lie there too: see `read_beside`. Raises
    UserError where tensors are missing, of another shape, or of no known purpose.
    """
    shards = _shards(folder)
    places, kinds = {}, {}
    for file in shards:
        with open_tensors(file) as handle:
            for name in list(handle.keys()):
                bare = _bare(name)
                if bare.endswith(NOT_WEIGHTS) or name in beside:
                    continue
                piece = handle.get_slice(name)
                places[bare] = (file, name, tuple(piece.get_shape()))
                kinds[bare] = piece.get_dtype()
    if "lm_head.weight" not in places:
        config = replace(config, tied=True)
    elif config.tied:
        del places["lm_head.weight"]
    wanted = {_bare(t.name): t for t in tensors(config)}
    _compare(folder, places, wanted)
    unknown = sorted({kinds[name] for name in wanted} - set(DTYPES))
    if unknown:
        raise UserError(
            f"{folder} holds tensors of the type {listed(unknown)}; this library reads "
            f"{listed(sorted(DTYPES))}."
        )
    if dtype is None:
        dtype = jnp.bfloat16 if kinds[next(iter(wanted))] == "BF16" else jnp.float32
    room = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), shapes(config, dtype))
    for file in shards:
        with open_tensors(file) as handle:
            for name, tensor in wanted.items():
                if places[name][0] == file:
                    found = handle.get_tensor(places[name][1])
                    place = _at(room, tensor.path)
                    place[... if tensor.layer is None else tensor.layer] = (
                        found.T if tensor.transposed else found
                    )
    return jax.tree.map(jnp.asarray, room), config


def read_beside(folder: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor that lies beside those of the decoder, such as the head of a reward model."""
    for file in _shards(folder):
        with open_tensors(file) as handle:
            if name in handle.keys():  # noqa: SIM118 (no mapping)
                found = np.asarray(handle.get_tensor(name), np.float32)
                if found.shape != shape:
                    raise UserError(
                        f"{folder}: {name} has the shape {list(found.shape)}, and {CONFIG} asks "
                        f"for {list(shape)}. They are not of the same model."
                    )
                return found
    raise UserError(f"{folder} lacks {name}. Take the folder again from where it came.")


def _bare(name: str) -> str:
    """A tensor's name without the prefix that some writers leave out."""
    return name.removeprefix("transformer.").removeprefix("model.")


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _shards(folder: Path) -> list[Path]:
    """The files of weights: those that the index names, or the single one."""
    index, single = folder / INDEX, folder / WEIGHTS
    if single.is_file():
        return [single]
    if index.is_file():
        table = read_json(index).get("weight_map")
        names = sorted(set(table.values())) if isinstance(table, dict) else []
        if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
            raise UserError(f"{index} must have a weight_map from tensors to files beside it.")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"{index} names {listed(missing)}, which {'is' if len(missing) == 1 else 'are'} "
                "not there. Copy the whole folder again."
            )
        return [folder / name for name in names]
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        raise UserError(
            f"{folder} holds {pickles[0]}, a pickle, which can execute code and is never opened "
            "here. Convert it where you trust it: in transformers, "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(other_folder)."
        )
    raise UserError(f"{folder} has no weights: neither {WEIGHTS} nor {INDEX}.")


def open_tensors(file: Path) -> Any:
    """The tensors of a safetensors file, to be read one by one; UserError where it is none."""
    files.check_regular(file)
    try:
        return safetensors.safe_open(file, framework="np")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{file} is no intact safetensors file ({error}). Copy it again from where it came."
        ) from None


def _compare(
    folder: Path,
    places: Mapping[str, tuple[Path, str, tuple[int, ...]]],
    wanted: Mapping[str, Tensor],
) -> None:
    """UserError unless a folder has just the tensors that its config asks for."""
    missing, surplus = sorted(wanted.keys() - places.keys()), sorted(places.keys() - wanted.keys())
    for names, said in ((missing, "lacks"), (surplus, "holds, and the config has no place for,")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(
                f"{folder} {said} {', '.join(names[:3])}{more}. The weights and {CONFIG} are not "
                "of the same model; take both from where they came."
            )
    for name, tensor in wanted.items():
        if places[name][2] != tensor.shape:
            raise UserError(
                f"{folder}: {name} has the shape {list(places[name][2])}, and {CONFIG} asks for "
                f"{list(tensor.shape)}. They are not of the same model."
            )


# ------------------------------------------------------------------------------------ writing


def write(
    folder: Path,
    params: Params,
    config: Config,
    shard: int = SHARD,
    *,
    beside: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write config.json, generation_config.json and the weights, in files of at most `shard` bytes.

    Each file is there as a whole or not at all; config.json, by which a folder is known to hold a
    model, is written last. `beside` are tensors of a head for one label: the folder is then that of
    a sequence classifier.
    """
    files.make_folder(folder)
    files.remove(folder / CONFIG)
    dtype = params["embedding"].dtype
    groups: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors(config):
        bytes_ = int(np.prod(tensor.shape)) * dtype.itemsize
        if groups[-1] and size + bytes_ > shard:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += bytes_
    count, total, table = len(groups), 0, dict[str, str]()
    for number, group in enumerate(groups, 1):
        name = WEIGHTS if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
        arrays = {t.name: _as_stored(params, t) for t in group}
        if number == count:
            arrays |= beside or {}
        table |= dict.fromkeys(arrays, name)
        total += sum(x.nbytes for x in arrays.values())
        with files.replacing(folder / name) as temporary:
            safetensors.numpy.save_file(arrays, temporary, metadata={"format": "pt"})
    if count > 1:
        index = {"metadata": {"total_size": total}, "weight_map": table}
        files.write(folder / INDEX, json.dumps(index, indent=2))
    stale = [INDEX, *(p.name for p in folder.glob("model-*-of-*.safetensors")), WEIGHTS]
    for name in set(stale) - set(table.values()) - ({INDEX} if count > 1 else set()):
        files.remove(folder / name)  # of a model that was here before
    ends = {"bos_token_id": config.bos, "eos_token_id": _one_or_several(config.eos)}
    generation = ends | {"pad_token_id": config.pad}
    files.write(folder / GENERATION, json.dumps(generation, indent=2))
    described = config_json(config, dtype)
    if beside:
        name = ARCHITECTURES[config.family].partition("For")[0].removesuffix("LMHeadModel")
        described |= {
            "architectures": [f"{name}ForSequenceClassification"],
            "id2label": {"0": "LABEL_0"},  # one label: a regression
            "label2id": {"LABEL_0": 0},
        }
    files.write(folder / CONFIG, json.dumps(described, indent=2))


def _as_stored(params: Params, tensor: Tensor) -> np.ndarray:
    found = _at(params, tensor.path)
    array = np.asarray(found if tensor.layer is None else found[tensor.layer])
    return np.ascontiguousarray(array.T if tensor.transposed else array)
