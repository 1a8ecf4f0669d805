"""What a comparison looks like: its pictures and tables, as sections of a page."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actorcritic.core import files
from actorcritic.core.words import shown
from actorcritic.experiments.analysis import Analysis
from actorcritic.figures import plots, statistics
from actorcritic.figures.html import Picture, Section, Table, write

MOST_IN_A_PICTURE = len(
    plots.COLOURS
)  # variants; of more, pictures show the best and the reference
FEWEST_VALUES = 3  # of a setting, to make a curve over it


def section(comparison: Analysis, title: str | None = None) -> Section:
    """The pictures and tables of one comparison."""
    settings = _settings(comparison)
    ordered = next((each for each in settings if len(each.values) == len(comparison.runs)), None)
    labels = list(comparison.runs)
    if ordered is not None:
        labels = sorted(labels, key=ordered.values.__getitem__)
    shown = labels if ordered is not None else _shown(comparison)
    how: dict[str, Any] = {"seconds": _seconds(comparison), "ordered": ordered is not None}
    how["across"] = comparison.across
    pictures = [_over_setting(comparison, each) for each in settings]
    episodes = [(label, comparison.episodes[label]) for label in shown]
    # From data, all episodes are those of the evaluations below.
    of_training = not comparison.runs[comparison.reference].learns_from_data
    if of_training and any(len(table.step) for _, table in episodes):
        figure = plots.returns_and_lengths(
            episodes, "", comparison.thresholds, window=comparison.window, **how
        )
        pictures.append(Picture("learning-curves", "Learning curves", figure))
    pictures += _evaluations(comparison, shown, ordered=ordered is not None)
    if ordered is None:
        pictures.append(_scores(comparison, shown))
    few = min(len(seeds) for seeds in comparison.seeds.values()) < statistics.FEWEST_SEEDS
    if 1 < len(shown) <= MOST_IN_A_PICTURE and not few:
        figure = _profile(comparison, shown, ordered=ordered is not None)
        note = "The share of seeds that score above each return, with 95 % bands."
        pictures.append(Picture("profile", "Performance profiles", figure, note))
    metrics = [(label, comparison.runs[label].metrics) for label in shown]
    figure = plots.diagnostics(metrics, **how)
    if figure.axes:
        note = "What updates reported; IQM over seeds."
        pictures.append(Picture("diagnostics", "Diagnostics", figure, note))
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


def _seconds(comparison: Analysis) -> dict[str, float]:
    """Those of training that one step of each of a variant's seeds took, all seeds together."""
    return {
        label: len(run.seeds) / comparison.variants[label].steps_per_second
        for label, run in comparison.runs.items()
    }


def _evaluations(comparison: Analysis, shown: Sequence[str], *, ordered: bool) -> list[Picture]:
    """The evaluations while it was trained, of the variants that have some."""
    curves = []
    for label, colour in zip(shown, plots.colours(len(shown), ordered=ordered), strict=True):
        table, seeds = comparison.runs[label].evaluations, comparison.seeds[label]
        found = plots.evaluated(label, table, seeds, colour)
        curves += [] if found is None else [found]
    if not curves:
        return []
    known = np.concatenate([[one.y, one.low, one.high] for one in curves], axis=1)
    limits = plots.on_scale(float(np.nanmin(known)), float(np.nanmax(known)))
    figure = plots.lines(curves, comparison.across, "mean return", markers=True, limits=limits)
    note = "IQM over seeds of the mean return of an evaluation, with 95 % bands."
    return [Picture("evaluations", "Evaluations while training", figure, note)]


# ---------------------------------------------------------------------------- scores


class _Setting(NamedTuple):
    """A numeric hyperparameter in which variants differ from the reference, and in nothing else."""

    name: str
    values: dict[str, float]  # of each such variant, and of the reference


def _settings(comparison: Analysis) -> list[_Setting]:
    """The settings that have values enough for a curve over them."""

    def described(label: str) -> dict[str, Any]:
        algorithm = comparison.runs[label].configuration()["algorithm"]
        return {"": algorithm["name"]} | algorithm["hyperparameters"]

    reference = described(comparison.reference)
    found: dict[str, dict[str, float]] = {}
    for label in comparison.runs:
        mine = described(label)
        names = reference.keys() | mine.keys()
        differing = [name for name in names if mine.get(name) != reference.get(name)]
        if len(differing) == 1:
            (name,) = differing
            if _is_number(mine.get(name)) and _is_number(reference.get(name)):
                values = found.setdefault(name, {comparison.reference: reference[name]})
                values[label] = mine[name]
    return [_Setting(*each) for each in found.items() if len(each[1]) >= FEWEST_VALUES]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _over_setting(comparison: Analysis, setting: _Setting) -> Picture:
    named = "=" in comparison.reference  # then it is one of the values, and not what there was
    figure = plots.scores_over_setting(
        setting.name,
        list(setting.values.values()),
        [_row(comparison, label) for label in setting.values],
        marked=setting.values[comparison.reference],
        mark="reference" if named else "default",
        limits=scale(comparison),
    )
    note = "Small dots are seeds, the large ones their IQM, bars its 95 % interval."
    return Picture(f"over-{setting.name}", f"Score over {setting.name}", figure, note)


def _scores(comparison: Analysis, shown: Sequence[str]) -> Picture:
    rows, limits = [_row(comparison, label) for label in shown], scale(comparison)
    wide, narrow = (
        plots.score_intervals(rows, "score", limits=limits, width=width)
        for width in (plots.WIDTH, plots.NARROW)
    )
    note = "Small dots are seeds, the large one their IQM, the bar its 95 % interval."
    return Picture("scores", "Scores at the end", wide, note, narrow)


def _row(comparison: Analysis, label: str) -> plots.Scores:
    return plots.Scores(label, comparison.scores[label], *comparison.variants[label].iqm)


def scale(comparison: Analysis) -> tuple[float, float]:
    """The range of the task, as far as it is known: from where training began to the best score."""
    numbers = list(comparison.scores.values())
    for label, table in comparison.episodes.items():
        begun = [
            table.returns[table.seed == seed][: comparison.window]
            for seed in comparison.seeds[label]
        ]
        means = np.array([returns.mean() for returns in begun if len(returns)])
        numbers.append(means[np.isfinite(means)])
    known = np.concatenate(numbers)
    return plots.on_scale(float(known.min()), float(known.max()))


def _profile(comparison: Analysis, shown: Sequence[str], *, ordered: bool) -> Any:
    low, high = scale(comparison)
    room = 0.02 * (high - low) or 1.0
    thresholds = np.linspace(low - room, high + room, 201)
    curves = []
    for label, colour in zip(shown, plots.colours(len(shown), ordered=ordered), strict=True):
        profile = statistics.performance_profile(
            comparison.scores[label], thresholds, rng=np.random.default_rng(0)
        )
        curves.append(plots.Series(label, thresholds, *profile, colour))
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
        steps = f"{run.trained_steps:,} {one.counted}; {one.how_many}"
        said = len(comparisons) == 1 and one.environment in title  # by the title
        summary.append(steps if said else f"{variants} on {one.environment}: {steps}")
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
    once = list(dict.fromkeys(summary))
    write(path, title, sections, command=command, versions=versions, summary=once)
    files.write(path.with_suffix(".json"), json.dumps(data, indent=1))
    return path
