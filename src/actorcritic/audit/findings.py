"""What an audit says: which checks held, which failed and why, and what conventions it saw."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from actorcritic.core.errors import UserError
from actorcritic.figures.html import Section, Table, write


class CannotCall(UserError):
    """The function could not be called: nothing is known about it (exit code 2)."""


class Finding(NamedTuple):
    """One thing that is wrong."""

    check: str  # its name, as "truncation-bootstraps"
    wrong: str  # one sentence: what is wrong
    effect: str  # one sentence: what that does to learning
    example: str  # the smallest case on which it shows, with expected and actual numbers
    mend: str  # one sentence, or a line of code


@dataclass(frozen=True)
class Report:
    """The outcome of an audit. `ok` where nothing failed."""

    subject: str  # the function's name
    kind: str  # advantages, ppo-loss, …
    passed: tuple[str, ...]  # names of checks that held
    failures: tuple[Finding, ...]
    conventions: tuple[str, ...] = ()  # choices that were recognised, and are not errors
    not_checked: tuple[str, ...] = ()  # with the reason, as "… : the function takes no …"
    called: str = ""  # how: framework, layout, and which parameter was taken for what

    @property
    def ok(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        count = len(self.passed) + len(self.failures)
        head = f"{self.subject}: {self.kind}, {len(self.passed)} of {count} checks hold."
        lines = [head if self.failures else f"{head} Nothing wrong was found."]
        if self.called:
            lines.append(f"Called with {self.called}.")
        lines += [f"Convention: {text}." for text in self.conventions]
        lines += [f"Not checked: {text}." for text in self.not_checked]
        for number, found in enumerate(self.failures, 1):
            example = "\n".join(f"     {line}" for line in found.example.splitlines())
            lines += [
                "",
                f"{number}. {found.check}: {found.wrong}",
                f"   Effect: {found.effect}",
                "   Smallest case:",
                example,
                f"   Mend: {found.mend}",
            ]
        return "\n".join(lines)

    def json(self) -> str:
        data: dict[str, Any] = asdict(self) | {"ok": self.ok}
        data["failures"] = [found._asdict() for found in self.failures]
        return json.dumps(data, indent=1)

    def html(self, path: str | Path) -> Path:
        """Write the report as one HTML page."""
        failed = tuple((f.check, f.wrong, f.effect, f.example, f.mend) for f in self.failures)
        columns = ("check", "what is wrong", "effect", "smallest case", "mend")
        tables = [Table("failures", "What failed", columns, failed)] if failed else []
        held = Table("passed", "What holds", ("check",), tuple((name,) for name in self.passed))
        said = (*self.conventions, *(f"Not checked: {text}" for text in self.not_checked))
        verdict = str(self).splitlines()[0]
        section = Section(self.kind, verdict, said, (), tuple(tables), (held,))
        title = f"Audit of {self.subject}"
        return write(Path(path), title, [section], command=None, versions={}, summary=[self.called])
