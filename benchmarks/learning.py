"""What the presets reach: `python benchmarks/learning.py [--only ROW ...] [--seeds 10] [--seed 0]`.

Each row trains a preset on several seeds and evaluates each with 100 deterministic episodes. The
table gives the interquartile mean over seeds with its 95 % bootstrap interval, beside the figure
that the row is held against (sources: the docs). Written to benchmarks/results/learning.json.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import actorcritic as ac
from actorcritic.algorithms.presets import PRESETS

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Bar:
    """What a row has to reach."""

    iqm: float
    anchor: str
    seeds: int = 10


BARS = {
    ("ppo", "CartPole-v1"): Bar(490, "SB3 zoo 500.0 (100k)"),
    ("a2c", "CartPole-v1"): Bar(490, "SB3 zoo 500.0 (500k)"),
    ("reinforce", "CartPole-v1"): Bar(450, "SLM-Lab 483.3 (200k, training returns)"),
    ("ppo", "Acrobot-v1"): Bar(-85, "gymnax-blines -79 (496k), SB3 zoo -73.5 (1M)"),
    ("ppo", "Pendulum-v1"): Bar(-190, "SB3 zoo -172.2 (100k)"),
    ("ppo", "LunarLander-v3"): Bar(230, "SB3 zoo 242.1 (1M, v2)", seeds=3),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="ROW", help="such as ppo:CartPole-v1")
    parser.add_argument("--seeds", type=int, help="default: 10, 3 where a run is long")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "learning.json")
    options = parser.parse_args()

    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    for (algorithm, environment), bar in BARS.items():
        name = f"{algorithm}:{environment}"
        if options.only and name not in options.only:
            continue
        start = time.perf_counter()
        run = ac.train(algorithm, environment, seeds=options.seeds or bar.seeds, seed=options.seed)
        result = run.final_evaluation
        assert result is not None
        summary = result.summary
        results[name] = {
            "total_steps": PRESETS[algorithm, environment].total_steps,
            "seeds": list(result.seeds),
            "episodes": result.returns.shape[1],
            "seed_means": [round(x, 2) for x in result.returns.mean(axis=1).tolist()],
            "iqm": summary.iqm,
            "interval": [summary.low, summary.high],
            "at_least": bar.iqm,
            "anchor": bar.anchor,
            "seconds": round(time.perf_counter() - start, 1),
        }
        print(f"{name}: {result}; seeds {results[name]['seed_means']}", flush=True)
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{report(results)}")
    return 0


def report(results: dict) -> str:
    """The results as Markdown."""
    lines = [
        "| preset | steps | seeds | IQM (95 % interval) | at least | anchor | s |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for name, row in results.items():
        low, high = row["interval"]
        lines.append(
            f"| {name.replace(':', ' ')} | {row['total_steps']:,} | {len(row['seeds'])} "
            f"| {row['iqm']:.1f} ({low:.1f} to {high:.1f}) | {row['at_least']:g} "
            f"| {row['anchor']} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
