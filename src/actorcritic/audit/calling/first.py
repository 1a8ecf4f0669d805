"""An audit in the first framework in which the function runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actorcritic.audit.calling import Framework, Matched, frameworks, name_of, one_line
from actorcritic.audit.findings import CannotCall, Report


def that_runs(
    function: Callable[..., Any], matched: Matched, audit: Callable[[Framework], Report]
) -> Report:
    failed: BaseException | None = None
    for framework in frameworks(function, matched):
        try:
            return audit(framework)
        except (Exception, SystemExit) as error:  # another framework may fit
            failed = failed or error
    if isinstance(failed, CannotCall):
        raise failed
    why = one_line(failed) if failed else "no framework fits"
    raise CannotCall(f"{name_of(function)} failed when called with {matched.describe()}: {why}")
