"""What goes wrong in an environment of the user's, told as such."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator

from actorcritic.core.errors import UserError


def told(error: BaseException) -> str:
    """An exception of the user's code in a line, with the place it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f" ({os.path.basename(f.filename)}, line {f.lineno})" for f in frames[-1:]]
    return f"{type(error).__name__}: {str(error).rstrip('.')}{''.join(where)}"


@contextlib.contextmanager
def failing(name: str, where: str) -> Iterator[None]:
    """What goes wrong in here is told as a failure of the environment."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} failed in {where}: {told(error)}.") from error
