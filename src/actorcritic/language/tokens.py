"""Text to tokens and back: the one module that imports `tokenizers`."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.language.weights import LARGEST_JSON, read_json

NO_TOKENIZERS = (
    'Language models need the package tokenizers. Run: pip install "actorcritic[language]"'
)
TOKENIZER, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
LEAST = 256 + 6  # tokens: one for each byte, and the special ones
PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
ROLES = ("system", "user", "assistant")
OWN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>"
    "{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
Message = Mapping[str, Any]  # {"role": …, "content": …}


class Padded(NamedTuple):
    """Rows of tokens of one length. What is not valid is padding."""

    tokens: Int[np.ndarray, "B T"]
    valid: Bool[np.ndarray, "B T"]


def pad(
    rows: Sequence[Any],
    fill: int,
    *,
    side: Literal["left", "right"] = "left",
    length: int | None = None,
) -> Padded:
    """Rows of tokens as one array, padded with `fill` to `length` or to the longest."""
    longest = max(map(len, rows), default=0)
    length = longest if length is None else length
    if longest > length:
        raise UserError(f"A row of {longest} tokens does not fit into {length}.")
    tokens = np.full((len(rows), length), fill, np.int32)
    valid = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        place = slice(length - len(row), None) if side == "left" else slice(len(row))
        tokens[i, place], valid[i, place] = row, True
    return Padded(tokens, valid)


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer.json, its special tokens, and the template that it has for chat messages.

    `pad` fills up rows. It is masked wherever it stands, and never ends an answer: where a folder
    names no pad token, or the one that ends answers, it is another token.
    """

    raw: Any  # tokenizers.Tokenizer
    bos: int | None
    eos: tuple[int, ...]  # every token that ends an answer
    pad: int
    template: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # tokenizer_config.json

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        bos: int | None = None,
        eos: tuple[int, ...] = (),
        pad: int | None = None,
    ) -> Tokenizer:
        """The tokenizer of a model's folder; the ids are those that the model's config names."""
        file = folder / TOKENIZER
        if not file.is_file():
            raise UserError(
                f"{folder} has no {TOKENIZER}. Where it has another form of tokenizer, convert it "
                "in transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
            )
        raw = _parsed(file)
        settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}

        def special(name: str) -> int | None:
            token = settings.get(name)
            token = token.get("content") if isinstance(token, dict) else token
            return raw.token_to_id(token) if isinstance(token, str) else None

        bos = special("bos_token") if bos is None else bos
        end = special("eos_token")
        eos = eos or (() if end is None else (end,))
        pad = special("pad_token") if pad is None else pad
        if pad is None or pad in eos:
            taken = {bos, *eos}
            pad = next(i for i in range(len(taken) + 1) if i not in taken)
        return cls(raw, bos, eos, pad, _template(folder, settings), settings)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """A byte-level BPE of at most this many tokens, which can say any text."""
        tokenizers = _tokenizers()
        if vocab_size < LEAST:
            raise UserError(
                f"A vocabulary has at least {LEAST} tokens: one for each byte, and the special "
                f"ones; got {vocab_size}."
            )
        raw = tokenizers.Tokenizer(tokenizers.models.BPE())
        raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = tokenizers.decoders.ByteLevel()
        special = [PAD, BOS, EOS, *(f"<|{role}|>" for role in ROLES)]
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        raw.train_from_iterator(texts, trainer)
        raw.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, special.index(BOS))]
        )
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "padding_side": "left",
            "clean_up_tokenization_spaces": False,
        }
        bos, eos, fill = (raw.token_to_id(token) for token in (BOS, EOS, PAD))
        return cls(raw, bos, (eos,), fill, OWN_TEMPLATE, settings)

    @property
    def size(self) -> int:
        """Tokens there are."""
        return int(self.raw.get_vocab_size())

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """The tokens of each text; with `special`, also those that the tokenizer puts around it.

        Where it would put none before an empty text, there is the token that begins a text.
        """
        found = [e.ids for e in self.raw.encode_batch(list(texts), add_special_tokens=special)]
        start = self.eos[:1] if self.bos is None else (self.bos,)
        return [ids or list(start) for ids in found] if special else found

    def decode(self, rows: Iterable[Sequence[int]], *, special: bool = False) -> list[str]:
        """The texts of tokens, without special tokens unless they are asked for."""
        rows = [[int(i) for i in row] for row in rows]
        return list(self.raw.decode_batch(rows, skip_special_tokens=not special))

    def chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Chat messages as one text, by the tokenizer's template.

        It holds all special tokens: `encode` it with special=False.
        """
        for message in messages:
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise UserError(
                    f'A chat message is {{"role": "user", "content": "…"}}; got {message!r}.'
                )
        if self.template is None:
            raise UserError(
                "This model's tokenizer has no template for chat messages. Give texts instead, or "
                "the folder of a model that was trained on chats."
            )
        import jinja2

        named = {
            name: self.raw.id_to_token(token)
            for name, token in (("bos_token", self.bos), ("eos_token", next(iter(self.eos), None)))
            if token is not None
        }
        for name, token in self.settings.items():
            token = token.get("content") if isinstance(token, dict) else token
            if name.endswith("_token") and isinstance(token, str):
                named[name] = token
        try:
            return str(
                self._rendered.render(
                    messages=copy.deepcopy([dict(m) for m in messages]),
                    add_generation_prompt=add_generation_prompt,
                    tools=None,
                    documents=None,
                    **named,
                )
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise UserError(f"The chat template of this model refuses: {error}.") from None

    @cached_property
    def _rendered(self) -> Any:
        """The template, in a sandbox: it comes with a folder, from whoever made it."""
        import jinja2
        import jinja2.sandbox

        def refuse(text: str) -> None:
            raise jinja2.TemplateError(text)

        def as_json(x: Any, ensure_ascii: bool = False, indent: Any = None, **others: Any) -> str:
            return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, **others)

        world = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        world.filters["tojson"] = as_json
        world.globals |= {
            "raise_exception": refuse,
            "strftime_now": lambda form: datetime.now().strftime(form),
        }
        text = _without_generation(self.template or "")
        try:
            return world.from_string(text)
        except jinja2.TemplateError as error:
            raise UserError(f"The chat template of this model cannot be read: {error}.") from None

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as transformers reads them."""
        files.make_folder(folder)
        files.write(folder / TOKENIZER, self.raw.to_str(pretty=False))
        settings = {k: v for k, v in self.settings.items() if k != "chat_template"}
        if self.template is not None:
            settings["chat_template"] = self.template
        files.write(folder / SETTINGS, json.dumps(settings, indent=2, ensure_ascii=False))


def _without_generation(template: str) -> str:
    """The template without the marks {% generation %}: they say which part is an answer."""
    return re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UserError(NO_TOKENIZERS) from None
    return tokenizers


def _parsed(file: Path) -> Any:
    text = files.read(file, LARGEST_JSON)
    tokenizers = _tokenizers()
    try:
        return tokenizers.Tokenizer.from_str(text.decode())
    except Exception as error:  # the package raises nothing more special
        raise UserError(
            f"{file} is no tokenizer that can be read ({error}). Copy it again from where it came."
        ) from None


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template of a folder: in a file of its own, or in tokenizer_config.json."""
    file = folder / TEMPLATE
    if file.is_file():
        return files.read(file, LARGEST_JSON).decode(errors="replace")
    found = settings.get("chat_template")
    if isinstance(found, list):  # several by name
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None
