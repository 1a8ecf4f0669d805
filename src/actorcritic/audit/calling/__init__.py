"""Calling anyone's function: which parameter is which, in which framework, and what came back.

Nothing here knows what is audited: the roles a function may take (rewards, values, …) come from
the kind of audit, with the names that people usually give them.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from actorcritic.audit.calling.frameworks import (
    Framework,
    frameworks,
    to_numpy,
    to_numpy_or_none,
)
from actorcritic.audit.calling.functions import (
    BARE,
    literals,
    load,
    load_module,
    name_of,
    note,
    numbers,
    one_line,
    quiet,
    underlying,
)
from actorcritic.audit.calling.parameters import (
    Case,
    Matched,
    match_name,
    names_taken,
    recognise,
    takes_network,
)


@dataclass(frozen=True)
class Returned:
    """What one call gave: its result, and what it was given as it is after the call."""

    result: Any
    given: dict[str, Any] = field(default_factory=dict)  # role → the (perhaps changed) argument
    instance: Any = None  # the copy of the instance whose method was called
    read: frozenset[str] = frozenset()  # the roles that a function of one case looked at

    def outputs(self, length: int | None = None) -> list[tuple[str, np.ndarray]]:
        """The arrays that came back, with their names ('' where they have none).

        `length` is that of the first axis: a list of so many rows is one array, not many.
        """
        result = self.result
        fields = as_mapping(result)
        if fields is not None:
            parts = [(str(name), value) for name, value in fields.items()]
        elif isinstance(result, (list, tuple)) and not _is_array(result, length):
            parts = [("", value) for value in result]
        else:
            return [] if result is None else [("", to_numpy(result))]
        found = []
        for name, value in parts:
            with contextlib.suppress(Exception):
                found.append((name, to_numpy(value)))
        return found


def as_mapping(x: Any) -> Mapping[str, Any] | None:
    """What has names: a mapping, a named tuple, a data class, a namespace."""
    if isinstance(x, Mapping):
        return x
    if hasattr(x, "_asdict"):
        return dict(x._asdict())
    if hasattr(x, "__dataclass_fields__") and not isinstance(x, type):
        return {name: getattr(x, name) for name in x.__dataclass_fields__}
    return vars(x) if isinstance(x, SimpleNamespace) else None


def _is_array(result: list[Any] | tuple[Any, ...], length: int | None) -> bool:
    """Whether a sequence is the rows of one array."""
    right = length in (None, len(result))
    scalars = all(np.ndim(to_numpy_or_none(x)) == 0 for x in result)
    return right and (scalars or (isinstance(result, list) and length is not None))


def call(
    function: Callable[..., Any],
    matched: Matched,
    values: Mapping[str, Any],
    framework: Framework | None = None,
    convert: bool = True,
    whole: Collection[str] = (),
) -> Returned:
    """Call it with these values of our roles; roles that it does not take are left out.

    Arrays become fresh ones of `framework` (unless `convert` is False: then the values are handed
    over as they are, inside the framework's context); those of the roles in `whole` are one tensor
    where the others are lists of them. Numbers stay numbers. Quiet, and the same every time.
    Whatever the function raises is raised here.
    """
    framework = framework or Framework("numpy")
    with framework.context(), quiet():

        def handed(role: str, value: Any) -> Any:
            if not (convert and isinstance(value, np.ndarray)):
                return value
            one = framework.name == "torch-list" and role in whole
            return (Framework("torch", framework.dtype) if one else framework).array(value)

        given = {role: handed(role, v) for role, v in values.items() if matched.takes(role)}
        if matched.takes_case:
            case = Case(given, matched.roles)
            return Returned(_collected(function(case)), given, None, frozenset(case._read))
        target: Any = function
        instance = getattr(function, "__self__", None)
        if matched.attributes or id(instance) in BARE:
            instance = copy.copy(instance)
            for role, name in matched.attributes.items():
                if role in given:
                    setattr(instance, name, given[role])
            target = types.MethodType(function.__func__, instance)  # type: ignore[attr-defined]
        arguments = {p: given[role] for role, p in matched.parameters.items() if role in given}
        arguments |= {p: held.filled(given) for p, held in matched.containers.items()}
        first = [
            arguments.pop(name)
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is parameter.POSITIONAL_ONLY and name in arguments
        ]
        return Returned(_collected(target(*first, **arguments)), given, instance)


def _collected(result: Any) -> Any:
    return list(result) if isinstance(result, Iterator) else result


__all__ = [
    "Case",
    "Framework",
    "Matched",
    "Returned",
    "as_mapping",
    "call",
    "frameworks",
    "literals",
    "load",
    "load_module",
    "match_name",
    "name_of",
    "names_taken",
    "note",
    "numbers",
    "one_line",
    "quiet",
    "recognise",
    "takes_network",
    "to_numpy",
    "to_numpy_or_none",
    "underlying",
]
