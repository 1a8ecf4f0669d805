"""Comparisons and ablations: several variants of a training on one task."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actorcritic.algorithms.presets import DEFAULT_STEPS
from actorcritic.core import hyperparameters
from actorcritic.core.types import UserError
from actorcritic.core.words import shown
from actorcritic.experiments.comparison import Comparison
from actorcritic.experiments.folder import REPORT, Experiment, Part, experiment_folder
from actorcritic.experiments.together import train_all
from actorcritic.experiments.variants import (
    SEEDS,
    Setting,
    planned,
    setting_of,
    variant,
    variants_of,
)


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
    setting = setting_of(
        environment, seeds, seed, total_steps, env_options, host, evaluation_episodes, quiet
    )
    found, largest = variants_of(variants, setting.spec)
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
    setting = setting_of(
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
    with experiment_folder(folder, Experiment(kind, title, command, [part])):
        train_all(runs, setting, title)
        comparison = part.comparison(command)
        if folder is not None:
            comparison.report(folder / REPORT)
    return comparison
