"""S4: an ablation of A2C on CartPole-v1: the critic, n, the entropy bonus, λ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actorcritic.core.hyperparameters import replace
from actorcritic.envs import CartPole
from actorcritic.experiments.folder import Part
from actorcritic.studies.bench import Answer, Bench
from actorcritic.studies.cartpole import A2C_GAE, REINFORCE, steps_and_thresholds
from actorcritic.studies.comparing import area_gained, learning_table, ranked

QUESTION = "What does each part do to how fast it learns, and where it ends?"


def answer(bench: Bench) -> Answer:
    steps, thresholds = steps_and_thresholds(bench)
    a2c, reinforce = "A2C + GAE", "REINFORCE"
    lengths = (1, 16) if bench.quick else (1, 5, 20, 100)
    bonuses = (0.01,) if bench.quick else (0.001, 0.01)
    lambdas = (0.0,) if bench.quick else (0.0, 0.5, 0.9, 1.0)
    groups: dict[str, dict[str, Any]] = {
        "With and without a critic": {
            reinforce: REINFORCE,
            **({} if bench.quick else {f"{reinforce} + V(s)": replace(REINFORCE, baseline=True)}),
            a2c: A2C_GAE,
        },
        "n-step returns": {
            f"n={n}": replace(A2C_GAE, num_steps=n, gae_lambda=1.0) for n in lengths
        },
        "Entropy bonus": {a2c: A2C_GAE}
        | {f"entropy {c:g}": replace(A2C_GAE, entropy_coefficient=c) for c in bonuses},
        "GAE λ": {a2c: A2C_GAE} | {f"λ={v:g}": replace(A2C_GAE, gae_lambda=v) for v in lambdas},
    }
    variants = {label: each for group in groups.values() for label, each in group.items()}
    runs = bench.train(variants, CartPole(), steps)
    parts = tuple(
        Part(title, {label: runs[label] for label in group}, thresholds)
        for title, group in groups.items()
    )
    comparisons = {part.title: part.comparison(None) for part in parts}
    sentences = []
    for title, comparison in comparisons.items():
        fast = max(comparison.runs, key=lambda label: comparison.variants[label].area.value)
        others = [label for label in comparison.runs if label != fast]
        slower = [label for label in others if area_gained(comparison, fast, label).low > 0]
        near = [label for label in others if label not in slower]
        score = comparison.variants
        top = max(score, key=lambda label: score[label].iqm.value)
        sentences.append(
            f"{title}: {fast} has the largest area under its learning curve, {score[fast].area}"
            + f", larger than {_listed(slower)}" * bool(slower)
            + f", not told apart from {_listed(near)}" * bool(near)
            + f"; {top} scored highest at the end, IQM {score[top].iqm}; {ranked(comparison, top)}"
        )
    sentences.append(
        "All A2C variants share one step size, chosen for rollouts of 16 steps: with its own, each "
        "might do better."
    )
    tables = tuple(
        learning_table(f"learning-{i}", f"Learning: {title}", each)
        for i, (title, each) in enumerate(comparisons.items(), 1)
    )
    return Answer(tuple(sentences), parts, tables)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels)
