"""Where a study trains, what it answers, how the answer is shown; and to carry one out."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.types import Environment
from actorcritic.data.dataset import Dataset
from actorcritic.experiments import page as pages
from actorcritic.experiments.analysis import aligned, plain
from actorcritic.experiments.comparison import Comparison
from actorcritic.experiments.folder import (
    REPORT,
    Experiment,
    Part,
    experiment_folder,
    save_experiment,
)
from actorcritic.experiments.together import train_all as train_missing
from actorcritic.experiments.variants import Task, planned
from actorcritic.figures.html import Animation, Picture, Section, Table
from actorcritic.runs.console import working
from actorcritic.runs.run import Run, prepare_jax
from actorcritic.runs.settings import ResumeSettings
from actorcritic.runs.training import EPISODES_BETWEEN
from actorcritic.studies.catalogue import STUDIES

QUICK = "quick: shows that it works, proves nothing"
SEEDS, QUICK_SEEDS = 10, 3


class Answer(NamedTuple):
    """What a study found, besides what its comparisons say of themselves."""

    sentences: tuple[str, ...]
    parts: tuple[Part, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture | Animation, ...] = ()
    numbers: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Bench:
    """Where a study trains: how much, and into which folder."""

    title: str
    quick: bool
    folder: Path | None
    quiet: bool
    cluster: str | None = None  # where to train, if not here
    workers: int | None = None
    # What is computed between trainings, and after them, shows that it goes on.
    computing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(QUICK_SEEDS if self.quick else SEEDS))

    def train(
        self,
        variants: Mapping[str, Any],
        environment: Environment,
        total_steps: int,
        name: str = "variants",
        *,
        data: Dataset | None = None,
        seeds: tuple[int, ...] | None = None,
    ) -> dict[str, Run]:
        """Finished runs of all variants; what the folder has already is not trained again."""
        # From data, as many as between: they share a compiled program.
        episodes = (10 if data is None else EPISODES_BETWEEN) if self.quick else 100
        how = ResumeSettings(
            evaluation_episodes=episodes,
            quiet=self.quiet,
            cluster=self.cluster,
            workers=self.workers,
        )
        task = Task(environment, seeds or self.seeds, how, data)
        runs = planned(variants, task, total_steps, self.folder and self.folder / name)
        self.computing.close()
        train_missing(runs, task, self.title)
        self.computing.enter_context(working("Computing what was found", quiet=self.quiet))
        return runs

    def kept(
        self, name: str, compute: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Arrays that take long to compute: from the folder, where they are there already."""
        path = self.folder and self.folder / f"{name}.safetensors"
        if path and path.exists():
            try:
                return safetensors.numpy.load(files.read(path))
            except safetensors.SafetensorError as error:
                raise UserError(
                    f"{path} cannot be read: {error}. Remove it, to have it computed again."
                ) from None
        found = compute()
        if path:
            files.write(path, safetensors.numpy.save(found))
        return found


@dataclass(frozen=True)
class Result:
    """A finished study."""

    name: str
    title: str
    question: str
    quick: bool
    answer: Answer
    comparisons: tuple[Comparison, ...]
    command: str | None = None

    def __str__(self) -> str:
        texts = [f"{self.title}\n{self.question}"]
        for table in self.answer.tables:
            texts.append(f"{table.title}\n{aligned([table.columns, *table.rows])}")
        texts += [
            textwrap.fill(sentence, 100, break_on_hyphens=False)
            for sentence in self.answer.sentences
        ]
        return "\n\n".join(texts)

    def sections(self) -> list[Section]:
        """What the study found, then each of its comparisons."""
        first, *rest = self.answer.sentences
        found = Section(
            "What was found",
            first,
            (*rest, f"The question: {self.question}"),
            self.answer.pictures,
            self.answer.tables,
        )
        return [found, *(pages.section(each) for each in self.comparisons)]

    def data(self) -> dict[str, Any]:
        """The numbers as plain JSON."""
        return {
            "study": self.name,
            "title": self.title,
            "question": self.question,
            "quick": self.quick,
            "sentences": list(self.answer.sentences),
            "numbers": plain(self.answer.numbers),
            "comparisons": [each.data() for each in self.comparisons],
        }

    def report(self, path: str | Path) -> Path:
        """Write everything as one HTML page, its pictures and numbers beside it."""
        return pages.publish(
            path, self.title, self.sections(), self.comparisons, self.data(), self.command
        )


def study(
    name: str,
    *,
    quick: bool = False,
    out: str | Path | None = None,
    quiet: bool = False,
    cluster: str | None = None,
    workers: int | None = None,
    command: str | None = None,
) -> Result:
    """Carry out one of `STUDIES`; `quick` is a small version that proves nothing.

    With `out`, everything is kept in that folder, with a report; called again, it goes on where it
    was. Raises UserError for any mistake before anything is written, and Stopped at Ctrl-C.
    """
    name = STUDIES.known(name)
    asked = STUDIES[name]
    title = f"{name}: {STUDIES.entries[name].meaning}" + f" ({QUICK})" * quick
    folder = None if out is None else Path(out)
    about = {"study": name, "quick": quick}
    # What is wrong with these is said before anything is written.
    bench = Bench(title, quick, folder, quiet, cluster, workers)
    ResumeSettings(cluster=cluster, workers=workers).check()
    prepare_jax()
    with experiment_folder(folder, Experiment("study", title, command, [], about)):
        with bench.computing:
            found: Answer = asked.answer(bench)
            comparisons = tuple(part.comparison(command) for part in found.parts)
        result = Result(name, title, asked.QUESTION, quick, found, comparisons, command)
        if folder is not None:
            save_experiment(folder, Experiment("study", title, command, found.parts, about))
            with working(f"Writing {folder / REPORT}", quiet=quiet):
                result.report(folder / REPORT)
    return result
