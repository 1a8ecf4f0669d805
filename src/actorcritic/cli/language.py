"""`actorcritic language TASK`: language models, from text to answers."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from actorcritic.cli.options import Field, as_settings, asks_for_help, read, with_settings
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


def options_of(task: str) -> type:
    """The options of a task."""
    if task == "generate":
        return _GenerateOptions
    from actorcritic.language.supervised import SFTSettings

    return with_settings(SFTSettings, *SFT)


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
    from actorcritic.cli.commands import new_folder

    words = ["actorcritic", "language", task, *rest]
    if options.out is not None:
        return options.out, shlex.join(words)
    out = new_folder(task)
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
    "generate": Task(_generate, "continue prompts", _MODEL),
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
