"""S3: continuous A2C on Pendulum-v1, with gravity and without."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from actorcritic.algorithms import A2C
from actorcritic.core.hyperparameters import replace
from actorcritic.envs import Pendulum
from actorcritic.experiments.comparison import Comparison
from actorcritic.experiments.folder import Part
from actorcritic.figures import plots
from actorcritic.figures.html import Picture
from actorcritic.runs.run import Run
from actorcritic.studies.bench import Answer, Bench
from actorcritic.studies.comparing import learning_table, median_seed, ranked

QUESTION = "Are 500 episodes enough, with which λ, and what is learned?"


PENDULUM_EPISODE = 200  # steps
PENDULUM_TARGET = -250.0


# Chosen on seeds 100 to 105, λ at 0.92 (docs/studies.md); the preset is for ten times the steps.
PENDULUM_A2C = A2C(
    num_envs=4,
    num_steps=8,
    gamma=0.93,
    optimizer="adam",
    learning_rate=1e-3,
    critic_learning_rate=5e-3,
    learning_rate_schedule="linear",
    max_grad_norm=1.0,
    activation="relu",
    initial_log_std=0.5,
    normalize_observation=True,
    normalize_reward=True,
)


def answer(bench: Bench) -> Answer:
    values = (0.0, 0.95) if bench.quick else (0.0, 0.5, 0.9, 0.95, 1.0)
    variants = {f"λ={value:g}": replace(PENDULUM_A2C, gae_lambda=value) for value in values}
    parts, pictures, tables, sentences, numbers = [], [], [], [], {}
    for name, world in (("gravity", Pendulum()), ("no gravity", Pendulum(gravity=0.0))):
        for episodes in (30,) if bench.quick else (500, 1_000, 2_000, 5_000):
            folder = f"{name}-{episodes}".replace(" ", "-")
            runs = bench.train(variants, world, episodes * PENDULUM_EPISODE, folder)
            title = f"Pendulum-v1, {name}, {episodes:,} episodes"
            part = Part(title, runs, (PENDULUM_TARGET,))
            comparison = part.comparison(None)
            found = comparison.variants
            best = max(found, key=lambda label: found[label].iqm.value)
            learned = bool(found[best].iqm.value >= PENDULUM_TARGET)
            parts.append(part)
            sentences.append(
                f"With {name}, {episodes:,} episodes {'suffice' if learned else 'do not suffice'} "
                f"for {PENDULUM_TARGET:g}: {best} scored highest, IQM {found[best].iqm}, after "
                f"{_first_returns(runs[best]):,.0f} in its first ten episodes of training; "
                + ranked(comparison, best)
            )
            numbers[folder] = {"best": best, "learned": learned, **found[best].iqm._asdict()}
            tables.append(learning_table(folder, f"Learning: {title}", comparison))
            if learned or bench.quick:
                break
        pictures.append(_policies(name, runs, comparison))
    return Answer(tuple(sentences), tuple(parts), tuple(tables), tuple(pictures), numbers)


def _first_returns(run: Run) -> float:
    """The mean return of the first ten training episodes of each seed."""
    table = run.episodes
    return float(np.mean([table.returns[table.seed == seed][:10].mean() for seed in run.seeds]))


def _policies(name: str, runs: Mapping[str, Run], comparison: Comparison) -> Picture:
    """The torque of each variant's median seed in every state of the pendulum."""
    angle, speed = np.linspace(-np.pi, np.pi, 73), np.linspace(-8, 8, 65)
    speeds, angles = np.meshgrid(speed, angle, indexing="ij")
    states = np.stack([np.cos(angles), np.sin(angles), speeds], axis=-1).astype(np.float32)
    fields = []
    for label, run in runs.items():
        seed = median_seed(comparison, label)
        torque = run.policy(seed)(states.reshape(-1, 3)).reshape(angles.shape)
        fields.append(plots.Field(f"{label} (seed {seed})", torque))
    wide, narrow = (
        plots.action_against_state(
            fields,
            angle,
            speed,
            xlabel="angle from upright (rad)",
            ylabel="angular velocity (rad/s)",
            label="torque (N·m)",
            limits=(-2.0, 2.0),
            width=width,
        )
        for width in (plots.WIDTH, plots.NARROW)
    )
    note = (
        "The deterministic action in each state, of the seed whose final evaluation is the median. "
        "Upright is the middle; positive torque pushes towards a larger angle."
    )
    title = f"What was learned, {name}"
    return Picture(f"policy-{name}".replace(" ", "-"), title, wide, note, narrow)
