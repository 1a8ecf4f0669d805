"""A reward model, PPO and DPO of language models: what `training.run` does a step at a time.

Each function here reads and checks its data, says what it left out, trains, and gives a `Trained`
whose `result` is the model. With `out`, the folder holds a model that opens elsewhere, what was
measured, and a page.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from actorcritic.core import files, importing
from actorcritic.core.errors import UserError
from actorcritic.core.types import Metrics
from actorcritic.language import data, page, training
from actorcritic.language.dpo_on_pairs import DPO, PreferencePairs
from actorcritic.language.dpo_on_pairs import Learner as PairLearner
from actorcritic.language.evaluation import Sample, samples_of
from actorcritic.language.generation import rounded
from actorcritic.language.model import Model
from actorcritic.language.pairs import Data, batch_of, in_parts, pairs_of, tell
from actorcritic.language.policy import Responses, Transformer, log_probs
from actorcritic.language.ppo_on_tokens import PPO
from actorcritic.language.ppo_on_tokens import Learner as PPOLearner
from actorcritic.language.preferences import (
    Answered,
    Prompt,
    as_messages,
    read_prompts,
)
from actorcritic.language.reward_model import (
    Both,
    Calibration,
    Reward,
    RewardModel,
    RewardSettings,
    calibration,
    last_scores,
    new_head,
    normalized,
    pair_loss,
    reward_of,
)
from actorcritic.language.tokens import pad
from actorcritic.language.training import Sums, Trained, TrainingSettings
from actorcritic.runs.console import warn, working
from actorcritic.runs.run import prepare_jax

SHOWN = 16  # prompts whose responses a page shows, before and after
SAMPLES = "samples.jsonl"

# ------------------------------------------------------------------------------------ PPO


def ppo(
    model: Model | str | Path,
    reward: Any,
    prompts: data.Source,
    settings: PPO | None = None,
    *,
    gold: Reward | None = None,
    command: str | None = None,
    **options: Any,
) -> Trained:
    """Fine-tune a model by PPO; `.result` is the trained model.

    `reward` is a function of (prompt, response), one or many at once, module:function, or the
    folder of a reward model. `prompts` is a .jsonl file of {"prompt": …}, or a list of texts.
    `gold` is the reward that was meant, where it is known: it is recorded beside, and not learned
    from. `options` are fields of `PPO`. Raises UserError for any mistake, before anything is
    written.
    """
    prepare_jax()
    settings = (PPO if settings is None else type(settings)).of(settings, options)
    with working("Reading the model, the reward and the prompts", quiet=settings.quiet):
        name, model = _named(model)
        scored = reward_of(reward)
        prompts = _as_prompts(_kept(prompts))
        known = read_prompts(prompts)
        tokens = model.prompt_tokens([as_messages(prompt) for prompt in known.rows])
    _check_room(model, settings.max_prompt_tokens, settings.max_new_tokens, tokens)
    if not model.config.eos:
        warn("The model has no token that ends an answer: every response is cut off.")
    tell("prompts", known)
    cut = sum(len(row) > settings.max_prompt_tokens for row in tokens)
    if cut:
        warn(f"{cut:,} prompts are cut to their last {settings.max_prompt_tokens} tokens.")
    task = PPOTask(model, scored, gold, known.rows, tokens, settings)
    about = {"model": name, "reward": _reward_name(reward), "prompts": data.digest(prompts)}
    return training.run(
        task, settings, about, lambda done: page.of_ppo(done, task.samples, settings, command)
    )


@dataclass(eq=False)
class PPOTask:
    """Generate, score, update: the task of `training.run`."""

    model: Model
    reward: Reward
    gold: Reward | None
    prompts: Sequence[Prompt]
    tokens: Sequence[list[int]]
    settings: PPO
    kind = "ppo"
    headline = "score"

    def __post_init__(self) -> None:
        settings = self.settings
        self._network = _network(self.model, settings, settings.max_new_tokens)
        self._fixed = self.model.merged().params
        self._batches = training.Batches(len(self.tokens), settings.batch_size, settings.seed)
        self._key = jax.random.fold_in(jax.random.key(settings.seed), 2)
        self.samples: list[Sample] = []  # after `finish`

        def prepared(
            learner: PPOLearner, fixed: PyTree, prompt: Any, said: Responses, score: Array
        ) -> Any:
            return settings.batch(replace(learner, fixed=fixed), prompt[0], prompt[1], said, score)

        def updated(
            learner: PPOLearner, fixed: PyTree, batch: Any, key: Array, progress: Array
        ) -> tuple[PPOLearner, Metrics]:
            found, metrics = settings.update(replace(learner, fixed=fixed), batch, key, progress)
            return replace(found, fixed=()), metrics

        self._prepared = jax.jit(prepared)
        self._updated = jax.jit(updated, donate_argnums=0)

    @property
    def total_steps(self) -> int:
        return self.settings.total_steps

    def init(self) -> PPOLearner:
        part = training.part_of(self.model, self.settings)
        return self.settings.init(jax.random.fold_in(self._key, 0), self._network, part, ())

    def step(self, learner: PPOLearner, number: int) -> tuple[PPOLearner, Metrics]:
        settings, chosen = self.settings, self._batches.at(number)
        acts, learns = jax.random.split(jax.random.fold_in(self._key, number + 1))
        rows = [self.tokens[i][-settings.max_prompt_tokens :] for i in chosen]
        length = rounded(max(map(len, rows)))
        prompt = pad(rows, self.model.tokenizer.pad, length=length)
        said = settings.act(replace(learner, fixed=self._fixed), *prompt, acts)  # type: ignore[arg-type]
        texts = _texts(self.model, said)
        asked = [as_messages(self.prompts[i]) for i in chosen]
        score = np.asarray(self.reward(asked, texts), np.float32)
        batch = self._prepared(learner, self._fixed, prompt, said, score)
        progress = jnp.float32(number / settings.total_steps)
        learner, metrics = self._updated(learner, self._fixed, batch, learns, progress)
        metrics["reward"] = score.mean()
        if self.gold is not None:
            metrics["gold"] = np.mean(self.gold(asked, texts))
        return learner, metrics

    def evaluate(self, learner: PPOLearner) -> Mapping[str, float]:
        return {}

    def finish(self, learner: PPOLearner, out: Path | None) -> Model:
        model = training.model_with(self.model, learner.params["policy"])
        if out is not None:
            self.samples = _written(
                out,
                self.model,
                model,
                self.prompts,
                reward=self.reward,
                gold=self.gold,
                max_new_tokens=self.settings.max_new_tokens,
                temperature=self.settings.temperature,
                batch_size=self.settings.batch_size,
            )
        return model


# ------------------------------------------------------------------------------------ DPO


def dpo(
    model: Model | str | Path,
    pairs: data.Source,
    settings: DPO | None = None,
    *,
    evaluation: data.Source | None = None,
    reward: Any = None,
    command: str | None = None,
    **options: Any,
) -> Trained:
    """Fine-tune a model by DPO, or a variant of it; `.result` is the trained model.

    `pairs` is a .jsonl file of {"prompt", "chosen", "rejected"}, or a list of such. A `reward`,
    where there is one, is what the page shows beside; it is not learned from. `options` are fields
    of `DPO`. Raises UserError for any mistake before anything is written.
    """
    prepare_jax()
    settings = (DPO if settings is None else type(settings)).of(settings, options)
    with working("Reading the model and the preferences", quiet=settings.quiet):
        name, model = _named(model)
        scored = None if reward is None else reward_of(reward)
        pairs, evaluation = _kept(pairs), None if evaluation is None else _kept(evaluation)
        found = pairs_of(model, pairs, evaluation, settings)
    settings = _with_steps(settings, len(found.rows))
    task = DPOTask(model, found, scored, settings)
    about = {
        "model": name,
        "data": data.digest(pairs),
        "evaluation": None if evaluation is None else data.digest(evaluation),
        "variant": settings.name,
    }
    return training.run(
        task, settings, about, lambda done: page.of_dpo(done, task.samples, settings, command)
    )


@dataclass(eq=False)
class DPOTask:
    """The task of `training.run`."""

    model: Model
    data: Data
    reward: Reward | None
    settings: DPO
    kind = "dpo"
    headline = "loss"

    def __post_init__(self) -> None:
        settings = self.settings
        self._network = _network(self.model, settings, 1)
        self._fixed = self.model.merged().params
        self._batches = training.Batches(len(self.data.rows), settings.batch_size, settings.seed)
        self._key = jax.random.fold_in(jax.random.key(settings.seed), 2)
        self.samples: list[Sample] = []
        self._reference: Float[np.ndarray, "2 n"] | None = None
        network = self._network

        def answers(trained: PyTree, fixed: PyTree, both: Both) -> Array:
            found = [log_probs(network, trained, fixed, *side).sum(1) for side in both]
            return jnp.stack(found)

        def updated(
            learner: PairLearner, fixed: PyTree, batch: PreferencePairs, progress: Array, beta: Any
        ) -> tuple[PairLearner, Metrics]:
            whole = replace(learner, fixed=fixed)  # β is an argument: another is the same program
            algorithm = replace(settings, beta=beta)
            found, metrics = algorithm.update(whole, batch, self._key, progress)
            return replace(found, fixed=()), metrics

        self._answers = jax.jit(answers)
        self._updated = jax.jit(updated, donate_argnums=0)

    @property
    def total_steps(self) -> int:
        assert self.settings.total_steps is not None
        return self.settings.total_steps

    def init(self) -> PairLearner:
        part = training.part_of(self.model, self.settings)
        return self.settings.init(self._network, part, ())

    def log_probs(
        self, trained: PyTree, rows: Sequence[tuple[Answered, Answered]]
    ) -> Float[np.ndarray, "2 n"]:
        """log π of the chosen and of the rejected answers, as wholes."""
        fill = self.model.tokenizer.pad
        size = self.settings.batch_size // self.settings.accumulate
        return in_parts(
            rows,
            size,
            lambda part: np.asarray(self._answers(trained, self._fixed, batch_of(part, fill))),
        )

    def references(self, rows: Sequence[tuple[Answered, Answered]]) -> Float[np.ndarray, "2 n"]:
        """The same of the reference."""
        return self.log_probs(self._network.reference(None, self._fixed), rows)

    def step(self, learner: PairLearner, number: int) -> tuple[PairLearner, Metrics]:
        if self._reference is None:
            self._reference = self.references(self.data.rows)
        chosen = self._batches.at(number)
        both = batch_of([self.data.rows[i] for i in chosen], self.model.tokenizer.pad)
        batch = PreferencePairs(*both, *self._reference[:, chosen])  # type: ignore[arg-type]
        progress = jnp.float32(number / self.total_steps)
        return self._updated(learner, self._fixed, batch, progress, jnp.float32(self.settings.beta))

    def evaluate(self, learner: PairLearner) -> Mapping[str, float]:
        """Loss, accuracy and margin of the held-out pairs."""
        apart = self.data.apart
        if not apart:
            return {}
        gains = self.log_probs(learner.params, apart) - self.references(apart)
        margin = gains[0] - gains[1]
        loss = self.settings.preference_loss(jnp.asarray(margin, jnp.float32))
        return {
            "evaluation_loss": float(loss.mean()),
            "evaluation_accuracy": float(((margin > 0) + 0.5 * (margin == 0)).mean()),
            "evaluation_margin": float(self.settings.beta * margin.mean()),
        }

    def finish(self, learner: PairLearner, out: Path | None) -> Model:
        model = training.model_with(self.model, learner.params)
        if out is not None:
            self.samples = _written(
                out,
                self.model,
                model,
                list(dict.fromkeys(p.prompt for p in self.data.pairs_apart + self.data.pairs)),
                reward=self.reward,
                max_new_tokens=max(len(side.answer) for pair in self.data.rows for side in pair),
                batch_size=2 * self.settings.batch_size,  # as many responses as a step has
            )
        return model


# ------------------------------------------------------------------------------------ reward model


def reward(
    model: Model | str | Path,
    pairs: data.Source,
    settings: RewardSettings | None = None,
    *,
    evaluation: data.Source | None = None,
    command: str | None = None,
    **options: Any,
) -> Trained:
    """Learn a reward model from preferences; `.result` is a `RewardModel`, which is a reward.

    It starts from `model`, and its scores are normalised on that model's answers to the prompts of
    the pairs. `options` are fields of `RewardSettings`. Raises UserError for any mistake before
    anything is written.
    """
    prepare_jax()
    settings = RewardSettings.of(settings, options)
    with working("Reading the model and the preferences", quiet=settings.quiet):
        name, model = _named(model)
        pairs, evaluation = _kept(pairs), None if evaluation is None else _kept(evaluation)
        found = pairs_of(model, pairs, evaluation, settings)
    settings = _with_steps(settings, len(found.rows))
    task = RewardTask(model, found, settings)
    about = {
        "model": name,
        "data": data.digest(pairs),
        "evaluation": None if evaluation is None else data.digest(evaluation),
    }
    return training.run(
        task,
        settings,
        about,
        lambda done: page.of_reward(done, task.calibration, settings, command),
    )


class RewardLearner(NamedTuple):
    part: PyTree
    head: PyTree
    optimizer: optax.OptState


@dataclass(eq=False)
class RewardTask:
    """The task of `training.run`."""

    model: Model
    data: Data
    settings: RewardSettings
    kind = "reward"
    headline = "accuracy"

    def __post_init__(self) -> None:
        settings, config = self.settings, self.model.config
        self._batches = training.Batches(len(self.data.rows), settings.batch_size, settings.seed)
        self._optimizer = training.optimizer(settings, self.total_steps)
        self._frozen = None if settings.lora_rank is None else self.model.merged().params
        self.calibration: Calibration | None = None
        dtype = self.model.dtype

        def updated(
            learner: RewardLearner, frozen: PyTree, batch: Both
        ) -> tuple[RewardLearner, Metrics]:
            def loss(params: PyTree, rows: Both) -> Sums:
                both = training.applied(params["part"], frozen, dtype)
                return pair_loss(config, settings, both, params["head"], rows)

            params = {"part": learner.part, "head": learner.head}
            slope, metrics = training.gradient(loss, params, batch, settings.accumulate)
            metrics |= {"gradient_norm": optax.tree.norm(slope)}
            change, state = self._optimizer.update(slope, learner.optimizer, params)
            params = optax.apply_updates(params, change)
            return RewardLearner(params["part"], params["head"], state), metrics

        def scored(learner: RewardLearner, frozen: PyTree, both: Both) -> Array:
            parts = training.applied(learner.part, frozen, dtype)
            return jnp.stack([last_scores(config, False, parts, learner.head, s) for s in both])

        self._updated = jax.jit(updated, donate_argnums=0)
        self._scored = jax.jit(scored)

    @property
    def total_steps(self) -> int:
        assert self.settings.total_steps is not None
        return self.settings.total_steps

    def init(self) -> RewardLearner:
        part = training.part_of(self.model, self.settings)
        key = jax.random.fold_in(jax.random.key(self.settings.seed), 3)
        head = new_head(key, self.model.config.hidden_size)
        return RewardLearner(part, head, self._optimizer.init({"part": part, "head": head}))

    def step(self, learner: RewardLearner, number: int) -> tuple[RewardLearner, Metrics]:
        rows = [self.data.rows[i] for i in self._batches.at(number)]
        return self._updated(learner, self._frozen, batch_of(rows, self.model.tokenizer.pad))

    def margins(self, learner: RewardLearner) -> Float[np.ndarray, " n"]:
        """r(chosen) - r(rejected) of the held-out pairs."""
        fill = self.model.tokenizer.pad
        size = self.settings.batch_size // self.settings.accumulate
        found = in_parts(
            self.data.apart,
            size,
            lambda part: np.asarray(self._scored(learner, self._frozen, batch_of(part, fill))),
        )
        return (found[0] - found[1]).astype(np.float64)

    def evaluate(self, learner: RewardLearner) -> Mapping[str, float]:
        """Loss and accuracy of the held-out pairs."""
        if not self.data.apart:
            return {}
        margins = self.margins(learner)
        self.calibration = calibration(margins)
        right = (margins > 0) + 0.5 * (margins == 0)
        loss = np.logaddexp(0, -margins).mean()
        return {"evaluation_accuracy": float(right.mean()), "evaluation_loss": float(loss)}

    def finish(self, learner: RewardLearner, out: Path | None) -> RewardModel:
        if self.data.apart:
            self.calibration = calibration(self.margins(learner))
        trained = training.model_with(self.model, learner.part).merged()
        found = RewardModel(trained, learner.head["kernel"])
        prompts = list(dict.fromkeys(p.prompt for p in self.data.pairs + self.data.pairs_apart))
        settings = self.settings
        count = settings.normalization_samples
        asked = (prompts * (1 + count // len(prompts)))[:count]
        answers = self.model.generate(
            [as_messages(p) for p in asked],
            max_new_tokens=settings.max_new_tokens,
            seed=settings.seed,
            batch_size=min(count, 128),
        )
        found = normalized(found, asked, answers, settings.batch_size)
        if out is not None:
            found.save(out)
        return found


# ------------------------------------------------------------------------------------ shared


def _named(model: Model | str | Path) -> tuple[str, Model]:
    if isinstance(model, Model):
        return "given", model
    if str(model).startswith("new:"):
        raise UserError(
            f"{model} knows nothing yet, so there is nothing to tune. Train it first: actorcritic "
            f"language sft --model {model} --data texts.jsonl --out runs/sft"
        )
    return str(model), Model.load(model)


def _network(model: Model, settings: TrainingSettings, max_new_tokens: int) -> Transformer:
    return Transformer(
        model.config, jnp.dtype(model.dtype).name, settings.rematerialise, max_new_tokens
    )


def _reward_name(reward: Any) -> str:
    if isinstance(reward, str | Path):
        return str(reward)
    return importing.address(reward) or type(reward).__name__


def _kept(source: data.Source) -> data.Source:
    """A source that can be read twice."""
    return source if isinstance(source, str | Path) else list(source)


def _as_prompts(source: data.Source) -> data.Source:
    """Lines as rows: a text alone is a prompt too."""
    if isinstance(source, str | Path):
        return source
    return [{"prompt": one} if isinstance(one, str | list) else one for one in source]


def _check_room(model: Model, prompt: int, response: int, tokens: Sequence[Sequence[int]]) -> None:
    longest = min(max(map(len, tokens)), prompt) + response
    if longest > model.config.max_positions:
        raise UserError(
            f"Prompts of up to {longest - response} tokens and max_new_tokens = {response} are "
            f"{longest} together, and the model knows {model.config.max_positions} positions. Take "
            "fewer max_new_tokens, or max_prompt_tokens."
        )


def _with_steps(settings: Any, rows: int) -> Any:
    """The settings with the number of steps that so many rows give."""
    if settings.total_steps is not None:
        return settings
    steps = training.Batches(rows, settings.batch_size, settings.seed).steps(settings.epochs)
    return dataclasses.replace(settings, total_steps=steps)


def _texts(model: Model, said: Responses) -> list[str]:
    tokens, valid = jax.device_get((said.tokens, said.valid))
    return model.tokenizer.decode(row[v] for row, v in zip(tokens, valid, strict=True))


def _written(
    out: Path, before: Model, after: Model, prompts: Sequence[Prompt], **how: Any
) -> list[Sample]:
    """What both say to some of the prompts, drawn by `samples_of`, and the model: in `out`."""
    samples = samples_of(before, after, prompts[:SHOWN], **how)
    after.save(out)
    lines = [json.dumps(sample._asdict(), ensure_ascii=False) for sample in samples]
    files.write(out / SAMPLES, "\n".join(lines) + "\n")
    return samples
