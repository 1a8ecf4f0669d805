"""Hyperparameters: one line each holds the default, the meaning and the range.

`@hyperparameters` makes a frozen dataclass that is also a pytree: fields annotated `float` are
leaves, so a sweep over them needs no recompilation; everything else is static.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

import jax
import numpy as np

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.words import nearest, whole

T = TypeVar("T", bound=type)
INTERVAL = re.compile(r"[(\[]\s*[-+.\deinf]+\s*,\s*[-+.\deinf]+\s*[)\]]")


def hyperparameter(
    default: Any, meaning: str, within: str | None = None, *, or_function: bool = False
) -> Any:
    """A dataclass field. `within` is an interval such as "(0, 1]", checked by `check`.

    `or_function` says that Python may give a function of the progress (0 to 1) in its place.
    """
    if within is not None and not (isinstance(within, str) and INTERVAL.fullmatch(within)):
        raise UserError(f"`within` must be an interval, as '(0, 1]' or '[0, 1e6]'; got {within!r}.")
    about = {"meaning": meaning, "within": within, "or_function": or_function}
    return dataclasses.field(default=default, metadata=about)


@dataclass_transform(frozen_default=True)
def hyperparameters(cls: T) -> T:
    """Class decorator: a frozen dataclass, registered as a pytree."""
    if not isinstance(cls, type):
        raise UserError(f"@hyperparameters stands above a class; got {cls!r}.")
    for name, value in vars(cls).items():
        if isinstance(value, dataclasses.Field) and name not in vars(cls).get(
            "__annotations__", {}
        ):
            raise UserError(
                f"{cls.__name__}.{name} has no type. Write one behind its name, as "
                f"{name}: float = hyperparameter(…)."
            )
    cls = dataclasses.dataclass(frozen=True)(cls)  # type: ignore[assignment]
    _name_unknown(cls)
    kinds = get_type_hints(cls)
    leaves = [f.name for f in dataclasses.fields(cls) if kinds[f.name] in (float, float | None)]
    static = [f.name for f in dataclasses.fields(cls) if f.name not in leaves]
    _register(cls, leaves, static)
    return cls


def _register(cls: Any, leaves: Sequence[str], static: Sequence[str]) -> None:
    """As a pytree whose structure tells its class.

    Not `jax.tree_util.register_dataclass`: in JAX 0.10, two dataclasses of one form have structures
    that are equal, so that now and then `jax.jit` ran a variant by the program of its base class.
    """
    keys = [jax.tree_util.GetAttrKey(name) for name in leaves]

    def parts(x: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple([getattr(x, n) for n in leaves]), tuple([getattr(x, n) for n in static])

    def with_keys(x: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        values, aside = parts(x)
        return tuple(zip(keys, values, strict=True)), aside

    def made(aside: tuple[Any, ...], values: Iterable[Any]) -> Any:
        named = dict(zip(static, aside, strict=True))
        return cls(**named, **dict(zip(leaves, values, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, with_keys, made, parts)


def _name_unknown(cls: Any) -> None:
    """Let the constructor name the nearest hyperparameter where one does not exist."""
    plain = cls.__init__

    @functools.wraps(plain)
    def __init__(self: Any, *values: Any, **named: Any) -> None:
        try:
            plain(self, *values, **named)
        except TypeError:
            for name in named:
                check_known(type(self), name)
            raise

    cls.__init__ = __init__


def replace(settings: Any, **changes: Any) -> Any:
    """`dataclasses.replace` that names the nearest field when one does not exist."""
    if isinstance(settings, type):
        raise UserError(
            f"An algorithm is an object, and {settings.__name__} is a class; write "
            f"{settings.__name__}()."
        )
    if not dataclasses.is_dataclass(settings):
        raise UserError(
            f"Expected an algorithm, as PPO() or 'ppo'; got {settings!r}. It has no "
            f"hyperparameters {', '.join(changes)}."
        )
    for name in changes:
        check_known(type(settings), name)
    changed: Any = settings
    return dataclasses.replace(changed, **changes)


def check_known(cls: type, name: str) -> None:
    """UserError, with the nearest name, where a class has no hyperparameter of this one."""
    known = [f.name for f in dataclasses.fields(cls)]
    if name not in known:
        bare = "__dataclass_params__" not in vars(cls)
        hint = " Put @hyperparameters above the class, if it is one of its own." if bare else ""
        raise UserError(
            f"{cls.__name__} has no hyperparameter '{name}'."
            f"{nearest(name, known)}{hint} It has: {', '.join(known)}."
        )


def made(cls: type) -> Any:
    """An object of the class, with its defaults."""
    try:
        return cls()
    except TypeError as error:
        raise UserError(
            f"{cls.__name__} cannot be made without arguments ({error}). Give each hyperparameter "
            "a default."
        ) from error


def is_plain(kind: Any) -> bool:
    """Can a value of this type be written on a command line, and in run.json?"""
    if get_origin(kind) in (Literal, tuple):
        return True
    parts = get_args(kind) or (kind,)
    return all(
        part in (bool, int, float, str, type(None)) or get_origin(part) in (Literal, tuple)
        for part in parts
    )


def parse(cls: type, name: str, text: str) -> Any:
    """The value that `text` stands for in a field: 0.5, 64x64, true, none, or one of its names."""
    check_known(cls, name)
    kind = get_type_hints(cls)[name]
    options = get_args(kind) or (kind,)
    word = text.strip().lower()
    if word == "none" and type(None) in options:
        return None
    if bool in options and word in ("true", "false"):
        return word == "true"
    try:
        if get_origin(kind) is tuple:
            return tuple(whole(part) for part in word.split("x")) if word != "none" else ()
        if float in options:
            return float(word)
        if int in options:
            return whole(word)
    except ValueError:
        expected = "a number" if float in options else "a whole number"
        if get_origin(kind) is tuple:
            expected = "whole numbers, as 64x64"
        raise UserError(f"{cls.__name__}.{name} must be {expected}; got '{text}'.") from None
    return text  # `check` knows what a name may be


MOST_LAYERS = 100  # of a network, or entries of another tuple


def _inside(value: Any, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value > low if interval[0] == "(" else value >= low
    below = value < high if interval[-1] == ")" else value <= high
    return above and below


def check(settings: Any, owner: str | None = None) -> None:
    """Raise UserError for the first hyperparameter of the wrong type or out of its range.

    Messages begin with `owner`, by default the name of the class.
    """
    prefix = f"{type(settings).__name__}." if owner is None else owner
    kinds = get_type_hints(type(settings))
    for f in dataclasses.fields(settings):
        value, kind = getattr(settings, f.name), kinds[f.name]
        options, name = get_args(kind), f"{prefix}{f.name}"
        if value is None and type(None) in options:
            continue
        if callable(value) and f.metadata.get("or_function"):
            _check_function(name, value)
            continue
        if options and all(isinstance(option, str) for option in options):
            if value not in options:
                raise UserError(
                    f"{name} must be one of {', '.join(map(repr, options))}; "
                    f"got {value!r}.{nearest(str(value), options)}"
                )
            continue
        if get_origin(kind) is tuple:
            if not isinstance(value, tuple) or not all(type(x) is int and x > 0 for x in value):
                raise UserError(
                    f"{name} must be a tuple of positive whole numbers, as (64, 64); got {value!r}."
                )
            if len(value) > MOST_LAYERS:
                raise UserError(
                    f"{name} has {len(value):,} entries; at most {MOST_LAYERS} are possible."
                )
            continue
        number = float if float in (kind, *options) else int if int in (kind, *options) else None
        if number is not None:
            check_number(name, value, number, f.metadata.get("within"))
        elif Path in options:
            files.as_path(value, name)
        elif _is_mapping(kind) and not (
            isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        ):
            raise UserError(f"{name} must be a dict of names and values; got {value!r}.")
        elif kind is bool and not isinstance(value, bool):
            raise UserError(f"{name} must be True or False; got {value!r}.")


def _is_mapping(kind: Any) -> bool:
    return any(get_origin(part) is Mapping for part in (kind, *get_args(kind)))


def _check_function(name: str, function: Any) -> None:
    """UserError where a function of the progress gives no finite number for a number."""
    try:
        found = np.asarray(function(np.float32(0.5)), float)
        good = found.shape == () and bool(np.isfinite(found))
    except (TypeError, ValueError) as error:
        good, found = False, error  # type: ignore[assignment]
    if not good:
        raise UserError(
            f"{name} must be a function from the progress (0 to 1) to a factor, such as "
            f"lambda p: 1 - p; for 0.5 it gave {found}."
        )


def check_number(name: str, value: Any, kind: type, within: str | None) -> None:
    """Raise UserError where a value is no number of this kind, or outside of the interval."""
    accepted = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, accepted):
        expected = "a whole number" if kind is int else "a number"
        raise UserError(f"{name} must be {expected}; got {value!r}.")
    if within and not (math.isfinite(value) and _inside(value, within)):
        raise UserError(f"{name} must lie in {within}; got {value}.")
    if math.isnan(value):
        raise UserError(f"{name} must be a number; got nan.")
