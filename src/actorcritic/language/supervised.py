"""Supervised fine-tuning: minimise the mean of −log π(token | those before it) over answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameter as setting
from actorcritic.core.types import Metrics
from actorcritic.language import data, decoder, lora, training
from actorcritic.language.data import Example, Sequences
from actorcritic.language.decoder import Config
from actorcritic.language.model import Model
from actorcritic.language.training import Sums, Trained, TrainingSettings
from actorcritic.runs.console import warn, working
from actorcritic.runs.run import prepare_jax

ADAPTER = "adapter"  # in the run's folder, where one was trained


@dataclass(frozen=True)
class SFTSettings(TrainingSettings):
    """Of supervised fine-tuning."""

    epochs: float = setting(1.0, "passes over the data, where total_steps says nothing", "(0, 1e6]")
    max_length: int = setting(512, "tokens of a sequence; longer ones are cut", "[2, 1048576]")
    packed: bool = setting(False, "put examples one behind the other, so that nothing is padding")
    evaluation_share: float = setting(
        0.05,
        "of the examples, held out to evaluate on where no evaluation data is named",
        "[0, 0.9]",
    )


class Learner(NamedTuple):
    part: PyTree  # what is trained: the parameters, or an adapter
    optimizer: optax.OptState


@dataclass(eq=False)
class SFT:
    """The task of `training.run`."""

    model: Model
    rows: Sequence[Example]
    apart: Sequence[Example]  # to evaluate on
    settings: SFTSettings
    base: str | None = None  # the folder of the model, if it has one
    kind = "sft"
    headline = "loss"

    def __post_init__(self) -> None:
        settings = self.settings
        self._batches = training.Batches(len(self.rows), settings.batch_size, settings.seed)
        self._optimizer = training.optimizer(settings, self.total_steps)
        self._frozen = None if settings.lora_rank is None else self.model.params
        self._update = jax.jit(self._updated, donate_argnums=0)
        self._losses = jax.jit(partial(_loss, self.model.config, False))

    @property
    def total_steps(self) -> int:
        return self.settings.total_steps or self._batches.steps(self.settings.epochs)

    def init(self) -> Learner:
        part = training.part_of(self.model, self.settings)
        return Learner(part, self._optimizer.init(part))

    def step(self, learner: Learner, number: int) -> tuple[Learner, Metrics]:
        rows = [self.rows[i] for i in self._batches.at(number)]
        return self._update(learner, self._frozen, self._batch(rows), number)

    def _batch(self, rows: Sequence[Example]) -> Sequences:
        return data.sequences(rows, self.model.tokenizer.pad, self.settings.max_length)

    def _updated(
        self, learner: Learner, frozen: Any, batch: Sequences, number: Any
    ) -> tuple[Learner, Metrics]:
        settings = self.settings

        def loss(part: PyTree, rows: Sequences) -> Sums:
            both = training.applied(part, frozen, self.model.dtype)
            return _loss(self.model.config, settings.rematerialise, both, rows)

        slope, metrics = training.gradient(loss, learner.part, batch, settings.accumulate)
        metrics |= {
            "gradient_norm": optax.tree.norm(slope),
            "learning_rate": training.learning_rate(settings, self.total_steps)(number),
        }
        change, state = self._optimizer.update(slope, learner.optimizer, learner.part)
        return Learner(optax.apply_updates(learner.part, change), state), metrics

    def evaluate(self, learner: Learner) -> Mapping[str, float]:
        """The mean loss of a token, over all held-out examples."""
        if not self.apart:
            return {}
        total = weight = 0.0
        size = self.settings.batch_size // self.settings.accumulate
        both = training.applied(learner.part, self._frozen, self.model.dtype)
        for start in range(0, len(self.apart), size):
            rows = self.apart[start : start + size]
            batch = self._batch([*rows, *[rows[0]] * (size - len(rows))])
            batch.learned[len(rows) :] = False
            found = jax.device_get(self._losses(both, batch))
            total, weight = total + float(found.total), weight + float(found.weight)
        loss = total / weight
        return {"evaluation_loss": loss, "perplexity": float(np.exp(min(loss, 80.0)))}

    def finish(self, learner: Learner, out: Path | None) -> Model:
        """The model; with a folder, written there, and an adapter also by itself below it."""
        model = training.model_with(self.model, learner.part)
        if out is not None:
            model.save(out)
            if model.adapter is not None:
                lora.save(out / ADAPTER, model.adapter, model.config, self.base)
        return model


def _loss(config: Config, rematerialise: bool, both: tuple[Any, Any], rows: Sequences) -> Sums:
    params, adapter = both
    found = decoder.next_token_scores(
        params, config, rows.tokens, rows.valid, adapter=adapter, rematerialise=rematerialise
    )
    learned = (rows.learned & rows.valid)[:, 1:].astype(jnp.float32)
    total = -(found.log_prob * learned).sum()
    entropy = jax.lax.stop_gradient(found.entropy * learned).sum()
    return Sums(total, learned.sum(), {"entropy": entropy})


def sft(
    model: Model | str | Path,
    source: data.Source,
    settings: SFTSettings | None = None,
    *,
    evaluation: data.Source | None = None,
    dtype: str | None = None,
    **options: Any,
) -> Trained:
    """Fine-tune a model on texts, answers to prompts, or chats; `.result` is the trained model.

    `model` is one that was loaded, a folder, or new:tiny. `source` is a .jsonl or .txt file, or a
    list of what its lines would hold: {"text": …}, {"prompt": …, "response": …}, {"messages": …}.
    Where there is a prompt, only the answer is learned. `options` are fields of `SFTSettings`.

    With `out`, the folder then holds a model that this library and transformers open. Raises
    UserError for any mistake in these, before anything is written.
    """
    prepare_jax()
    settings = SFTSettings.of(settings, options)
    if not isinstance(source, str | Path):
        source = list(source)
    with working("Reading the model and its data", quiet=settings.quiet) as said:
        name = "given" if isinstance(model, Model) else str(model)
        if not isinstance(model, Model):
            model = Model.load(model, texts=_texts(source), dtype=dtype, seed=settings.seed)
        if settings.max_length > model.config.max_positions:
            raise UserError(
                f"max_length is {settings.max_length}, and the model knows "
                f"{model.config.max_positions} positions. Name a smaller one."
            )
        said("tokens")
        rows, counts = data.examples(source, model.tokenizer, settings.max_length)
        apart = list[Example]()
        if evaluation is not None:
            apart, others = data.examples(evaluation, model.tokenizer, settings.max_length)
            notes = [f"Evaluation data: {text}." for text in others.said()]
            known = {row.key for row in rows}
            twice = sum(row.key in known for row in apart)
            if twice:
                notes.append(
                    f"{twice:,} of {len(apart):,} evaluation examples are also in the training "
                    "data, so that their loss says nothing of new texts."
                )
        else:
            notes = []
            rows, apart = data.held_out(rows, settings.evaluation_share, settings.seed)
            if not apart and settings.evaluation_share > 0:
                notes.append("No example could be held out to evaluate on: each occurs repeatedly.")
        if settings.packed:
            rows = data.packed(rows, settings.max_length)
    for text in [*(f"{text}." for text in counts.said()), *notes]:
        warn(text)
    base = name if Path(name).is_dir() else None
    task = SFT(model.merged(), rows, apart, settings, base)
    about = {
        "model": name,
        "data": data.digest(source),
        "evaluation": None if evaluation is None else data.digest(evaluation),
        "dtype": dtype,
    }
    return training.run(task, settings, about)


def _texts(source: data.Source) -> list[str]:
    """All texts of a data set, to train a tokenizer on."""
    found = list[str]()

    def collect(value: Any) -> None:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, Mapping):
            for name, part in value.items():
                if name in ("text", "prompt", *data.ANSWERS, "messages", "content"):
                    collect(part)
        elif isinstance(value, list | tuple):
            for part in value:
                collect(part)

    for _, value in data.read_lines(source):
        collect(value)
    return found
