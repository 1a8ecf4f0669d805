"""A model with its tokenizer: load, generate, save."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from actorcritic.core.errors import UserError
from actorcritic.core.words import nearest, whole
from actorcritic.language import decoder, generation, lora, tokens, weights
from actorcritic.language.decoder import Config, Params
from actorcritic.language.tokens import Message, Tokenizer

NEW = "new:"
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"layers": 2, "width": 64, "heads": 4, "vocabulary": 512},
    "small": {"layers": 4, "width": 128, "heads": 4, "vocabulary": 1024},
}
POSITIONS = 1024  # of a model from nothing
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True, eq=False)
class Model:
    """Parameters, their config, a tokenizer, and perhaps an adapter over the parameters."""

    params: Params
    config: Config
    tokenizer: Tokenizer
    adapter: lora.Adapter | None = None

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        texts: Iterable[str] = (),
        dtype: str | None = None,
        seed: int = 0,
        beside: Sequence[str] = (),
    ) -> Model:
        """The model in a folder; or one from nothing, with a tokenizer trained on `texts`.

        `source` is a folder with config.json, safetensors and tokenizer.json, or one of a LoRA
        adapter that names such a folder; or new:tiny,
        new:small, or new:layers=4,width=128,heads=4,vocabulary=512 (also positions=…, and family=
        llama or gpt2). `dtype` is float32 or bfloat16; by default what the folder holds. Tensors
        named in `beside` may lie in the folder, for a head of its own.
        """
        if dtype is not None and dtype not in DTYPES:
            raise UserError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
        kind = None if dtype is None else DTYPES[dtype]
        if str(source).startswith(NEW):
            return _new(str(source), texts, kind or jnp.float32, seed)
        folder = Path(source)
        if (folder / lora.ABOUT).is_file():
            return _adapted(folder, dtype)
        if not folder.is_dir():
            raise UserError(
                f"There is no folder {folder}. Name a folder with {weights.CONFIG}, "
                f"{weights.WEIGHTS} and {tokens.TOKENIZER}, or new:tiny; models are not downloaded."
            )
        config = weights.read_config(folder)
        tokenizer = Tokenizer.load(folder, bos=config.bos, eos=config.eos, pad=config.pad)
        if tokenizer.size > config.vocab_size:
            raise UserError(
                f"{folder}: the tokenizer has {tokenizer.size:,} tokens and the model "
                f"{config.vocab_size:,}. They are not of the same model."
            )
        params, config = weights.read(folder, config, kind, beside)
        return cls(
            params, config.with_tokens(tokenizer.bos, tokenizer.eos, tokenizer.pad), tokenizer
        )

    def save(self, folder: str | Path) -> Path:
        """Write a folder that this library and transformers open; an adapter is merged."""
        folder = Path(folder)
        self.tokenizer.save(folder)
        weights.write(folder, self.merged().params, self.config)
        return folder

    def merged(self) -> Model:
        """The same model without an adapter: its change is in the parameters."""
        if self.adapter is None:
            return self
        return dataclasses.replace(self, params=lora.merge(self.params, self.adapter), adapter=None)

    @property
    def dtype(self) -> Any:
        """What the parameters are kept in: float32 or bfloat16."""
        return self.params["embedding"].dtype

    @property
    def size(self) -> int:
        """Numbers that the model consists of, without an adapter's."""
        return lora.size(self.params)

    def prompt_tokens(self, prompts: Sequence[str | Sequence[Message]]) -> list[list[int]]:
        """The tokens of prompts: texts, or lists of chat messages."""
        rows = []
        for prompt in prompts:
            if isinstance(prompt, str):
                rows += self.tokenizer.encode([prompt])
            else:
                rows += self.tokenizer.encode([self.tokenizer.chat(prompt)], special=False)
        return rows

    def generate(
        self,
        prompts: Sequence[str | Sequence[Message]],
        *,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        batch_size: int = 32,
        tell: Callable[[str], None] = lambda text: None,
    ) -> list[str]:
        """An answer to each prompt. See `generation.generate` for what the settings mean.

        `tell` is called with how far it is.
        """
        if isinstance(prompts, str):
            raise UserError("generate takes a list of prompts; write [prompt].")
        rows, found = self.prompt_tokens(prompts), list[str]()
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            count = len(part)
            if start:  # the last batch, filled up with rows that generate nothing
                part += [[]] * (batch_size - count)
            given = tokens.pad(part, self.tokenizer.pad)
            made = generation.generate(
                self.params,
                self.config,
                given.tokens,
                given.valid,
                jax.random.fold_in(jax.random.key(seed), start),
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                adapter=self.adapter,
            )
            answers, valid = (x[:count] for x in jax.device_get((made.tokens, made.valid)))
            found += self.tokenizer.decode(row[v] for row, v in zip(answers, valid, strict=True))
            tell(f"{len(found):,} done")
        return found


def _adapted(folder: Path, dtype: str | None) -> Model:
    """The model of an adapter's folder, which names the folder of its base."""
    base = weights.read_json(folder / lora.ABOUT).get("base_model_name_or_path")
    if not isinstance(base, str) or not Path(base).is_dir():
        raise UserError(
            f"{folder} is an adapter over {base!r}, which is no folder here. Models are not "
            f"downloaded: put the folder of the base into {lora.ABOUT}."
        )
    model = Model.load(base, dtype=dtype)
    if model.adapter is not None:
        raise UserError(f"{folder} is an adapter over another adapter, {base}. Merge that first.")
    return dataclasses.replace(model, adapter=lora.load(folder, model.config))


def _new(source: str, texts: Iterable[str], dtype: Any, seed: int) -> Model:
    sizes, family = _sizes(source)
    texts = list(texts)
    if not texts:
        raise UserError(
            f"{source} trains its tokenizer on texts, and none were given. Give texts=[…], or "
            "--data with a file of texts."
        )
    tokenizer = Tokenizer.train(texts, sizes["vocabulary"])
    width, heads = sizes["width"], sizes["heads"]
    if width % heads or (width // heads) % 2:
        raise UserError(f"{source}: width must be an even multiple of heads.")
    plain = family == "gpt2"
    config = Config(
        family=family,  # type: ignore[arg-type]
        vocab_size=tokenizer.size,
        hidden_size=width,
        num_layers=sizes["layers"],
        num_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        intermediate_size=4 * width if plain else 8 * math.ceil(width / 3),
        max_positions=sizes["positions"],
        activation="gelu_new" if plain else "silu",
        norm_epsilon=1e-5,
        qkv_bias=plain,
        output_bias=plain,
        mlp_bias=plain,
        bos=tokenizer.bos,
        eos=tokenizer.eos,
        pad=tokenizer.pad,
    )
    return Model(decoder.init(jax.random.key(seed), config, dtype), config, tokenizer)


def _sizes(source: str) -> tuple[dict[str, int], str]:
    """What new:… asks for: sizes, and the family."""
    text = source.removeprefix(NEW)
    default = SIZES["tiny"] | {"positions": POSITIONS}
    if text in SIZES:
        return default | SIZES[text], "llama"
    family, found = "llama", dict(default)
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if name == "family" and value in ("llama", "gpt2"):
            family = value
        elif name not in default or not equals:
            raise UserError(
                f"'{source}' is no model.{nearest(part, [*SIZES, *default])} Write new:tiny, "
                "new:small, or sizes as in new:layers=4,width=128,heads=4,vocabulary=512, with "
                "family=llama or family=gpt2."
            )
        else:
            try:
                found[name] = whole(value)
            except ValueError:
                raise UserError(
                    f"{source}: {name} must be a whole number; got '{value}'."
                ) from None
            if found[name] < 1 or found[name] > 2**20:
                raise UserError(f"{source}: {name} must be at least 1, and sensible.")
    return found, family
