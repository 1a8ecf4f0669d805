"""What a package offers by name, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from actorcritic.core.errors import UserError
from actorcritic.core.words import nearest


class Entry(NamedTuple):
    """Where something is defined, as "package.module:name" (or a module), and what it is."""

    target: str
    meaning: str  # one line


class Catalogue(Mapping[str, Any]):
    """Things by name. To list them imports nothing; to take one imports its module."""

    def __init__(self, kind: str, entries: Mapping[str, Entry]) -> None:
        self.kind, self.entries = kind, dict(entries)

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = self.entries[name].target.partition(":")
        found = import_module(module)
        return getattr(found, attribute) if attribute else found

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def named(self, name: str) -> Any:
        """The thing of this name, in any case of its letters; UserError with the nearest one."""
        return self[self.known(name)]

    def known(self, name: str) -> str:
        """The name as it is written here; UserError with the nearest one where there is none."""
        if not isinstance(name, str):
            raise UserError(f"Expected the name of a {self.kind}: {', '.join(self)}; got {name!r}.")
        found = next((known for known in self if known.lower() == name.lower()), None)
        if found is None:
            raise UserError(
                f"There is no {self.kind} '{name}'.{nearest(name, self)} Known: {', '.join(self)}."
            )
        return found
