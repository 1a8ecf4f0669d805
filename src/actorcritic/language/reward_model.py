"""A reward model: a decoder with a head of one number, learned from preferences.

r(x, y) is the head's number at the last token of the answer. It is learned by -log σ(r(x, chosen) -
r(x, rejected)) (Bradley & Terry 1952; Ouyang et al. 2022, eq. 1), which says nothing of where zero
lies: so afterwards scores are shifted and scaled to mean 0 and deviation 1 over answers of the
reference (Ziegler et al. 2019, section 2.1).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from actorcritic.core import files, importing
from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameter
from actorcritic.core.words import told
from actorcritic.language import decoder, weights
from actorcritic.language.dpo_on_pairs import Answers
from actorcritic.language.model import Model
from actorcritic.language.policy import value_head
from actorcritic.language.preferences import Answered, Prompt, answered, arrays, as_messages
from actorcritic.language.training import PairSettings, Sums
from actorcritic.maths import losses

REWARD, HEAD = "reward.json", "score.weight"
Reward: TypeAlias = Callable[[list[Any], list[str]], Sequence[float]]


@dataclass(frozen=True)
class RewardSettings(PairSettings):
    """Of a reward model."""

    name: ClassVar[str] = "reward"

    label_smoothing: float = hyperparameter(
        0.0, "share of the labels that are taken to be the wrong way round", "[0, 0.5)"
    )
    normalization_samples: int = hyperparameter(
        256, "answers of the starting model that scores are normalised on", "[2, 1e6]"
    )
    max_new_tokens: int = hyperparameter(64, "tokens of those answers, at most", "[1, 65536]")


class Both(NamedTuple):
    """A batch of pairs."""

    chosen: Answers
    rejected: Answers


@dataclass(frozen=True, eq=False)
class RewardModel:
    """A decoder, its head, and what its scores are shifted and scaled by."""

    model: Model
    head: Float[Array, " d"]
    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def load(cls, folder: str | Path) -> RewardModel:
        """The reward model in a folder."""
        folder = Path(folder)
        if not (folder / REWARD).is_file():
            raise UserError(
                f"{folder} holds no reward model: there is no {REWARD}. Make one: actorcritic "
                "language reward --model DIR --data preferences.jsonl"
            )
        data = weights.read_json(folder / REWARD)
        mean, deviation = (data.get(name) for name in ("mean", "deviation"))
        if (
            not all(isinstance(x, int | float) and math.isfinite(x) for x in (mean, deviation))
            or not (deviation or 0) > 0
        ):
            raise UserError(
                f"{folder / REWARD} must hold numbers 'mean' and 'deviation', the second above 0."
            )
        model = Model.load(folder, beside=(HEAD,))
        head = weights.read_beside(folder, HEAD, (1, model.config.hidden_size))
        shift = float(mean), float(deviation)  # type: ignore[arg-type]
        return cls(model, jnp.asarray(head[0], jnp.float32), *shift)

    def save(self, folder: str | Path) -> Path:
        """Write a folder in the ecosystem's form: a sequence classifier with one label."""
        folder, model = Path(folder), self.model.merged()
        model.tokenizer.save(folder)
        head = np.asarray(self.head, np.float32)[None]
        weights.write(folder, model.params, model.config, beside={HEAD: head})
        files.write(
            folder / REWARD, json.dumps({"mean": self.mean, "deviation": self.deviation}, indent=1)
        )
        return folder

    def scores(
        self, prompts: Sequence[Prompt], answers: Sequence[str], batch_size: int = 32
    ) -> Float[np.ndarray, " n"]:
        """r(prompt, answer) of each, normalised; an empty answer is one that ends at once."""
        end = list(self.model.tokenizer.eos[:1])
        asked = self.model.prompt_tokens([as_messages(prompt) for prompt in prompts])
        rows = [Answered(ids, end) for ids in asked]
        filled = [i for i, answer in enumerate(answers) if answer.strip()]
        if filled:
            said = answered([(prompts[i], answers[i]) for i in filled], self.model.tokenizer)
            for i, row in zip(filled, said, strict=True):
                rows[i] = row
        return self.score_rows(rows, batch_size)

    def score_rows(self, rows: Sequence[Answered], batch_size: int = 32) -> Float[np.ndarray, " n"]:
        """The same of tokens."""
        longest = self.model.config.max_positions
        found = np.zeros(len(rows), np.float64)
        # Rows of like lengths together, so that little is padding.
        order = np.argsort([len(row.prompt) + len(row.answer) for row in rows], kind="stable")
        for start in range(0, len(rows), batch_size):
            some = order[start : start + batch_size]
            part = [_fitted(rows[i], longest) for i in some]
            part += [part[0]] * (batch_size - len(part))
            batch = arrays(part, self.model.tokenizer.pad)
            found[some] = np.asarray(self._raw(batch), np.float64)[: len(some)]
        return (found - self.mean) / self.deviation

    @cached_property
    def _raw(self) -> Callable[[Answers], Array]:
        params, adapter, head = self.model.params, self.model.adapter, {"kernel": self.head}
        score = jax.jit(partial(last_scores, self.model.config, False))
        return lambda batch: score((params, adapter), head, batch)

    def __call__(self, prompts: list[Any], responses: list[str]) -> Sequence[float]:
        """As a reward: prompts as texts or lists of messages."""
        return self.scores([_as_prompt(p) for p in prompts], responses).tolist()


def last_scores(
    config: decoder.Config,
    rematerialise: bool,
    both: tuple[PyTree, PyTree],
    head: PyTree,
    rows: Answers,
) -> Float[Array, " B"]:
    """The head's number at the last token of each answer, float32."""
    params, adapter = both
    seen = jnp.concatenate([rows.prompt_valid, rows.valid], 1)
    found, _ = decoder.hidden(
        params,
        config,
        jnp.concatenate([rows.prompt, rows.response], 1),
        seen,
        adapter=adapter,
        rematerialise=rematerialise,
    )
    last = rows.prompt.shape[1] + jnp.sum(rows.valid, 1) - 1
    at: Array = jnp.take_along_axis(found, last[:, None, None], 1)[:, 0]
    score: Array = at.astype(jnp.float32) @ head["kernel"]
    return score


def pair_loss(
    config: decoder.Config,
    settings: RewardSettings,
    both: tuple[PyTree, PyTree],
    head: PyTree,
    rows: Both,
) -> Sums:
    """-log σ(r(chosen) - r(rejected)) of each pair, as a sum, with what to record."""
    together: Answers = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), *rows)
    score = last_scores(config, settings.rematerialise, both, head, together)
    chosen, rejected = jnp.split(score, 2)
    margin = chosen - rejected
    return Sums(
        losses.preference_loss(margin, settings.label_smoothing).sum(),
        jnp.asarray(len(margin), jnp.float32),
        {"accuracy": (margin > 0).sum(dtype=jnp.float32), "margin": margin.sum()},
    )


def new_head(key: Array, width: int) -> PyTree:
    """N(0, 1/(d+1)), and no bias: a difference would not know of it."""
    return {"kernel": value_head(key, width)["kernel"]}


def normalized(
    model: RewardModel, prompts: Sequence[Prompt], answers: Sequence[str], batch_size: int
) -> RewardModel:
    """The same model with scores of mean 0 and deviation 1 over these answers."""
    raw = dataclasses.replace(model, mean=0.0, deviation=1.0).scores(prompts, answers, batch_size)
    deviation = float(raw.std())
    return dataclasses.replace(
        model, mean=float(raw.mean()), deviation=deviation if deviation > 1e-6 else 1.0
    )


class Calibration(NamedTuple):
    """How often the chosen answer is the better one by the model, in bins of what it claimed."""

    claimed: Float[np.ndarray, " bins"]  # the mean of σ(|margin|)
    right: Float[np.ndarray, " bins"]  # the share of pairs in which the chosen one scored higher
    pairs: Float[np.ndarray, " bins"]


def calibration(margins: Float[np.ndarray, " n"], bins: int = 5) -> Calibration:
    """Of margins r(chosen) - r(rejected) before normalisation: bins of equal numbers of pairs."""
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    parts = [p for p in np.array_split(np.argsort(confidence, kind="stable"), bins) if len(p)]
    right = (margins > 0) + 0.5 * (margins == 0)
    return Calibration(
        np.array([confidence[p].mean() for p in parts]),
        np.array([right[p].mean() for p in parts]),
        np.array([len(p) for p in parts], float),
    )


# ------------------------------------------------------------------------------------ any reward


def reward_of(given: Any) -> Reward:
    """A reward from what the user gave: a folder, module:function, a function, a `RewardModel`.

    A function takes one prompt and one response and gives a number, or lists of them and gives as
    many numbers. Which of the two is found out by calling it.
    """
    if isinstance(given, RewardModel):
        return given
    if isinstance(given, str | Path):
        text = str(given)
        if importing.is_address(text) and not Path(text).exists():
            return _function(importing.named(text), text)
        return RewardModel.load(text)
    if callable(given):
        return _function(given, getattr(given, "__name__", "the reward"))
    raise UserError(
        "A reward is a function of (prompt, response), a folder of a reward model, or "
        f"module:function; got {given!r}."
    )


def _function(function: Callable[..., Any], name: str) -> Reward:
    """Called with lists; one that wants single texts is called for each."""
    kind: list[str] = []

    def called(prompts: list[Any], responses: list[str]) -> Sequence[float]:
        if not kind:
            kind.append(_kind(function, name, prompts, responses))
        try:
            if kind[0] == "many":
                found = function(prompts, responses)
            else:
                found = [function(p, r) for p, r in zip(prompts, responses, strict=True)]
        except Exception as error:
            raise UserError(f"The reward {name} failed: {told(error)}.") from error
        return _numbers(found, name, len(responses))

    return called


def _kind(function: Callable[..., Any], name: str, prompts: list[Any], responses: list[str]) -> str:
    """Whether a function takes lists or single texts; lists are tried first."""
    try:
        found = np.asarray(function(prompts[:2], responses[:2]), np.float64)
        if found.shape == (min(2, len(prompts)),):
            return "many"
    except Exception:  # it may want single texts, and says so when it gets them
        pass
    try:
        np.float64(function(prompts[0], responses[0]))
    except Exception as error:
        raise UserError(
            f"The reward {name} gives numbers neither for lists of prompts and responses nor for "
            f"one of each: {told(error)}."
        ) from error
    return "one"


def _numbers(found: Any, name: str, count: int) -> list[float]:
    try:
        numbers = np.asarray(found, np.float64)
    except (TypeError, ValueError):
        numbers = np.full(0, np.nan)
    if numbers.shape != (count,):
        raise UserError(
            f"The reward {name} must give a number for each of {count} responses; it gave "
            f"{found!r:.80}."
        )
    if not np.isfinite(numbers).all():
        at = int(np.argmin(np.isfinite(numbers)))
        raise UserError(f"The reward {name} gave {numbers[at]}, which is no finite number.")
    result: list[float] = numbers.tolist()
    return result


def _fitted(row: Answered, longest: int) -> Answered:
    """A prompt that is too long for the model loses its beginning."""
    room = longest - len(row.answer)
    if room < 1:
        raise UserError(
            f"An answer of {len(row.answer)} tokens is longer than the {longest} positions that "
            "the reward model knows."
        )
    return row._replace(prompt=row.prompt[-room:])


def _as_prompt(prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return prompt
    return tuple((message["role"], message["content"]) for message in prompt)
