"""Batches and memories: a parameter that holds several roles, as its function's code shows.

`batch["rewards"]`, `batch.rewards`, `states, actions, rewards = batch`, and
`for state, action, reward in reversed(memory)` say what is in them.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np


class Fields:
    """What is inside: by name, by place, as attributes, or unpacked."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.__dict__.update(columns)

    def __getitem__(self, key: Any) -> Any:
        return self.__dict__[key] if isinstance(key, str) else list(self)[key]

    def __contains__(self, name: str) -> bool:
        return name in self.__dict__

    def __iter__(self) -> Iterator[Any]:
        return iter(self.__dict__.values())

    def __len__(self) -> int:
        return len(self.__dict__)


class Container(NamedTuple):
    """What a parameter holds: columns, or rows of them."""

    names: tuple[str, ...]  # in their order
    roles: Mapping[str, str]  # a name → our role; the other names hold nothing that matters
    rows: bool

    def describe(self, name: str) -> str:
        said = [n if n == r else f"{n} as {r}" for n, r in self.roles.items()]
        return f"{name} {'rows of' if self.rows else 'with'} {', '.join(said)}"

    def filled(self, given: Mapping[str, Any]) -> Any:
        columns: dict[str, Any] = {name: given.get(self.roles.get(name, "")) for name in self.names}
        if not self.rows:
            return Fields(columns)
        long = {n for n, v in columns.items() if isinstance(v, list) or np.ndim(v)}
        return [
            Fields({name: v[i] if name in long else v for name, v in columns.items()})
            for i in range(len(columns[min(long)]))
        ]


def held_in(function: Any, parameter: str, known: Callable[[str], str | None]) -> Container | None:
    """What the code takes out of a parameter; None where that is nothing that is known."""
    tree = source_of(function)
    if tree is None:
        return None
    names, rows = _names(tree, parameter)
    roles: dict[str, str] = {}
    for name in names:
        role = known(name)
        if role is not None and role not in roles.values():
            roles[name] = role
    return Container(tuple(names), roles, rows) if roles else None


def source_of(function: Any) -> ast.AST | None:
    """The syntax of a function, where its source can be read."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None


def _names(tree: ast.AST, parameter: str) -> tuple[list[str], bool]:
    """What is taken out of it, and whether out of each of its rows."""
    nodes = list(ast.walk(tree))

    def attributes(name: str) -> list[str]:
        read = [n for n in nodes if isinstance(n, ast.Attribute) and _is(n.value, name)]
        return list(dict.fromkeys(n.attr for n in read))

    for node in nodes:
        if isinstance(node, (ast.For, ast.comprehension)):
            row = _aligned(node.target, node.iter, parameter)
            if isinstance(row, ast.Tuple):
                return _labels(row), True
            if isinstance(row, ast.Name) and (taken := attributes(row.id)):
                return taken, True
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            if _is(node.value, parameter):
                return _labels(node.targets[0]), False
            spread = [
                a.value for a in getattr(node.value, "args", ()) if isinstance(a, ast.Starred)
            ]
            if spread and _is(spread[0], parameter):  # zip(*memory)
                return _labels(node.targets[0]), True
    keys = [n.slice for n in nodes if isinstance(n, ast.Subscript) and _is(n.value, parameter)]
    named = [k.value for k in keys if isinstance(k, ast.Constant) and isinstance(k.value, str)]
    return list(dict.fromkeys([*attributes(parameter), *named])), False


def _is(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _aligned(target: ast.AST, source: ast.AST, parameter: str) -> ast.AST | None:
    """The part of a loop's target that stands for a row of the parameter."""
    if isinstance(source, ast.Subscript):
        return _aligned(target, source.value, parameter)
    if isinstance(source, ast.Call) and isinstance(source.func, ast.Name):
        parts = target.elts if isinstance(target, ast.Tuple) else []
        pairs = {
            "reversed": zip([target], source.args, strict=False),
            "list": zip([target], source.args, strict=False),
            "enumerate": zip(parts[1:], source.args, strict=False),
            "zip": zip(parts, source.args, strict=False),
        }.get(source.func.id, ())
        found = [_aligned(part, inner, parameter) for part, inner in pairs]
        return next((part for part in found if part is not None), None)
    return target if _is(source, parameter) else None


def _labels(target: ast.Tuple) -> list[str]:
    """Their names, and places for what has none or the same once more."""
    names = [e.id if isinstance(e, ast.Name) else "" for e in target.elts]
    return [n if n and n not in names[:k] else f"_{k}" for k, n in enumerate(names)]
