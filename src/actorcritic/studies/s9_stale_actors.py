"""S9: actors that are behind the learner, with V-trace and without, on CartPole-v1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from actorcritic.algorithms import IMPALA
from actorcritic.envs import CartPole
from actorcritic.experiments.comparison import Comparison
from actorcritic.experiments.folder import Part
from actorcritic.figures import plots
from actorcritic.figures.html import Picture
from actorcritic.studies.bench import Answer, Bench
from actorcritic.studies.cartpole import CARTPOLE_THRESHOLDS
from actorcritic.studies.comparing import area_gained, learning_table, side, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What do stale actors cost, and how much of it does V-trace repair?"
FRESH = "lag 0"


def answer(bench: Bench) -> Answer:
    lags = (4, 64) if bench.quick else (4, 16, 64)
    steps = 10_000 if bench.quick else 500_000
    thresholds = (50.0, 100.0) if bench.quick else CARTPOLE_THRESHOLDS
    variants = {FRESH: IMPALA()}
    variants |= {_with(lag): IMPALA(lag=lag) for lag in lags}
    variants |= {_without(lag): IMPALA(lag=lag, vtrace=False) for lag in lags}
    title = "Actors that are behind, on CartPole-v1"
    part = Part(title, bench.train(variants, CartPole(), steps), thresholds)
    comparison = part.comparison(None)
    sentences = [_cost(comparison, lags, _without, "Without a correction")]
    sentences.append(_cost(comparison, lags, _with, "With V-trace"))
    sentences += [_repair(comparison, lag) for lag in lags]
    picture = Picture(
        "score-over-lag",
        "Score at the end against the lag",
        _figure(comparison, lags),
        "IQM over seeds with 95 % intervals. Lag: updates by which what acts is older than what "
        "learns. At lag 0 there is nothing to correct: both curves begin in the same point.",
    )
    numbers = {
        "repaired": {
            lag: {
                "score": comparison.against(_with(lag), _without(lag)).difference._asdict(),
                "area": area_gained(comparison, _with(lag), _without(lag))._asdict(),
            }
            for lag in lags
        }
    }
    table = learning_table("learning", "Learning with each lag", comparison)
    return Answer(tuple(sentences), (part,), (table,), (picture,), numbers)


def _with(lag: int) -> str:
    return f"lag {lag}, V-trace"


def _without(lag: int) -> str:
    return f"lag {lag}, uncorrected"


def _cost(
    comparison: Comparison, lags: Sequence[int], label: Callable[[int], str], who: str
) -> str:
    """At which lags the score is lower than that of fresh actors."""
    against = {lag: comparison.against(label(lag), FRESH).difference for lag in lags}
    worse = [str(lag) for lag, found in against.items() if side(found, 0, "lower", "") == "lower"]
    scores = ", ".join(f"{comparison.variants[label(lag)].iqm} at lag {lag}" for lag in lags)
    said = f"lower at lag {', '.join(worse)}" if worse else "at no lag known to be lower"
    fresh = comparison.variants[FRESH].iqm
    return f"{who} the score is {scores}; with fresh actors {fresh}: {said}."


def _repair(comparison: Comparison, lag: int) -> str:
    """V-trace beside nothing at one lag."""
    score = comparison.against(_with(lag), _without(lag)).difference
    area = area_gained(comparison, _with(lag), _without(lag))
    return (
        f"At lag {lag} V-trace changes the score by {signed(score)} "
        f"({side(score, 0, 'lower', 'higher')}) and the area under the learning curve by "
        f"{signed(area)} ({side(area, 0, 'smaller', 'larger')})."
    )


def _figure(comparison: Comparison, lags: Sequence[int]) -> Figure:
    """Score over lag, a curve with V-trace and one without, from the same point at lag 0."""
    series = []
    for name, label in (("V-trace", _with), ("uncorrected", _without)):
        found = [comparison.variants[at].iqm for at in (FRESH, *map(label, lags))]
        value, low, high = (np.array(column) for column in zip(*found, strict=True))
        series.append(plots.Series(name, np.array([0, *lags]), value, low, high))
    return plots.lines(series, "lag", "score at the end", markers=True)
