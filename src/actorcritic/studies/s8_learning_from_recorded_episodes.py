"""S8: behaviour cloning, CQL and IQL from data of three qualities, without an environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from actorcritic.algorithms import BC, CQL, IQL
from actorcritic.algorithms.presets import preset
from actorcritic.data import folder
from actorcritic.data.dataset import Dataset
from actorcritic.envs import CartPole
from actorcritic.experiments.comparison import Comparison
from actorcritic.experiments.folder import Part
from actorcritic.figures import statistics
from actorcritic.figures.html import Table
from actorcritic.figures.statistics import Estimate
from actorcritic.runs import collecting
from actorcritic.studies.bench import Answer, Bench
from actorcritic.studies.comparing import fixed_rng

QUESTION = "Which of them learns more than it was shown, from random, half-trained and expert data?"

STEPS, QUICK_STEPS = 20_000, 2_000  # of a data set
UPDATES, QUICK_UPDATES = 3_000, 200
# Environment steps that the policy was trained for which collected; None: it is random.
QUALITIES: dict[str, int | None] = {"random": None, "half-trained": 6_144, "expert": 100_000}
SMALL: dict[str, Any] = {"hidden_sizes": (64, 64), "batch_size": 128, "learning_rate": 1e-3}
VARIANTS = {
    "behaviour cloning": BC(**SMALL),
    "CQL": CQL(**SMALL),
    "IQL": IQL(**SMALL, expectile=0.8),
}


class Found(NamedTuple):
    """What was learned from one data set."""

    recorded: Estimate  # mean return of its episodes
    comparison: Comparison


def answer(bench: Bench) -> Answer:
    world, parts, found = CartPole(), [], {}
    updates = QUICK_UPDATES if bench.quick else UPDATES
    for quality, trained in list(QUALITIES.items())[: 2 if bench.quick else None]:
        data = _data(bench, world, quality, trained)
        runs = bench.train(VARIANTS, world, updates, f"from-{quality}", data=data)
        part = Part(f"CartPole-v1, from {quality} data", runs)
        parts.append(part)
        found[quality] = Found(_mean(data.returns), part.comparison(None))
    sentences = [_said(quality, one) for quality, one in found.items()]
    numbers = {
        quality: {
            "data": one.recorded._asdict(),
            **{label: v.iqm._asdict() for label, v in one.comparison.variants.items()},
        }
        for quality, one in found.items()
    }
    return Answer(tuple(sentences), tuple(parts), (_table(found),), numbers=numbers)


def _data(bench: Bench, world: CartPole, quality: str, trained: int | None) -> Dataset:
    """The data set of a quality; that of the study's folder, where it has one."""
    place = bench.folder and bench.folder / f"data-{quality}"
    if place is not None and (place / folder.ABOUT).exists():
        return folder.load(place)
    steps = QUICK_STEPS if bench.quick else STEPS
    who = collecting.Part("random", None, (), steps)
    if trained is not None:
        chosen = preset("ppo", world.spec).algorithm
        name = f"policy-{quality}"
        run = bench.train({"PPO": chosen}, world, trained, name, seeds=(0,))["PPO"]
        policy = run.policy(0)
        who = collecting.Part(quality, policy.algorithm, policy.actor, steps)
    data = collecting.recorded(world, [who], seed=0)
    if place is not None:
        folder.save(data, place)
    return data


def _mean(returns: np.ndarray) -> Estimate:
    """The mean return of the episodes of a data set, with a bootstrap interval over them."""
    rows = fixed_rng().integers(len(returns), size=(statistics.RESAMPLES, len(returns)))
    low, high = np.quantile(returns[rows].mean(axis=1), [0.025, 0.975])
    return Estimate(float(returns.mean()), float(low), float(high))


def _said(quality: str, found: Found) -> str:
    """Which variants are known to score above their data, and which best of all."""
    recorded, comparison = found
    iqm = {label: variant.iqm for label, variant in comparison.variants.items()}
    above = [label for label, one in iqm.items() if one.low > recorded.high]
    below = [label for label, one in iqm.items() if one.high < recorded.low]
    best = max(iqm, key=lambda label: iqm[label].value)
    words = [
        f"{label} {_whole(iqm[label])}"
        + (" (above its data)" if label in above else " (below its data)" * (label in below))
        for label in iqm
    ]
    clear = [
        label for label in iqm if label != best and comparison.against(best, label).word == "higher"
    ]
    told = f"; {best} scores higher than {' and '.join(clear)}" if clear else ""
    return (
        f"From {quality} data, whose episodes return {_whole(recorded)}: {', '.join(words)}{told}."
    )


def _table(found: Mapping[str, Found]) -> Table:
    labels = list(VARIANTS)
    rows = tuple(
        (
            quality,
            _whole(one.recorded),
            *(_whole(one.comparison.variants[label].iqm) for label in labels),
        )
        for quality, one in found.items()
    )
    columns = ("data", "the policy that collected it", *labels)
    note = (
        "Of the collecting policy: the mean return of the recorded episodes, as it explores. Of "
        "the others: IQM over seeds of deterministic evaluations. 95 % bootstrap intervals."
    )
    return Table("qualities", "Return by quality of the data", columns, rows, note)


def _whole(estimate: Estimate) -> str:
    return estimate.text(lambda x: f"{x:.0f}")
