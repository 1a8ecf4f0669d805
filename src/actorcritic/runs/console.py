"""What a person sees while something goes on: a line that moves in a terminal or a notebook, plain
lines elsewhere.
"""

from __future__ import annotations

import contextlib
import html
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.table import Column

from actorcritic.core.words import printable
from actorcritic.runners.session import Report

LINES_EVERY = 10.0  # seconds, where there is nothing to redraw
PATIENCE = 1.0  # seconds after which a plain line says what goes on
NARROW = 100  # columns of a terminal: with fewer, a bar would leave no room for what it says
BAR = 30  # columns


def duration(seconds: float) -> str:
    """ "1 h 02 min", "3 min 05 s" or "12 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def warn(text: str) -> None:
    print(printable(f"Warning: {text}"), file=sys.stderr)


def moves(console: Console) -> bool:
    """Whether a line can be drawn again in its place."""
    return console.is_terminal and not console.is_dumb_terminal


@contextlib.contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Say what goes on, on stderr, as long as it goes on. What is yielded says how far it is."""
    console, what = Console(stderr=True, quiet=quiet, highlight=False), printable(what)
    if not moves(console):
        text = f"{what} …"
        late = threading.Timer(PATIENCE, partial(console.print, text, markup=False, soft_wrap=True))
        late.start()
        try:
            yield lambda text: None
        finally:
            late.cancel()
        return
    columns = SpinnerColumn("line"), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=console, transient=True) as line:
        task = line.add_task(f"{what} …")

        def say(text: str) -> None:
            line.update(task, description=f"{what}: {printable(text)}")

        yield say


class TrainingDisplay:
    """Progress of a training over all its seeds, with steps/s, recent return and time left."""

    def __init__(
        self, title: str, total_steps: int, quiet: bool = False, unit: str = "steps"
    ) -> None:
        self._unit = unit
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._title, self._total = printable(title), total_steps
        self._earlier = self._done = 0
        self._seconds = 0.0
        self._returns = np.zeros(0)
        self._reached = ""
        self._last_line = time.monotonic()
        self._moves = moves(self.console) and not quiet
        self._notebook = None if quiet else _in_notebook()
        self._activity = "compiling …"
        self._late: threading.Timer | None = None
        columns = [
            SpinnerColumn("line"),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            BarColumn(bar_width=BAR),
            TaskProgressColumn(table_column=Column(no_wrap=True, min_width=4)),
            TextColumn("{task.fields[numbers]}", markup=False, table_column=Column(no_wrap=True)),
        ]
        self._narrow = self.console.width < NARROW
        if self._narrow:
            del columns[2]
        self._bar = Progress(*columns, console=self.console, transient=True, expand=self._narrow)
        self._task = self._bar.add_task(
            # A little more than all: the line moves until the evaluation is done.
            self._title,
            total=total_steps * (1 + 1e-9),
            numbers=self._numbers(),
        )

    def __enter__(self) -> TrainingDisplay:
        if self._moves:
            self._bar.start()
        self._announce()
        return self

    @property
    def _shows_lines(self) -> bool:
        return not self._moves and self._notebook is None and not self.console.quiet

    def _announce(self) -> None:
        """Where nothing moves, say in a second what goes on, if it still does."""

        def say() -> None:
            if self._activity:
                self.say(f"{self._title}: {self._activity}")

        if self._late is not None:
            self._late.cancel()
        if self._shows_lines:
            self._late = threading.Timer(PATIENCE, say)
            self._late.daemon = True
            self._late.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._late is not None:
            self._late.cancel()
        if error is None:
            self._activity = "done"
            self._draw()
        if self._moves:  # elsewhere, stopping would print an empty line
            self._bar.stop()

    def advance(self, steps: int, report: Report | None = None) -> None:
        """So many more steps, of all seeds together; without a report, made in an earlier life."""
        self._done += steps
        if report is None:
            self._earlier += steps
            self._draw()
        else:
            self._returns = np.concatenate([self._returns, report.episodes.returns])[-100:]
            said = f"return {self._returns.mean():.1f}" if len(self._returns) else ""
            self._count(report.seconds, said)

    def step(self, steps: int, seconds: float, reached: str) -> None:
        """So many more steps, which took so long, and what they reached, in words."""
        self._done += steps
        self._count(seconds, reached)

    def _count(self, seconds: float, reached: str) -> None:
        self._activity, self._reached = "", reached
        self._seconds += seconds
        self._draw()
        late = time.monotonic() - self._last_line > LINES_EVERY
        if late and self._shows_lines:
            self._last_line = time.monotonic()
            self.say(
                f"{self._title}: {self._done:,} of {self._total:,} {self._unit}, {self._numbers()}"
            )

    def now(self, title: str) -> None:
        """What of a larger whole is trained from here on."""
        self._title, self._returns, self._reached = printable(title), np.zeros(0), ""
        self._draw()

    def say_what(self, activity: str) -> None:
        """What goes on beside training, shown in the place of its numbers."""
        self._activity = activity
        self._draw()
        self._announce()

    def say(self, text: str) -> None:
        self.console.print(printable(text), markup=False, soft_wrap=True)

    def _draw(self) -> None:
        if self._notebook is not None:
            self._notebook.update(_NotebookBar(self._title, self._share, self._numbers()))
        self._bar.update(
            self._task,
            completed=self._done,
            description=self._title,
            numbers=self._numbers(short=self._narrow),
        )

    @property
    def _share(self) -> float:
        return min(1.0, self._done / max(self._total, 1))

    def _numbers(self, *, short: bool = False) -> str:
        if self._activity:
            return self._activity
        rate = (self._done - self._earlier) / max(self._seconds, 1e-9)
        left = f"{duration((self._total - self._done) / rate) if rate else '?'} left"
        if short:
            return left
        reached = f"{self._reached}, " if self._reached else ""
        return f"{reached}{rate:,.{0 if rate >= 10 else 2}f} {self._unit}/s, {left}"


# ------------------------------------------------------------------------------------ notebooks


class _NotebookBar:
    """What a notebook shows of a progress."""

    def __init__(self, title: str, share: float, numbers: str) -> None:
        self._title, self._share, self._numbers = title, share, numbers

    def __repr__(self) -> str:
        return f"{self._title} {self._share:.0%} {self._numbers}"

    def _repr_html_(self) -> str:
        return (
            f"<div>{html.escape(self._title)} "
            f'<progress max="1" value="{self._share:.4f}"></progress> '
            f"{self._share:.0%} {html.escape(self._numbers)}</div>"
        )


def _in_notebook() -> Any:
    """A place in the notebook that this runs in, to draw in again and again; None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    if type(shell).__name__ != "ZMQInteractiveShell":
        return None
    from IPython.display import display

    return display(_NotebookBar("", 0.0, ""), display_id=True)
