"""Batches and memories: a parameter that holds several roles, as its function's code shows.

`batch["rewards"]`, `batch.rewards`, `states, actions, rewards = batch`, and
`for state, action, reward in reversed(memory)` say what is in them.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import namedtuple
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Fields:
    """What is inside, by key and as attributes."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.__dict__.update(columns)

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def __contains__(self, name: str) -> bool:
        return name in self.__dict__


class Container(NamedTuple):
    """What a parameter holds: columns, or rows of them."""

    names: tuple[str, ...]  # in their order
    roles: Mapping[str, str]  # a name → our role; the other names hold nothing that matters
    shape: str  # "fields", "tuple" or "rows"

    def describe(self, name: str) -> str:
        what = "rows of" if self.shape == "rows" else "with"
        said = [n if n == r else f"{n} as {r}" for n, r in self.roles.items()]
        return f"{name} {what} {', '.join(said)}"

    def filled(self, given: Mapping[str, Any]) -> Any:
        columns = {name: given.get(self.roles.get(name, "")) for name in self.names}
        if self.shape != "rows":
            return Fields(columns) if self.shape == "fields" else tuple(columns.values())
        length = next(len(v) for v in columns.values() if v is not None and _long(v))
        made: Any = namedtuple  # whose names are known when it runs
        row = made("row", self.names, rename=True)
        return [
            row(*(v[i] if v is not None and _long(v) else v for v in columns.values()))
            for i in range(length)
        ]


def _long(value: Any) -> bool:
    return isinstance(value, list) or bool(np.ndim(value))


def held_in(function: Any, parameter: str, known: Callable[[str], str | None]) -> Container | None:
    """What the code takes out of a parameter; None where that is nothing that is known."""
    tree = source_of(function)
    if tree is None:
        return None
    names, shape = _names(tree, parameter)
    roles: dict[str, str] = {}
    for name in names:
        role = known(name)
        if role is not None and role not in roles.values():
            roles[name] = role
    return Container(tuple(names), roles, shape) if roles else None


def source_of(function: Any) -> ast.AST | None:
    """The syntax of a function, where its source can be read."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None


def _names(tree: ast.AST, parameter: str) -> tuple[list[str], str]:
    """What is taken out of it, and how."""

    def is_it(node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id == parameter

    def around(node: ast.AST) -> bool:
        """It, or it reversed, enumerated or sliced."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            return node.func.id in ("reversed", "enumerate", "list") and around(node.args[0])
        return is_it(node) or (isinstance(node, ast.Subscript) and around(node.value))

    fields: list[str] = []
    loops = [n for n in ast.walk(tree) if isinstance(n, (ast.For, ast.comprehension))]
    for loop in loops:
        target = _aligned(loop.target, loop.iter, around)
        if isinstance(target, ast.Tuple):
            return _labels(target), "rows"
        if isinstance(target, ast.Name):  # a row, whose attributes are read
            taken = [
                n.attr
                for n in ast.walk(tree)
                if isinstance(n, ast.Attribute)
                and isinstance(n.value, ast.Name)
                and n.value.id == target.id
            ]
            if taken:
                return list(dict.fromkeys(taken)), "rows"
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            if is_it(node.value):
                return _labels(node.targets[0]), "tuple"
            starred = [
                a.value for a in getattr(node.value, "args", []) if isinstance(a, ast.Starred)
            ]
            if starred and is_it(starred[0]):  # zip(*memory)
                return _labels(node.targets[0]), "rows"
        if isinstance(node, ast.Attribute) and is_it(node.value):
            fields.append(node.attr)
        if isinstance(node, ast.Subscript) and is_it(node.value):
            key = node.slice
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                fields.append(key.value)
    return list(dict.fromkeys(fields)), "fields"


def _aligned(target: ast.AST, source: ast.AST, around: Callable[[ast.AST], bool]) -> ast.AST | None:
    """The part of a loop's target that stands for the parameter's rows."""
    if isinstance(source, ast.Call) and isinstance(source.func, ast.Name) and source.args:
        inner = source.args[0]
        if source.func.id == "enumerate" and isinstance(target, ast.Tuple):
            return _aligned(target.elts[1], inner, around)
        if source.func.id in ("reversed", "list"):
            return _aligned(target, inner, around)
        if source.func.id == "zip" and isinstance(target, ast.Tuple):
            for part, each in zip(target.elts, source.args, strict=False):
                if around(each):
                    return part
            return None
    return target if around(source) else None


def _labels(target: ast.Tuple) -> list[str]:
    return [e.id if isinstance(e, ast.Name) else f"_{k}" for k, e in enumerate(target.elts)]
