"""What goes wrong in an environment of the user's, told as such."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from actorcritic.core.errors import UserError
from actorcritic.core.words import told


@contextlib.contextmanager
def failing(name: str, where: str) -> Iterator[None]:
    """What goes wrong in here is told as a failure of the environment."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} failed in {where}: {told(error)}.") from error
