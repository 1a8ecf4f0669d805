"""Sweeps: a search over hyperparameters, and its winner on seeds that did not choose it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from actorcritic.algorithms.presets import DEFAULT_STEPS
from actorcritic.core import hyperparameters
from actorcritic.core.errors import UserError
from actorcritic.core.words import rounded, shown
from actorcritic.experiments import page
from actorcritic.experiments.comparison import Comparison
from actorcritic.experiments.folder import (
    REPORT,
    Experiment,
    Part,
    experiment_folder,
    save_experiment,
)
from actorcritic.experiments.search import FORMS, Choice, Range, as_space, ask_optuna, draw
from actorcritic.experiments.together import train_all
from actorcritic.experiments.variants import Task, one_variant, planned
from actorcritic.figures import plots, statistics
from actorcritic.figures.html import Picture, Section, Table
from actorcritic.runs.console import working
from actorcritic.runs.run import Run
from actorcritic.runs.settings import SweepSettings


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
        fresh = f"On fresh seeds: {self.confirmation.verdict}"
        return f"{self._won} {fresh} {self.search.failed}".rstrip()

    @property
    def _won(self) -> str:
        return f"{self._settings(self.winner)} won, of {len(self.points)} trials."

    def __str__(self) -> str:
        top = self.trials().rows[:5]
        lines = [f"  {settings}: {iqm}  ({label})" for label, settings, iqm, *_ in top]
        best = "Best of the search, which is partly luck:"
        return "\n".join([f"{self.title}\n{self._won}\n\n{self.confirmation}\n\n{best}", *lines])

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
        """What the winner is worth, and then how it was found."""
        confirmed = page.section(self.confirmation, "The winner on fresh seeds")
        confirmed = confirmed._replace(verdict=self.verdict)
        labels = list(self.search.variants)
        pictures = tuple(self._scatter(name, labels) for name in self.space)
        number, tables = f"All {len(self.points)} trials", (self.trials(),)
        words = f"{number}, {self.search.how_many} The best of them: {self._settings(self.winner)}."
        return [confirmed, Section("Search", words, pictures=pictures, tables=tables)]

    def _scatter(self, name: str, labels: Sequence[str]) -> Picture:
        """The score of each trial against one of the settings."""
        where = self.space[name]
        values = [self.points[label][name] for label in labels]
        if isinstance(where, Choice):
            values = [shown(value) for value in values]
        scores = np.array([self.search.variants[label].iqm.value for label in labels])
        wide, narrow = (
            plots.sweep_scatter(
                name,
                values,
                scores,
                log=isinstance(where, Range) and where.log,
                best=labels.index(self.winner),
                limits=page.scale(self.search),
                width=width,
            )
            for width in (plots.WIDTH, plots.NARROW)
        )
        return Picture(name, f"Score of each trial against {name}", wide, narrow=narrow)

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
        compared = [self.confirmation, self.search]
        return page.publish(path, self.title, self.sections(), compared, self.data(), self.command)


def sweep(
    algorithm: Any,
    environment: Any,
    settings: SweepSettings | None = None,
    *,
    space: Mapping[str, Range | Choice | str],
    **options: Any,
) -> Sweep:
    """Search hyperparameters: `trials` points of `space`, `seeds` seeds each.

    `space` says where to look for each: Range(1e-4, 1e-2, log=True), Choice((4, 8)), or as on the
    command line "log:1e-4:1e-2", "choice:4,8".

    The winner is then trained again, beside the algorithm as it was, on `confirm_seeds` seeds that
    no trial used. `method` is "sobol", "random" or "optuna" (which looks where it was good, and
    needs the extra); the points depend on `seed` only. `options` are fields of `SweepSettings`; the
    rest is as in `compare`.
    """
    settings = SweepSettings.of(settings, options)
    task = Task.of(environment, settings)
    trials, method, seed = settings.trials, settings.method, settings.seed
    command = settings.command
    if not space:
        raise UserError(f"A sweep needs a space, as learning_rate=log:1e-4:1e-2 ({FORMS}).")
    label, plain, largest, why = one_variant(algorithm, task)
    space = as_space(type(plain), space)
    steps = settings.total_steps or largest or DEFAULT_STEPS
    for name, where in space.items():  # before anything is written: both ends must be allowed
        for share in (0.0, 1.0):
            hyperparameters.check(hyperparameters.replace(plain, **{name: where.at(share)}))
    folder = settings.folder
    title = settings.title or f"{label} on {task.spec.id}: {', '.join(space)}"
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
        batch = planned(variants, task, steps, folder and folder / "trials")
        train_all(batch, task, title, [why] if why is not None and not runs else ())
        runs.update(batch)
        known |= {run.algorithm: label for label, run in batch.items()}
        found = Comparison.of(runs, thresholds=()).variants
        lowest = min(variant.iqm.value for variant in found.values())
        return [  # what failed is as bad as the worst that did not
            found[known[each]].iqm.value if known[each] in found else lowest for each in settled
        ]

    with experiment_folder(folder, Experiment("sweep", title, command, [], about)):
        if method == "optuna":
            ask_optuna(space, trials, seed, score)
        else:
            score(draw(space, trials, method, seed))
        tried = Comparison.of(runs, thresholds=()).variants
        best = max(tried, key=lambda name: tried[name].iqm.value)
        first = max(task.seeds) + 1
        fresh = replace(task, seeds=tuple(range(first, first + settings.confirm_seeds)))
        settled = {label: plain}
        if runs[best].algorithm != plain:
            point = (f"{name}={rounded(getattr(runs[best].algorithm, name))}" for name in space)
            settled[" ".join(point)] = runs[best].algorithm
        confirmed = planned(settled, fresh, steps, folder and folder / "confirmation")
        train_all(confirmed, fresh, f"{title}, confirmation")
        experiment = Experiment(
            "sweep",
            title,
            command,
            [Part("Search", runs, ()), Part("Confirmation", confirmed)],
            about,
        )
        result = as_sweep(experiment)
        if folder is not None:
            save_experiment(folder, experiment)
            with working(f"Writing {folder / REPORT}", quiet=settings.quiet):
                result.report(folder / REPORT)
    return result


def as_sweep(experiment: Experiment) -> Sweep:
    tried, confirmed = (part.comparison(experiment.command) for part in experiment.parts)
    space = {
        name: Choice(tuple(each["values"])) if "values" in each else Range(**each)
        for name, each in experiment.about["space"].items()
    }
    return Sweep(experiment.title, tried, space, confirmed, experiment.command)
