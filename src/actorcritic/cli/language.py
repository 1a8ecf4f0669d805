"""`actorcritic language TASK`: language models, from text to answers."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from actorcritic.cli.options import (
    Field,
    as_settings,
    asks_for_help,
    free_folder,
    read,
    with_settings,
)
from actorcritic.cli.terminal import say
from actorcritic.core.errors import UserError
from actorcritic.core.words import nearest

MODEL: Field = (
    "model",
    Annotated[
        str | None,
        "a model's folder, or new:tiny, new:small, new:layers=4,width=128,heads=4,vocabulary=512",
    ],
    None,
)
DTYPE: Field = (
    "dtype",
    Annotated[Literal["float32", "bfloat16"] | None, "of the weights (default: as in the folder)"],
    None,
)
SFT: tuple[Field, ...] = (
    MODEL,
    (
        "data",
        Annotated[Path | None, "what to learn: .jsonl, or .txt with a text in each line"],
        None,
    ),
    ("evaluation", Annotated[Path | None, "what to evaluate on, in the same form"], None),
    DTYPE,
)


@dataclasses.dataclass(frozen=True)
class _GenerateOptions:
    model: Annotated[str | None, "a model's folder"] = None
    prompt: Annotated[tuple[str, ...], "what to continue; may be given several times"] = ()
    prompts: Annotated[
        Path | None, "prompts: .txt, a text in each line, or .jsonl with prompt or messages"
    ] = None
    chat: Annotated[bool, "prompts are a user's messages: use the model's template"] = False
    max_new_tokens: Annotated[int, "tokens of an answer, at most"] = 64
    temperature: Annotated[float, "0 takes the most probable token"] = 1.0
    top_k: Annotated[int | None, "sample among so many of the most probable tokens"] = None
    top_p: Annotated[float | None, "sample among those with this share of the probability"] = None
    seed: Annotated[int, "of what is sampled"] = 0
    batch_size: Annotated[int, "prompts that are continued at a time"] = 32
    dtype: Annotated[Literal["float32", "bfloat16"] | None, "of the weights"] = None
    json: Annotated[bool, "print a line of JSON for each prompt"] = False
    quiet: Annotated[bool, "show no progress"] = False


OWN_REWARD = "a folder of a reward model, or module:function of (prompt, response)"
GOLD: Field = (
    "gold",
    Annotated[str | None, "the reward that was meant, where it is known: recorded, not learned"],
    None,
)
PAIRS: tuple[Field, ...] = (
    ("model", Annotated[str | None, "the folder of the model to start from"], None),
    ("data", Annotated[Path | None, "preferences: .jsonl of prompt, chosen, rejected"], None),
    ("evaluation", Annotated[Path | None, "what to evaluate on, in the same form"], None),
)
VARIANT: Field = ("variant", Annotated[Literal["dpo", "ipo"], "which loss"], "dpo")
PPO_WORDS: tuple[Field, ...] = (
    PAIRS[0],
    ("reward", Annotated[str | None, OWN_REWARD], None),
    ("prompts", Annotated[Path | None, "what to respond to: .jsonl of prompt"], None),
    GOLD,
)


@dataclasses.dataclass(frozen=True)
class _EvaluateOptions:
    model: Annotated[str | None, "a model's folder"] = None
    prompts: Annotated[Path | None, "what to respond to: .jsonl of prompt"] = None
    reward: Annotated[str | None, OWN_REWARD] = None
    reference: Annotated[str | None, "the folder of the model to compare with"] = None
    gold: Annotated[str | None, "the reward that was meant, where it is known"] = None
    best_of: Annotated[int, "also the best of 1, 2, 4, … of the reference's responses"] = 1
    max_new_tokens: Annotated[int, "tokens of a response, at most"] = 64
    temperature: Annotated[float, "0 takes the most probable token"] = 1.0
    seed: Annotated[int, "of what is sampled"] = 1_000_000
    batch_size: Annotated[int, "prompts at a time"] = 32
    out: Annotated[Path | None, "the folder of the page (default: the model's)"] = None
    json: Annotated[bool, "print the numbers as JSON"] = False
    quiet: Annotated[bool, "show no progress"] = False


@dataclasses.dataclass(frozen=True)
class _SycophancyOptions:
    model: Annotated[str | None, "a model's folder"] = None
    questions: Annotated[Path | None, "questions in the form of sycophancy-eval, .jsonl"] = None
    reference: Annotated[str | None, "the folder of the model to compare with"] = None
    how: Annotated[
        Literal["probability", "generate"],
        "which answer is more probable, or which one is said",
    ] = "probability"
    max_new_tokens: Annotated[int, "tokens of a response, at most (generate)"] = 32
    temperature: Annotated[float, "0 takes the most probable token (generate)"] = 1.0
    seed: Annotated[int, "of what is sampled (generate)"] = 1_000_000
    batch_size: Annotated[int, "questions at a time"] = 32
    out: Annotated[Path | None, "the folder of the page (default: the model's)"] = None
    json: Annotated[bool, "print the numbers as JSON"] = False
    quiet: Annotated[bool, "show no progress"] = False


def options_of(task: str) -> type:
    """The options of a task."""
    match task:
        case "generate":
            return _GenerateOptions
        case "evaluate":
            return _EvaluateOptions
        case "sycophancy":
            return _SycophancyOptions
        case "reward":
            from actorcritic.language.reward_model import RewardSettings

            return with_settings(RewardSettings, *PAIRS)
        case "ppo":
            from actorcritic.language.ppo_on_tokens import PPO

            return with_settings(PPO, *PPO_WORDS)
        case "dpo":
            from actorcritic.language.dpo_on_pairs import DPO

            return with_settings(DPO, *PAIRS, VARIANT)
    from actorcritic.language.supervised import SFTSettings

    return with_settings(SFTSettings, *SFT)


def _reward(rest: list[str]) -> int:
    from actorcritic.language.reward_model import RewardSettings
    from actorcritic.language.tuning import reward

    usage = "language reward --model DIR --data preferences.jsonl [--out runs/reward]"
    _, options = read(usage, options_of("reward"), rest, 0)
    needed(usage, options, "model", "data")
    out, command = place(options, "reward", rest)
    settings = as_settings(RewardSettings, options, out=out)
    trained = reward(
        options.model, options.data, settings, evaluation=options.evaluation, command=command
    )
    if not trained.finished:
        return stopped(command)
    found = trained.evaluations[-1] if trained.evaluations else {}
    if "evaluation_accuracy" in found:
        say(
            f"reward: {found['evaluation_accuracy']:.1%} of held-out pairs are ranked as they were "
            f"(loss {found['evaluation_loss']:.3f}; a coin's is 0.693)"
        )
    else:
        say(f"reward: {trained.steps:,} steps; no pair was held out")
    say(f"Reward model: {out}   page: {out / 'report.html'}")
    say(
        "Next:         actorcritic language ppo --model "
        f"{shlex.quote(options.model)} --reward {shlex.quote(str(out))} --prompts prompts.jsonl"
    )
    return 0


def _ppo(rest: list[str]) -> int:
    from actorcritic.language.ppo_on_tokens import PPO
    from actorcritic.language.reward_model import reward_of
    from actorcritic.language.tuning import ppo

    usage = "language ppo --model DIR --reward DIR --prompts prompts.jsonl [--out runs/ppo]"
    _, options = read(usage, options_of("ppo"), rest, 0)
    needed(usage, options, "model", "reward", "prompts")
    out, command = place(options, "ppo", rest)
    trained = ppo(
        options.model,
        options.reward,
        options.prompts,
        as_settings(PPO, options, out=out),
        gold=None if options.gold is None else reward_of(options.gold),
        command=command,
    )
    if not trained.finished:
        return stopped(command)
    first, last = trained.metrics[0], trained.metrics[-1]
    say(
        f"ppo: reward {first['reward']:.3f} → {last['reward']:.3f}, KL {last['kl']:.2f} nats a "
        f"response, {last['stopped']:.0%} stop by themselves"
    )
    return _tell(out, options.model, f" --reward {shlex.quote(options.reward)}", options.prompts)


def _dpo(rest: list[str]) -> int:
    from actorcritic.language.dpo_on_pairs import DPO, IPO
    from actorcritic.language.tuning import dpo

    usage = "language dpo --model DIR --data preferences.jsonl [--out runs/dpo]"
    _, options = read(usage, options_of("dpo"), rest, 0)
    needed(usage, options, "model", "data")
    out, command = place(options, "dpo", rest)
    variant = {"dpo": DPO, "ipo": IPO}[options.variant]
    trained = dpo(
        options.model,
        options.data,
        as_settings(variant, options, out=out),
        evaluation=options.evaluation,
        command=command,
    )
    if not trained.finished:
        return stopped(command)
    first, last = trained.metrics[0], trained.metrics[-1]
    found = trained.evaluations[-1] if trained.evaluations else {}
    held = ""
    if "evaluation_accuracy" in found:
        held = f"; of held-out pairs, {found['evaluation_accuracy']:.1%} are ranked as they were"
    say(f"{options.variant}: loss {first['loss']:.3f} → {last['loss']:.3f}{held}")
    return _tell(out, options.model, "", None)


def _tell(out: Path, model: str, reward: str, prompts: Path | None) -> int:
    """Where everything is, and what to do next."""
    asked = "prompts.jsonl" if prompts is None else shlex.quote(str(prompts))
    folder = shlex.quote(str(out))
    say(f"Model folder: {out}   page: {out / 'report.html'}   samples: {out / 'samples.jsonl'}")
    say(
        f"Next:         actorcritic language evaluate --model {folder} --reference "
        f"{shlex.quote(model)}{reward} --prompts {asked}"
    )
    return 0


def _evaluate(rest: list[str]) -> int:
    from actorcritic.language.evaluation import evaluate
    from actorcritic.language.page import of_evaluation

    usage = "language evaluate --model DIR --prompts prompts.jsonl [--reference DIR] [--reward DIR]"
    _, options = read(usage, options_of("evaluate"), rest, 0)
    needed(usage, options, "model", "prompts")
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    model, prompts, out, as_json = (given.pop(name) for name in ("model", "prompts", "out", "json"))
    found = evaluate(model, prompts, **given)
    command = shlex.join(["actorcritic", "language", "evaluate", *rest])
    written = of_evaluation(found, out or Path(model), model, command)
    if as_json:
        say(
            json.dumps(
                {
                    "prompts": found.count,
                    **_plain(found.numbers),
                    "best_of": {str(n): _plain(numbers) for n, numbers in found.best_of.items()},
                }
            )
        )
        return 0
    say(f"{found.count:,} prompts, means with 95 % intervals over prompts")
    for name, value in found.numbers.items():
        say(f"  {name.replace('_', ' '):<24} {value}")
    for n, numbers in found.best_of.items():
        said = ", ".join(f"{name} {value}" for name, value in numbers.items())
        say(f"  best of {n} of the reference: {said}; KL at most {found.kl_bound(n):.2f}")
    say(f"Page: {written}")
    return 0


def _sycophancy(rest: list[str]) -> int:
    from actorcritic.language.agreement import sycophancy
    from actorcritic.language.page import of_sycophancy

    usage = "language sycophancy --model DIR --questions questions.jsonl [--reference DIR]"
    _, options = read(usage, options_of("sycophancy"), rest, 0)
    needed(usage, options, "model", "questions")
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    model, questions, out, as_json = (
        given.pop(name) for name in ("model", "questions", "out", "json")
    )
    found = sycophancy(model, questions, **given)
    command = shlex.join(["actorcritic", "language", "sycophancy", *rest])
    written = of_sycophancy(found, out or Path(model), model, command)
    if as_json:
        say(json.dumps({claim: _plain(of._asdict()) for claim, of in found.by_claim.items()}))
    else:
        say(str(found))
        say(f"Page: {written}")
    return 0


def _plain(numbers: dict[str, Any]) -> dict[str, Any]:
    """Estimates as plain JSON."""
    return {
        name: dict(zip(("value", "low", "high"), value, strict=True))
        if isinstance(value, tuple)
        else value
        for name, value in numbers.items()
    }


def _sft(rest: list[str]) -> int:
    from actorcritic.language.supervised import SFTSettings, sft

    usage = "language sft --model DIR|new:tiny --data texts.jsonl [--out runs/sft]"
    _, options = read(usage, options_of("sft"), rest, 0)
    needed(usage, options, "model", "data")
    out, command = place(options, "sft", rest)
    trained = sft(
        options.model,
        options.data,
        as_settings(SFTSettings, options, out=out),
        evaluation=options.evaluation,
        dtype=options.dtype,
    )
    if not trained.finished:
        return stopped(command)
    last, first = trained.metrics[-1], trained.metrics[0]
    found = trained.evaluations[-1] if trained.evaluations else {}
    held = f", held-out {found['evaluation_loss']:.3f}" if found else ""
    said = f"loss {first['loss']:.3f} → {last['loss']:.3f}{held} (nats a token)"
    say(f"sft: {trained.steps:,} steps, {said}")
    say(f"Model folder: {out}   metrics: {out / 'metrics.csv'}")
    say(f'Next:         actorcritic language generate --model {shlex.quote(str(out))} --prompt "…"')
    return 0


def _generate(rest: list[str]) -> int:
    usage = 'language generate --model DIR --prompt "…" [--prompts FILE]'
    _, options = read(usage, options_of("generate"), rest, 0)
    needed(usage, options, "model")
    if not options.prompt and options.prompts is None:
        raise UserError('generate needs something to continue: --prompt "…" or --prompts FILE.')

    from actorcritic.language.data import prompts_of
    from actorcritic.language.model import Model
    from actorcritic.runs.console import working
    from actorcritic.runs.run import prepare_jax

    prepare_jax()
    prompts: list[Any] = list(options.prompt)
    if options.prompts is not None:
        prompts += prompts_of(options.prompts)
    asked = [
        [{"role": "user", "content": p}] if options.chat and isinstance(p, str) else p
        for p in prompts
    ]
    with working(f"Reading {options.model}", quiet=options.quiet):
        model = Model.load(options.model, dtype=options.dtype)
    with working(f"Answering {len(prompts):,} prompts", quiet=options.quiet) as tell:
        answers = model.generate(
            asked,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
            batch_size=options.batch_size,
            tell=tell,
        )
    for prompt, answer in zip(prompts, answers, strict=True):
        if options.json:
            say(json.dumps({"prompt": prompt, "response": answer}, ensure_ascii=False))
        else:
            shown = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", ""))
            say(f"> {shown}\n{answer}\n")
    return 0


# ------------------------------------------------------------------------------------ shared


def needed(usage: str, options: Any, *names: str) -> None:
    """UserError for the first of these options that was not given."""
    for name in names:
        if getattr(options, name) is None:
            raise UserError(f"--{name.replace('_', '-')} is missing. Usage: actorcritic {usage}")


def place(options: Any, task: str, rest: list[str]) -> tuple[Path, str]:
    """The folder of a training, and the command that goes on in it."""

    words = ["actorcritic", "language", task, *rest]
    if options.out is not None:
        return options.out, shlex.join(words)
    out = free_folder(task)
    return out, shlex.join([*words, "--out", str(out)])


def stopped(command: str) -> int:
    say(f"Stopped and saved. Go on with: {command}")
    return 130


class Task(NamedTuple):
    call: Callable[[list[str]], int]
    meaning: str
    modules: tuple[str, ...]  # that it imports


_SUPERVISED = "actorcritic.language.supervised"
_MODEL = ("actorcritic.language.model", "actorcritic.runs.run", "tyro")
TASKS: dict[str, Task] = {
    "sft": Task(
        _sft,
        "learn texts, answers to prompts, or chats",
        (_SUPERVISED, *_MODEL),
    ),
    "reward": Task(
        _reward, "learn a reward model from preferences", ("actorcritic.language.tuning", *_MODEL)
    ),
    "ppo": Task(_ppo, "tune to a reward by PPO", ("actorcritic.language.tuning", *_MODEL)),
    "dpo": Task(_dpo, "tune to preferences by DPO", ("actorcritic.language.tuning", *_MODEL)),
    "generate": Task(_generate, "continue prompts", _MODEL),
    "evaluate": Task(
        _evaluate,
        "reward, KL and length of what is said",
        ("actorcritic.language.evaluation", *_MODEL),
    ),
    "sycophancy": Task(
        _sycophancy,
        "how often a model agrees with what is false",
        ("actorcritic.language.agreement", *_MODEL),
    ),
}


def language(rest: list[str]) -> int:
    """One task of `actorcritic language`."""
    if not rest or asks_for_help(rest[:1]):
        say("Usage: actorcritic language TASK [options]\n")
        for name, task in TASKS.items():
            say(f"  {name:<12} {task.meaning}")
        say("\nHelp on one: actorcritic language sft --help")
        return 0
    if rest[0] not in TASKS:
        raise UserError(
            f"There is no task '{rest[0]}' of language.{nearest(rest[0], TASKS)} Known: "
            f"{', '.join(TASKS)}."
        )
    return TASKS[rest[0]].call(rest[1:])
