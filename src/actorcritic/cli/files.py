"""Options that a file or another run gives: `--config FILE`, `--like RUN`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from actorcritic.cli.options import NOT_OPTIONS
from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.words import shown

WORDS = ("algorithm", "environment")


def with_files(rest: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words and options of `train`, those of files first, so that what is written wins.

    The first result are the algorithm and the environment that files name, if they do.
    """
    words: dict[str, str] = {}
    before: list[str] = []
    written: list[str] = []
    left = list(rest)
    while left:
        word = left.pop(0)
        option, equals, value = word.partition("=")
        if option == "--from":  # a shorter way to write it
            written.append(f"--start-from{equals}{value}")
        elif option in ("--config", "--like"):
            if not equals and not left:
                raise UserError(f"{option} takes a {'file' if option == '--config' else 'run'}.")
            path = Path(value if equals else left.pop(0))
            settings = _of_file(path) if option == "--config" else _of_run(path, rest)
            words |= {name: str(settings.pop(name)) for name in WORDS if name in settings}
            before += list(_as_options(settings, path))
        else:
            written.append(word)
    return [words[name] for name in WORDS if name in words], [*before, *written]


def _of_file(path: Path) -> dict[str, Any]:
    try:
        text = files.text(path)
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as {'JSON' if path.suffix == '.json' else 'TOML'}: {error}."
        ) from None
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold names and values, as total_steps = 100000.")
    return data


def _of_run(path: Path, rest: Sequence[str]) -> dict[str, Any]:
    """What a run was: its algorithm, its environment and how much; not its seeds and folder.

    Where one of these is the user's own, both have to be among the words of the command.
    """
    from actorcritic.runs import configuration

    data = configuration.read(path)
    algorithm, environment = data["algorithm"], data["environment"]
    words = configuration.words_of(data)
    own = bool(configuration.again(data))
    if own and not any(":" in word and not word.startswith("-") for word in rest):
        raise UserError(
            f"{path} was trained with something of your own, and a run never imports code by "
            f"itself. If you trust it, name it: actorcritic train {' '.join(words)} --like {path}"
        )
    found: dict[str, Any] = {} if own else dict(zip(WORDS, words, strict=True))
    found |= {
        "total_steps": data["total_steps"],
        **algorithm["hyperparameters"],
    }
    for name in NOT_OPTIONS:
        found.pop(name, None)
    if environment["host"]:
        found |= {name: environment[name] for name in ("vectorization", "autoreset")}
        found |= {"host": True, "info_metric": environment.get("info_metrics", [])}
    if environment["options"]:
        found["env_option"] = environment["options"]
    return found


def _as_options(settings: Mapping[str, Any], path: Path) -> Iterator[str]:
    """Settings as they would be written."""
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        match value:
            case bool():
                yield option if value else f"--no-{option[2:]}"
            case dict():
                yield option
                yield from (f"{key}={json.dumps(part)}" for key, part in value.items())
            case list() if not value:
                continue
            case list():
                yield option
                yield from map(shown, value)
            case str() | int() | float() | None:
                yield from (option, shown(value))
            case _:
                raise UserError(f"{path}: {name} = {value!r} is no setting that can be written.")
