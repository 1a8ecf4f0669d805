"""What an audit says: what holds, what is wrong and why, risks, choices, what is not judged."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actorcritic.core.errors import UserError

if TYPE_CHECKING:
    from actorcritic.figures.html import Section

WRONG, RISKY, UNJUDGED = "wrong", "risky", "not judged"
TIME_LIMITS = "a time limit counts as a termination"  # a choice that stands in the headline


class CannotCall(UserError):
    """The function could not be called: nothing is known about it (exit code 2)."""


class Fault(NamedTuple):
    """A row of a table of known mistakes: its name, and what to say about it."""

    check: str  # its name, as "truncation-bootstraps"
    wrong: str  # what is wrong
    effect: str  # one sentence: what that does to learning
    mend: str  # one sentence, or a line of code
    severity: str = WRONG

    def on(self, example: str, **words: Any) -> Finding:
        """The finding, in whole sentences, with the smallest case; `words` fill its {blanks}."""
        first = self.wrong[0].upper() if self.wrong[0].isascii() else self.wrong[0]
        wrong = first + self.wrong[1:] + ("" if self.wrong.endswith(".") else ".")
        said = (wrong, self.effect, self.mend)
        wrong, effect, mend = [text.format(**words) for text in said] if words else said
        return Finding(self.check, wrong, effect, example, mend, self.severity)


class Finding(NamedTuple):
    """One thing that was found."""

    check: str
    wrong: str  # one sentence
    effect: str
    example: str  # the smallest case on which it shows, with expected and actual numbers
    mend: str
    severity: str = WRONG


_PARTS = ("What was found", "Effect", "Smallest case", "Mend")


@dataclass(frozen=True)
class Report:
    """The outcome of an audit. `ok` where it was judged, and nothing is wrong."""

    subject: str  # the function's name
    kind: str  # advantages, ppo-loss, …
    passed: tuple[str, ...]  # names of checks that held
    failures: tuple[Finding, ...] = ()  # what is wrong
    choices: tuple[str, ...] = ()  # conventions that were recognised, and are not errors
    not_checked: tuple[str, ...] = ()  # with the reason, as "… : the function takes no …"
    called: str = ""  # how: framework, layout, and which parameter was taken for what
    risks: tuple[Finding, ...] = ()  # what breaks on unusual inputs: advice
    unjudged: tuple[Finding, ...] = ()  # what agrees with no known definition, right or wrong

    @property
    def ok(self) -> bool:
        return not self.failures and not self.unjudged

    @property
    def judged(self) -> bool:
        return bool(self.failures) or not self.unjudged

    @property
    def findings(self) -> tuple[Finding, ...]:
        return (*self.failures, *self.risks, *self.unjudged)

    def exit_code(self, strict: bool = False) -> int:
        """0 nothing wrong, 1 something is, 2 not judged; `strict`: a risk is wrong."""
        if self.failures or (strict and self.risks):
            return 1
        return 2 if self.unjudged else 0

    @property
    def headline(self) -> str:
        if self.failures:
            count = len(self.passed) + len(self.failures)
            said = f"{len(self.passed)} of {count} checks hold."
        elif self.unjudged:
            said = "not judged. It agrees with no definition that is known here, right or wrong."
        else:
            said = f"{len(self.passed)} checks hold. Nothing wrong was found."
        aloud = [t for t in self.choices if TIME_LIMITS in t or "limits count as term" in t]
        said += "".join(f" But {text}." for text in aloud)
        return f"{self.subject}: {self.kind}, {said}"

    def __str__(self) -> str:
        lines = [self.headline]
        if self.called:
            lines.append(f"Called with {self.called}.")
        lines += [f"Choice: {text}." for text in self.choices]
        lines += [f"Not checked: {text}." for text in self.not_checked]
        for number, finding in enumerate(self.findings, 1):
            example = "\n".join(f"     {line}" for line in finding.example.splitlines())
            mark = "" if finding.severity == WRONG else f"({finding.severity}) "
            lines += ["", f"{number}. {mark}{finding.check}: {finding.wrong}"]
            lines += [f"   Effect: {finding.effect}"] if finding.effect else []
            lines += ["   Smallest case:", example] if example else []
            lines += [f"   Mend: {finding.mend}"] if finding.mend else []
        return "\n".join(lines)

    def json(self) -> str:
        data: dict[str, Any] = asdict(self) | {"ok": self.ok, "judged": self.judged}
        for name in ("failures", "risks", "unjudged"):
            data[name] = [finding._asdict() for finding in getattr(self, name)]
        return json.dumps(data, indent=1)

    def section(self) -> Section:
        """As a part of a page."""
        from actorcritic.figures.html import Section, Table  # which imports JAX

        tables = []
        for number, found in enumerate(self.findings, 1):
            parts = (found.wrong, found.effect, found.example, found.mend)
            rows = tuple((name, text) for name, text in zip(_PARTS, parts, strict=True) if text)
            title = f"{number}. {found.severity}: {found.check}"
            tables.append(Table(f"finding-{number}", title, ("", ""), rows))
        held = Table("passed", "What holds", ("check",), tuple((name,) for name in self.passed))
        headline = " ".join([self.headline, *(found.wrong for found in self.failures)])
        said = (*self.choices, *(f"Not checked: {text}" for text in self.not_checked))
        return Section(self.kind, headline, said, (), tuple(tables), (held,))

    def html(self, path: str | Path, command: str | None = None) -> Path:
        """Write the report as one HTML page; `command` makes it again."""
        return _page(path, self.subject, [self.section()], [self.called], command)


@dataclass(frozen=True)
class Reports:
    """Of all that was recognised in a file or a folder."""

    place: str
    reports: tuple[Report, ...]
    left: tuple[str, ...] = ()  # what was recognised and could not be called, with the reason

    @property
    def ok(self) -> bool:
        return self.exit_code() == 0

    def exit_code(self, strict: bool = False) -> int:
        """1 where something is wrong, 2 where nothing was judged, else 0."""
        codes = [report.exit_code(strict) for report in self.reports]
        return 1 if 1 in codes else 0 if 0 in codes else 2

    @property
    def headline(self) -> str:
        wrong = sum(bool(r.failures) for r in self.reports)
        unjudged = sum(not r.judged for r in self.reports)
        words = f"{len(self.reports)} recognised, {wrong} with something wrong"
        return f"{self.place}: {words}" + (f", {unjudged} not judged." if unjudged else ".")

    def __str__(self) -> str:
        left = [f"Not called: {text}" for text in self.left]
        head = "\n".join([self.headline, *left])
        return "\n\n".join([head, *map(str, self.reports)])

    def json(self) -> str:
        data = {"place": self.place, "ok": self.ok, "not_called": self.left}
        return json.dumps(
            {**data, "reports": [json.loads(r.json()) for r in self.reports]}, indent=1
        )

    def html(self, path: str | Path, command: str | None = None) -> Path:
        """Write the reports as one HTML page; `command` makes it again."""
        sections = [r.section()._replace(title=f"{r.subject}: {r.kind}") for r in self.reports]
        return _page(path, self.place, sections, list(self.left), command)


def _page(
    path: str | Path, of: str, sections: list[Section], summary: list[str], command: str | None
) -> Path:
    from actorcritic.figures.html import write  # which imports JAX

    versions = {"actorcritic": importlib.metadata.version("actorcritic")}
    title = f"Audit of {of}"
    return write(Path(path), title, sections, command=command, versions=versions, summary=summary)


@dataclass
class Ledger:
    """What has been found so far; each check is heard once, so that one cause is told once."""

    passed: dict[str, None] = field(default_factory=dict)
    found: dict[str, Finding] = field(default_factory=dict)
    choices: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)

    def hold(self, *checks: str) -> None:
        self.passed.update(dict.fromkeys(checks))

    def fail(self, fault: Fault, example: str, **words: Any) -> None:
        self.found.setdefault(fault.check, fault.on(example, **words))

    def advise(self, text: str) -> None:
        self.choices.append(f"advice: {text}")

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.found.values() if finding.severity == WRONG]

    def report(self, subject: str, kind: str, called: str) -> Report:
        def of(severity: str) -> tuple[Finding, ...]:
            return tuple(f for f in self.found.values() if f.severity == severity)

        return Report(
            subject,
            kind,
            tuple(check for check in self.passed if check not in self.found),
            of(WRONG),
            tuple(dict.fromkeys(self.choices)),
            tuple(dict.fromkeys(self.not_checked)),
            called,
            of(RISKY),
            of(UNJUDGED),
        )


# ------------------------------------------------------------------------------- numbers as text


def as_numbers(value: Any) -> str:
    """Numbers of few digits, arrays in brackets; words as they are."""
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.ndim:
        return "[" + ", ".join(as_numbers(v) for v in array) + "]"
    if array.dtype.kind != "f":
        return str(array)
    text = f"{float(array):.4f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def listing(given: Iterable[tuple[str, Any]], compared: Sequence[tuple[str, Any, Any]] = ()) -> str:
    """Names and numbers, one a line; then what was expected and what came, one below the other."""
    lines = [(name, as_numbers(value)) for name, value in given]
    for name, expected, actual in compared:
        lines += [
            (f"{name}, expected", as_numbers(expected)),
            (f"{name}, actual", as_numbers(actual)),
        ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
