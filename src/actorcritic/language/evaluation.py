"""What a model says, scored: reward, KL to a reference, length, entropy; best-of-n beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from actorcritic.core.errors import UserError
from actorcritic.figures.statistics import Estimate
from actorcritic.lab import best_of_n_kl_bound
from actorcritic.language import data, generation
from actorcritic.language.generation import rounded
from actorcritic.language.model import Model
from actorcritic.language.policy import Transformer, states
from actorcritic.language.preferences import Prompt, as_messages, read_prompts
from actorcritic.language.reward_model import Reward, reward_of
from actorcritic.language.tokens import pad
from actorcritic.runs.console import working
from actorcritic.runs.run import prepare_jax


class Said(NamedTuple):
    """Responses to prompts, and what was measured on each."""

    responses: list[str]
    length: Float[np.ndarray, " n"]  # tokens, with the one that stops
    stopped: Float[np.ndarray, " n"]  # 1: by itself
    kl: Float[np.ndarray, " n"]  # Σ_t log π - log π_ref: the estimate k1
    entropy: Float[np.ndarray, " n"]  # a token's, the mean over the response


class Sample(NamedTuple):
    """A prompt and what was said to it before training and after."""

    prompt: Any
    before: str | None  # None: there is no model to compare with
    after: str
    score_before: float | None = None
    score_after: float | None = None
    gold_before: float | None = None
    gold_after: float | None = None


def respond(
    model: Model,
    reference: Model | None,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
    tell: Callable[[str], None] = lambda text: None,
) -> Said:
    """A response to each prompt, drawn from the model, with its KL to the reference."""
    if reference is not None and reference.config.vocab_size != model.config.vocab_size:
        raise UserError(
            f"The model has {model.config.vocab_size:,} tokens and the reference "
            f"{reference.config.vocab_size:,}; a KL needs the same tokenizer."
        )
    rows = model.prompt_tokens([as_messages(prompt) for prompt in prompts])
    texts, columns = list[str](), list[Any]()
    own = scores_of(model)
    other = None if reference is None else scores_of(reference)
    key = jax.random.key(seed)
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        count = len(part)
        filled = part + [part[0]] * (batch_size - count)
        given = pad(filled, model.tokenizer.pad, length=rounded(max(map(len, filled))))
        made = generation.generate(
            model.params,
            model.config,
            *given,
            jax.random.fold_in(key, start),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            adapter=model.adapter,
        )
        tokens, valid = np.asarray(made.tokens), np.asarray(made.valid)
        at = temperature or 1.0
        mine = own(*given, tokens, valid, at)
        theirs = mine if other is None else other(*given, tokens, valid, at)
        length = valid.sum(1)
        last = tokens[np.arange(len(tokens)), np.maximum(length - 1, 0)]
        stopped = np.isin(last, model.config.eos) & (length > 0)
        kl = np.where(valid, np.asarray(mine.log_prob) - np.asarray(theirs.log_prob), 0.0).sum(1)
        entropy = np.where(valid, np.asarray(mine.entropy), 0.0).sum(1) / np.maximum(length, 1)
        columns.append(np.stack([length, stopped, kl, entropy])[:, :count])
        texts += model.tokenizer.decode(
            row[v] for row, v in zip(tokens[:count], valid[:count], strict=True)
        )
        tell(f"{len(texts):,} of {len(rows):,} responses")
    return Said(texts, *np.concatenate(columns, 1).astype(np.float64))


@partial(jax.jit, static_argnums=0)
def _scores(network: Transformer, params: Any, temperature: Any, *of: Any) -> Any:
    at = states(network, None, params, *of)
    return network.scores(None, params, at, of[2], temperature)


def scores_of(model: Model) -> Callable[..., Any]:
    """log π and entropy of each token of responses [B, N], as `policy.states` takes them."""
    whole = model.merged()
    network = Transformer(model.config, jnp.dtype(model.dtype).name)
    return lambda prompt, seen, tokens, valid, temperature: _scores(
        network, whole.params, jnp.float32(temperature), prompt, seen, tokens, valid
    )


def samples_of(
    before: Model,
    after: Model,
    prompts: Sequence[Prompt],
    *,
    reward: Reward | None = None,
    gold: Reward | None = None,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    batch_size: int = 16,
) -> list[Sample]:
    """What both say to the same prompts, with the same random numbers.

    Batches are filled up to `batch_size`: with that of a training, its program serves again.
    """
    asked = [as_messages(prompt) for prompt in prompts]
    filled = (asked * (1 + batch_size // len(asked)))[: max(batch_size, len(asked))]
    texts = [
        model.generate(
            filled, max_new_tokens=max_new_tokens, temperature=temperature, batch_size=batch_size
        )[: len(asked)]
        for model in (before, after)
    ]
    nothing: list[float | None] = [None] * len(asked)
    columns = [
        list(of(asked, said)) if of is not None else nothing
        for of in (reward, gold)
        for said in texts
    ]
    return [Sample(*row) for row in zip(asked, *texts, *columns, strict=True)]


# ------------------------------------------------------------------------------------ best of n


def best_of_n(
    scores: Float[np.ndarray, "P m"], gold: Float[np.ndarray, "P m"] | None, n: int
) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"] | None]:
    """Of m responses to each prompt: the expected score, and gold score, of the best of n.

    The mean over all choices of n among the m: the one that is k-th from below is the best of
    C(k-1, n-1) of C(m, n) choices. So no draw is wasted, and the estimate has no bias.
    """
    m = scores.shape[1]
    weight = np.array([comb(k, n - 1) for k in range(m)], float) / comb(m, n)
    order = np.argsort(scores, axis=1, kind="stable")
    best = np.take_along_axis(scores, order, 1) @ weight
    return best, None if gold is None else np.take_along_axis(gold, order, 1) @ weight


@dataclass(frozen=True)
class Evaluation:
    """A model on prompts: means over prompts, with 95 % bootstrap intervals."""

    count: int
    numbers: dict[str, Estimate]
    best_of: dict[int, dict[str, Estimate]]  # of the reference, by n
    samples: list[Sample]
    columns: dict[str, Float[np.ndarray, " n"]]  # what the numbers are means of, by prompt

    def kl_bound(self, n: int) -> float:
        """What the KL of the best of n from the reference does not exceed."""
        return best_of_n_kl_bound(n)

    def __str__(self) -> str:
        said = [f"{name.replace('_', ' ')} {value}" for name, value in self.numbers.items()]
        return f"{self.count:,} prompts: " + "; ".join(said)


def evaluate(
    model: Model | str | Path,
    prompts: data.Source,
    *,
    reward: Any = None,
    reference: Model | str | Path | None = None,
    gold: Any = None,
    best_of: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 1_000_000,
    batch_size: int = 32,
    quiet: bool = False,
) -> Evaluation:
    """Draw a response to each prompt and measure it.

    With a reference, the KL from it; with `best_of` above 1 also what the best of 1, 2, 4, … of
    its responses would score, which is what a reward model gives without any training.
    """
    prepare_jax()
    with working("Reading the models and the prompts", quiet=quiet) as tell:
        model = model if isinstance(model, Model) else Model.load(model)
        if reference is not None and not isinstance(reference, Model):
            reference = Model.load(reference)
        scored = None if reward is None else reward_of(reward)
        golden = None if gold is None else reward_of(gold)
        rows = read_prompts(prompts).rows
    if best_of > 1 and (reference is None or scored is None):
        raise UserError("best_of needs a reference, whose responses it is among, and a reward.")
    how = partial(
        respond,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        batch_size=batch_size,
    )
    asked = [as_messages(row) for row in rows]
    columns: dict[str, Float[np.ndarray, " n"]] = {}
    best: dict[int, dict[str, Estimate]] = {}
    with working("Answering", quiet=quiet) as tell:
        said = how(model, reference, rows, seed=seed, tell=tell)
        before = how(reference, None, rows, seed=seed + 1, tell=tell) if reference else None
        for name, of in (("reward", scored), ("gold", golden)):
            if of is not None:
                columns[name] = np.asarray(of(asked, said.responses), float)
                if before is not None:
                    columns[f"{name}_of_reference"] = np.asarray(of(asked, before.responses), float)
        if reference is not None:
            columns["kl"] = said.kl
        columns |= {"length": said.length, "entropy": said.entropy, "stopped": said.stopped}
        if before is not None:
            columns["length_of_reference"] = before.length
        if best_of > 1:
            assert reference is not None
            assert scored is not None
            draws = [
                how(reference, None, rows, seed=seed + 2 + k, tell=tell).responses
                for k in range(best_of)
            ]
            table = np.array([scored(asked, texts) for texts in draws], float).T
            other = (
                None
                if golden is None
                else np.array([golden(asked, texts) for texts in draws], float).T
            )
            n = 1
            while n <= best_of:
                mean, of_gold = best_of_n(table, other, n)
                best[n] = {"reward": estimate(mean)}
                if of_gold is not None:
                    best[n]["gold"] = estimate(of_gold)
                n *= 2
    samples = []
    for i, prompt in enumerate(asked[:16]):
        scores = {
            f"{kind}_{when}": float(columns[name][i])
            for kind, when, name in (
                ("score", "before", "reward_of_reference"),
                ("score", "after", "reward"),
                ("gold", "before", "gold_of_reference"),
                ("gold", "after", "gold"),
            )
            if name in columns
        }
        before_it = before.responses[i] if before else None
        samples.append(Sample(prompt, before_it, said.responses[i], **scores))
    numbers = {name: estimate(x) for name, x in columns.items()}
    return Evaluation(len(rows), numbers, best, samples, columns)


def estimate(x: Float[np.ndarray, " n"]) -> Estimate:
    """The mean over prompts with its 95 % bootstrap interval."""
    x = np.asarray(x, np.float64)
    drawn = np.random.default_rng(0).integers(len(x), size=(2_000, len(x)))
    low, high = np.quantile(x[drawn].mean(1), [0.025, 0.975])
    return Estimate(float(x.mean()), float(low), float(high))
