"""`actorcritic audit` and `actorcritic audit-env`: 0 when clean, 1 on failure, 2 if not judged."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from actorcritic import audit
from actorcritic.audit.findings import CannotCall, Report, Reports
from actorcritic.core.errors import UserError

_EPILOG = """\
exit codes:
  0  nothing wrong was found (risks and choices are told, and are no errors)
  1  the audit found something wrong; with --strict, a risk is wrong too
  2  not judged: it could not be called, or fits no definition; the message says what was tried

examples:
  actorcritic audit my_code.py:compute_gae
  actorcritic audit my_code.py:Buffer.finish --kind advantages --map vals=values
  actorcritic audit my_package.losses:ppo_loss --html audit.html
  actorcritic audit my_agent.py:A2CAgent       a class: made, fed and recorded
  actorcritic audit train.py                   a file: all that is recognised; a script is run
  actorcritic audit my_package/                every file of a folder

Parameters are recognised by their usual names (rewards, values, dones, gamma, lam, …); name the
others with --map. The file is imported, so what stands at its top level is run.
"""


def audit_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="actorcritic audit",
        description="Check that a function computes what it claims, against exact definitions.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "function",
        metavar="FILE.py[:FUNCTION]",
        help="or FILE.py:Class, FILE.py:Class.method, module:FUNCTION, a folder",
    )
    parser.add_argument(
        "--kind", choices=audit.KINDS, help="what it is to compute (default: guessed)"
    )
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="theirs=ours",
        help="what a parameter is, as vals=values; may be repeated",
    )
    parser.add_argument("--layout", metavar="BT", help="axes of its arrays: TB, BT or T")
    parser.add_argument(
        "--time-limits",
        choices=("terminal", "bootstrap"),
        help="estimates: a time limit counts as a termination on purpose",
    )
    parser.add_argument(
        "--autoreset",
        choices=("next_step", "same_step", "disabled"),
        help="rollouts: the mode of Gymnasium's vector environments it is written for",
    )
    parser.add_argument(
        "--reused-buffers",
        action="store_true",
        help="rollouts: its environments write each observation into the same array",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="risks count as errors; losses: what is passed in has to be detached inside, too",
    )
    _add_outputs(parser)
    return parser


def audit_command(argv: Sequence[str]) -> int:
    """`actorcritic audit FILE.py:FUNCTION [options]`."""
    options = audit_parser().parse_args(list(argv))

    place = Path(options.function)
    whole = place.is_dir() or (":" not in options.function and place.suffix == ".py")

    def made() -> Report | Reports:
        if whole:
            return audit.files(place)
        names = ("strict", "layout", "time_limits", "autoreset", "reused_buffers")
        given = {name: value for name in names if (value := getattr(options, name))}
        return audit.of(options.function, options.kind, _mapping(options.map), **given)

    return _shown(made, options, "audit", argv)


def audit_env_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="actorcritic audit-env",
        description="Check an environment: what Gymnasium's checker finds, and more.",
        allow_abbrev=False,
    )
    parser.add_argument("env", metavar="ENV", help="a Gymnasium id, or module:Name")
    _add_outputs(parser)
    return parser


def audit_env_command(argv: Sequence[str]) -> int:
    """`actorcritic audit-env ENV [options]`."""
    options = audit_env_parser().parse_args(list(argv))
    return _shown(lambda: audit.environment(options.env), options, "audit-env", argv)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write it as a page, too")


def _mapping(pairs: Sequence[str]) -> dict[str, str]:
    mapping = {}
    for pair in pairs:
        theirs, equals, ours = pair.partition("=")
        if not equals or not theirs or not ours:
            raise CannotCall(f"--map takes theirs=ours, as vals=values; got '{pair}'.")
        mapping[theirs.strip()] = ours.strip()
    return mapping


def _shown(
    made: Callable[[], Report | Reports], options: Any, name: str, argv: Sequence[str]
) -> int:
    try:
        report = made()
        if options.html is not None:
            report.html(options.html, shlex.join(["actorcritic", name, *argv]))
    except UserError as error:  # 1 is kept for what an audit found
        print(f"actorcritic: {error}", file=sys.stderr)
        return 2
    print(report.json() if options.json else report)
    return report.exit_code(getattr(options, "strict", False))
