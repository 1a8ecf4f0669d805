"""Which parameter, attribute or global of a function is which of our roles, by its name."""

from __future__ import annotations

import difflib
import inspect
import re
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from actorcritic.audit.calling.containers import Container, held_in
from actorcritic.audit.calling.functions import (
    attributes_read,
    globals_read,
    name_of,
    one_line,
    root,
    underlying,
)
from actorcritic.audit.findings import CannotCall


class Case:
    """Everything a function may want, as attributes under any usual name. Notes what was read."""

    def __init__(self, values: Mapping[str, Any], roles: Mapping[str, tuple[str, ...]]) -> None:
        self._values, self._roles, self._read = values, roles, set[str]()

    def __getattr__(self, name: str) -> Any:
        role = name if name in self._values else match_name(name, self._roles)
        if role is None or role not in self._values:
            raise AttributeError(f"a case has no '{name}'; it has: {', '.join(self._values)}")
        self._read.add(role)
        return self._values[role]


class Matched(NamedTuple):
    """Which of our roles goes where."""

    parameters: dict[str, str]  # our role → the user's parameter
    attributes: dict[str, str]  # our role → an attribute of the instance whose method it is
    constants: dict[str, float]  # our role → the value of a global of that name that it reads
    left: tuple[str, ...]  # parameters that keep their defaults
    takes_case: bool  # it takes one `Case`
    roles: Mapping[str, tuple[str, ...]]  # that were looked for
    containers: Mapping[str, Container] = types.MappingProxyType({})  # parameters that hold roles

    @property
    def held(self) -> frozenset[str]:
        """The roles that stand inside of a batch, a memory or the like."""
        return frozenset(role for c in self.containers.values() for role in c.roles.values())

    @property
    def names(self) -> dict[str, str]:
        """Our role → what they call it."""
        held = {role: n for c in self.containers.values() for n, role in c.roles.items()}
        return held | self.parameters | self.attributes

    def takes(self, role: str) -> bool:
        """Whether the function is given this role; one that takes the case may use any."""
        return self.takes_case or role in self.names

    def describe(self) -> str:
        """In words, for the report and for messages."""
        if self.takes_case:
            return "one case object"
        said = [
            theirs if theirs == ours else f"{theirs} as {ours}"
            for ours, theirs in self.parameters.items()
        ]
        said += [c.describe(name) for name, c in self.containers.items()]
        said += [f"self.{theirs} set to {ours}" for ours, theirs in self.attributes.items()]
        said += [f"{ours} = {value:g} from the module" for ours, value in self.constants.items()]
        said += [f"{name} left at its default" for name in self.left]
        return ", ".join(said) or "nothing"


_AFFIXES = re.compile(
    r"^(b|mb|batch|minibatch|the|all|rollout|traj|trajectory)_"
    r"|_(t|tm1|b|batch|buf|buffer|arr|array|tensor|list|seq|traj|np|th|vec|vector)$"
)


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _bare(name: str) -> str:
    name = name.strip("_").lower()
    while (shorter := _AFFIXES.sub("", name)) != name and shorter:
        name = shorter
    return name.replace("_", "")


def _singular(name: str) -> str:
    return _bare(name).rstrip("s")


def match_name(
    name: str, roles: Mapping[str, tuple[str, ...]], taken: Collection[str] = ()
) -> str | None:
    """The role that a name usually stands for: read literally first, then ever more loosely."""
    for reading in (_plain, _bare, _singular):
        for role, usual in roles.items():
            known = {reading(word) for word in (role, *usual)}
            if role not in taken and reading(name) in known:
                return role
    return None


def recognise(
    function: Callable[..., Any],
    roles: Mapping[str, tuple[str, ...]],
    mapping: Mapping[str, str] | None = None,
) -> Matched:
    """Which parameter of `function` is which of our `roles` (role → its usual names).

    `mapping` (their name → our role) comes first. A parameter with a default that no role fits
    keeps it; one without must be mapped, or the function cannot be called.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise CannotCall(f"{name_of(function)} has no signature: {one_line(error)}") from error
    matched: dict[str, str] = {}
    attributes: dict[str, str] = {}
    reads = attributes_read(function)
    for name, ours in (mapping or {}).items():
        theirs = name.removeprefix("self.")
        if theirs not in parameters and theirs not in reads:
            raise CannotCall(
                f"{name_of(function)} has no parameter '{theirs}' to map. "
                f"It has: {', '.join(parameters)}."
            )
        role = ours if ours in roles else match_name(ours, roles)
        if role is None:
            raise CannotCall(
                f"--map {theirs}={ours}: there is no '{ours}'. Known: {', '.join(roles)}."
            )
        (matched if theirs in parameters else attributes)[role] = theirs

    def free(name: str) -> str | None:
        role = match_name(name, roles)
        return None if role in matched or role in attributes else role

    missing, left, containers = [], [], {}
    for name in [name for name in parameters if name not in matched.values()]:
        parameter = parameters[name]
        role = match_name(name, roles, matched)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if role is not None:
            matched[role] = name
        elif parameter.default is parameter.empty:
            missing.append(name)
        else:
            left.append(name)
    for name in list(missing):
        if (container := held_in(underlying(function), name, free)) is not None:
            containers[name] = container
            missing.remove(name)
    if len(missing) == 1 and not matched and not containers:
        return Matched({}, {}, {}, tuple(left), True, roles)
    if missing:
        tried = ", ".join(f"{theirs}={ours}" for ours, theirs in matched.items())
        likely = _likely(missing[0], roles, matched)
        proposed = f"perhaps --map {missing[0]}={likely}; else " if likely else ""
        raise CannotCall(
            f"{name_of(function)}: what is its parameter '{missing[0]}'? "
            f"Add {proposed}--map {missing[0]}=NAME, with NAME one of: {', '.join(roles)}. "
            f"Tried: {tried or 'nothing'}."
        )
    for name in reads:
        if (role := free(name)) is not None:
            attributes[role] = name
    constants: dict[str, float] = {}
    for name, value in globals_read(function).items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and (role := free(name)) is not None:
            constants.setdefault(role, float(value))
    return Matched(matched, attributes, constants, tuple(left), False, roles, containers)


def _likely(name: str, roles: Mapping[str, tuple[str, ...]], taken: Collection[str]) -> str | None:
    """The role whose usual names a name resembles most."""
    usual = {_plain(word): role for role, words in roles.items() for word in (role, *words)}
    free = [word for word, role in usual.items() if role not in taken]
    close = difflib.get_close_matches(_plain(name), free, 1, 0.7)
    return usual[close[0]] if close else None


def names_taken(function: Callable[..., Any]) -> list[str]:
    """The parameters, and the names of what is taken out of those that are batches."""
    names = list(inspect.signature(function).parameters)
    for name in list(names):
        container = held_in(underlying(function), name, lambda inside: inside)
        names += container.names if container is not None else ()
    return names


_NETWORK = re.compile(
    r"^((policy|actor|critic|value|q)_?)?(net|network|model|nn)$|^(actor_critic|agent|actor|critic)$"
)


def takes_network(function: Callable[..., Any]) -> bool:
    """Whether it is given a network of PyTorch, and states for it."""
    inside = names_taken(function)
    states = any(match_name(n, {"states": ("obs", "observations", "observation")}) for n in inside)
    uses = {root(value) for value in globals_read(function).values()}
    names = inspect.signature(function).parameters
    return states and "torch" in uses and any(_NETWORK.match(name) for name in names)
