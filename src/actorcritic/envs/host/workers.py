"""A process for each environment, none of which can keep the training waiting."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import cloudpickle
import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from actorcritic.core.errors import UserError
from actorcritic.core.words import told
from actorcritic.envs.host.finding import Factory

CLOSING_SECONDS = 5.0  # for workers to close their environments, before they are killed


@contextlib.contextmanager
def _script_hidden() -> Iterator[None]:
    """Workers started in here do not run the user's script again.

    multiprocessing would have them do so, to find what it defines; but that travels with the
    function that makes the environment (Gymnasium pickles it by value), and a script without
    `if __name__ == "__main__"` would start its training once more in every worker.
    """
    main: dict[str, Any] = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(hidden)


def undisturbed(factory: Factory) -> gymnasium.Env:
    """Ctrl-C reaches every process; what it means is for the main one to decide."""
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return factory()


class Workers(AsyncVectorEnv):
    """A process for each environment, none of which can keep the training waiting for ever.

    Gymnasium's own class waits without limit, and reports a dead worker as an EOFError.
    """

    def __init__(
        self, name: str, factories: Sequence[Factory], mode: AutoresetMode, timeout: float
    ) -> None:
        self._name, self._timeout = name, timeout
        # A fork of this process would copy the locks that JAX's threads may hold at that moment.
        methods = multiprocessing.get_all_start_methods()
        method = "forkserver" if "forkserver" in methods else "spawn"
        if method == "forkserver":
            multiprocessing.get_context(method).set_forkserver_preload([__name__])
        try:
            cloudpickle.dumps(factories[0])
        except Exception as error:
            raise UserError(
                f"{name}: the function that makes the environment cannot be sent to another "
                f"process ({told(error)}). Make what it needs inside of it, or take "
                "vectorization='sync'."
            ) from error
        try:
            with _script_hidden():
                super().__init__(factories, copy=False, context=method, autoreset_mode=mode)
        except (EOFError, OSError) as error:
            raise self._lost("starting", error) from error
        except BaseException:
            self._kill()
            raise

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        with self._explained("reset"):
            self.reset_async(seed=seed, options=options)
            return self.reset_wait(self._timeout)

    def step(self, actions: Any) -> Any:
        with self._explained("step"):
            self.step_async(actions)
            return self.step_wait(self._timeout)

    @contextlib.contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except multiprocessing.TimeoutError as error:
            pipes = enumerate(self.parent_pipes)
            late = [k for k, pipe in pipes if pipe is not None and not pipe.poll(0)]
            self._kill()
            raise UserError(
                f"{self._name}: {self._named(late)} did not answer for {self._timeout:g} seconds "
                f"in {doing}. If its steps may take that long, raise worker_timeout."
            ) from error
        except (EOFError, OSError) as error:
            raise self._lost(doing, error) from error

    def _lost(self, doing: str, error: Exception) -> UserError:
        """A worker closed its pipe without a word: say which, and how it ended."""
        processes = getattr(self, "processes", [])
        deadline = time.monotonic() + 1
        codes: list[int | None] = [None] * len(processes)
        while not any(code is not None for code in codes) and time.monotonic() < deadline:
            codes = [process.exitcode for process in processes]
            time.sleep(0.01)
        self._kill()
        dead = [k for k, code in enumerate(codes) if code is not None]
        ways = sorted({_way_to_end(code) for code in codes if code is not None})
        how = f" ({', '.join(ways)})" if dead else f" ({type(error).__name__})"
        return UserError(
            f"{self._name}: {self._named(dead)} ended by itself in {doing}{how}. Run with "
            "vectorization='sync' to see the cause, or look for a lack of memory."
        )

    def _named(self, workers: list[int]) -> str:
        if not workers:
            return f"one of {self.num_envs} workers"
        numbers = ", ".join(str(k) for k in workers)
        return f"worker{'s' if len(workers) > 1 else ''} {numbers} (of 0 to {self.num_envs - 1})"

    def _raise_if_errors(self, successes: Any) -> None:
        """Gymnasium prints the whole traceback and raises without saying which worker it was."""
        if all(successes):
            return
        index, _, message, trace = self.error_queue.get(timeout=CLOSING_SECONDS)
        self._kill()
        message = str(message) or trace.strip().splitlines()[-1]
        raise UserError(f"Worker {index} (of 0 to {self.num_envs - 1}): {message}")

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ask the workers to close their environments; kill those that do not manage to."""
        pipes = [pipe for pipe in getattr(self, "parent_pipes", []) if pipe and not pipe.closed]
        processes = getattr(self, "processes", [])
        for pipe in pipes:
            with contextlib.suppress(OSError):
                pipe.send(("close", None))
        wait = CLOSING_SECONDS if timeout is None else timeout
        deadline = time.monotonic() + (0 if terminate else wait)
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in pipes:
            pipe.close()

    def _kill(self) -> None:
        self.close(terminate=True)


def _way_to_end(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
