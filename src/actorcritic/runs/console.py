"""What a person sees while a run goes on: a progress line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from actorcritic.core.words import printable
from actorcritic.runners.session import Report

LINES_EVERY = 10.0  # seconds, where there is no terminal to redraw


def duration(seconds: float) -> str:
    """ "1 h 02 min", "3 min 05 s" or "12 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def warn(text: str) -> None:
    print(printable(f"Warning: {text}"), file=sys.stderr)


class TrainingDisplay:
    """Progress of a training over all its seeds, with steps/s, recent return and time left."""

    def __init__(self, title: str, total_steps: int, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._title, self._total = printable(title), total_steps
        self._earlier = self._done = 0
        self._seconds = 0.0
        self._returns = np.zeros(0)
        self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task(self._title, total=total_steps, numbers="compiling …")

    def __enter__(self) -> TrainingDisplay:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:  # elsewhere, stopping would print an empty line
            self._bar.stop()

    def advance(self, steps: int, report: Report | None = None) -> None:
        """So many more steps, of all seeds together; without a report, made in an earlier life."""
        self._done += steps
        if report is None:
            self._earlier += steps
            self._bar.update(self._task, completed=self._done)
            return
        self._seconds += report.seconds
        self._returns = np.concatenate([self._returns, report.episodes.returns])[-100:]
        numbers = self._numbers()
        self._bar.update(self._task, completed=self._done, numbers=numbers)
        if not self.console.is_terminal and time.monotonic() - self._last_line > LINES_EVERY:
            self._last_line = time.monotonic()
            self.say(f"{self._title}: {self._done:,} of {self._total:,} steps, {numbers}")

    def now(self, title: str) -> None:
        """What of a larger whole is trained from here on."""
        self._title, self._returns = printable(title), np.zeros(0)
        self._bar.update(self._task, description=self._title)

    def say_what(self, activity: str) -> None:
        """What goes on beside training, shown in the place of its numbers."""
        self._bar.update(self._task, numbers=activity)

    def say(self, text: str) -> None:
        self.console.print(printable(text), markup=False, soft_wrap=True)

    def _numbers(self) -> str:
        rate = (self._done - self._earlier) / max(self._seconds, 1e-9)
        left = duration((self._total - self._done) / rate) if rate else "?"
        reached = f"return {self._returns.mean():.1f}, " if len(self._returns) else ""
        return f"{reached}{rate:,.0f} steps/s, {left} left"
