"""S2: λ = 0, 0.95 and 1 on CartPole-v1."""

from __future__ import annotations

from actorcritic.core.hyperparameters import replace
from actorcritic.envs import CartPole
from actorcritic.experiments.folder import Part
from actorcritic.studies.bench import Answer, Bench
from actorcritic.studies.cartpole import A2C_GAE, steps_and_thresholds
from actorcritic.studies.comparing import (
    area_gained,
    deviation,
    hundredths,
    learning_table,
    ratio,
    side,
    versus,
)

QUESTION = "Does a λ between the TD error and the Monte Carlo return learn faster than both?"


def answer(bench: Bench) -> Answer:
    steps, thresholds = steps_and_thresholds(bench)
    # One whole episode an update, so that λ = 1 is the Monte Carlo return itself.
    whole = replace(A2C_GAE, num_envs=1, num_steps=500, whole_episodes=True)
    td, middle, monte_carlo = labels = ("λ=0", "λ=0.95", "λ=1")
    variants = {
        label: replace(whole, gae_lambda=value)
        for label, value in zip(labels, (0.0, 0.95, 1.0), strict=True)
    }
    part = Part(
        "A2C with each λ on CartPole-v1", bench.train(variants, CartPole(), steps), thresholds
    )
    comparison = part.comparison(None)
    ends = {end: area_gained(comparison, middle, end) for end in (td, monte_carlo)}
    better = [end for end, gained in ends.items() if gained.low > 0]
    worse = [end for end, gained in ends.items() if gained.high < 0]
    spread = ratio(comparison.areas[monte_carlo], comparison.areas[td], deviation)
    claim = "holds" if len(better) == 2 else "does not hold" if worse else "is not shown"
    sentences = (
        *(versus(comparison, middle, end) for end in ends),
        f"Spread between seeds of the area, {monte_carlo} beside {td}: {spread.text(hundredths)} "
        f"times ({side(spread, 1, 'smaller', 'larger')}).",
        f"That a λ between the ends learns faster than both of them {claim} here: larger area than "
        f"{' and '.join(better) or 'neither'}.",
    )
    numbers = {
        "area_gained_by_middle": {end: gained._asdict() for end, gained in ends.items()},
        "spread_ratio": spread._asdict(),
    }
    table = learning_table("learning", "Learning with each λ", comparison)
    return Answer(sentences, (part,), (table,), numbers=numbers)
