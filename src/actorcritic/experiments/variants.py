"""Variants of a training: what their names stand for, and what all of an experiment share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from actorcritic.algorithms.catalogue import ALGORITHMS, find
from actorcritic.algorithms.presets import preset
from actorcritic.core import hyperparameters
from actorcritic.core.errors import UserError
from actorcritic.core.types import Environment, EnvSpec, check_protocol
from actorcritic.core.words import printable, shown
from actorcritic.data.dataset import Dataset
from actorcritic.data.finding import dataset
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.runs import configuration
from actorcritic.runs.run import Run, prepare_jax
from actorcritic.runs.settings import EnvironmentSettings, ResumeSettings

FORM = "NAME or NAME:SETTING=VALUE,…, as ppo:clip_range=0.1; one of your own is module:Class."


class Variant(NamedTuple):
    """An algorithm, what it is called; of its preset the steps, and where its settings come from"""

    label: str
    algorithm: Any
    total_steps: int | None = None
    why: str | None = None


def variant(text: str, task: Task) -> Variant:
    """What "ppo" or "ppo:clip_range=0.1,num_envs=4" names.

    The tuned preset of the environment or its defaults, with the settings named on top. An
    algorithm of the user's is module:Class, with settings module:Class:clip_range=0.1.
    """
    name, label, pairs = _parts(text)
    cls = type(find(name))
    changes = {key: hyperparameters.parse(cls, key, value) for key, value in pairs}
    chosen = preset(name, task.spec, task.settings.total_steps, changes)
    label = " ".join([label, *(f"{key}={shown(value)}" for key, value in changes.items())])
    algorithm = hyperparameters.replace(chosen.algorithm, **changes)
    return Variant(label, algorithm, chosen.total_steps, chosen.why)


def class_named(text: str) -> type:
    """The class of the algorithm that a variant's text names."""
    return type(find(_parts(text)[0]))


def _parts(text: str) -> tuple[str, str, list[tuple[str, str]]]:
    """The algorithm's name, what it is called, and the settings behind it."""
    name, _, settings = text.partition(":")
    label, first = name, settings.partition(":")[0]
    if first and "=" not in first and name.lower() not in ALGORITHMS:
        label, _, settings = settings.partition(":")
        name = f"{name}:{label}"
    pairs = [pair.partition("=") for pair in filter(None, settings.split(","))]
    for key, separator, _ in pairs:
        if not separator:
            raise UserError(f"A variant is {FORM} Got '{text}', in which '{key}' has no value.")
    return name, label, [(key, value) for key, _, value in pairs]


def _is_list(given: Any) -> bool:
    return isinstance(given, Iterable) and not hasattr(given, "init")


def one_variant(algorithm: Any, task: Task) -> Variant:
    """The same of a name, or of an algorithm; UserError where several came."""
    if isinstance(algorithm, str):
        return variant(algorithm, task)
    if isinstance(algorithm, Mapping | list | tuple):
        raise UserError(
            f"Expected one algorithm, as 'ppo' or PPO(); got {algorithm!r}. To compare several: "
            "actorcritic.compare([…], environment)."
        )
    check_protocol(algorithm)
    return Variant(algorithm.name, algorithm)


def variants_of(given: Sequence[Any] | Mapping[str, Any], task: Task) -> dict[str, Variant]:
    """The variants by their labels; at least one."""
    if not isinstance(given, Mapping) and (isinstance(given, str) or not _is_list(given)):
        raise UserError(
            f"Expected a list of variants, as ['ppo', 'a2c'], or a dict of names and algorithms; "
            f"got {given!r}."
        )
    named: list[tuple[str, Any]] = (
        list(given.items()) if isinstance(given, Mapping) else [("", each) for each in given]
    )
    found: dict[str, Variant] = {}
    for label, each in named:
        one = one_variant(each, task)
        label = label or one.label
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
        found[label] = one._replace(label=label)
    if not found:
        raise UserError("There is nothing to compare: name at least one algorithm.")
    return found


@dataclass(frozen=True)
class Task:
    """What all variants of an experiment share."""

    environment: Environment | HostEnvironment
    seeds: tuple[int, ...]
    settings: ResumeSettings
    data: Dataset | None = None

    @classmethod
    def of(cls, environment: Any, settings: EnvironmentSettings) -> Task:
        prepare_jax()
        world = configuration.resolve_environment(environment, settings)
        data = None if settings.data is None else dataset(settings.data)
        return cls(world, settings.all_seeds, settings, data)

    @property
    def spec(self) -> EnvSpec:
        return self.environment.spec


def planned(
    variants: Mapping[str, Any], task: Task, total_steps: int, folder: Path | None
) -> dict[str, Run]:
    """A run of each variant, not yet begun; UserError where one cannot be trained."""
    for algorithm in variants.values():
        configuration.check(algorithm, task.environment, total_steps, task.data)
    return {
        label: Run(
            algorithm,
            task.environment,
            task.seeds,
            total_steps,
            None if folder is None else folder / _folder_name(number, label),
            variant=label,
            data=task.data,
        )
        for number, (label, algorithm) in enumerate(variants.items())
    }


def _folder_name(number: int, label: str) -> str:
    return f"{number:02d}-" + re.sub(r"[^\w.=+-]+", "-", label)[:80]
