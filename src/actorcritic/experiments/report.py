"""One page of finished runs and experiments, read from their folders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from actorcritic.core.errors import UserError
from actorcritic.experiments import page
from actorcritic.experiments.comparison import Comparison
from actorcritic.experiments.folder import read_experiment
from actorcritic.experiments.sweep import as_sweep
from actorcritic.figures.html import Section
from actorcritic.runs import configuration
from actorcritic.runs.run import read_run


def report(
    paths: str | Path | Sequence[str | Path],
    out: str | Path = "report.html",
    *,
    thresholds: Sequence[float] | None = None,
    command: str | None = None,
) -> Path:
    """One page of finished runs and experiments, read from their folders.

    Run folders are compared with each other; each experiment keeps its own sections. Raises
    UserError where something cannot be compared, is not finished, or is no run or experiment.
    """
    several = [paths] if isinstance(paths, str | Path) or hasattr(paths, "evaluate") else paths
    if not isinstance(several, Iterable):
        raise UserError(f"A report is of the folders of runs; got {paths!r}.")
    folders = [configuration.folder(path) for path in several]
    if not folders:
        raise UserError("A report needs the folder of at least one run or experiment.")
    sections: list[Section] = []
    comparisons: list[Comparison] = []
    data: list[Any] = []
    titles: list[str] = []
    runs = [folder for folder in folders if (folder / "run.json").exists()]
    if runs:
        alone = Comparison.of([read_run(folder) for folder in runs], thresholds=thresholds)
        sections += alone.sections()
        comparisons.append(alone)
        data.append(alone.data())
        titles.append(alone.title)
    for folder in folders:
        if folder in runs:
            continue
        experiment = read_experiment(folder)
        titles.append(experiment.title)
        if experiment.kind == "sweep":
            swept = as_sweep(experiment)
            sections += swept.sections()
            comparisons += [swept.confirmation, swept.search]
            data.append(swept.data())
            continue
        for part in experiment.parts:
            each = part.comparison(experiment.command)
            sections += each.sections()
            comparisons.append(each)
            data.append(each.data())
    title = titles[0] if len(titles) == 1 else "Report"
    return page.publish(out, title, sections, comparisons, data, command)
