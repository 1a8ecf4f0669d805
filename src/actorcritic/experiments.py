"""Experiments: several variants of a training on one task, and what may be said of them.

    study.json        what is compared: enough to go on, and to write the report again
    variants/…        a run folder each (see `runs.py`), finished or under way
    report.html       what was found; report-pictures/ has its pictures, report.json its numbers

An experiment that was stopped goes on where it was when it is called again with the same folder.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

import jax
import numpy as np

from actorcritic import checkpoints, configuration, files, hyperparameters, pages
from actorcritic.algorithms.presets import DEFAULT_STEPS, algorithm_named, preset
from actorcritic.comparison import Comparison
from actorcritic.console import TrainingDisplay
from actorcritic.envs.host import HostEnvironment
from actorcritic.figures import plots, statistics
from actorcritic.figures.html import Picture, Section, Table
from actorcritic.runs import Run, prepare_jax, read_run, restore_results
from actorcritic.search import FORMS, Choice, Method, Range, ask_optuna, draw
from actorcritic.training import (
    Interruption,
    Options,
    Training,
    check_empty,
    check_numbers,
    folder_of_its_own,
    interruptible,
)
from actorcritic.types import Environment, EnvSpec, UserError
from actorcritic.words import printable

STUDY, REPORT = "study.json", "report.html"
FORMAT = 1
SEEDS = 10  # of a comparison, where nothing else is asked for


class Stopped(KeyboardInterrupt):
    """An experiment was stopped before its end; the text says how to go on."""


# ------------------------------------------------------------------------------------ variants


def variant(text: str, environment_id: str) -> tuple[str, Any, int | None]:
    """What "ppo" or "ppo:clip_range=0.1,num_envs=4" names: label, algorithm, its preset's steps.

    The tuned preset of the environment, with the settings named on top.
    """
    name, _, settings = text.partition(":")
    cls = algorithm_named(name)
    changes = {}
    for pair in filter(None, settings.split(",")):
        key, separator, value = pair.partition("=")
        if not separator:
            raise UserError(
                f"A variant is NAME or NAME:SETTING=VALUE,…, as ppo:clip_range=0.1; got '{text}'."
            )
        changes[key] = hyperparameters.parse(cls, key, value)
    chosen = preset(name, environment_id)
    label = " ".join([name, *(f"{key}={shown(value)}" for key, value in changes.items())])
    return label, hyperparameters.replace(chosen.algorithm, **changes), chosen.total_steps


def shown(value: Any) -> str:
    """A hyperparameter's value in a label."""
    if isinstance(value, tuple):
        return "x".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def rounded(value: Any) -> str:
    """The same, of a number that was drawn: three figures say where it lies."""
    return f"{value:.3g}" if isinstance(value, float) else shown(value)


def _variants(
    given: Sequence[Any] | Mapping[str, Any], spec: EnvSpec
) -> tuple[dict[str, Any], int | None]:
    """Labelled algorithms, and the largest number of steps that one of their presets takes."""
    named: list[tuple[str, Any]] = (
        list(given.items()) if isinstance(given, Mapping) else [("", each) for each in given]
    )
    found: dict[str, Any] = {}
    steps: list[int] = []
    for label, each in named:
        if isinstance(each, str):
            own, algorithm, budget = variant(each, spec.id)
            steps += [] if budget is None else [budget]
        else:
            own, algorithm = each.name, each
        label = label or own
        if label != printable(label) or "\n" in label:
            raise UserError(
                f"A variant's name is one line of printable characters; got {label!r}. Give it "
                "another name."
            )
        if label in found:
            raise UserError(
                f"The variant '{label}' is named twice. Variants need different names: give them "
                "as NAME:SETTING=VALUE, or from Python as a dict of name to algorithm."
            )
        found[label] = algorithm
    if not found:
        raise UserError("There is nothing to compare: name at least one algorithm.")
    return found, max(steps, default=None)


# ------------------------------------------------------------------------------------ training


@dataclass(frozen=True)
class Setting:
    """What all variants of an experiment share."""

    environment: Environment | HostEnvironment
    seeds: tuple[int, ...]
    evaluation_episodes: int = 100
    quiet: bool = False

    @property
    def spec(self) -> EnvSpec:
        return self.environment.spec


def _setting(
    environment: Any,
    seeds: int | Sequence[int],
    seed: int,
    total_steps: int | None,
    env_options: Mapping[str, Any] | None,
    host: bool,
    evaluation_episodes: int,
    quiet: bool,
) -> Setting:
    prepare_jax()
    if isinstance(seeds, Sequence):
        chosen = tuple(seeds)
        twice = sorted({s for s in chosen if chosen.count(s) > 1})
        if twice:
            raise UserError(f"Seeds must differ from each other; {twice} are named twice.")
        for each in chosen:
            check_numbers(1, each, total_steps, evaluation_episodes, 0.0)
    else:
        check_numbers(seeds, seed, total_steps, evaluation_episodes, 0.0)
        chosen = tuple(range(seed, seed + seeds))
    if not chosen:
        raise UserError("An experiment needs at least one seed; got none.")
    options = dict(env_options or {})
    world = configuration.resolve_environment(environment, host=host, options=options)
    return Setting(world, chosen, evaluation_episodes, quiet=quiet)


def planned(
    variants: Mapping[str, Any], setting: Setting, total_steps: int, folder: Path | None
) -> dict[str, Run]:
    """A run of each variant, not yet begun; UserError where one cannot be trained."""
    for algorithm in variants.values():
        configuration.check(algorithm, setting.environment, total_steps)
    return {
        label: Run(
            algorithm,
            setting.environment,
            setting.seeds,
            total_steps,
            None if folder is None else folder / _folder_name(number, label),
            variant=label,
        )
        for number, (label, algorithm) in enumerate(variants.items())
    }


def train_all(runs: Mapping[str, Run], setting: Setting, title: str) -> None:
    """Train what the runs' folders do not hold yet.

    Runs that differ in floats only are one program, and different programs are compiled beside
    each other. Raises Stopped at Ctrl-C, when everything is saved.
    """
    missing = [run for run in runs.values() if not _is_finished(run, setting)]
    groups: dict[Any, list[Run]] = {}
    for run in missing:
        # The host runner steps one algorithm's environments at a time.
        alone = run.variant if isinstance(setting.environment, HostEnvironment) else ""
        groups.setdefault((jax.tree.structure(run.algorithm), alone), []).append(run)
    if missing:
        total = sum(run.total_steps * len(run.seeds) for run in missing)
        with (
            TrainingDisplay(title, total, setting.quiet) as display,
            interruptible() as interruption,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            for note in _notes(missing):
                display.say(note)
            _train_groups(list(groups.values()), setting, display, interruption, pool)
            if interruption.signal == signal.SIGTERM:
                display.say("SIGTERM came. What was trained is saved; repeat the call to go on.")
    if not all(run.finished for run in runs.values()):
        kept = any(run.out is not None for run in missing)
        raise Stopped("stopped and saved." if kept else "stopped; nothing was kept.")


def _train_groups(
    groups: list[list[Run]],
    setting: Setting,
    display: TrainingDisplay,
    interruption: Interruption,
    pool: ThreadPoolExecutor,
) -> None:
    options = Options(setting.evaluation_episodes, tensorboard=False)

    def begin(runs: list[Run]) -> Training:
        training = Training(runs, options)
        training.session.compile()
        return training

    # On the host, compiling opens the environments: not before it is their turn.
    early = isinstance(setting.environment, Environment)
    waiting = [pool.submit(begin, runs) for runs in groups] if early else []
    for k, runs in enumerate(groups):
        if interruption():
            break
        names = ", ".join(run.variant for run in runs[:3]) + (" …" if len(runs) > 3 else "")
        display.now(names)
        training = waiting[k].result() if early else begin(runs)
        try:
            training.go(display, interruption)
        finally:
            training.close()
    for future in waiting:
        future.cancel()


def _notes(runs: Sequence[Run]) -> Iterator[str]:
    said: dict[str, str] = {}
    for run in runs:
        for note in run.algorithm.notes(run.spec):
            said.setdefault(note, run.variant)
    for note, label in said.items():
        yield f"Note: {label}: {note}"


def _folder_name(number: int, label: str) -> str:
    return f"{number:02d}-" + re.sub(r"[^\w.=+-]+", "-", label)[:80]


def _is_finished(run: Run, setting: Setting) -> bool:
    """Whether the run's folder has it whole already; if so, it is read."""
    if run.out is None or not (run.out / "run.json").exists():
        return False
    stored = configuration.read(run.out)
    run.spread = stored.get("spread")
    wanted = json.loads(json.dumps(run.configuration()))
    for name in ("algorithm", "environment", "seeds", "total_steps"):
        if stored[name] != wanted[name]:
            raise UserError(
                f"{run.out} holds a run with another {name} than is asked for now. Choose another "
                "folder, or repeat the experiment as it was."
            )
    if checkpoints.newest(run.out / "checkpoints") is None:
        return False
    restore_results(run)
    evaluated = run.final_evaluation is not None or not run.trained_seeds
    return run.finished and (evaluated or not setting.evaluation_episodes)


# ------------------------------------------------------------------------------------ the folder


class Part(NamedTuple):
    """One comparison of a study: which runs, and what they are called."""

    title: str
    runs: Mapping[str, Run]
    thresholds: Sequence[float] | None = None

    def comparison(self, command: str | None) -> Comparison:
        return Comparison.of(
            self.runs, title=self.title, thresholds=self.thresholds, command=command
        )


class Study(NamedTuple):
    """What study.json holds."""

    kind: str
    title: str
    command: str | None  # that makes it again
    parts: Sequence[Part]
    about: Mapping[str, Any] = MappingProxyType({})  # what only this kind of study knows

    def to_json(self, folder: Path) -> dict[str, Any]:
        parts = [
            {
                "title": part.title,
                "runs": {
                    label: run.out.relative_to(folder).as_posix()
                    for label, run in part.runs.items()
                    if run.out is not None
                },
                "thresholds": None if part.thresholds is None else list(part.thresholds),
            }
            for part in self.parts
        ]
        return {"format": FORMAT} | self._asdict() | {"parts": parts, "about": dict(self.about)}


_FORM = {"kind": str, "title": str, "command": str | None, "parts": list, "about": dict}


def read_study(folder: str | Path) -> Study:
    """A study as its folder tells it; every run of it has to be finished to be compared."""
    folder = Path(folder)
    path = folder / STUDY
    if not path.exists():
        raise UserError(
            f"{folder} is neither a run nor a study: it has no run.json and no {STUDY}. Name a "
            "folder that train, compare, ablate, sweep or study has written."
        )
    data = configuration.read_json(path)
    form = {"title": str, "runs": dict, "thresholds": list | None}
    if not configuration.fits(data, _FORM) or not all(
        configuration.fits(part, form) for part in data["parts"]
    ):
        raise UserError(f"{path} is not what a study writes. Restore it from a copy.")
    parts = []
    for part in data["parts"]:
        runs = {}
        for label, name in part["runs"].items():
            if not (folder / name / "run.json").exists():
                raise UserError(f"{folder} lacks the run '{label}' ({name}). {_to_finish(data)}")
            runs[label] = read_run(folder / name)
        parts.append(Part(part["title"], runs, part["thresholds"]))
    if not any(part.runs for part in parts):
        raise UserError(f"{folder} holds no runs yet. {_to_finish(data)}")
    return Study(data["kind"], data["title"], data["command"], parts, data["about"])


def _to_finish(data: Mapping[str, Any]) -> str:
    return f"To finish it, repeat: {data['command'] or 'the call that began it, with this folder'}"


@contextlib.contextmanager
def study_folder(folder: Path | None, study: Study) -> Iterator[None]:
    """Hold the folder, with study.json in it; UserError where it holds something else."""
    if folder is None:
        yield
        return
    if (folder / "run.json").exists():
        raise UserError(f"{folder} already holds a run. Choose another folder for a study.")
    mine = json.loads(json.dumps(study.to_json(folder)))
    if not (folder / STUDY).exists():
        check_empty(folder)
    else:
        there = configuration.read_json(folder / STUDY)
        if any(there.get(name) != mine[name] for name in ("kind", "title", "about")):
            raise UserError(
                f"{folder} already holds another study: {there.get('title')}. Choose another "
                "folder, or repeat that study as it was."
            )
    with folder_of_its_own(folder):
        save_study(folder, study)
        yield


def save_study(folder: Path, study: Study) -> None:
    files.write(folder / STUDY, json.dumps(study.to_json(folder), indent=2))


# ------------------------------------------------------------------------------------ experiments


def compare(
    variants: Sequence[Any] | Mapping[str, Any],
    environment: Any,
    *,
    seeds: int | Sequence[int] = SEEDS,
    seed: int = 0,
    total_steps: int | None = None,
    thresholds: Sequence[float] | None = None,
    out: str | Path | None = None,
    host: bool = False,
    env_options: Mapping[str, Any] | None = None,
    evaluation_episodes: int = 100,
    quiet: bool = False,
    title: str | None = None,
    command: str | None = None,
) -> Comparison:
    """Train several variants on the same seeds, and compare them.

    A variant is a name ("ppo", with the tuned preset of the environment), a name with settings
    ("ppo:clip_range=0.1,num_envs=4"), or an algorithm; a dict gives them names. All get the same
    `total_steps`: without it, the largest that one of their presets takes. `thresholds` are
    returns whose first reaching is told; without them, the one registered with Gymnasium.

    With `out`, everything is kept in that folder, with a report; called again, it goes on where
    it was. Raises UserError for any mistake before anything is written, and Stopped at Ctrl-C.
    """
    setting = _setting(
        environment, seeds, seed, total_steps, env_options, host, evaluation_episodes, quiet
    )
    found, largest = _variants(variants, setting.spec)
    title = title or f"{', '.join(found)} on {setting.spec.id}"
    return _compared(
        "compare", found, setting, total_steps or largest, title, thresholds, out, command
    )


def ablate(
    algorithm: Any,
    environment: Any,
    *,
    vary: Mapping[str, Sequence[Any]],
    grid: bool = False,
    seeds: int | Sequence[int] = SEEDS,
    seed: int = 0,
    total_steps: int | None = None,
    thresholds: Sequence[float] | None = None,
    out: str | Path | None = None,
    host: bool = False,
    env_options: Mapping[str, Any] | None = None,
    evaluation_episodes: int = 100,
    quiet: bool = False,
    command: str | None = None,
) -> Comparison:
    """What each setting does: the algorithm as it is, and with other values of some settings.

    `vary` names values for each hyperparameter. One is changed at a time, or with `grid` every
    combination is trained. The rest is as in `compare`.
    """
    setting = _setting(
        environment, seeds, seed, total_steps, env_options, host, evaluation_episodes, quiet
    )
    if not vary:
        raise UserError("An ablation needs a setting to vary, as gae_lambda=0,0.95,1; got none.")
    largest = None
    if isinstance(algorithm, str):
        label, algorithm, largest = variant(algorithm, setting.spec.id)
    else:
        label = algorithm.name
    names = [name for name in vary if len(vary[name])]
    if grid:
        changes = [
            dict(zip(names, values, strict=True))
            for values in itertools.product(*(vary[name] for name in names))
        ]
    else:
        changes = [{name: value} for name in names for value in vary[name]]
    found = {label: algorithm}
    for change in changes:
        other = hyperparameters.replace(algorithm, **change)
        if other != algorithm:  # what the algorithm has already is the reference
            found[" ".join(f"{name}={shown(value)}" for name, value in change.items())] = other
    title = f"{label} on {setting.spec.id}: {', '.join(names)}"
    return _compared(
        "ablate", found, setting, total_steps or largest, title, thresholds, out, command
    )


def _compared(
    kind: str,
    variants: Mapping[str, Any],
    setting: Setting,
    total_steps: int | None,
    title: str,
    thresholds: Sequence[float] | None,
    out: str | Path | None,
    command: str | None,
) -> Comparison:
    folder = None if out is None else Path(out)
    runs = planned(variants, setting, total_steps or DEFAULT_STEPS, folder and folder / "variants")
    part = Part(title, runs, thresholds)
    with study_folder(folder, Study(kind, title, command, [part])):
        train_all(runs, setting, title)
        comparison = part.comparison(command)
        if folder is not None:
            comparison.report(folder / REPORT)
    return comparison


# ------------------------------------------------------------------------------------ sweeps


@dataclass(frozen=True)
class Sweep:
    """A search over hyperparameters, and what its winner reached on seeds that did not choose it.

    `search` compares the trials; its scores chose the winner, so the winner's own is too high.
    `confirmation` has the winner and the algorithm as it was, trained on fresh seeds.
    """

    title: str
    search: Comparison
    space: Mapping[str, Range | Choice]
    confirmation: Comparison
    command: str | None = None

    @property
    def _every(self) -> dict[str, Run]:
        """The run of each trial, also of those that failed."""
        return self.search.runs | self.search.failed_runs

    @cached_property
    def points(self) -> dict[str, dict[str, Any]]:
        """What each trial was trained with."""
        found = {}
        for label, run in self._every.items():
            settings = run.configuration()["algorithm"]["hyperparameters"]
            found[label] = {name: settings[name] for name in self.space}
        return found

    @property
    def winner(self) -> str:
        """The trial with the highest IQM of its seeds; of equals, the first."""
        found = {label: variant.iqm.value for label, variant in self.search.variants.items()}
        return max(found, key=lambda label: found[label])

    @property
    def best(self) -> dict[str, Any]:
        """The winner's hyperparameters."""
        return self.points[self.winner]

    @property
    def verdict(self) -> str:
        best = " ".join(f"{name}={rounded(value)}" for name, value in self.best.items())
        number = len(self.points)
        won = f"Of {number} trials, {best} won. {self.search.failed}".rstrip()
        return f"{won} On fresh seeds: {self.confirmation.verdict}"

    def __str__(self) -> str:
        top = self.trials().rows[:5]
        lines = [f"  {label}: {iqm}  ({settings})" for label, settings, iqm, *_ in top]
        return "\n".join(
            [f"{self.title}\n\nBest of the search:", *lines, "", str(self.confirmation)]
        )

    def trials(self) -> Table:
        """Every trial, the best first."""
        found = self.search.variants
        order = sorted(found, key=lambda label: -found[label].iqm.value)
        lost = tuple(
            (label, self._settings(label), "failed", "") for label in self.search.failed_runs
        )
        write = statistics.figures(*(found[label].worst_score for label in order))
        rows = tuple(
            (
                label,
                self._settings(label),
                write(found[label].iqm.value),
                write(found[label].worst_score),
            )
            for label in order
        )
        note = (
            f"Score: {self.search.score}; IQM over {self.search.how_many} The best of many is "
            "partly luck: what it is worth is in the confirmation, on other seeds."
        )
        columns = ("trial", "settings", "IQM", "worst seed")
        return Table("trials", "Trials", columns, (*rows, *lost), note)

    def _settings(self, label: str) -> str:
        return " ".join(f"{name}={rounded(value)}" for name, value in self.points[label].items())

    def sections(self) -> list[Section]:
        labels, best = list(self.search.variants), self.winner
        scores = np.array([self.search.variants[label].iqm.value for label in labels])
        pictures = []
        for name, where in self.space.items():
            values = [self.points[label][name] for label in labels]
            if isinstance(where, Choice):
                values = [shown(value) for value in values]
            log = isinstance(where, Range) and where.log
            figure = plots.sweep_scatter(name, values, scores, log=log, best=labels.index(best))
            pictures.append(Picture(name, f"Score of each trial against {name}", figure))
        first = Section(
            "Search",
            f"Of {len(self.points)} trials, {best} scored highest.",
            pictures=tuple(pictures),
            tables=(self.trials(),),
        )
        return [first, pages.section(self.confirmation, "Confirmation on fresh seeds")]

    def data(self) -> dict[str, Any]:
        return {
            "trials": {
                label: {
                    "settings": self.points[label],
                    "scores": self.search.scores[label].tolist()
                    if label in self.search.scores
                    else None,  # it failed
                }
                for label in self.points
            },
            "winner": self.winner,
            "confirmation": self.confirmation.data(),
        }

    def report(self, path: str | Path) -> Path:
        """Write everything as one HTML page, its pictures and numbers beside it."""
        compared = [self.search, self.confirmation]
        return pages.publish(path, self.title, self.sections(), compared, self.data(), self.command)


def sweep(
    algorithm: Any,
    environment: Any,
    *,
    space: Mapping[str, Range | Choice],
    trials: int = 32,
    seeds: int = 3,
    seed: int = 0,
    method: Method = "sobol",
    confirm_seeds: int = SEEDS,
    total_steps: int | None = None,
    out: str | Path | None = None,
    host: bool = False,
    env_options: Mapping[str, Any] | None = None,
    evaluation_episodes: int = 100,
    quiet: bool = False,
    command: str | None = None,
) -> Sweep:
    """Search hyperparameters: `trials` points of `space`, `seeds` seeds each.

    The winner is then trained again, beside the algorithm as it was, on `confirm_seeds` seeds that
    no trial used. `method` is "sobol", "random" or "optuna" (which looks where it was good, and
    needs the extra); the points depend on `seed` only. The rest is as in `compare`.
    """
    setting = _setting(
        environment, seeds, seed, total_steps, env_options, host, evaluation_episodes, quiet
    )
    check_numbers(confirm_seeds, seed + seeds, total_steps, evaluation_episodes, 0.0)
    if trials < 2:
        raise UserError(f"A sweep needs at least two trials; got {trials}.")
    if not space:
        raise UserError(f"A sweep needs a space, as learning_rate=log:1e-4:1e-2 ({FORMS}).")
    if method not in get_args(Method):
        raise UserError(f"method must be one of {', '.join(get_args(Method))}; got {method!r}.")
    found, largest = _variants([algorithm], setting.spec)
    ((label, plain),) = found.items()
    steps = total_steps or largest or DEFAULT_STEPS
    for name, where in space.items():  # before anything is written: both ends must be allowed
        for share in (0.0, 1.0):
            hyperparameters.check(hyperparameters.replace(plain, **{name: where.at(share)}))
    folder = None if out is None else Path(out)
    title = f"{label} on {setting.spec.id}: {', '.join(space)}"
    about = {
        "space": {name: asdict(where) for name, where in space.items()},
        "trials": trials,
        "method": method,
        "seed": seed,
    }
    runs: dict[str, Run] = {}

    def score(points: Sequence[dict[str, Any]]) -> list[float]:
        # A point that comes again, of a small space, is not trained again.
        settled = [hyperparameters.replace(plain, **point) for point in points]
        known = {run.algorithm: label for label, run in runs.items()}
        new = [each for each in dict.fromkeys(settled) if each not in known]
        labels = [f"trial {len(runs) + k + 1:02d}" for k in range(len(new))]
        variants = dict(zip(labels, new, strict=True))
        batch = planned(variants, setting, steps, folder and folder / "trials")
        train_all(batch, setting, title)
        runs.update(batch)
        known |= {run.algorithm: label for label, run in batch.items()}
        found = Comparison.of(runs, thresholds=()).variants
        lowest = min(variant.iqm.value for variant in found.values())
        return [  # what failed is as bad as the worst that did not
            found[known[each]].iqm.value if known[each] in found else lowest for each in settled
        ]

    with study_folder(folder, Study("sweep", title, command, [], about)):
        if method == "optuna":
            ask_optuna(space, trials, seed, score)
        else:
            score(draw(space, trials, method, seed))
        tried = Comparison.of(runs, thresholds=()).variants
        best = max(tried, key=lambda name: tried[name].iqm.value)
        fresh = replace(setting, seeds=tuple(range(seed + seeds, seed + seeds + confirm_seeds)))
        settled = {label: plain}
        if runs[best].algorithm != plain:
            settled[f"{best} (winner)"] = runs[best].algorithm
        confirmed = planned(settled, fresh, steps, folder and folder / "confirmation")
        train_all(confirmed, fresh, f"{title}, confirmation")
        study = Study(
            "sweep",
            title,
            command,
            [Part("Search", runs, ()), Part("Confirmation", confirmed)],
            about,
        )
        result = _as_sweep(study)
        if folder is not None:
            save_study(folder, study)
            result.report(folder / REPORT)
    return result


def _as_sweep(study: Study) -> Sweep:
    tried, confirmed = (part.comparison(study.command) for part in study.parts)
    space = {
        name: Choice(tuple(each["values"])) if "values" in each else Range(**each)
        for name, each in study.about["space"].items()
    }
    return Sweep(study.title, tried, space, confirmed, study.command)


# ------------------------------------------------------------------------------------ reports


def report(
    paths: Sequence[str | Path],
    out: str | Path = "report.html",
    *,
    thresholds: Sequence[float] | None = None,
    command: str | None = None,
) -> Path:
    """One page of finished runs and studies, read from their folders.

    Run folders are compared with each other; each study keeps its own sections. Raises UserError
    where something cannot be compared, is not finished, or is no run or study.
    """
    folders = [Path(path) for path in paths]
    if not folders:
        raise UserError("A report needs the folder of at least one run or study.")
    sections: list[Section] = []
    comparisons: list[Comparison] = []
    data: list[Any] = []
    runs = [folder for folder in folders if (folder / "run.json").exists()]
    if runs:
        alone = Comparison.of([read_run(folder) for folder in runs], thresholds=thresholds)
        sections += alone.sections()
        comparisons.append(alone)
        data.append(alone.data())
    for folder in folders:
        if folder in runs:
            continue
        study = read_study(folder)
        if study.kind == "sweep":
            swept = _as_sweep(study)
            sections += swept.sections()
            comparisons += [swept.search, swept.confirmation]
            data.append(swept.data())
            continue
        for part in study.parts:
            each = part.comparison(study.command)
            sections += each.sections()
            comparisons.append(each)
            data.append(each.data())
    title = comparisons[0].title if len(comparisons) == 1 else "Report"
    return pages.publish(out, title, sections, comparisons, data, command)
