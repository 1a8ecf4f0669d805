"""Comparisons and ablations: several variants of a training on one task."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from actorcritic.algorithms.presets import DEFAULT_STEPS
from actorcritic.core import hyperparameters
from actorcritic.core.errors import UserError
from actorcritic.core.words import shown
from actorcritic.experiments.comparison import Comparison
from actorcritic.experiments.folder import REPORT, Experiment, Part, experiment_folder
from actorcritic.experiments.together import train_all
from actorcritic.experiments.variants import (
    Task,
    Variant,
    one_variant,
    planned,
    variants_of,
)
from actorcritic.runs.console import working
from actorcritic.runs.settings import ExperimentSettings


def compare(
    variants: Sequence[Any] | Mapping[str, Any],
    environment: Any,
    settings: ExperimentSettings | None = None,
    **options: Any,
) -> Comparison:
    """Train several variants on the same seeds, and compare them.

    A variant is a name ("ppo", with the tuned preset of the environment), a name with settings
    ("ppo:clip_range=0.1,num_envs=4"), one of your own ("module:Class:clip_range=0.1"), or an
    algorithm; a dict gives them names. `options` are
    fields of `ExperimentSettings`. All variants get the same `total_steps`: without it, the largest
    that one of their presets takes. `thresholds` are returns whose first reaching is told; without
    them, the one registered with Gymnasium.

    With `out`, everything is kept in that folder, with a report; called again, it goes on where
    it was. Raises UserError for any mistake before anything is written, and Stopped at Ctrl-C.
    """
    settings = ExperimentSettings.of(settings, options)
    task = Task.of(environment, settings)
    found = variants_of(variants, task)
    title = f"{', '.join(found)} on {task.spec.id}"
    return _compared("compare", found, task, settings, title)


def ablate(
    algorithm: Any,
    environment: Any,
    settings: ExperimentSettings | None = None,
    *,
    vary: Mapping[str, Sequence[Any]],
    grid: bool = False,
    **options: Any,
) -> Comparison:
    """What each setting does: the algorithm as it is, and with other values of some settings.

    `vary` names values for each hyperparameter. One is changed at a time, or with `grid` every
    combination is trained. The rest is as in `compare`.
    """
    settings = ExperimentSettings.of(settings, options)
    task = Task.of(environment, settings)
    if not vary:
        raise UserError("An ablation needs a setting to vary, as gae_lambda=0,0.95,1; got none.")
    if not isinstance(vary, Mapping):
        raise UserError(
            f"`vary` must be a dict of settings and their values, as {{'gae_lambda': [0, 1]}}; got "
            f"{vary!r}."
        )
    for name, values in vary.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UserError(
                f"`vary` needs a list of values for {name}, as {{'{name}': [{values!r}]}}; got "
                f"{values!r}."
            )
    plain = one_variant(algorithm, task)
    names = [name for name in vary if len(vary[name])]
    if grid:
        changes = [
            dict(zip(names, values, strict=True))
            for values in itertools.product(*(vary[name] for name in names))
        ]
    else:
        changes = [{name: value} for name in names for value in vary[name]]
    found = {plain.label: plain}
    for change in changes:
        other = hyperparameters.replace(plain.algorithm, **change)
        if other != plain.algorithm:  # what the algorithm has already is the reference
            label = " ".join(f"{name}={shown(value)}" for name, value in change.items())
            found[label] = Variant(label, other)
    title = f"{plain.label} on {task.spec.id}: {', '.join(names)}"
    return _compared("ablate", found, task, settings, title)


def _compared(
    kind: str,
    variants: Mapping[str, Variant],
    task: Task,
    settings: ExperimentSettings,
    title: str,
) -> Comparison:
    folder, title = settings.folder, settings.title or title
    budgets = [one.total_steps for one in variants.values() if one.total_steps is not None]
    steps = settings.total_steps or max(budgets, default=DEFAULT_STEPS)
    algorithms = {label: one.algorithm for label, one in variants.items()}
    runs = planned(algorithms, task, steps, folder and folder / "variants")
    part = Part(title, runs, settings.thresholds)
    with experiment_folder(folder, Experiment(kind, title, settings.command, [part])):
        train_all(runs, task, title, [one.why for one in variants.values() if one.why is not None])
        comparison = part.comparison(settings.command)
        if folder is not None:
            with working(f"Writing {folder / REPORT}", quiet=settings.quiet):
                comparison.report(folder / REPORT)
    return comparison
