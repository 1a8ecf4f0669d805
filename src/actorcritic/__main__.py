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

    arguments = sys.argv[1:]
    prepare(arguments)  # the imports of the command
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    code = run_command(arguments)
    signal.signal(signal.SIGINT, _leave)  # while Python shuts down
    return code


if __name__ == "__main__":
    sys.exit(main())
