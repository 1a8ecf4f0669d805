"""What defaults reach where nobody tuned: ours beside Stable-Baselines3's and CleanRL's.

    python benchmarks/defaults.py --cleanrl CHECKOUT [--only ROW ...] [--sides SIDE ...] [--report]

Every measurement is a process of its own with one thread: it trains a few seeds with nothing but
defaults, and evaluates each with deterministic episodes. Our presets are switched off. Written to
benchmarks/results/defaults.json after each, so that it can be stopped and goes on where it was, and
as a table to docs/defaults.md. CleanRL's scripts are not on the package index in this form:
CHECKOUT is a clone of its repository (peers/defaults.txt names the commit).
"""

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata
from speed import CACHE, HERE, Unmeasured, machine, peer_python, run

RESULTS = HERE / "results" / "defaults.json"
PAGE = HERE.parent / "docs" / "defaults.md"
BEGIN, END = "<!-- written by benchmarks/defaults.py -->", "<!-- up to here -->"
SIDES = {"ours": "ours", "sb3": "Stable-Baselines3", "cleanrl": "CleanRL", "random": "random"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
LONGEST = 10_000  # steps of an episode, where the environment states no limit
LEARNED = 0.5  # of the way from the random policy to the best side


@dataclass(frozen=True)
class Row:
    """A training; `kind` says in words what the environment is like."""

    algorithm: str
    environment: str
    total_steps: int
    kind: str

    @property
    def name(self) -> str:
        return f"{self.algorithm} {self.environment}"

    @property
    def sides(self) -> list[str]:
        """CleanRL has no A2C, and its script for images is for Atari's."""
        without = self.algorithm == "a2c" or self.kind.startswith("images")
        return [side for side in SIDES if side != "cleanrl" or not without]


ROWS = [
    Row("ppo", "FrozenLake8x8-v1", 100_000, "table, discrete, sparse reward"),
    Row("ppo", "CliffWalking-v1", 50_000, "table, discrete, no time limit"),
    Row("a2c", "CliffWalking-v1", 30_000, "table, discrete, no time limit"),
    Row("ppo", "Reacher-v5", 30_000, "vector, continuous, 50 steps"),
    Row("ppo", "LunarLanderContinuous-v3", 50_000, "vector, continuous, 1,000 steps"),
    Row("ppo", "Acrobot-v1", 30_000, "vector, discrete, 500 steps"),
    Row("ppo", "Pendulum-v1", 30_000, "vector, continuous, 200 steps"),
    Row("ppo", "CartPole-v1", 20_000, "vector, discrete, 500 steps"),
    Row("ppo", "MountainCarContinuous-v0", 30_000, "vector, continuous, sparse reward"),
    Row("ppo", "InvertedDoublePendulum-v5", 30_000, "vector, continuous, 1,000 steps"),
    Row("ppo", "Blackjack-v1", 20_000, "tuple, discrete, no time limit"),
    Row("ppo", "catch:Catch-v0", 10_000, "images, discrete, 8 steps"),
    Row("ppo", "Taxi-v4", 30_000, "table, discrete, masks of actions"),
    Row("ppo", "Swimmer-v5", 30_000, "vector, continuous, 1,000 steps"),
    Row("a2c", "CartPole-v1", 30_000, "vector, discrete, 500 steps"),
    Row("sac", "Reacher-v5", 6_000, "vector, continuous, 50 steps"),
    Row("a2c", "Pendulum-v1", 30_000, "vector, continuous, 200 steps"),
    Row("ppo", "MountainCar-v0", 30_000, "vector, discrete, sparse reward"),
    Row("ppo", "BipedalWalker-v3", 100_000, "vector, continuous, 1,600 steps"),
]


def measured(row: Row, side: str, options: argparse.Namespace) -> dict[str, Any]:
    """The returns of a side's episodes, a list for each seed, by a process of its own."""
    config = asdict(row) | {
        "seeds": options.seeds,
        "episodes": options.episodes,
        "longest": LONGEST,
        "cleanrl": str(options.cleanrl),
    }
    train = HERE / "peers" / "defaults_train.py"
    command: list[str | Path] = [Path(__file__), "--measure", json.dumps(config)]
    if side != "ours":
        command = [train, side, json.dumps(config)]
    python = Path(sys.executable) if side == "ours" else options.python
    path = str(HERE / "peers")
    if side == "ours" and "PYTHONPATH" in os.environ:
        path += os.pathsep + os.environ["PYTHONPATH"]
    text, seconds = run([python, *command], PYTHONPATH=path, **ONE_THREAD)
    reply = json.loads(text.splitlines()[-1])
    returns = np.array(reply.pop("returns"))
    found = {
        "total_steps": row.total_steps,
        "seeds": options.seeds,
        "episodes": options.episodes,
        "seed_means": [round(mean, 3) for mean in returns.mean(axis=1).tolist()],
        **reply,
    }
    print(f"{row.name}: {side} {found['seed_means']}, {seconds:.0f} s", flush=True)
    return found


def ours(config: dict[str, Any]) -> dict[str, Any]:
    """Our defaults, also where there is a preset."""
    import actorcritic as ac
    from actorcritic.algorithms.catalogue import ALGORITHMS
    from actorcritic.algorithms.defaults import defaults
    from actorcritic.runs import configuration
    from actorcritic.runs.settings import TrainSettings

    world = configuration.resolve_environment(config["environment"], TrainSettings())
    name = config["algorithm"]
    found, _ = defaults(name, world.spec, config["total_steps"], {})
    done = ac.train(
        ALGORITHMS[name](**found),
        world,
        total_steps=config["total_steps"],
        seeds=config["seeds"],
        evaluation_episodes=config["episodes"],
        quiet=True,
    )
    assert done.final_evaluation is not None
    returns = done.final_evaluation.returns.tolist()
    return {"returns": returns, "hyperparameters": found}


# ------------------------------------------------------------------------------------ the page


def mean(results: dict[str, Any], row: Row, side: str) -> float | None:
    found = results["rows"].get(row.name, {}).get(side)
    return None if found is None else float(np.mean(found["seed_means"]))


def sides_of(results: dict[str, Any], row: Row) -> list[str]:
    """What was measured of a row."""
    return [side for side in row.sides if side in results["rows"].get(row.name, {})]


def complete(results: dict[str, Any]) -> list[Row]:
    """The rows of which ours, a peer and the random policy were measured."""
    return [row for row in ROWS if {"ours", "sb3", "random"} <= set(sides_of(results, row))]


def ranks(results: dict[str, Any]) -> dict[str, list[float]]:
    """Of each side, its rank in every row that it is in: 1 is the best, equals share."""
    found: dict[str, list[float]] = {side: [] for side in SIDES if side != "random"}
    for row in complete(results):
        sides = [side for side in sides_of(results, row) if side != "random"]
        order = rankdata([-(mean(results, row, side) or 0.0) for side in sides])
        for side, rank in zip(sides, order, strict=True):
            found[side].append(float(rank))
    return found


def learned(results: dict[str, Any], row: Row, side: str) -> float:
    """How far a side is on the way from the random policy to the best one."""
    base = mean(results, row, "random") or 0.0
    scores = {one: (mean(results, row, one) or 0.0) - base for one in sides_of(results, row)}
    best = max(scores.values())
    return scores[side] / best if best > 0 else 1.0


def cell(results: dict[str, Any], row: Row, side: str) -> str:
    found = results["rows"].get(row.name, {}).get(side)
    if found is None:
        return "not measured" if side in row.sides else "–"
    means = found["seed_means"]
    digits = 2 if max(map(abs, means)) < 20 else 0
    first = f"{np.mean(means):,.{digits}f}"
    if side == "random":
        return first
    return f"{first} ({min(means):,.{digits}f} to {max(means):,.{digits}f})"


def report(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| algorithm | environment | | steps | random | ours | Stable-Baselines3 | CleanRL |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in ROWS:
        if row.name in results["rows"]:
            cells = [cell(results, row, side) for side in ("random", "ours", "sb3", "cleanrl")]
            start = f"| {row.algorithm} | {row.environment} | {row.kind} | {row.total_steps:,} | "
            lines.append(start + " | ".join(cells) + " |")
    rows, found = complete(results), ranks(results)
    said = [
        f"{SIDES[side]} {np.mean(of):.2f} (of {len(of)} rows)" for side, of in found.items() if of
    ]
    lines += ["", f"Mean rank, 1 is the best: {', '.join(said)}."]
    short = [row for row in rows if learned(results, row, "ours") < LEARNED]
    if short:
        lines += ["", "Rows where ours is less than half of the way from random to the best:", ""]
        lines += [f"- {row.algorithm} on {row.environment}" for row in short]
    behind = [
        f"{row.algorithm} on {row.environment}"
        for row in rows
        if learned(results, row, "ours")
        < max(learned(results, row, s) for s in sides_of(results, row))
    ]
    if behind:
        lines += ["", f"Rows where a peer's mean is higher than ours: {', '.join(behind)}."]
    return "\n".join(lines)


def write(results: dict[str, Any], page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{report(results)}\n\n{END}{after}", encoding="utf-8")


# ------------------------------------------------------------------------------------ the command


def loaded(path: Path) -> dict[str, Any]:
    start: dict[str, Any] = {"machine": machine(), "rows": {}}
    return json.loads(path.read_text()) if path.exists() else start


def measure_all(options: argparse.Namespace) -> None:
    for row in ROWS:
        if options.only and not any(part in row.name for part in options.only):
            continue
        for side in [side for side in options.sides if side in row.sides]:
            if side in loaded(options.results)["rows"].get(row.name, {}) and not options.again:
                continue
            if side == "cleanrl" and options.cleanrl is None:
                print(f"{row.name}: {side} left out: it needs --cleanrl CHECKOUT")
                continue
            try:
                found = measured(row, side, options)
            except Unmeasured as error:
                print(f"{row.name}: {side} failed: {error}", flush=True)
                continue
            results = loaded(options.results)
            results["rows"].setdefault(row.name, {})[side] = found
            options.results.parent.mkdir(parents=True, exist_ok=True)
            options.results.write_text(json.dumps(results, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cleanrl", type=Path, metavar="CHECKOUT")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="'ppo Reacher', or part of it")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--again", action="store_true", help="measure also what is there already")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--python", type=Path, help="the peers' interpreter")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="measure nothing, write the page")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(ours(json.loads(options.measure))))
        return 0
    if not options.report:
        if set(options.sides) - {"ours"} and options.python is None:
            folder = CACHE / "actorcritic" / "benchmark-peers" / "defaults"
            options.python = peer_python(folder, HERE / "peers" / "defaults.txt")
        measure_all(options)
    results = loaded(options.results)
    if options.results == RESULTS:
        write(results, PAGE)
    print(f"\n{report(results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
