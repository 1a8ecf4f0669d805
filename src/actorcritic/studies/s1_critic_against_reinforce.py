"""S1: REINFORCE, without a critic, against actor-critics on CartPole-v1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from actorcritic.algorithms.presets import PRESETS
from actorcritic.envs import CartPole
from actorcritic.experiments.analysis import NONE
from actorcritic.experiments.folder import Part
from actorcritic.figures import statistics
from actorcritic.figures.html import Table
from actorcritic.figures.statistics import Estimate
from actorcritic.runs.run import Run
from actorcritic.studies.bench import Answer, Bench
from actorcritic.studies.cartpole import A2C_GAE, REINFORCE, steps_and_thresholds
from actorcritic.studies.comparing import deviation, hundredths, ratio, side

QUESTION = "Does an actor-critic need about half the episodes of REINFORCE, with lower spread?"


def answer(bench: Bench) -> Answer:
    steps, thresholds = steps_and_thresholds(bench)
    references: tuple[str, ...] = ("REINFORCE", "REINFORCE preset")
    critics = ("one-step actor-critic", "A2C + GAE")
    variants = {
        references[0]: REINFORCE,
        references[1]: PRESETS["reinforce", "CartPole-v1"].algorithm,
        critics[0]: PRESETS["td-actor-critic", "CartPole-v1"].algorithm,
        critics[1]: A2C_GAE,
    }
    if bench.quick:
        references = references[:1]
        del variants["REINFORCE preset"]
    runs = bench.train(variants, CartPole(), steps)
    part = Part("REINFORCE and actor-critics on CartPole-v1", runs, thresholds)
    comparison = part.comparison(None)
    reached = {
        (threshold, label): statistics.steps_until(
            run.episodes, comparison.seeds[label], threshold, comparison.window
        )
        for threshold in thresholds
        for label, run in runs.items()
    }
    beside = {
        (reference, threshold, label): _Beside.of(
            reached[threshold, label].episodes,
            reached[threshold, reference].episodes,
            runs[reference],
        )
        for reference in references
        for threshold in thresholds
        for label in critics
    }
    rows, took = [], []
    for found in comparison.until:
        own = reached[found.threshold, found.label].episodes
        episodes = found.episodes.text(statistics.counts(found.most_episodes))
        got = f"{found.reached} of {len(own)}"
        spread = f"{deviation(own):,.0f}" if np.isfinite(own).all() else NONE
        made = found.steps.text(statistics.counts(found.most_steps))
        rows.append((f"{found.threshold:g}", found.label, got, episodes, spread, made))
        took.append((found.threshold, f"{found.label} {episodes} ({got} seeds)"))
    until = Table(
        "until",
        "Episodes and steps until a return is reached",
        ("return", "variant", "reached", "episodes", "SD", "steps"),
        tuple(rows),
        f"Reached: the mean of a seed's last {comparison.window} training returns, the same for "
        "all. Medians over seeds with 95 % bootstrap intervals; a seed that never got there counts "
        "as later than all that did. SD: of the episodes, between seeds, where all got there. "
        "REINFORCE has no critic and learns from one episode at a time; its preset learns from "
        "eight, with V(s) as a baseline.",
    )
    against = Table(
        "against",
        "Episodes beside those of REINFORCE",
        ("return", "variant", "beside", "times the episodes", "times the SD", "what holds"),
        tuple(
            (f"{threshold:g}", label, reference, *each.cells, each.claim)
            for (reference, threshold, label), each in beside.items()
        ),
        "Ratios of medians and of standard deviations, seeds drawn together. ≤: half of the "
        "reference's seeds were not there when training ended.",
    )
    sentences = (
        *(_claimed(reference, beside) for reference in references),
        *(
            f"Episodes to a mean return of {threshold:g} (median): "
            f"{'; '.join(text for t, text in took if t == threshold)}."
            for threshold in thresholds
        ),
    )
    numbers = {
        "until": [
            {"threshold": threshold, "variant": label, **each._asdict()}
            for (threshold, label), each in reached.items()
        ],
        "against": [
            {"reference": reference, "threshold": threshold, "variant": label, **each.data()}
            for (reference, threshold, label), each in beside.items()
        ],
    }
    return Answer(sentences, (part,), (until, against), numbers=numbers)


class _Beside(NamedTuple):
    """How many episodes, and how far apart between seeds, beside those of a reference."""

    episodes: Estimate
    at_most: bool  # the reference was not there when its training ended
    spread: Estimate

    @classmethod
    def of(cls, mine: Float[np.ndarray, " S"], other: Float[np.ndarray, " S"], run: Run) -> _Beside:
        at_most = bool(np.isinf(_median(other)))
        ended = np.array([(run.episodes.seed == seed).sum() for seed in sorted(run.seeds)])
        least = np.where(np.isinf(other), ended, other) if at_most else other
        return cls(ratio(mine, least, _median), at_most, ratio(mine, other, deviation))

    @property
    def known(self) -> bool:
        return bool(np.isfinite(self.episodes.low))

    @property
    def cells(self) -> tuple[str, str]:
        episodes = "≤ " * self.at_most + self.episodes.text(hundredths) if self.known else NONE
        return episodes, self.spread.text(hundredths) if np.isfinite(self.spread.value) else NONE

    @property
    def claim(self) -> str:
        """What of "about half the episodes, with lower spread" the intervals leave."""
        ratio, spread = self.episodes, self.spread
        if not self.known:
            half = "episodes not known"
        elif ratio.high < 0.5:
            half = "fewer than half"
        elif ratio.high >= 1:
            more = ratio.low > 1 and not self.at_most
            half = "more episodes" if more else "not known to be fewer"
        elif self.at_most:
            half = "fewer, perhaps half"
        else:
            half = "about half" if ratio.low <= 0.5 else "fewer, but more than half"
        even = side(spread, 1, "lower spread", "higher spread")
        return f"{half}, {even if np.isfinite(spread.low) else 'spread not known'}".replace(
            "cannot be told apart", "spread not told apart"
        )

    @property
    def half(self) -> bool:
        """Whether it took half the episodes or fewer, or the interval allows it and not as many."""
        return self.known and self.episodes.high < 1 and self.episodes.low <= 0.5

    def data(self) -> dict[str, Any]:
        return {
            "ratio_of_episodes": self.episodes._asdict(),
            "at_most": self.at_most,
            "ratio_of_spread": self.spread._asdict(),
            "claim": self.claim,
        }


def _claimed(reference: str, beside: Mapping[tuple[str, float, str], _Beside]) -> str:
    """What comparisons with one reference leave of the claim."""
    mine = {key: each for key, each in beside.items() if key[0] == reference}
    half = sum(each.half for each in mine.values())
    lower = sum(each.spread.high < 1 for each in mine.values())
    each = "; ".join(f"{label} at {t:g}: {found.claim}" for (_, t, label), found in mine.items())
    return (
        f"'About half the episodes, with lower spread', beside {reference}: half or fewer in "
        f"{half} of {len(mine)} comparisons, a lower spread in {lower} ({each})."
    )


def _median(x: Float[np.ndarray, "... S"]) -> Any:
    """As `statistics.censored_median`: infinity stays what it is."""
    return np.quantile(x, 0.5, axis=-1, method="inverted_cdf")
