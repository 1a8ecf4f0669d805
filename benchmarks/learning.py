"""What the presets reach: `python benchmarks/learning.py [--only ROW ...] [--seeds 10] [--seed 0]`.

Each row trains a preset on several seeds and evaluates each with 100 deterministic episodes.
Written to benchmarks/results/learning.json, and as a table to docs/results.md.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

import actorcritic as ac
from actorcritic.algorithms.presets import PRESETS
from actorcritic.core.types import Environment
from actorcritic.figures import statistics
from actorcritic.runs import configuration
from actorcritic.runs.settings import TrainSettings

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Bar:
    """What a row is held against; `iqm` has to be reached, where there is a figure."""

    iqm: float | None = None
    anchor: str = "–"
    seeds: int = 10


INTRODUCTION = """# What the presets reach

Measured by `python benchmarks/learning.py`, which trains every preset anew: interquartile mean over
seeds of 100 deterministic episodes each, with its 95 % bootstrap interval over seeds. The seeds are
0, 1, 2, …; presets were tuned on others (100 and on). With 3 seeds the interval says little: it
covers the truth about three times in four. With 2 it is over their episodes only, and says nothing
of other seeds. "At least" is the figure that we hold ourselves to,
"published" another library's result and its steps, mostly of one seed. The last column is the wall
time of the whole row, all its seeds, with compilation, on 2 CPU cores that other work shared at
times: those of the robots and of MinAtar took several times as long as they need.
"""

ZOO = "SB3 zoo {} ({})"
BARS = {
    ("reinforce", "CartPole-v1"): Bar(450, "SLM-Lab 483.3 (200k, training returns)"),
    ("q-actor-critic", "CartPole-v1"): Bar(400),
    ("td-actor-critic", "CartPole-v1"): Bar(400),
    ("a2c", "CartPole-v1"): Bar(490, ZOO.format("500.0", "500k")),
    ("a3c", "CartPole-v1"): Bar(475),
    ("impala", "CartPole-v1"): Bar(475),
    ("ppo", "CartPole-v1"): Bar(490, ZOO.format("500.0", "100k")),
    ("trpo", "CartPole-v1"): Bar(490, ZOO.format("500.0", "100k")),
    ("reinforce", "Acrobot-v1"): Bar(),
    ("td-actor-critic", "Acrobot-v1"): Bar(),
    ("a2c", "Acrobot-v1"): Bar(-85, ZOO.format("-83.4", "500k")),
    ("ppo", "Acrobot-v1"): Bar(-85, "gymnax-blines -79 (496k), SB3 zoo -73.5 (1M)"),
    ("trpo", "Acrobot-v1"): Bar(None, ZOO.format("-83.1", "100k")),
    ("ppo", "MountainCar-v0"): Bar(-115, ZOO.format("-110.4", "1M")),
    ("trpo", "MountainCar-v0"): Bar(None, ZOO.format("-107.3", "100k")),
    ("a2c", "MountainCarContinuous-v0"): Bar(90, ZOO.format("91.2", "100k")),
    ("ppo", "MountainCarContinuous-v0"): Bar(None, ZOO.format("88.3", "20k")),
    ("trpo", "MountainCarContinuous-v0"): Bar(None, ZOO.format("92.5", "50k")),
    ("sac", "MountainCarContinuous-v0"): Bar(92, ZOO.format("94.7", "50k")),
    ("a2c", "Pendulum-v1"): Bar(-170, ZOO.format("-163.0", "1M")),
    ("ppo", "Pendulum-v1"): Bar(-190, ZOO.format("-172.2", "100k")),
    ("trpo", "Pendulum-v1"): Bar(-180, ZOO.format("-174.6", "100k")),
    ("sac", "Pendulum-v1"): Bar(-160, ZOO.format("-157.0", "20k")),
    ("ppo", "LunarLander-v3"): Bar(230, ZOO.format("242.1", "1M, v2"), seeds=3),
    ("ppo", "LunarLanderContinuous-v3"): Bar(None, ZOO.format("270.9", "1M, v2"), seeds=3),
    ("ppo", "InvertedPendulum-v5"): Bar(960, "CleanRL 963 ± 22 (1M, v4, training returns)", 3),
    ("ppo", "Hopper-v5"): Bar(2300, "CleanRL 2383 ± 272 (1M, v4, training returns)", seeds=3),
    ("trpo", "Swimmer-v5"): Bar(330, "SB3 contrib 353 (100k, v3)", seeds=3),
    ("sac", "HalfCheetah-v5"): Bar(4900, "SB3 zoo 4961 (100k, v3, training returns)", seeds=3),
    ("ppo", "gymnax:Breakout-MinAtar"): Bar(43, "gymnax-blines 43.4 (10M)", seeds=3),
    ("ppo", "gymnax:SpaceInvaders-MinAtar"): Bar(131, "gymnax-blines 131.6 (10M)", seeds=3),
    ("ppo", "gymnax:Asterix-MinAtar"): Bar(15, "gymnax-blines 15.0 (10M)", seeds=3),
    ("ppo", "gymnax:Freeway-MinAtar"): Bar(58, "gymnax-blines 58.8 (10M)", seeds=3),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="ROW", help="'ppo CartPole-v1', or part of it")
    parser.add_argument("--seeds", type=int, help="default: 10, 3 where a run is long")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "learning.json")
    options = parser.parse_args()

    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    for (algorithm, environment), bar in BARS.items():
        name = f"{algorithm} {environment}"
        if options.only and not any(part in name for part in options.only):
            continue
        start = time.perf_counter()
        count = options.seeds or bar.seeds
        returns = train(algorithm, environment, range(options.seed, options.seed + count))
        summary = statistics.summary(returns)
        results[name] = {
            "total_steps": PRESETS[algorithm, environment].total_steps,
            "seeds": list(range(options.seed, options.seed + count)),
            "episodes": returns.shape[1],
            "seed_means": [round(x, 2) for x in returns.mean(axis=1).tolist()],
            "iqm": summary.iqm,
            "interval": [summary.low, summary.high],
            "seconds": round(time.perf_counter() - start, 1),
        }
        print(f"{name}: {summary}; seeds {results[name]['seed_means']}", flush=True)
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(results, indent=1) + "\n")
    table = report(results)
    if options.results == parser.get_default("results"):
        (HERE.parent / "docs" / "results.md").write_text(f"{INTRODUCTION}\n{table}\n")
    print(f"\n{table}")
    return 0


def train(algorithm: str, environment: str, seeds: range) -> np.ndarray:
    """Returns [S, E] of the final evaluation of each seed."""
    compiled = configuration.resolve_environment(environment, TrainSettings())
    if isinstance(compiled, Environment):
        return evaluated(algorithm, environment, seeds)
    # The host runner trains seeds one after another, on one core: here, a process each.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(seeds), os.cpu_count() or 1), mp_context=spawn) as pool:
        each = [range(seed, seed + 1) for seed in seeds]
        return np.concatenate(list(pool.map(partial(evaluated, algorithm, environment), each)))


def evaluated(algorithm: str, environment: str, seeds: range) -> np.ndarray:
    run = ac.train(algorithm, environment, seeds=len(seeds), seed=seeds.start)
    assert run.final_evaluation is not None
    return run.final_evaluation.returns


def report(results: dict) -> str:
    """The results as Markdown, in the order of `BARS`."""
    lines = [
        "| environment | algorithm | steps | seeds | IQM (95 % interval) | at least | published "
        "| s |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for (algorithm, environment), bar in BARS.items():
        row = results.get(f"{algorithm} {environment}")
        if row is not None:
            low, high = row["interval"]
            least = "" if bar.iqm is None else f"{bar.iqm:g}"
            lines.append(
                f"| {environment} | {algorithm} | {row['total_steps']:,} | {len(row['seeds'])} "
                f"| {row['iqm']:.1f} ({low:.1f} to {high:.1f}) | {least} "
                f"| {bar.anchor} | {row['seconds']:.0f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
