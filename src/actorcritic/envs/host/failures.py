"""What goes wrong in an environment of the user's, told as such."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from actorcritic.core.errors import UserError
from actorcritic.core.words import printable, told


def failure(error: BaseException, name: str, where: str) -> UserError:
    """What went wrong in an environment, told as its failure."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, SystemExit):
        return UserError(
            f"{name} asked the whole program to end in {where} ({told(error)}). An environment "
            "ends an episode by terminated or truncated = True, and tells of trouble by an error."
        )
    return UserError(f"{name} failed in {where}: {told(error)}.")


@contextlib.contextmanager
def failing(name: str, where: str) -> Iterator[None]:
    """What goes wrong in here is told as a failure of the environment."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise failure(error, name, where) from error


def close(environment: Any, name: str) -> None:
    """Close an environment. Where that fails, nothing is lost but a word is due."""
    try:
        environment.close()
    except Exception as error:
        print(printable(f"Warning: {name} failed in close: {told(error)}."), file=sys.stderr)
