"""How a training is carried out: one line a setting, for Python and the command line alike.

`train`, `resume`, `compare`, `ablate` and `sweep` take one of these objects, or its fields as
keywords: `train("ppo", "CartPole-v1", seeds=5)` is `train(…, TrainSettings(seeds=5))`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from actorcritic.core import hyperparameters
from actorcritic.core.counting import MOST
from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameter as setting
from actorcritic.core.words import nearest
from actorcritic.envs.host.environment import Autoreset
from actorcritic.runners.cluster import check_installed

Vectorization = Literal["sync", "async"]
STEPS = f"[1, {MOST}]"
SEED = "[0, 2147473647]"  # and the 10,000 seeds after it; JAX's are of 32 bits
# What a run that goes on does as before, and its values where nothing was said.
LOOKS: dict[str, Any] = {"evaluate_every": None, "keep_best": False, "stop_at": None}
STEPS_MEANING = "environment steps of each seed (default: the preset's)"


@dataclass(frozen=True)
class ResumeSettings:
    """What may be another each time that a run goes on."""

    total_steps: int | None = setting(None, "train to this many steps, not to the run's own", STEPS)
    evaluation_episodes: int = setting(
        100, "episodes of the final evaluation of each seed; 0 for none", "[0, 1000000]"
    )
    checkpoint_seconds: float = setting(30.0, "seconds between checkpoints", "[0, 1e9]")
    quiet: bool = setting(False, "show no progress")
    evaluate_every: int | None = setting(
        None, "environment steps of each seed between evaluations while it trains", STEPS
    )
    keep_best: bool = setting(
        False, "keep the policies that evaluated best, beside the last ones (needs evaluate_every)"
    )
    stop_at: float | None = setting(
        None,
        "stop when every seed has this mean return: of its evaluations, or of its last 20 training "
        "episodes where there are none",
    )
    cluster: str | None = setting(
        None, "local, or the address of a Ray cluster, to spread the work over (extra: ray)"
    )
    workers: int | None = setting(
        None, "processes of the cluster that work at a time (default: one a core)", "[1, 100000]"
    )
    callbacks: Sequence[Any] = setting(
        (), "functions of a `Moment`, called after each stretch of training"
    )
    data: Any = setting(
        None, "a data set to learn from: a folder, minari:ID (Python: a Dataset as well)"
    )
    sinks: Sequence[Any] = setting((), "more places for the numbers: objects with write and close")

    @classmethod
    def of(cls, given: Self | None, options: Mapping[str, Any]) -> Self:
        """The settings that were given, with these fields on top; UserError where one is wrong."""
        settings, others = cls.split(given, options)
        if others:
            name = next(iter(others))
            known = [field.name for field in dataclasses.fields(cls)]
            raise UserError(
                f"There is no setting '{name}'.{nearest(name, known)} Known: {', '.join(known)}."
            )
        return settings

    @classmethod
    def split(cls, given: Self | None, options: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """The same, and the options that are none of its fields."""
        if given is not None and not isinstance(given, cls):
            raise UserError(f"settings must be {cls.__name__}(…) or None; got {given!r}.")
        known = {field.name for field in dataclasses.fields(cls)}
        mine = {name: value for name, value in options.items() if name in known}
        settings = dataclasses.replace(given or cls(), **mine)
        settings.check()
        return settings, {n: value for n, value in options.items() if n not in known}

    @property
    def looks(self) -> dict[str, Any]:
        """How a run is evaluated on the way, and when it stops: what it keeps when it goes on."""
        values = {name: getattr(self, name) for name in LOOKS}
        return {name: value for name, value in values.items() if value != LOOKS[name]}

    def as_before(self, looks: Mapping[str, Any]) -> Self:
        """The same, with what a run had (`looks`) where these settings say nothing of it."""
        before = {name: looks[name] for name in LOOKS if name in looks}
        return type(self).of(self, before | self.looks)

    def check(self) -> None:
        """UserError for the first setting of the wrong type or out of its range."""
        hyperparameters.check(self, owner="")
        if self.keep_best and self.evaluate_every is None:
            raise UserError(
                "keep_best needs evaluations to know what is best: name evaluate_every as well, "
                "such as evaluate_every=10000 (--evaluate-every 10000)."
            )
        if self.cluster is not None:
            check_installed()
        elif self.workers is not None:
            raise UserError(
                "workers are processes of a cluster: name it as well, such as cluster='local' "
                "(--cluster local). Environments in processes without one: vectorization='async'."
            )
        _check_list("callbacks", self.callbacks, "a function of one argument", callable)
        _check_list(
            "sinks",
            self.sinks,
            "an object with write(report) and close()",
            lambda x: hasattr(x, "write") and hasattr(x, "close") and not isinstance(x, type),
        )


def _check_list(name: str, given: Any, kind: str, fits: Callable[[Any], bool]) -> None:
    if not isinstance(given, list | tuple):
        raise UserError(f"{name} must be a list; got {given!r}. Write [{name.removesuffix('s')}].")
    for one in given:
        if not fits(one):
            raise UserError(f"{name} must hold {kind}; got {one!r}.")


@dataclass(frozen=True)
class EnvironmentSettings(ResumeSettings):
    """What is decided once: how much, where, and how the environment is stepped."""

    total_steps: int | None = setting(None, STEPS_MEANING, STEPS)
    seeds: Any = setting(1, "how many seeds to train", "[1, 10000]")
    seed: int = setting(0, "the first seed", SEED)
    out: str | Path | None = setting(None, "folder to keep everything in")
    host: bool = setting(False, "step the environment through Gymnasium, not inside the program")
    env_options: Mapping[str, Any] | None = setting(None, "settings of the environment")
    vectorization: Vectorization = setting(
        "sync", "Gymnasium environments: in this process, or in workers"
    )
    autoreset: Autoreset = setting("disabled", "Gymnasium's mode of resetting")
    info_metrics: Sequence[str] = setting(
        (), "numbers of an environment's infos to keep as metrics, as they end an episode"
    )

    @property
    def folder(self) -> Path | None:
        return None if self.out is None else Path(self.out)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds by number; `seeds` is how many, or from Python also which."""
        if isinstance(self.seeds, Sequence):
            return tuple(self.seeds)
        return tuple(range(self.seed, self.seed + self.seeds))

    def check(self) -> None:
        super().check()
        _check_list("info_metrics", self.info_metrics, "names", lambda x: isinstance(x, str))
        if not isinstance(self.seeds, Sequence):
            hyperparameters.check_number("seeds", self.seeds, int, "[1, 10000]")
            return
        for seed in self.seeds:
            hyperparameters.check_number("seeds", seed, int, SEED)
        twice = sorted({s for s in self.seeds if list(self.seeds).count(s) > 1})
        if twice:
            raise UserError(f"Seeds must differ from each other; {twice} are named twice.")
        if not self.seeds:
            raise UserError("seeds names none; name at least one seed, or say how many.")


@dataclass(frozen=True)
class TrainSettings(EnvironmentSettings):
    """Of one run."""

    seeds: Any = setting(1, "how many seeds to train, as one run", "[1, 10000]")
    out: str | Path | None = setting(None, "run folder (default: a new one below runs/)")
    start_from: str | Path | None = setting(
        None, "a run whose trained learners this one begins with (fine-tuning)"
    )
    wandb: str | None = setting(None, "Weights & Biases project to log to (extra: wandb)")
    wandb_offline: bool = setting(False, "keep Weights & Biases' files here, send nothing")


@dataclass(frozen=True)
class ExperimentSettings(EnvironmentSettings):
    """Of several variants that are compared."""

    total_steps: int | None = setting(
        None, "environment steps of each seed (default: the largest of the presets')", STEPS
    )
    seeds: Any = setting(10, "how many seeds each variant is trained on", "[1, 10000]")
    out: str | Path | None = setting(
        None, "folder of the experiment (default: a new one below runs/)"
    )
    thresholds: Sequence[float] | None = setting(
        None, "returns whose first reaching is told (default: Gymnasium's)"
    )
    title: str | None = setting(None, "what its page is called")
    command: str | None = setting(None, "the command that makes it again, for its page")

    def check(self) -> None:
        super().check()
        if self.thresholds is not None and not isinstance(self.thresholds, list | tuple):
            raise UserError(f"thresholds must be a list, as [475]; got {self.thresholds!r}.")


@dataclass(frozen=True)
class SweepSettings(ExperimentSettings):
    """Of a search over hyperparameters."""

    seeds: Any = setting(3, "how many seeds each trial is trained on", "[1, 10000]")
    trials: int = setting(32, "how many points of the space to try", "[2, 100000]")
    method: Literal["sobol", "random", "optuna"] = setting("sobol", "how points are chosen")
    confirm_seeds: int = setting(
        10, "fresh seeds on which the winner is trained again", "[1, 10000]"
    )
