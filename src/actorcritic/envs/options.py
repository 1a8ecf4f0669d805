"""Messages for options that an environment does not have."""

from collections.abc import Iterable
from difflib import get_close_matches

from actorcritic.core.types import UserError


def check_options(subject: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise a UserError for the first name in `given` that is not in `known`."""
    known = list(known)
    for name in given:
        if name not in known:
            raise UserError(
                f"{subject} has no option {name!r}.{nearest(name, known)} "
                f"Its options: {', '.join(known) or 'none'}."
            )


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean …?', or nothing where no name in `known` is near."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""
