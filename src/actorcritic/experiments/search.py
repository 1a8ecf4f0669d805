"""Where a sweep looks: spaces of hyperparameters, and points drawn from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from actorcritic.core import hyperparameters
from actorcritic.core.errors import UserError

Method = Literal["sobol", "random", "optuna"]
Score = Callable[[list[dict[str, Any]]], Sequence[float]]  # of points, one for each


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, even in their logarithm with `log`; `whole` for integers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        hyperparameters.check_number("The lower end of a Range", self.low, float, None)
        hyperparameters.check_number("The upper end of a Range", self.high, float, None)
        if not self.low < self.high or (self.log and self.low <= 0):
            above = " and above 0" if self.log else ""
            raise UserError(
                f"A range needs two ends, the lower first{above}; got {self.low:g} and "
                f"{self.high:g}."
            )

    def at(self, share: float) -> float | int:
        """The value at that share of the way, 0 to 1."""
        low, high = self.low, self.high
        if self.whole:  # each whole number has a width of one
            low, high = low - 0.5, high + 0.5
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        if self.whole:
            return int(min(max(round(value), self.low), self.high))
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple | list):
            raise UserError(f"A choice needs its values in a tuple; got {self.values!r}.")
        if len(self.values) < 2:
            raise UserError(f"A choice needs at least two values; got {list(self.values)}.")

    def at(self, share: float) -> Any:
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]


Space = Mapping[str, Range | Choice]

FORMS = "log:LOW:HIGH, uniform:LOW:HIGH, int:LOW:HIGH, logint:LOW:HIGH or choice:A,B,…"


def parse(cls: type, text: str) -> tuple[str, Range | Choice]:
    """`learning_rate=log:1e-4:1e-2` as a name and where to look."""
    name, separator, rest = text.partition("=")
    kind, _, ends = rest.partition(":")
    if not separator or kind not in ("log", "uniform", "int", "logint", "choice"):
        raise UserError(f"A space is NAME=KIND with KIND one of {FORMS}; got '{text}'.")
    if kind == "choice":
        values = tuple(hyperparameters.parse(cls, name, value) for value in ends.split(","))
        return name, Choice(values)
    hyperparameters.check_known(cls, name)
    try:
        low, high = map(float, ends.split(":"))
    except ValueError:
        raise UserError(f"A space is NAME=KIND with KIND one of {FORMS}; got '{text}'.") from None
    return name, Range(low, high, kind.startswith("log"), kind.endswith("int"))


def as_space(cls: type, given: Any) -> dict[str, Range | Choice]:
    """Where to look for each hyperparameter; texts are read as on the command line."""
    if not isinstance(given, Mapping):
        raise UserError(
            "`space` must be a dict of hyperparameters and where to look, as {'learning_rate': "
            f"'log:1e-4:1e-2'}}; got {given!r}."
        )
    space: dict[str, Range | Choice] = {}
    for name, where in given.items():
        if isinstance(where, str):
            _, where = parse(cls, f"{name}={where}")
        if not isinstance(where, Range | Choice):
            raise UserError(
                f"`space` must say where to look for {name}: Range(low, high), Choice((a, b)) or "
                f"one of {FORMS}; got {where!r}."
            )
        space[name] = where
    return space


def draw(space: Space, count: int, method: Literal["sobol", "random"], seed: int) -> list[dict]:
    """So many points: independent ones, or Sobol's, which leave fewer gaps."""
    rng = np.random.default_rng(seed)
    if method == "random":
        shares = rng.random((count, len(space)))
    else:
        from scipy.stats import qmc

        sampler = qmc.Sobol(len(space), rng=rng)
        # Its points are balanced in powers of two; the first of them are kept.
        shares = sampler.random_base2(max(0, math.ceil(math.log2(count))))[:count]
    return [
        {name: where.at(share) for (name, where), share in zip(space.items(), row, strict=True)}
        for row in shares.tolist()
    ]


BATCH = 8  # points that Optuna names before it is told of their scores


def ask_optuna(space: Space, count: int, seed: int, score: Score) -> None:
    """Points that Optuna (TPE) names, batch by batch, learning from the scores of those before."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            'Optuna is not installed. Run: pip install "actorcritic[optuna]", or sweep with '
            "--method sobol or random."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    where = {name: _for_optuna(optuna, each) for name, each in space.items()}
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=BATCH)
    )
    for start in range(0, count, BATCH):
        trials = [study.ask(where) for _ in range(min(BATCH, count - start))]
        points = [
            {
                name: each.values[trial.params[name]]
                if isinstance(each, Choice)
                else trial.params[name]
                for name, each in space.items()
            }
            for trial in trials
        ]
        for trial, value in zip(trials, score(points), strict=True):
            study.tell(trial, value)


def _for_optuna(optuna: Any, where: Range | Choice) -> Any:
    kinds = optuna.distributions
    if isinstance(where, Choice):  # by number: Optuna stores neither tuples nor None
        return kinds.CategoricalDistribution(tuple(range(len(where.values))))
    if where.whole:
        return kinds.IntDistribution(int(where.low), int(where.high), log=where.log)
    return kinds.FloatDistribution(where.low, where.high, log=where.log)
