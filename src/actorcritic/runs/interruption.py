"""Ctrl-C and SIGTERM: save and stop, and only then end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from actorcritic.core.waiting import leaving

_came: list[int] = []  # before anything was interruptible


def interrupt(number: int, frame: Any) -> None:
    """Raise KeyboardInterrupt, and remember it: a callback inside of C code may lose it."""
    _came.append(number)
    raise KeyboardInterrupt


class Interruption:
    """Whether Ctrl-C or SIGTERM came. The first asks to save and stop; a second stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._at_once = False

    def __call__(self) -> bool:
        return self.signal is not None

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """In here, the first one raises KeyboardInterrupt, and so does one that came before."""
        if self():
            raise KeyboardInterrupt
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    @contextlib.contextmanager
    def beginning(self) -> Iterator[None]:
        """In here, nothing is trained yet: whoever waits for a program leaves as soon as it came.

        Nothing is raised anywhere else, where code in C may lose it.
        """
        try:
            with leaving(self):
                yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                "stopped while compiling. Nothing is lost: to go on, repeat the command."
            ) from None

    def _handle(self, number: int, frame: Any) -> None:
        again, self.signal = self() or self._at_once, number
        if again:
            raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """In here, Ctrl-C and SIGTERM ask to save and stop.

    After a SIGTERM, which schedulers and containers send before they kill, the signal is given on
    at the end: it ends the process, unless the program has a handler of its own.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interruption._handle) for number in numbers}
    if _came:
        interruption.signal = _came.pop()
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if interruption.signal == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
