"""The commands about data sets: collect one, look at one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

from actorcritic.cli.options import read
from actorcritic.cli.terminal import say
from actorcritic.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class CollectOptions:
    steps: Annotated[int, "environment steps to record"] = 100_000
    out: Annotated[str | None, "a new folder, or minari:ID"] = None
    mix: Annotated[
        tuple[str, ...],
        "shares of others, as random=0.3,checkpoint-early=0.3, or a run's folder",
    ] = ()
    seed: Annotated[int, "of the collection's own randomness"] = 0
    policy_seed: Annotated[int | None, "which trained seed acts (default: the best)"] = None
    deterministic: Annotated[bool, "take the most likely actions instead of sampling"] = False
    algorithm: Annotated[str | None, "the algorithm, if it is your own (module:Name)"] = None
    env: Annotated[str | None, "the environment, if it is your own (module:Name)"] = None
    quiet: Annotated[bool, "show no progress"] = False


@dataclasses.dataclass(frozen=True)
class DataOptions:
    out: Annotated[Path | None, "the picture; .png or .svg (default: in the data set's folder)"] = (
        None
    )
    json: Annotated[bool, "print everything as JSON, and draw nothing"] = False


def collect_command(rest: list[str]) -> int:
    usage = "collect RUN --out DIR [--steps N] [--mix random=0.3,…]"
    (path,), options = read(usage, CollectOptions, rest, 1)
    if options.out is None:
        raise UserError(
            f"collect needs a place for the data: --out DIR. Usage: actorcritic {usage}"
        )

    from actorcritic.data import finding
    from actorcritic.runs.collecting import collect
    from actorcritic.runs.console import working

    finding.check_free(options.out)
    with working(f"Collecting {options.steps:,} steps", quiet=options.quiet) as now:
        data = collect(
            path,
            options.steps,
            mix=_shares(options.mix),
            seed=options.seed,
            policy_seed=options.policy_seed,
            deterministic=options.deterministic,
            algorithm=options.algorithm,
            environment=options.env,
            say=now,
        )
        now("writing")
        where = finding.save(data, options.out)
    say(f"{data.spec.id}: {data.counts}, mean return {data.returns.mean():.1f}")
    say(f"Data set:    {where}")
    say(f"Next:        actorcritic data {where}")
    say(f"             actorcritic train iql {data.spec.id} --data {where}")
    return 0


def _shares(given: tuple[str, ...]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for text in (part for word in given for part in word.split(",") if part):
        name, separator, value = text.rpartition("=")
        try:
            share = float(value)
        except ValueError:
            separator = ""
        if not separator or not name:
            raise UserError(f"--mix takes NAME=SHARE, as random=0.3; got '{text}'.")
        if name in shares:
            raise UserError(f"--mix names {name} twice.")
        shares[name] = share
    return shares


def data_command(rest: list[str]) -> int:
    (source,), options = read("data DIR [--out data.png]", DataOptions, rest, 1)

    from actorcritic.data import finding, summary
    from actorcritic.figures import plots
    from actorcritic.maths import spaces

    data = finding.dataset(source)
    found = summary.of(data)
    if options.json:
        say(json.dumps(found.data(), indent=2))
        return 1 if found.problems else 0
    say(str(found))
    out = options.out or _beside(source)
    figure = plots.recorded(
        f"{data.spec.id}: {data.episodes:,} episodes, {data.steps:,} steps",
        data.returns,
        data.lengths,
        data.action,
        discrete=spaces.choices(data.spec.action_space) != (),
    )
    plots.save(figure, out)
    say(f"Picture:     {out}")
    return 1 if found.problems else 0


def _beside(source: Any) -> Path:
    folder = Path(source)
    return folder / "data.png" if folder.is_dir() else Path("data.png")
