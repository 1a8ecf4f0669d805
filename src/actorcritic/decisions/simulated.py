"""What a simulation showed: curves, a table, sentences, a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from actorcritic.core import files
from actorcritic.decisions.pages import write
from actorcritic.decisions.simulation import AGENT, LAST, LINUCB, Simulated, ToolWorld
from actorcritic.figures import plots, statistics
from actorcritic.figures.html import Picture, Section, Table
from actorcritic.figures.statistics import Estimate

WINDOW = 200  # decisions, of a mean that is drawn
POINTS = 200  # of a curve


def fixed_rng() -> np.random.Generator:
    """Draws that are the same each time."""
    return np.random.default_rng(0)


def mean_estimate(x: Float[np.ndarray, " S"]) -> Estimate:
    """The mean over seeds with its bootstrap interval."""
    if len(x) < statistics.FEWEST_SEEDS:
        return Estimate(float(x.mean()), np.nan, np.nan)
    low, high = statistics.interval(x, np.mean, rng=fixed_rng())
    return Estimate(float(x.mean()), float(low), float(high))


def signed(x: float) -> str:
    return f"{x:+.3f}"


def two(x: float) -> str:
    return f"{x:.3f}"


def last_of(found: Simulated) -> int:
    return min(LAST, found.best.shape[1])


def sentences(found: Simulated) -> list[str]:
    """What may be said of the agent beside the others."""
    last = last_of(found)
    shares = {name: found.shares(name, last) for name in found.earned}
    seeds = found.best.shape[0]
    said = [
        f"In the last {last:,} of {found.best.shape[1]:,} decisions, the share of the way from "
        f"random to the best possible ({seeds} seed{'s' * (seeds > 1)}): "
        + "; ".join(f"{name} {mean_estimate(x).text(two)}" for name, x in shares.items())
        + "."
    ]
    if AGENT in shares and LINUCB in shares and seeds >= statistics.FEWEST_SEEDS:
        gap = mean_estimate(shares[AGENT] - shares[LINUCB])
        word = "higher" if gap.low > 0 else "lower" if gap.high < 0 else "not told apart"
        said.append(f"{AGENT} beside {LINUCB} on the same tasks: {gap.text(signed)} ({word}).")
    return said


def table(found: Simulated) -> Table:
    last = last_of(found)
    rows = []
    rewards = {**found.earned, "the best possible": found.best}
    for name, earned in rewards.items():
        share = mean_estimate(found.shares(name, last)).text(two) if name in found.earned else "1"
        regret = mean_estimate((found.best - earned).sum(1))
        rows.append(
            (
                name,
                mean_estimate(earned[:, -last:].mean(1)).text(two),
                share,
                regret.text(lambda x: f"{x:,.0f}"),
            )
        )
    note = (
        f"Means over {found.best.shape[0]} seeds, with 95 % bootstrap intervals where there are "
        f"3 or more. Reward and share: of the last {last:,} decisions; the share of the way from "
        "random (0) to the best possible (1). Regret: what the best possible earns more, in all."
    )
    return Table(
        "contenders", "Who earned what", ("who", "reward", "share", "regret"), tuple(rows), note
    )


def curves(found: Simulated) -> tuple[Picture, ...]:
    """Reward over time, and regret."""
    n = found.best.shape[1]
    at = np.unique(np.linspace(0, n - 1, POINTS).round().astype(int))
    window = max(1, min(WINDOW, n // 5))

    def series(label: str, rows: np.ndarray) -> plots.Series:
        low, high = None, None
        if len(rows) >= statistics.FEWEST_SEEDS:
            low, high = statistics.interval(rows[:, at], np.mean, rng=fixed_rng(), resamples=500)
        return plots.Series(label, at + 1.0, rows[:, at].mean(0), low, high)

    def smooth(rows: np.ndarray) -> np.ndarray:
        return np.stack([statistics.rolling_mean(row, window) for row in rows])

    rewards = {**found.earned, "the best possible": found.best}
    reward = plots.lines(
        [series(name, smooth(rows)) for name, rows in rewards.items()], "decision", "mean reward"
    )
    regret = plots.lines(
        [series(name, found.regret(name)) for name in found.earned], "decision", "regret"
    )
    note = f"The mean reward of what was chosen, of the last {window} decisions; bands over seeds."
    return (
        Picture("reward", "Reward over time", reward, note),
        Picture("regret", "Regret", regret, "The best possible less what was earned, summed up."),
    )


def data(found: Simulated) -> dict[str, Any]:
    """The numbers as plain JSON."""
    last = last_of(found)
    return {
        name: {
            "share": found.shares(name, last).tolist(),
            "reward": earned[:, -last:].mean(1).tolist(),
            "regret": (found.best - earned).sum(1).tolist(),
        }
        for name, earned in found.earned.items()
    }


def publish(found: Simulated, world: ToolWorld, path: Path, command: str | None) -> Path:
    """The page, and its numbers beside it."""
    first, *rest = sentences(found)
    about = (
        f"A world of {world.tools} tools and {3 * world.tools} kinds of tasks that nobody is told; "
        f"{world.features} features. Each kind has one tool that succeeds in 80 to 98 % of cases; "
        "the others in 20 % on average. Success earns 1, failure −0.1."
    )
    section = Section("Simulated tools", first, (*rest, about), curves(found), (table(found),))
    write(path, "Simulated tools", [section], command)
    files.write(path.with_suffix(".json"), json.dumps(data(found), indent=1))
    return path
