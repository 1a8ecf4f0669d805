"""What a comparison looks like: its pictures and tables, as sections of a page."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actorcritic.core import files
from actorcritic.core.words import shown
from actorcritic.experiments.analysis import Analysis
from actorcritic.figures import plots, statistics
from actorcritic.figures.html import Picture, Section, Table, write

MOST_IN_A_PICTURE = 10  # variants; of more, pictures show the best and the reference


def section(comparison: Analysis, title: str | None = None) -> Section:
    """The pictures and tables of one comparison."""
    shown = _shown(comparison)
    runs = {label: comparison.runs[label] for label in shown}
    episodes = [(label, comparison.episodes[label]) for label in shown]
    pictures = []
    if any(len(table.step) for _, table in episodes):
        figure = plots.returns_and_lengths(episodes, "", comparison.thresholds)
        pictures.append(Picture("learning-curves", "Learning curves", figure))
    estimates = {label: comparison.variants[label].iqm for label in shown}
    rows = [
        plots.Scores(label, comparison.scores[label], *estimate)
        for label, estimate in estimates.items()
    ]
    note = "Small dots are seeds, the large one their IQM, the bar its 95 % interval."
    figure = plots.score_intervals(rows, "score")
    pictures.append(Picture("scores", "Scores at the end", figure, note))
    if len(shown) > 1 and min(len(seeds) for seeds in comparison.seeds.values()) >= 3:
        note = "The share of seeds that score above each return, with 95 % bands."
        pictures.append(
            Picture("profile", "Performance profiles", _profile(comparison, shown), note)
        )
    metrics = [(label, run.metrics) for label, run in runs.items()]
    if any(len(table.seed) for _, table in metrics):
        note = "What updates reported; IQM over seeds."
        pictures.append(Picture("diagnostics", "Diagnostics", plots.diagnostics(metrics), note))
    left_out = len(comparison.runs) - len(shown)
    remarks = [f"Score: {comparison.score}."]
    if left_out:
        remarks.append(f"Pictures show the best {len(shown)}; the tables have all of them.")
    warned = {label: run.warnings for label, run in comparison.runs.items() if run.warnings}
    if warned:
        remarks.append(f"Warnings were given in training: of {', '.join(warned)} (see below).")
    return Section(
        title or comparison.title,
        comparison.verdict,
        tuple(remarks),
        tuple(pictures),
        tuple(comparison.tables()),
        tuple(_details(comparison, warned)),
    )


def _shown(comparison: Analysis) -> list[str]:
    labels = list(comparison.runs)
    if len(labels) <= MOST_IN_A_PICTURE:
        return labels
    found = comparison.variants
    best = sorted(labels, key=lambda label: -found[label].iqm.value)[: MOST_IN_A_PICTURE - 1]
    return [label for label in labels if label in best or label == comparison.reference]


def _profile(comparison: Analysis, shown: Sequence[str]) -> Any:
    scores = np.concatenate([comparison.scores[label] for label in shown])
    room = 0.02 * float(np.ptp(scores)) or 1.0
    thresholds = np.linspace(scores.min() - room, scores.max() + room, 101)
    curves = []
    for label in shown:
        profile = statistics.performance_profile(
            comparison.scores[label], thresholds, rng=np.random.default_rng(0)
        )
        curves.append(plots.Series(label, thresholds, *profile))
    return plots.profile(curves, "return τ")


def _details(comparison: Analysis, warned: Mapping[str, Sequence[str]]) -> list[Table]:
    """How the variants differ, everything they were set to, and what looked wrong."""
    settings = {
        label: {"algorithm": data["name"]} | data["hyperparameters"]
        for label, run in (comparison.runs | comparison.failed_runs).items()
        for data in [run.configuration()["algorithm"]]
    }
    names = list(dict.fromkeys(name for each in settings.values() for name in each))
    rows = {
        name: tuple(shown(each[name]) if name in each else "–" for each in settings.values())
        for name in names
    }
    columns = ("setting", *settings)
    tables = []
    if len(settings) > 1:
        differing = tuple((n, *cells) for n, cells in rows.items() if len(set(cells)) > 1)
        tables.append(Table("differences", "What differs", columns, differing))
    every = tuple((n, *cells) for n, cells in rows.items())
    tables.append(Table("configuration", "Every setting", columns, every))
    if warned:
        said = tuple((label, text) for label, texts in warned.items() for text in texts)
        tables.append(Table("warnings", "Warnings in training", ("variant", "warning"), said))
    return tables


def publish(
    path: str | Path,
    title: str,
    sections: Sequence[Section],
    comparisons: Sequence[Analysis],
    data: Any,
    command: str | None,
) -> Path:
    """Write the page, and its numbers beside it as `<stem>.json`."""
    path = Path(path)
    summary = []
    for one in comparisons:
        run = one.runs[one.reference]
        count = len(one.runs)
        variants = ", ".join(one.runs) if count <= MOST_IN_A_PICTURE else f"{count} variants"
        steps = f"{run.total_steps:,} environment steps"
        summary.append(f"{variants} on {one.environment}: {steps}; {one.how_many}")
    described = [run.configuration() for one in comparisons for run in one.runs.values()]
    versions: dict[str, str] = {}
    for each in described:
        for name, version in each.get("versions", {}).items():
            known = versions.setdefault(name, version)
            if version not in known.split(" and "):
                versions[name] = f"{known} and {version}"
    devices = dict.fromkeys(each["devices"] for each in described if "devices" in each)
    if devices:
        versions["devices"] = ", ".join(devices)
    versions.setdefault("actorcritic", importlib.metadata.version("actorcritic"))
    write(path, title, sections, command=command, versions=versions, summary=summary)
    files.write(path.with_suffix(".json"), json.dumps(data, indent=1))
    return path
