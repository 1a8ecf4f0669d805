"""Work in another thread, so that the one that waits for it can be told to stop.

A thread that is inside of XLA hears no signal until it comes out again, which may take a minute.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")

OFTEN = 0.1  # seconds between two looks at whether to stop
_stopped: Callable[[], bool] | None = None


def beside(call: Callable[[], Result]) -> Future[Result]:
    """Call in another thread."""
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work).start()
    return future


def wait_for(future: Future[Result]) -> Result:
    """Its result. The main thread leaves with KeyboardInterrupt where `leaving` says so."""
    if threading.current_thread() is threading.main_thread():
        while _stopped is not None and not future.done():
            if _stopped():
                raise KeyboardInterrupt
            with contextlib.suppress(TimeoutError):
                future.exception(OFTEN)
    return future.result()


def compiled(lowered: Any) -> Any:
    """The program that was lowered by `jax.jit(…).lower(…)`."""
    return wait_for(beside(lowered.compile))


@contextlib.contextmanager
def leaving(stopped: Callable[[], bool]) -> Iterator[None]:
    """In here, nobody waits any longer once `stopped` says so."""
    global _stopped
    before, _stopped = _stopped, stopped
    try:
        if stopped():
            raise KeyboardInterrupt
        yield
    finally:
        _stopped = before
