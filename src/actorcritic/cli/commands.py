"""The commands: each is a function of `actorcritic` with its options spelled out."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from actorcritic.cli.data import CollectOptions, DataOptions
from actorcritic.cli.options import (
    Field,
    as_settings,
    asks_for_help,
    free_folder,
    hyperparameters_of,
    parse,
    read,
    separated,
    split,
    with_settings,
)
from actorcritic.cli.terminal import say
from actorcritic.core.errors import UserError
from actorcritic.core.words import nearest

# ------------------------------------------------------------------------------------ options

# What a run cannot name by itself, where it is the user's own.
OWN: tuple[Field, ...] = tuple(
    (name, Annotated[str | None, f"the {thing}, if it is your own (module:Name)"], None)
    for name, thing in (("algorithm", "algorithm"), ("env", "environment"))
)
ALL_ON: Field = ("env", Annotated[str | None, "the environment all are trained on"], None)
ABLATION: tuple[Field, ...] = (
    ("vary", Annotated[tuple[str, ...], "a setting and its values, as gae_lambda=0,1"], ()),
    ("grid", Annotated[bool, "train every combination"], False),
    ("one_at_a_time", Annotated[bool, "one change at a time (what happens anyway)"], False),
)
SPACE: Field = (
    "space",
    Annotated[tuple[str, ...], "a setting and where to look, as learning_rate=log:1e-4:1e-2"],
    (),
)


WHICH = "the last policies, those that --keep-best kept, or those of an eighth of the training"


@dataclasses.dataclass(frozen=True)
class _EvaluateOptions:
    episodes: Annotated[int, "episodes of each seed"] = 100
    stochastic: Annotated[bool, "sample actions instead of taking the most likely"] = False
    seed: Annotated[int, "of the evaluation's own randomness"] = 1_000_000
    which: Annotated[Literal["last", "best", "early"], WHICH] = "last"
    algorithm: Annotated[str | None, "the algorithm, if it is your own (module:Name)"] = None
    env: Annotated[str | None, "the environment, if it is your own (module:Name)"] = None
    data: Annotated[str | None, "estimate from this data set instead: a folder, minari:ID"] = None
    gamma: Annotated[float | None, "of estimates from data (default: the algorithm's)"] = None
    updates: Annotated[int, "of each fit, where data are estimated from"] = 10_000
    json: Annotated[bool, "print every return as JSON"] = False


@dataclasses.dataclass(frozen=True)
class _PlayOptions:
    out: Annotated[
        Path | None, "write a .gif or .mp4 here (default: a window, or RUN/play.gif)"
    ] = None
    seed: Annotated[int | None, "which trained seed (default: the best)"] = None
    episodes: Annotated[int, "how many episodes to play"] = 1
    stochastic: Annotated[bool, "sample actions instead of taking the most likely"] = False
    which: Annotated[Literal["last", "best", "early"], WHICH] = "last"
    algorithm: Annotated[str | None, "the algorithm, if it is your own (module:Name)"] = None
    env: Annotated[str | None, "the environment, if it is your own (module:Name)"] = None


@dataclasses.dataclass(frozen=True)
class _PlotOptions:
    out: Annotated[Path, "the picture; .png or .svg"] = Path("curve.png")


@dataclasses.dataclass(frozen=True)
class _StudyOptions:
    quick: Annotated[bool, "a small version that shows that it works, and proves nothing"] = False
    out: Annotated[Path | None, "folder of the experiment (default: a new one below runs/)"] = None
    quiet: Annotated[bool, "show no progress"] = False
    cluster: Annotated[str | None, "local, or the address of a Ray cluster (extra: ray)"] = None
    workers: Annotated[int | None, "tasks at a time there (default: all that fit)"] = None


@dataclasses.dataclass(frozen=True)
class _ReportOptions:
    out: Annotated[Path, "the page; .html"] = Path("report.html")
    threshold: Annotated[
        tuple[float, ...], "returns whose first reaching is told (default: Gymnasium's)"
    ] = ()


def options_of(command: str) -> type:
    """The options of a command that reads them here, whatever its other words are."""
    from actorcritic.runs.settings import (
        ExperimentSettings,
        ResumeSettings,
        SweepSettings,
        TrainSettings,
    )

    match command:
        case "train":
            return with_settings(TrainSettings)
        case "resume":
            return with_settings(ResumeSettings, *OWN)
        case "compare":
            return with_settings(ExperimentSettings, ALL_ON)
        case "ablate":
            return with_settings(ExperimentSettings, *ABLATION)
        case "sweep":
            return with_settings(SweepSettings, SPACE)
        case "decide":
            from actorcritic.cli.decide import every_option

            return every_option()
    return OPTIONS[command]


# ------------------------------------------------------------------------------------ commands


def _train(rest: list[str]) -> int:
    from actorcritic.algorithms.catalogue import ALGORITHMS, find
    from actorcritic.algorithms.presets import preset
    from actorcritic.cli.files import with_files
    from actorcritic.data import finding
    from actorcritic.envs.host.environment import HostEnvironment
    from actorcritic.runs import configuration
    from actorcritic.runs.run import prepare_jax
    from actorcritic.runs.settings import TrainSettings
    from actorcritic.runs.train import train

    usage = (
        "train ALGORITHM ENV [options], or train ALGORITHM --data DIR; for all of them: "
        "actorcritic train ALGORITHM --help"
    )
    named, rest = with_files(rest)
    every = {field[0]: field for cls in ALGORITHMS.values() for field in hyperparameters_of(cls())}
    known = with_settings(TrainSettings, *every.values())
    if named and not separated(rest, known, 2)[0]:
        rest = [*named, *rest]
    # From data alone, there is no environment.
    alone = len(separated(rest, known, 2)[0]) == 1 and _names(rest, "--data")
    count = 1 if alone else 2
    words, given = split(usage, known, rest, count)
    if not words:  # a plea for help
        say(f"Usage: actorcritic {usage}\n")
        parse("train ALGORITHM ENV", options_of("train"), given)
    algorithm = find(words[0])
    if ":" in words[0]:  # its own settings were not known above
        own = with_settings(TrainSettings, *hyperparameters_of(algorithm))
        words, given = split(usage, own, rest, count)
    helped = asks_for_help(given)
    command = f"train {' '.join([*words, 'ENV'][:2])}"

    def parsed(algorithm: Any, given: list[str]) -> tuple[Any, dict[str, Any]]:
        """The options, and those hyperparameters that are not as the algorithm has them."""
        own = hyperparameters_of(algorithm)
        options = parse(command, with_settings(TrainSettings, *own), given)
        values = {name: getattr(options, name) for name, *_ in own}
        return options, {n: v for n, v in values.items() if v != getattr(algorithm, n)}

    if len(words) == count:
        # What is not given depends on the environment, on how it is made, and on what is given.
        options, changes = parsed(algorithm, [] if helped else given)
        settings = as_settings(TrainSettings, options)
        prepare_jax()
        data = None if settings.data is None else finding.dataset(settings.data)
        settings = dataclasses.replace(settings, data=data)
        world = configuration.world_of(words[1] if count == 2 else None, settings, data)
        algorithm = preset(words[0], world.spec, settings.total_steps, changes).algorithm
    options, changes = parsed(algorithm, given)
    out = options.out or free_folder(f"{words[0]}-{world.spec.id}")
    settings = as_settings(TrainSettings, options, out=out, data=data)
    # An environment on the host may take long to make: it is not made twice.
    on_host = isinstance(world, HostEnvironment)
    environment = world if on_host else words[1] if count == 2 else None
    return _conclude(train(words[0], environment, settings, **changes))


def _names(rest: list[str], option: str) -> bool:
    return any(word.partition("=")[0] == option for word in rest)


def _conclude(run: Any) -> int:
    """The last lines of a training: what was reached, how sure that is, what to do next."""
    if not run.finished:
        say(f"Stopped and saved. Go on with: actorcritic resume {run.command}")
        return 130
    result = run.final_evaluation
    kind = "deterministic evaluation" if result else "training only, not evaluated"
    if run.failed:
        kind += f"; {len(run.failed)} of {len(run.seeds)} seeds failed and are left out"
    say(f"{run.label}: {result or 'finished'} ({kind}, {run.trained_steps:,} {run.step_unit})")
    for line in result.of_agents if result else []:
        say(line)
    if run.workers is not None:
        say(_of_the_cluster(run))
    if not (run.out / "curve.png").exists():  # from data alone
        say(f"Run folder:  {run.out}   what is known: {run.out / 'known.json'}")
        say(f"Next:        actorcritic evaluate {run.command} --data {run.data.source}")
        say(f"             actorcritic evaluate {run.command} --env ENV")
        return 0
    say(f"Run folder:  {run.out}   learning curve: {run.out / 'curve.png'}")
    say(f"Next:        actorcritic play {run.command}")
    say(f"             actorcritic plot {run.out} --out curve.svg")
    say(f"             actorcritic evaluate {run.command} --episodes 1000")
    return 0


def _of_the_cluster(run: Any) -> str:
    """How old the snapshots were that the workers acted with."""
    import numpy as np

    metrics = run.metrics
    staleness, lost = metrics.column("staleness"), int(metrics.column("workers_lost").max())
    return (
        f"Cluster:     {run.workers} workers, {lost} of them replaced; what they acted with was "
        f"{np.median(staleness):g} updates old (median; at most {staleness.max():g})"
    )


def _resume(rest: list[str]) -> int:
    from actorcritic.runs.settings import ResumeSettings
    from actorcritic.runs.train import resume

    usage = "resume RUN [--total-steps N]"
    (path,), options = read(usage, options_of("resume"), rest, 1)
    settings = as_settings(ResumeSettings, options)
    return _conclude(resume(path, settings, algorithm=options.algorithm, environment=options.env))


def _evaluate(rest: list[str]) -> int:
    usage = "evaluate RUN [--episodes N] [--stochastic] [--data DIR]"
    (path,), options = read(usage, options_of("evaluate"), rest, 1)

    import actorcritic as ac
    from actorcritic.runs.console import working

    run = ac.open_run(path, algorithm=options.algorithm, environment=options.env)
    if options.data is not None:
        return _estimate(run, options)
    with working(f"Evaluating {run.label}: {options.episodes:,} episodes of each seed"):
        result = run.evaluate(
            options.episodes,
            deterministic=not options.stochastic,
            seed=options.seed,
            which=options.which,
        )
    if options.json:
        returns = dict(zip(result.seeds, result.returns.tolist(), strict=True))
        found = {"iqm": result.iqm, "interval": result.interval, "returns": returns}
        if result.by_agent:
            found |= {"agents": result.by_agent, "teams": result.by_team}
        say(json.dumps(found))
        return 0
    for seed, returns, lengths in zip(result.seeds, result.returns, result.lengths, strict=True):
        say(
            f"seed {seed}: mean return {returns.mean():.2f} (deviation {returns.std():.2f}, "
            f"{returns.min():.2f} to {returns.max():.2f}), mean length {lengths.mean():.1f}"
        )
    say(f"{run.label}: {result}")
    for line in result.of_agents:
        say(line)
    return 0


def _estimate(run: Any, options: Any) -> int:
    """What the policy is worth, from data alone."""
    from actorcritic.data import finding
    from actorcritic.runs.console import working
    from actorcritic.runs.off_policy import evaluate_off_policy

    data, policy = finding.dataset(options.data), run.policy(which=options.which)
    with working(f"Estimating {run.label} from {data.steps:,} steps") as now:
        found = evaluate_off_policy(
            policy,
            data,
            gamma=options.gamma,
            deterministic=not options.stochastic,
            updates=options.updates,
            seed=options.seed,
            say=now,
        )
    say(json.dumps(found.json()) if options.json else f"{run.label}, from data alone\n{found}")
    return 0


def _play(rest: list[str]) -> int:
    (path,), options = read("play RUN [--out clip.gif]", options_of("play"), rest, 1)

    import actorcritic as ac
    from actorcritic.runs import play

    run = ac.open_run(path, algorithm=options.algorithm, environment=options.env)
    said = play.play(
        run,
        out=options.out,
        seed=options.seed,
        episodes=options.episodes,
        deterministic=not options.stochastic,
        which=options.which,
    )
    say(said)
    return 0


def _plot(rest: list[str]) -> int:
    paths, options = read("plot RUN… [--out curve.png]", options_of("plot"), rest)

    from actorcritic.runs import run as runs
    from actorcritic.runs.console import working

    with working(f"Drawing {options.out}"):
        path = runs.plot(paths, options.out)
    say(f"Wrote {path}")
    return 0


def _experiment(settings: type, options: Any, stem: str, words: list[str]) -> Any:
    """The settings of an experiment."""
    out = options.out or free_folder(stem)
    command = ["actorcritic", *words]
    if options.out is None:  # so that the command, repeated, goes on in this folder
        command += ["--out", str(out)]
    return as_settings(settings, options, out=out, command=shlex.join(command))


def _tell(result: Any, out: Path) -> int:
    """What an experiment found, and where the page is."""
    say(f"{result}\n\nReport: {out / 'report.html'}   pictures: {out / 'report-pictures'}")
    return 0


def _going_on(command: str, call: Callable[[], Any]) -> Any:
    """Call; stopped at Ctrl-C, say how to go on."""
    from actorcritic.experiments.together import Stopped

    try:
        return call()
    except Stopped as stop:
        raise Stopped(f"{stop} Go on with: {command}") from None


def _compare(rest: list[str]) -> int:
    from actorcritic.experiments.compare import compare
    from actorcritic.runs.settings import ExperimentSettings

    usage = "compare VARIANT… ENV [--seeds K] [--total-steps N]"
    words, options = read(usage, options_of("compare"), rest)
    variants, env = (words, options.env) if options.env else _with_environment(words, usage)
    settings = _experiment(ExperimentSettings, options, f"compare-{env}", ["compare", *rest])
    result = _going_on(settings.command, lambda: compare(variants, env, settings))
    return _tell(result, settings.out)


def _with_environment(words: list[str], usage: str) -> tuple[list[str], str]:
    """Variants, and the last word that is none: the environment."""
    from actorcritic.algorithms.catalogue import ALGORITHMS

    names = [name.lower() for name in ALGORITHMS]
    others = [word for word in words if word.partition(":")[0].lower() not in names]
    if not others:
        raise UserError(f"compare needs an environment. Usage: actorcritic {usage}")
    *unclear, env = others
    for word in unclear:
        if ":" not in word:  # module:Class may be an algorithm
            raise UserError(
                f"Of '{word}' and '{env}' only one can be the environment, and neither is an "
                f"algorithm.{nearest(word, ALGORITHMS)} Known: {', '.join(ALGORITHMS)}."
            )
    at = len(words) - 1 - words[::-1].index(env)
    return words[:at] + words[at + 1 :], env


def _ablate(rest: list[str]) -> int:
    from actorcritic.core import hyperparameters
    from actorcritic.experiments.compare import ablate
    from actorcritic.experiments.variants import class_named
    from actorcritic.runs.settings import ExperimentSettings

    usage = "ablate ALGORITHM ENV --vary SETTING=A,B,… [--vary …] [--grid]"
    (name, env), options = read(usage, options_of("ablate"), rest, 2)
    if options.grid and options.one_at_a_time:
        raise UserError("Of --grid and --one-at-a-time only one can be meant.")
    cls, vary = class_named(name), {}
    for text in options.vary:
        setting, separator, values = text.partition("=")
        if not separator or not values:
            raise UserError(f"--vary takes SETTING=A,B,…, as gae_lambda=0,0.95,1; got '{text}'.")
        vary[setting] = [hyperparameters.parse(cls, setting, v) for v in values.split(",")]
    stem = f"ablate-{name}-{env}"
    settings = _experiment(ExperimentSettings, options, stem, ["ablate", *rest])
    result = _going_on(
        settings.command, lambda: ablate(name, env, settings, vary=vary, grid=options.grid)
    )
    return _tell(result, settings.out)


def _sweep(rest: list[str]) -> int:
    from actorcritic.experiments import search
    from actorcritic.experiments.sweep import sweep
    from actorcritic.experiments.variants import class_named
    from actorcritic.runs.settings import SweepSettings

    usage = "sweep ALGORITHM ENV --space SETTING=log:LOW:HIGH [--trials N] [--seeds K]"
    (name, env), options = read(usage, options_of("sweep"), rest, 2)
    cls = class_named(name)
    space = dict(search.parse(cls, text) for text in options.space)
    settings = _experiment(SweepSettings, options, f"sweep-{name}-{env}", ["sweep", *rest])
    result = _going_on(settings.command, lambda: sweep(name, env, settings, space=space))
    return _tell(result, settings.out)


def _study(rest: list[str]) -> int:
    from actorcritic import studies

    if not rest:
        for name, entry in studies.STUDIES.entries.items():
            say(f"  {name}  {entry.meaning}")
        say("\nRun one with: actorcritic study S1 [--quick]")
        return 0
    usage = "study NAME [--quick] [--out DIR]"
    (name,), options = read(usage, options_of("study"), rest, 1)
    out = options.out or free_folder(f"study-{name}")
    given = " --quick" * options.quick
    if options.cluster is not None:
        given += f" --cluster {shlex.quote(options.cluster)}"
    if options.workers is not None:
        given += f" --workers {options.workers}"
    command = shlex.join(["actorcritic", "study", name]) + f"{given} --out {shlex.quote(str(out))}"
    result = _going_on(
        command,
        lambda: studies.study(
            name,
            quick=options.quick,
            out=out,
            quiet=options.quiet,
            cluster=options.cluster,
            workers=options.workers,
            command=command,
        ),
    )
    return _tell(result, out)


def _collect(rest: list[str]) -> int:
    from actorcritic.cli.data import collect_command

    return collect_command(rest)


def _data(rest: list[str]) -> int:
    from actorcritic.cli.data import data_command

    return data_command(rest)


def _report(rest: list[str]) -> int:
    usage = "report RUN_OR_EXPERIMENT… [--out report.html]"
    paths, options = read(usage, options_of("report"), rest)

    import actorcritic as ac
    from actorcritic.runs.console import working

    command = shlex.join(["actorcritic", "report", *rest])
    thresholds = options.threshold or None
    with working(f"Writing {options.out}"):
        path = ac.report(paths, options.out, thresholds=thresholds, command=command)
    say(f"Wrote {path}")
    return 0


def _audit(rest: list[str]) -> int:
    from actorcritic.audit.command import audit_command

    return audit_command(rest)


def _audit_env(rest: list[str]) -> int:
    from actorcritic.audit.command import audit_env_command

    return audit_env_command(rest)


def _decide(rest: list[str]) -> int:
    from actorcritic.cli.decide import decide

    return decide(rest)


def _language(rest: list[str]) -> int:
    from actorcritic.cli.language import language

    return language(rest)


def _completion(rest: list[str]) -> int:
    from actorcritic.cli.completion import SHELLS, WHERE, script

    usage = f"Usage: actorcritic completion {'|'.join(SHELLS)}"
    if asks_for_help(rest):
        say(f"{usage}\n\n{WHERE}")
        return 0
    if len(rest) != 1 or rest[0] not in SHELLS:
        raise UserError(f"{usage}. It prints a script for your shell.")
    say(script(rest[0]))
    return 0


def _list(rest: list[str]) -> int:
    usage = f"Usage: actorcritic list [{'|'.join(LISTS)}]"
    if asks_for_help(rest):
        say(usage)
        return 0
    for kind in rest:
        if kind not in LISTS:
            raise UserError(f"There is no list '{kind}'.{nearest(kind, LISTS)} {usage}")
    for kind in rest or LISTS:
        say(f"{kind}:")
        for name, text in LISTS[kind]():
            say(f"  {name:<28} {text}".rstrip())
    return 0


def _algorithms() -> Iterator[tuple[str, str]]:
    from actorcritic.algorithms.catalogue import ALGORITHMS

    for name, entry in ALGORITHMS.entries.items():
        yield name, entry.meaning
    yield "module:Name", "your own class, or an object of it"


def _environments() -> Iterator[tuple[str, str]]:
    from actorcritic.envs.catalogue import COMPILED

    for name, entry in COMPILED.entries.items():
        yield name, f"compiled: {entry.meaning}"
    yield "gymnax:NAME", "compiled, from gymnax (extra)"
    yield "any Gymnasium id", "on the host, through Gymnasium"
    yield "module:Name", "your own: compiled, or a class or factory of Gymnasium's kind"


def _presets() -> Iterator[tuple[str, str]]:
    from actorcritic.algorithms.catalogue import FROM_DATA
    from actorcritic.algorithms.presets import PRESETS

    for (algorithm, environment), preset in PRESETS.items():
        unit = "updates" if algorithm in FROM_DATA else "steps"
        yield f"{algorithm} {environment}", f"{preset.total_steps:,} {unit}"


LISTS: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
    "algorithms": _algorithms,
    "environments": _environments,
    "presets": _presets,
}

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "play": _play,
    "plot": _plot,
    "compare": _compare,
    "ablate": _ablate,
    "sweep": _sweep,
    "study": _study,
    "report": _report,
    "collect": _collect,
    "data": _data,
    "audit": _audit,
    "audit-env": _audit_env,
    "decide": _decide,
    "language": _language,
    "list": _list,
    "completion": _completion,
}

_TRAINING = ("actorcritic.runs.train", "actorcritic.algorithms.presets", "tyro")
_EXPERIMENTS = ("actorcritic.experiments.report", "actorcritic.studies", "tyro")
# What each command imports.
MODULES: dict[str, tuple[str, ...]] = {
    "train": _TRAINING,
    "resume": _TRAINING,
    "evaluate": _TRAINING,
    "play": (*_TRAINING, "actorcritic.runs.play"),
    "plot": (*_TRAINING, "actorcritic.figures.plots"),
    "compare": _EXPERIMENTS,
    "ablate": _EXPERIMENTS,
    "sweep": _EXPERIMENTS,
    "study": _EXPERIMENTS,
    "report": _EXPERIMENTS,
    "collect": (*_TRAINING, "actorcritic.runs.collecting"),
    "data": ("actorcritic.data.summary", "actorcritic.figures.plots", "tyro"),
    "audit-env": ("actorcritic.audit.environments.audit",),
    "completion": (*_EXPERIMENTS, "actorcritic.audit.command", "actorcritic.language.supervised"),
}


def modules_of(arguments: list[str]) -> tuple[str, ...]:
    """What the command of these arguments imports."""
    if arguments[0] == "language":
        from actorcritic.cli.language import TASKS

        return TASKS[arguments[1]].modules if arguments[1] in TASKS else ()
    return MODULES.get(arguments[0], ())


OPTIONS: dict[str, type] = {
    "evaluate": _EvaluateOptions,
    "play": _PlayOptions,
    "plot": _PlotOptions,
    "study": _StudyOptions,
    "report": _ReportOptions,
    "collect": CollectOptions,
    "data": DataOptions,
}
