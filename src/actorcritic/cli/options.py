"""How the words of a command are read: which of them are options, and what options stand for.

The options of a command are the fields of its settings (`runs/settings.py`). They may stand before,
between and after its other words.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from actorcritic.core.errors import UserError
from actorcritic.core.words import nearest, whole

Field = tuple[str, Any, Any]  # name, kind with its meaning, default

HELP = ("-h", "--help")
NOT_OPTIONS = ("network", "axis")  # hyperparameters that only Python can give
# How some settings are written on a command line: name, kind and default there.
AS_WRITTEN: dict[str, tuple[str, Any, Any]] = {
    "evaluation_episodes": ("episodes", int, 100),
    "env_options": ("env_option", tuple[str, ...], ()),
    "thresholds": ("threshold", tuple[float, ...], ()),
    "info_metrics": ("info_metric", tuple[str, ...], ()),
    "seeds": ("seeds", int, None),
    "out": ("out", Path | None, None),
    "data": ("data", str | None, None),
}
ONLY_PYTHON = ("title", "command", "callbacks", "sinks")


# ------------------------------------------------------------------------------------ settings


def fields_of(settings: type) -> list[Field]:
    """The settings of a command as its options."""
    kinds, found = get_type_hints(settings), []
    for f in dataclasses.fields(settings):
        if f.name not in ONLY_PYTHON:
            name, kind, default = AS_WRITTEN.get(f.name, (f.name, kinds[f.name], None))
            meaning = f.metadata["meaning"]
            if f.name == "env_options":
                meaning += ", as gravity=0.0"
            default = f.default if default is None else default
            found.append((name, Annotated[kind, meaning], default))
    return found


def hyperparameters_of(algorithm: Any) -> list[Field]:
    """An option for each hyperparameter of the algorithm that can be written as one."""
    from actorcritic.core.hyperparameters import is_plain

    kinds, found = get_type_hints(type(algorithm)), []
    for f in dataclasses.fields(algorithm):
        if f.name not in NOT_OPTIONS and is_plain(kinds[f.name]):
            within = f.metadata.get("within")
            meaning = f.metadata.get("meaning", "") + (f"; in {within}" if within else "")
            found.append((f.name, Annotated[kinds[f.name], meaning], getattr(algorithm, f.name)))
    return found


def with_settings(settings: type, *others: Field) -> type:
    """The options of a command that takes settings, and others."""
    fields: list[Any] = [
        (name, kind, dataclasses.field(default=default))
        for name, kind, default in (*fields_of(settings), *others)
    ]
    return dataclasses.make_dataclass("Options", fields, frozen=True)


def as_settings(settings: type, options: Any, **more: Any) -> Any:
    """The settings that parsed options stand for."""
    values = {}
    for f in dataclasses.fields(settings):
        if f.name not in ONLY_PYTHON:
            values[f.name] = getattr(options, AS_WRITTEN.get(f.name, (f.name,))[0])
    if "env_options" in values:
        values["env_options"] = _key_values(values["env_options"])
    if "thresholds" in values:
        values["thresholds"] = values["thresholds"] or None
    return settings(**values | more)


def _key_values(pairs: tuple[str, ...]) -> dict[str, Any]:
    options = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise UserError(f"--env-option takes NAME=VALUE; got '{pair}'.")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


# ------------------------------------------------------------------------------------ words


def read(
    usage: str, options: type, rest: Sequence[str], count: int | None = None
) -> tuple[list[str], Any]:
    """The words of a command that are no options, `count` of them or at least one; its options.

    A plea for help prints it and exits with 0. Raises UserError, or exits with 2, where words or
    options are not as `usage` says.
    """
    words, given = split(usage, options, rest, count)
    return words, parse(usage.partition(" [")[0], options, given)


def split(
    usage: str, options: type, rest: Sequence[str], count: int | None = None
) -> tuple[list[str], list[str]]:
    """The same, with the options as they were given."""
    words, given, unknown = separated(rest, options, count)
    if not asks_for_help(given) and (not words if count is None else len(words) != count):
        for name in unknown:  # it may have taken a word for its value
            known = [f"--{_dashed(f.name)}" for f in dataclasses.fields(options)]
            raise UserError(f"There is no option '{name}'.{nearest(name, known)} See --help.")
        raise UserError(f"Usage: actorcritic {usage}")
    return words, given


BOOLEANS = ("true", "false")


def asks_for_help(words: Iterable[str]) -> bool:
    return not set(HELP).isdisjoint(words)


def separated(
    rest: Sequence[str], options: type, count: int | None = None
) -> tuple[list[str], list[str], list[str]]:
    """The words that are no options; the options with their values; and the unknown options.

    There are to be `count` words, if that is known: any more are values. What may be given several
    times, as `--vary`, comes once, with all its values. Whole numbers come as digits.
    """
    kinds = _kinds(options)
    words: list[str] = []
    given: list[str] = []
    unknown: list[str] = []
    several: dict[str, list[str]] = {}
    left = list(rest)
    while left:
        word = left.pop(0)
        if not _is_option(word):
            words.append(word)
            continue
        name, equals, value = word.partition("=")
        kind = kinds.get(_dashed(name).removeprefix("--"))
        if kind is bool and ((value if equals else left[0] if left else "").lower() in BOOLEANS):
            said = value if equals else left.pop(0)  # --share-policy false is --no-share-policy
            name = _dashed(name).removeprefix("--")
            given.append(f"--{name}" if said.lower() == "true" else f"--no-{name}")
            continue
        if name in HELP or kind is bool or _negated(name, kinds):
            given.append(word)
            continue
        element = get_args(kind)[0] if get_origin(kind) is tuple else None
        values = [value] if equals else []
        while (
            left
            and not _is_option(left[0])
            and (not values or _fits(left[0], element, len(words) == count))
        ):
            values.append(left.pop(0))
        if _is_whole(kind):
            values = [_digits(name, text) for text in values]
        if element is not None:
            several.setdefault(name, []).extend(values)
            continue
        unknown += [name] * (kind is None)
        given += [name, *values] if not equals else [f"{name}={values[0]}", *values[1:]]
    for name, values in several.items():
        given += [name, *values]
    return words, given, unknown


def _kinds(options: type) -> dict[str, Any]:
    """What each option takes, by its name as it is written."""
    hints = get_type_hints(options)
    return {_dashed(f.name): hints[f.name] for f in dataclasses.fields(options)}


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _is_option(word: str) -> bool:
    """A negative number is none, nor is "-" alone."""
    return word.startswith("-") and word != "-" and not _is_number(word)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _fits(word: str, element: Any, is_last: bool) -> bool:
    """Whether a word is one more value of an option that takes several; `is_last` where no other
    words are to come.
    """
    if element in (int, float):
        return _is_number(word)
    return element is str and ("=" in word or is_last)


def _negated(name: str, kinds: dict[str, Any]) -> bool:
    return name.startswith("--no-") and kinds.get(_dashed(name).removeprefix("--no-")) is bool


def _is_whole(kind: Any) -> bool:
    return kind is int or (
        get_origin(kind) in (Union, types.UnionType) and set(get_args(kind)) == {int, type(None)}
    )


def _digits(name: str, text: str) -> str:
    """A whole number as Python reads it: 1e5 is 100000."""
    if text.lower() == "none":
        return "None"
    try:
        return str(whole(text))
    except ValueError:
        raise UserError(
            f"{name} must be a whole number, as 100000, 100_000 or 1e5; got '{text}'."
        ) from None


def parse(command: str, options: type, given: Iterable[str]) -> Any:
    """The options of a command, by tyro; a mistake prints its explanation and exits with 2."""
    import tyro

    kinds = get_type_hints(options, include_extras=True)
    fields = []
    for f in dataclasses.fields(options):
        kind, meaning = get_args(kinds[f.name])[:2]
        annotated: Any = Annotated[kind, tyro.conf.arg(help=meaning)]  # type: ignore[valid-type]
        fields.append((f.name, annotated, dataclasses.field(default=f.default)))
    # Made anew, because its help has to come from the table above and not from a docstring.
    cls = dataclasses.make_dataclass("Options", fields, frozen=True)
    return tyro.cli(cls, prog=f"actorcritic {command}", args=list(given))


def free_folder(stem: str) -> Path:
    """The first folder below runs/ that nobody has, with a number behind its name."""
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in stem)
    number = 1
    while (Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return Path("runs") / f"{stem}-{number}"
