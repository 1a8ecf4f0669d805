"""Messages for options that an environment does not have."""

from collections.abc import Iterable

from actorcritic.core.errors import UserError
from actorcritic.core.words import nearest


def check_options(subject: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise a UserError for the first name in `given` that is not in `known`."""
    known = list(known)
    for name in given:
        if name not in known:
            raise UserError(
                f"{subject} has no option {name!r}.{nearest(name, known)} "
                f"Its options: {', '.join(known) or 'none'}."
            )
