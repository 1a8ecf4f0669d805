"""A page of decisions, with the version that made it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

from actorcritic.figures import html


def write(
    path: Path,
    title: str,
    sections: Sequence[html.Section],
    command: str | None = None,
    summary: Sequence[str] = (),
) -> Path:
    versions = {"actorcritic": importlib.metadata.version("actorcritic")}
    return html.write(path, title, sections, command=command, versions=versions, summary=summary)
