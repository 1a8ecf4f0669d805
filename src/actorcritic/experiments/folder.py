"""The folder of an experiment.

    experiment.json   what is compared: enough to go on, and to write the report again
    variants/…        a run folder each (see `runs/run.py`), finished or under way
    report.html       what was found; report-pictures/ has its pictures, report.json its numbers

An experiment that was stopped goes on where it was when it is called again with the same folder.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.experiments.comparison import Comparison
from actorcritic.runs import configuration
from actorcritic.runs.folder import check_empty, folder_of_its_own
from actorcritic.runs.run import Run, read_run

EXPERIMENT, REPORT = "experiment.json", "report.html"
FORMAT = 1


class Part(NamedTuple):
    """One comparison of an experiment: which runs, and what they are called."""

    title: str
    runs: Mapping[str, Run]
    thresholds: Sequence[float] | None = None

    def comparison(self, command: str | None) -> Comparison:
        return Comparison.of(
            self.runs, title=self.title, thresholds=self.thresholds, command=command
        )


class Experiment(NamedTuple):
    """What experiment.json holds."""

    kind: str
    title: str
    command: str | None  # that makes it again
    parts: Sequence[Part]
    about: Mapping[str, Any] = MappingProxyType({})  # what only this kind of experiment knows

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


def read_experiment(folder: str | Path) -> Experiment:
    """An experiment as its folder tells it; every run of it has to be finished to be compared."""
    folder = Path(folder)
    path = folder / EXPERIMENT
    if not path.exists():
        raise UserError(
            f"{folder} is neither a run nor an experiment: it has no run.json and no {EXPERIMENT}. "
            "Name a folder that train, compare, ablate, sweep or study has written."
        )
    data = configuration.read_json(path)
    form = {"title": str, "runs": dict, "thresholds": list | None}
    if not files.fits(data, _FORM) or not all(
        files.fits(part, form) and files.fits([*part["runs"].values()], [str])
        for part in data["parts"]
    ):
        raise UserError(f"{path} is not what an experiment writes. Restore it from a copy.")
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
    return Experiment(data["kind"], data["title"], data["command"], parts, data["about"])


def _to_finish(data: Mapping[str, Any]) -> str:
    return f"To finish it, repeat: {data['command'] or 'the call that began it, with this folder'}"


@contextlib.contextmanager
def experiment_folder(folder: Path | None, experiment: Experiment) -> Iterator[None]:
    """Hold the folder, with experiment.json in it; UserError where it holds something else."""
    if folder is None:
        yield
        return
    if (folder / "run.json").exists():
        raise UserError(f"{folder} already holds a run. Choose another folder for an experiment.")
    mine = json.loads(json.dumps(experiment.to_json(folder)))
    if not (folder / EXPERIMENT).exists():
        check_empty(folder)
    else:
        there = configuration.read_json(folder / EXPERIMENT)
        if any(there.get(name) != mine[name] for name in ("kind", "title", "about")):
            raise UserError(
                f"{folder} already holds another experiment: {there.get('title')}. Choose another "
                "folder, or repeat that experiment as it was."
            )
    with folder_of_its_own(folder):
        save_experiment(folder, experiment)
        yield


def save_experiment(folder: Path, experiment: Experiment) -> None:
    files.write(folder / EXPERIMENT, json.dumps(experiment.to_json(folder), indent=2))
