"""`actorcritic decide`: decisions in a live application."""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from actorcritic.cli.options import asks_for_help, free_folder, read
from actorcritic.cli.terminal import loading, say
from actorcritic.core.errors import UserError
from actorcritic.core.words import nearest

USAGE = """\
Usage: actorcritic decide COMMAND …

  decide simulate tools [--tools N] [--decisions N] [--seeds K]   the agent beside LinUCB and others
  decide replay LOG.jsonl [--out DIR]     learn from recorded decisions, evaluate before deploying
  decide serve LOG.db [--port 8080]       HTTP/JSON: POST /choose, POST /feedback, GET /report
  decide report LOG.db [--out PAGE.html]  what was decided, and what became of it
  decide export LOG.db [--out FILE.jsonl] every decision as a line of JSON

From Python: ac.Decider("tools.db", actions=["search", "calculator"]); see docs/decisions.md.
"""


@dataclasses.dataclass(frozen=True)
class SimulateOptions:
    tools: Annotated[int, "how many there are to choose from"] = 12
    decisions: Annotated[int, "tasks that come, one after another"] = 5_000
    features: Annotated[int, "numbers that describe a task"] = 512
    seeds: Annotated[int, "worlds, each with tasks of its own"] = 3
    seed: Annotated[int, "the first one"] = 0
    out: Annotated[Path | None, "folder of the page (default: a new one below runs/)"] = None
    quiet: Annotated[bool, "show no progress"] = False
    json: Annotated[bool, "print the numbers as JSON"] = False


@dataclasses.dataclass(frozen=True)
class ReplayOptions:
    out: Annotated[Path | None, "a new folder (default: one below runs/)"] = None
    holdout: Annotated[float, "share of the outcomes, the last ones, that evaluate"] = 0.3
    quiet: Annotated[bool, "show no progress"] = False
    json: Annotated[bool, "print the numbers as JSON"] = False


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    actions: Annotated[tuple[str, ...], "names of actions, for a log that is new"] = ()
    features: Annotated[int | None, "numbers of a vector (default: 512), for a new log"] = None
    exploration: Annotated[float, "share of decisions spread evenly, at least"] = 0.02
    fallback: Annotated[str | None, "the action that answers while nothing is learned"] = None
    host: Annotated[str, "address to listen on"] = "127.0.0.1"
    port: Annotated[int, "port to listen on"] = 8080
    token_file: Annotated[Path | None, "file with the bearer token that clients have to send"] = (
        None
    )
    synchronous: Annotated[str, "normal, or full: wait for the disk at every commit"] = "normal"


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    out: Annotated[Path, "the page; .html"] = Path("decisions.html")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    out: Annotated[Path, "the file; .jsonl"] = Path("decisions.jsonl")


def every_option() -> type:
    """The options of all of them, for completion."""
    fields: dict[str, tuple[str, Any, Any]] = {}
    for _, options in SUBCOMMANDS.values():
        for field in dataclasses.fields(options):
            default = dataclasses.field(default=field.default)
            fields.setdefault(field.name, (field.name, field.type, default))
    made = dataclasses.make_dataclass("DecideOptions", list(fields.values()), frozen=True)
    made.__module__ = __name__  # where the names of its types are found
    return made


def decide(rest: list[str]) -> int:
    """One of the commands of `decide`."""
    if not rest or (asks_for_help(rest[:1])):
        say(USAGE.rstrip("\n"))
        return 0
    if rest[0] not in SUBCOMMANDS:
        raise UserError(
            f"There is no command 'decide {rest[0]}'.{nearest(rest[0], SUBCOMMANDS)} Known: "
            f"{', '.join(SUBCOMMANDS)}."
        )
    return SUBCOMMANDS[rest[0]][0](rest[1:])


def _simulate(rest: list[str]) -> int:
    usage = "decide simulate tools [--tools N] [--decisions N] [--seeds K]"
    (what,), options = read(usage, SimulateOptions, rest, 1)
    if what != "tools":
        raise UserError(f"There is no simulation '{what}'.{nearest(what, ['tools'])} Known: tools.")
    for name in ("decisions", "seeds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} must be 1 or more; got {getattr(options, name)}.")

    from actorcritic.core import files

    with loading(options.quiet):
        from actorcritic.decisions import simulated, simulation
        from actorcritic.runs.console import duration, working

    out = options.out or free_folder("simulate-tools")
    world = simulation.ToolWorld(options.tools, options.features)
    seeds = tuple(range(options.seed, options.seed + options.seeds))
    total = options.decisions * len(seeds) * len(simulation.CONTENDERS)
    done, begun = 0, time.monotonic()
    command = shlex.join(["actorcritic", "decide", "simulate", *rest])
    with working(f"Simulating {world.tools} tools", quiet=options.quiet) as show:

        def tell(count: int, text: str) -> None:
            nonlocal done
            done += count
            rate = done / max(time.monotonic() - begun, 1e-9)
            left = f", {duration((total - done) / rate)} left" if done else ""
            show(f"{text}; {done:,} of {total:,} decisions, {rate:,.0f} a second{left}")

        found = simulation.simulate(world, options.decisions, seeds, tell=tell)
        files.make_folder(out)
        page = simulated.publish(found, world, out / "report.html", command)
    if options.json:
        say(json.dumps(simulated.data(found)))
        return 0
    say("\n".join(simulated.sentences(found)))
    say(f"Report: {page}")
    return 0


def _replay(rest: list[str]) -> int:
    usage = "decide replay LOG.jsonl [--out DIR] [--holdout 0.3]"
    (source,), options = read(usage, ReplayOptions, rest, 1)

    with loading(options.quiet):
        from actorcritic.decisions.replay import DATABASE, numbers, replay
        from actorcritic.runs.console import working

    out = options.out or free_folder(f"replay-{Path(source).stem}")
    command = shlex.join(["actorcritic", "decide", "replay", *rest])
    with working(f"Replaying {source}", quiet=options.quiet) as show:
        result = replay(source, out, holdout=options.holdout, tell=show, command=command)
    if options.json:
        say(json.dumps(numbers(result.found)))
        return 0
    say(f"{result}\n\nReport: {out / 'report.html'}   agent: {out / DATABASE}")
    say(f"Next:   actorcritic decide serve {out / DATABASE}")
    return 0


def _serve(rest: list[str]) -> int:
    usage = "decide serve LOG.db [--port 8080] [--actions A B …] [--token-file FILE]"
    (path,), options = read(usage, ServeOptions, rest, 1)

    from actorcritic.decisions.server import serve

    return serve(
        path,
        actions=list(options.actions) or None,
        features=options.features,
        exploration=options.exploration,
        fallback=options.fallback,
        host=options.host,
        port=options.port,
        token_file=options.token_file,
        synchronous=options.synchronous,
        say=say,
    )


def _report(rest: list[str]) -> int:
    (path,), options = read("decide report LOG.db [--out PAGE.html]", ReportOptions, rest, 1)
    _must_exist(path)
    with loading(False):
        from actorcritic.decisions.agent import Decider
        from actorcritic.runs.console import working

    with working(f"Writing {options.out}"), Decider(path, learning="on call") as agent:
        page = agent.report(options.out)
    say(f"Wrote {page}")
    return 0


def _export(rest: list[str]) -> int:
    (path,), options = read("decide export LOG.db [--out FILE.jsonl]", ExportOptions, rest, 1)
    _must_exist(path)
    with loading(False):
        from actorcritic.decisions.log import Log
        from actorcritic.decisions.records import export
        from actorcritic.runs.console import working

    log = Log(path)
    with working(f"Writing {options.out}"):
        export(log, options.out)
    decisions, outcomes = log.counts()
    log.close()
    say(f"Wrote {options.out}: {decisions:,} decisions, {outcomes:,} with a reward")
    return 0


def _must_exist(path: str) -> None:
    if not Path(path).exists():
        raise UserError(f"There is no log {path}. Decider(path, actions=[…]) makes one.")


SUBCOMMANDS: dict[str, tuple[Callable[[list[str]], int], type]] = {
    "simulate": (_simulate, SimulateOptions),
    "replay": (_replay, ReplayOptions),
    "serve": (_serve, ServeOptions),
    "report": (_report, ReportOptions),
    "export": (_export, ExportOptions),
}
