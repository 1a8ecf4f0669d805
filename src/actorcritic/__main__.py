"""The program: `actorcritic`, or `python -m actorcritic`."""

import os
import signal
import sys
from typing import Any


def _leave(number: int, frame: Any) -> None:
    """Nothing is under way yet, so that Ctrl-C may end the process at once, in one line.

    KeyboardInterrupt would do so as a traceback through whatever is being imported, or be lost
    in a callback there.
    """
    os.write(2, b"\nactorcritic: interrupted.\n")
    os._exit(128 + number)


def _terminate(number: int, frame: Any) -> None:
    """SIGTERM ends the program in an orderly way: locks, workers and new folders are given back."""
    raise SystemExit(128 + number)


def main() -> int:
    signal.signal(signal.SIGINT, _leave)
    from actorcritic.cli import main as run_command
    from actorcritic.cli import prepare
    from actorcritic.cli.terminal import speak_plainly
    from actorcritic.runs.interruption import interrupt

    arguments = sys.argv[1:]
    speak_plainly()
    prepare(arguments)  # the imports of the command
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code: Any = run_command(arguments)
    except SystemExit as stop:
        code = stop.code
    signal.signal(signal.SIGINT, _leave)  # while Python shuts down
    if isinstance(code, int) and code > 128:
        # Interrupted, and everything is saved: do not wait for a program that is being compiled.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
