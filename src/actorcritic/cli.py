"""The command line: every command is a function of `actorcritic` with its options spelled out."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

USAGE = """\
actorcritic: actor-critic reinforcement learning

  actorcritic train ALGORITHM ENV [--total-steps N] [--seeds K] [--seed S] [--out DIR] [--host]
                                  [--HYPERPARAMETER VALUE …]
  actorcritic resume RUN [--total-steps N]
  actorcritic evaluate RUN [--episodes N] [--stochastic]
  actorcritic play RUN [--out clip.gif]     a window where there is a screen, else a file
  actorcritic plot RUN… [--out curve.png]
  actorcritic compare VARIANT… --env ENV [--seeds K] [--total-steps N]
  actorcritic ablate ALGORITHM ENV --vary SETTING=A,B,… [--vary …] [--grid]
  actorcritic sweep ALGORITHM ENV --space SETTING=log:LOW:HIGH [--trials N] [--seeds K]
  actorcritic study [NAME] [--quick]        a study of the field's questions; without NAME, a list
  actorcritic report RUN_OR_EXPERIMENT… [--out report.html]
  actorcritic audit FILE.py:FUNCTION [--kind KIND] [--map THEIR_NAME=OUR_NAME …] [--json]
  actorcritic audit-env ENV              does an environment keep its promises?
  actorcritic list [algorithms|environments|presets]

Start with:  actorcritic train ppo CartPole-v1
Help on one: actorcritic train ppo --help
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. A user's mistake is one line on stderr."""
    from actorcritic.core.errors import UserError

    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if arguments[0] in ("-V", "--version", "version"):
        from importlib.metadata import version

        print(version("actorcritic"))
        return 0
    name, rest = arguments[0], arguments[1:]
    try:
        if name not in COMMANDS:
            from actorcritic.core.words import nearest

            raise UserError(
                f"There is no command '{name}'.{nearest(name, COMMANDS)} "
                f"Known: {', '.join(COMMANDS)}."
            )
        return COMMANDS[name](rest)
    except UserError as error:
        _say(f"actorcritic: {error}", error=True)
        return 1
    except KeyboardInterrupt as stop:
        _say(f"actorcritic: {str(stop) or 'interrupted.'}", error=True)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def prepare(arguments: list[str]) -> None:
    """Import what a command needs, so that it is done before the command begins."""
    import importlib

    # A command alone, or a plea for help, only says what it can do.
    for module in MODULES.get(arguments[0], ()) if len(arguments) > 1 else ():
        importlib.import_module(module)


def _say(text: object, *, error: bool = False) -> None:
    """Print what may hold names from a stranger's run: they must not command the terminal."""
    from actorcritic.core.words import printable

    print(printable(text), file=sys.stderr if error else sys.stdout)


# ------------------------------------------------------------------------------------ commands

NOT_OPTIONS = ("network", "axis")  # hyperparameters that only Python can give


@dataclasses.dataclass(frozen=True)
class _EvaluateOptions:
    episodes: Annotated[int, "episodes of each seed"] = 100
    stochastic: Annotated[bool, "sample actions instead of taking the most likely"] = False
    seed: Annotated[int, "of the evaluation's own randomness"] = 1_000_000
    env: Annotated[str | None, "the environment, if it is your own (module:Name)"] = None
    json: Annotated[bool, "print every return as JSON"] = False


@dataclasses.dataclass(frozen=True)
class _PlayOptions:
    out: Annotated[Path | None, "write a GIF here (default: a window, or RUN/play.gif)"] = None
    seed: Annotated[int | None, "which trained seed (default: the best)"] = None
    episodes: Annotated[int, "how many episodes to play"] = 1
    stochastic: Annotated[bool, "sample actions instead of taking the most likely"] = False
    env: Annotated[str | None, "the environment, if it is your own (module:Name)"] = None


@dataclasses.dataclass(frozen=True)
class _PlotOptions:
    out: Annotated[Path, "the picture; .png or .svg"] = Path("curve.png")


@dataclasses.dataclass(frozen=True)
class _StudyOptions:
    quick: Annotated[bool, "a small version that shows that it works, and proves nothing"] = False
    out: Annotated[Path | None, "folder of the experiment (default: a new one below runs/)"] = None
    quiet: Annotated[bool, "show no progress"] = False


@dataclasses.dataclass(frozen=True)
class _ReportOptions:
    out: Annotated[Path, "the page; .html"] = Path("report.html")
    threshold: Annotated[
        tuple[float, ...], "returns whose first reaching is told (default: Gymnasium's)"
    ] = ()


Field = tuple[str, Any, Any]  # name, kind with its meaning, default

# How some settings are written on a command line: name, kind and default there.
AS_WRITTEN: dict[str, tuple[str, Any, Any]] = {
    "evaluation_episodes": ("episodes", int, 100),
    "env_options": ("env_option", tuple[str, ...], ()),
    "thresholds": ("threshold", tuple[float, ...], ()),
    "info_metrics": ("info_metric", tuple[str, ...], ()),
    "seeds": ("seeds", int, None),
    "out": ("out", Path | None, None),
}
ONLY_PYTHON = ("title", "command", "callbacks", "sinks")


def _fields_of(settings: type) -> list[Field]:
    """The settings of a command as its options."""
    kinds, found = get_type_hints(settings), []
    for f in dataclasses.fields(settings):
        if f.name not in ONLY_PYTHON:
            name, kind, default = AS_WRITTEN.get(f.name, (f.name, kinds[f.name], None))
            meaning = f.metadata["meaning"]
            if f.name == "env_options":
                meaning += ", as gravity=0.0"
            default = f.default if default is None else default
            found.append((name, Annotated[kind, meaning], default))
    return found


def _as_settings(settings: type, options: Any, **more: Any) -> Any:
    """The settings that parsed options stand for."""
    values = {}
    for f in dataclasses.fields(settings):
        if f.name not in ONLY_PYTHON:
            values[f.name] = getattr(options, AS_WRITTEN.get(f.name, (f.name,))[0])
    if "env_options" in values:
        values["env_options"] = _key_values(values["env_options"])
    if "thresholds" in values:
        values["thresholds"] = values["thresholds"] or None
    return settings(**values | more)


def _with_settings(settings: type, *others: Field) -> type:
    """The options of a command that takes settings, and others."""
    fields: list[Any] = [
        (name, kind, dataclasses.field(default=default))
        for name, kind, default in (*_fields_of(settings), *others)
    ]
    return dataclasses.make_dataclass("Options", fields, frozen=True)


def _parse(command: str, options: type, rest: list[str]) -> Any:
    """The options of a command, by tyro; a mistake prints its explanation and exits with 2."""
    import tyro

    kinds = get_type_hints(options, include_extras=True)
    fields = []
    for f in dataclasses.fields(options):
        kind, meaning = get_args(kinds[f.name])[:2]
        annotated: Any = Annotated[kind, tyro.conf.arg(help=meaning)]  # type: ignore[valid-type]
        fields.append((f.name, annotated, dataclasses.field(default=f.default)))
    # Made anew, because its help has to come from the table above and not from a docstring.
    cls = dataclasses.make_dataclass("Options", fields, frozen=True)
    return tyro.cli(cls, prog=f"actorcritic {command}", args=rest)


def _named(rest: list[str], count: int, usage: str) -> tuple[list[str], list[str]]:
    """The first `count` words, which are not options, and the rest."""
    from actorcritic.core.errors import UserError

    if count == 1 and rest[:1] in (["-h"], ["--help"]):
        return ["RUN"], rest
    words = rest[:count]
    if len(words) < count or any(word.startswith("-") for word in words):
        raise UserError(f"Usage: actorcritic {usage}")
    return words, rest[count:]


def _train(rest: list[str]) -> int:
    from actorcritic.algorithms.catalogue import ALGORITHMS
    from actorcritic.algorithms.presets import preset
    from actorcritic.runs import configuration
    from actorcritic.runs.run import prepare_jax
    from actorcritic.runs.settings import TrainSettings
    from actorcritic.runs.train import train

    usage = "train ALGORITHM ENV [options]; for all of them: actorcritic train ALGORITHM --help"
    if rest[:1] in (["-h"], ["--help"]):
        _say(f"Usage: actorcritic {usage}\n")
        _parse("train ALGORITHM ENV", _with_settings(TrainSettings), ["--help"])
    algorithm: Any = None
    world: Any = None
    if len(rest) > 1 and rest[1] in ("-h", "--help"):
        algorithm, words, rest = ALGORITHMS.named(rest[0])(), [rest[0], "ENV"], rest[1:]
    else:
        words, rest = _named(rest, 2, usage)

    def parse(algorithm: Any, rest: list[str]) -> tuple[Any, dict[str, Any]]:
        """The options, and those hyperparameters that are not as the algorithm has them."""
        own = _hyperparameters(algorithm)
        options = _parse(f"train {' '.join(words)}", _with_settings(TrainSettings, *own), rest)
        values = {name: getattr(options, name) for name, *_ in own}
        return options, {k: v for k, v in values.items() if v != getattr(algorithm, k)}

    if algorithm is None:
        # What is not given depends on the environment, on how it is made, and on what is given.
        helped = not {"-h", "--help"}.isdisjoint(rest)
        options, given = parse(ALGORITHMS.named(words[0])(), [] if helped else rest)
        settings = _as_settings(TrainSettings, options)
        prepare_jax()
        world = configuration.resolve_environment(words[1], settings)
        algorithm = preset(words[0], world.spec, settings.total_steps, given).algorithm
    options, given = parse(algorithm, rest)
    settings = _as_settings(
        TrainSettings, options, out=options.out or _new_folder(f"{words[0]}-{words[1]}")
    )
    return _conclude(train(words[0], world, settings, **given))


def _hyperparameters(algorithm: Any) -> list[Field]:
    """An option for each hyperparameter of the algorithm."""
    kinds, found = get_type_hints(type(algorithm)), []
    for f in dataclasses.fields(algorithm):
        if f.name not in NOT_OPTIONS:
            within = f.metadata["within"]
            meaning = f.metadata["meaning"] + (f"; in {within}" if within else "")
            found.append((f.name, Annotated[kinds[f.name], meaning], getattr(algorithm, f.name)))
    return found


def _key_values(pairs: tuple[str, ...]) -> dict[str, Any]:
    from actorcritic.core.errors import UserError

    options = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise UserError(f"--env-option takes NAME=VALUE; got '{pair}'.")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


def _new_folder(stem: str) -> Path:
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in stem)
    number = 1
    while (Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return Path("runs") / f"{stem}-{number}"


def _conclude(run: Any) -> int:
    """The last lines of a training: what was reached, how sure that is, what to do next."""
    if not run.finished:
        _say(f"Stopped and saved. Go on with: actorcritic resume {run.out}")
        return 130
    result = run.final_evaluation
    kind = "deterministic evaluation" if result else "training only, not evaluated"
    if run.failed:
        kind += f"; {len(run.failed)} of {len(run.seeds)} seeds failed and are left out"
    _say(f"{run.label}: {result or 'finished'} ({kind}, {run.trained_steps:,} steps)")
    _say(f"Run folder:  {run.out}   learning curve: {run.out / 'curve.png'}")
    _say(f"Next:        actorcritic play {run.out}")
    _say(f"             actorcritic plot {run.out} --out curve.svg")
    _say(f"             actorcritic evaluate {run.out} --episodes 1000")
    return 0


ENV: Field = (
    "env",
    Annotated[str | None, "the environment, if it is your own (module:Name)"],
    None,
)


def _resume(rest: list[str]) -> int:
    from actorcritic.runs.settings import ResumeSettings
    from actorcritic.runs.train import resume

    (path,), rest = _named(rest, 1, "resume RUN [--total-steps N]")
    options = _parse("resume RUN", _with_settings(ResumeSettings, ENV), rest)
    settings = _as_settings(ResumeSettings, options)
    return _conclude(resume(path, settings, environment=options.env))


def _evaluate(rest: list[str]) -> int:
    (path,), rest = _named(rest, 1, "evaluate RUN [--episodes N] [--stochastic]")
    options = _parse("evaluate RUN", _EvaluateOptions, rest)

    import actorcritic as ac

    run = ac.open_run(path, environment=options.env)
    result = run.evaluate(options.episodes, deterministic=not options.stochastic, seed=options.seed)
    if options.json:
        returns = dict(zip(result.seeds, result.returns.tolist(), strict=True))
        _say(json.dumps({"iqm": result.iqm, "interval": result.interval, "returns": returns}))
        return 0
    for seed, returns, lengths in zip(result.seeds, result.returns, result.lengths, strict=True):
        _say(
            f"seed {seed}: mean return {returns.mean():.2f} (deviation {returns.std():.2f}, "
            f"{returns.min():.2f} to {returns.max():.2f}), mean length {lengths.mean():.1f}"
        )
    _say(f"{run.label}: {result}")
    return 0


def _play(rest: list[str]) -> int:
    (path,), rest = _named(rest, 1, "play RUN [--out clip.gif]")
    options = _parse("play RUN", _PlayOptions, rest)

    import actorcritic as ac
    from actorcritic.runs import play

    run = ac.open_run(path, environment=options.env)
    said = play.play(
        run,
        out=options.out,
        seed=options.seed,
        episodes=options.episodes,
        deterministic=not options.stochastic,
    )
    _say(said)
    return 0


def _plot(rest: list[str]) -> int:
    paths, options = _many("plot RUN… [--out curve.png]", _PlotOptions, rest)

    from actorcritic.runs import run as runs

    _say(f"Wrote {runs.plot(paths, options.out)}")
    return 0


def _many(usage: str, options: type, rest: list[str]) -> tuple[list[str], Any]:
    """The words before the first option, at least one, and the options."""
    from actorcritic.core.errors import UserError

    count = next((k for k, word in enumerate(rest) if word.startswith("-")), len(rest))
    parsed = _parse(usage.partition(" [")[0], options, rest[count:])
    if not count:
        raise UserError(f"Usage: actorcritic {usage}")
    return rest[:count], parsed


def _gathered(rest: list[str], option: str) -> list[str]:
    """An option that may be repeated, once, with all its values."""
    at = [k for k, word in enumerate(rest) if word == option]
    if len(at) < 2:
        return rest
    values, kept, k = [], [], 0
    while k < len(rest):
        if rest[k] != option:
            kept.append(rest[k])
            k += 1
            continue
        k += 1
        while k < len(rest) and not rest[k].startswith("-"):
            values.append(rest[k])
            k += 1
    return [*kept, option, *values]


def _experiment(settings: type, options: Any, stem: str, words: list[str]) -> Any:
    """The settings of an experiment."""
    out = options.out or _new_folder(stem)
    command = ["actorcritic", *words]
    if options.out is None:  # so that the command, repeated, goes on in this folder
        command += ["--out", str(out)]
    return _as_settings(settings, options, out=out, command=shlex.join(command))


def _tell(result: Any, out: Path) -> int:
    """What an experiment found, and where the page is."""
    _say(f"{result}\n\nReport: {out / 'report.html'}   pictures: {out / 'report-pictures'}")
    return 0


def _going_on(command: str, call: Callable[[], Any]) -> Any:
    """Call; stopped at Ctrl-C, say how to go on."""
    from actorcritic.experiments.together import Stopped

    try:
        return call()
    except Stopped as stop:
        raise Stopped(f"{stop} Go on with: {command}") from None


def _compare(rest: list[str]) -> int:
    from actorcritic.core.errors import UserError
    from actorcritic.experiments.compare import compare
    from actorcritic.runs.settings import ExperimentSettings

    usage = "compare VARIANT… --env ENV [--seeds K] [--total-steps N]"
    env: Field = ("env", Annotated[str | None, "the environment all are trained on"], None)
    variants, options = _many(usage, _with_settings(ExperimentSettings, env), rest)
    if options.env is None:
        raise UserError(f"compare needs an environment. Usage: actorcritic {usage}")
    stem = f"compare-{options.env}"
    settings = _experiment(ExperimentSettings, options, stem, ["compare", *rest])
    result = _going_on(settings.command, lambda: compare(variants, options.env, settings))
    return _tell(result, settings.out)


def _ablate(rest: list[str]) -> int:
    from actorcritic.algorithms.catalogue import ALGORITHMS
    from actorcritic.core import hyperparameters
    from actorcritic.core.errors import UserError
    from actorcritic.experiments.compare import ablate
    from actorcritic.runs.settings import ExperimentSettings

    usage = "ablate ALGORITHM ENV --vary SETTING=A,B,… [--vary …] [--grid]"
    own: list[Field] = [
        ("vary", Annotated[tuple[str, ...], "a setting and its values, as gae_lambda=0,1"], ()),
        ("grid", Annotated[bool, "train every combination"], False),
        ("one_at_a_time", Annotated[bool, "one change at a time (what happens anyway)"], False),
    ]
    kind = _with_settings(ExperimentSettings, *own)
    (name, env), options = _two(usage, kind, _gathered(rest, "--vary"))
    if options.grid and options.one_at_a_time:
        raise UserError("Of --grid and --one-at-a-time only one can be meant.")
    cls, vary = ALGORITHMS.named(name.partition(":")[0]), {}
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
    from actorcritic.algorithms.catalogue import ALGORITHMS
    from actorcritic.experiments import search
    from actorcritic.experiments.sweep import sweep
    from actorcritic.runs.settings import SweepSettings

    usage = "sweep ALGORITHM ENV --space SETTING=log:LOW:HIGH [--trials N] [--seeds K]"
    meaning = "a setting and where to look, as learning_rate=log:1e-4:1e-2"
    kind = _with_settings(SweepSettings, ("space", Annotated[tuple[str, ...], meaning], ()))
    (name, env), options = _two(usage, kind, _gathered(rest, "--space"))
    cls = ALGORITHMS.named(name.partition(":")[0])
    space = dict(search.parse(cls, text) for text in options.space)
    settings = _experiment(SweepSettings, options, f"sweep-{name}-{env}", ["sweep", *rest])
    result = _going_on(settings.command, lambda: sweep(name, env, settings, space=space))
    return _tell(result, settings.out)


def _two(usage: str, options: type, rest: list[str]) -> tuple[list[str], Any]:
    """An algorithm and an environment, and the options."""
    if rest[:1] in (["-h"], ["--help"]):
        words: list[str] = []
    else:
        words, rest = _named(rest, 2, usage)
    return words, _parse(" ".join(usage.split()[:3]), options, rest)


def _study(rest: list[str]) -> int:
    from actorcritic import studies

    if not rest:
        for name, entry in studies.STUDIES.entries.items():
            _say(f"  {name}  {entry.meaning}")
        _say("\nRun one with: actorcritic study S1 [--quick]")
        return 0
    (name,), rest = _named(rest, 1, "study [NAME] [--quick] [--out DIR]")
    options = _parse("study NAME", _StudyOptions, rest)
    out = options.out or _new_folder(f"study-{name}")
    quick = " --quick" * options.quick
    command = shlex.join(["actorcritic", "study", name]) + f"{quick} --out {shlex.quote(str(out))}"
    result = _going_on(
        command,
        lambda: studies.study(
            name, quick=options.quick, out=out, quiet=options.quiet, command=command
        ),
    )
    return _tell(result, out)


def _report(rest: list[str]) -> int:
    usage = "report RUN_OR_EXPERIMENT… [--out report.html]"
    paths, options = _many(usage, _ReportOptions, rest)

    import actorcritic as ac

    command = shlex.join(["actorcritic", "report", *rest])
    thresholds = options.threshold or None
    _say(f"Wrote {ac.report(paths, options.out, thresholds=thresholds, command=command)}")
    return 0


def _audit(rest: list[str]) -> int:
    from actorcritic.audit.command import audit_command

    return audit_command(rest)


def _audit_env(rest: list[str]) -> int:
    from actorcritic.audit.command import audit_env_command

    return audit_env_command(rest)


def _list(rest: list[str]) -> int:
    from actorcritic.core.errors import UserError

    usage = f"Usage: actorcritic list [{'|'.join(LISTS)}]"
    if rest[:1] in (["-h"], ["--help"]):
        _say(usage)
        return 0
    for kind in rest:
        if kind not in LISTS:
            from actorcritic.core.words import nearest

            raise UserError(f"There is no list '{kind}'.{nearest(kind, LISTS)} {usage}")
    for kind in rest or LISTS:
        _say(f"{kind}:")
        for name, text in LISTS[kind]():
            _say(f"  {name:<28} {text}".rstrip())
    return 0


def _algorithms() -> Iterator[tuple[str, str]]:
    from actorcritic.algorithms.catalogue import ALGORITHMS

    for name, entry in ALGORITHMS.entries.items():
        yield name, entry.meaning


def _environments() -> Iterator[tuple[str, str]]:
    from actorcritic.envs.catalogue import COMPILED

    for name, entry in COMPILED.entries.items():
        yield name, f"compiled: {entry.meaning}"
    yield "gymnax:NAME", "compiled, from gymnax (extra)"
    yield "any Gymnasium id", "on the host, through Gymnasium"
    yield "module:Name", "on the host: your own class or factory"


def _presets() -> Iterator[tuple[str, str]]:
    from actorcritic.algorithms.presets import PRESETS

    for (algorithm, environment), preset in PRESETS.items():
        yield f"{algorithm} {environment}", f"{preset.total_steps:,} steps"


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
    "audit": _audit,
    "audit-env": _audit_env,
    "list": _list,
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
    "audit": ("actorcritic.audit.command",),
    "audit-env": ("actorcritic.audit.command",),
}
