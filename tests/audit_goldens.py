"""What the audit says of every subject: `python tests/audit_goldens.py [KIND] [--write]`.

audit_goldens.json holds, for each, the verdict, the checks that failed and the mends. Without
--write the differences from it are printed, and the exit code is 1 where there are any.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import audit_subjects_estimates as estimates
import audit_subjects_losses as losses
import audit_subjects_preferences as preferences
import audit_subjects_rollouts as rollouts
import jax

from actorcritic import audit

FILE = Path(__file__).with_suffix(".json")


def subjects() -> Iterator[tuple[str, str, Callable[..., Any], dict[str, Any]]]:
    """Name, kind, function and options."""
    for name, plan in estimates.RIGHT.items():
        yield name, plan.kind, plan.function, dict(plan.options)
    for plans in estimates.WRONG.values():
        for plan in plans:
            yield plan.function.__name__, plan.kind, plan.function, dict(plan.options)
    for name, (kind, _) in losses.WRONG.items():
        yield name, kind, getattr(losses, name), {}
    for name, kind in losses.RIGHT.items():
        yield name, kind, getattr(losses, name), {}
    from test_audit_preferences import RIGHT, WRONG

    for name in (*RIGHT, *WRONG):
        function = getattr(preferences, name)
        yield name, audit.guess(function).replace("-", "_"), function, {}
    from test_audit_rollouts import DECLARED
    from test_audit_rollouts import RIGHT as COLLECT
    from test_audit_rollouts import WRONG as COLLECT_WRONGLY

    for function in (*COLLECT, *COLLECT_WRONGLY):
        yield function.__name__, "rollout", function, {"autoreset": DECLARED.get(function)}
    assert rollouts


def reports(kinds: str = "") -> dict[str, audit.Report]:
    """Of all of them, or of the kinds whose names contain a word."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = {}
        for name, kind, function, options in subjects():
            if kinds in kind:
                try:
                    found[f"{kind} {name}"] = getattr(audit, kind)(function, **options)
                except audit.CannotCall as error:  # told among the differences
                    found[f"{kind} {name}"] = audit.Report(name, kind, (), called=str(error))
        return found


def compact(report: audit.Report) -> list[list[str]]:
    called = report.passed or report.findings
    found = [[found.check, found.wrong, found.mend] for found in report.findings]
    return found if called else [["not called", report.called, ""]]


if __name__ == "__main__":
    kinds = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    found = reports(kinds)
    now = {name: compact(report) for name, report in found.items()}
    if "--write" in sys.argv:
        lines = [
            f" {json.dumps(k, ensure_ascii=False)}: {json.dumps(v, ensure_ascii=False)}"
            for k, v in sorted(now.items())
        ]
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        sys.exit(0)
    before = {k: v for k, v in json.loads(FILE.read_text()).items() if kinds in k.split()[0]}
    differ = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    for name in differ:
        print(f"{name}\n  before {before.get(name)}\n  now    {now.get(name)}")
    sys.exit(bool(differ))
