"""How fast experiments are: `benchmarks/experiments.py [--only sweep|study] [--peer-python P]`.

sweep   32 learning rates × 4 seeds (128 agents, 50,000 steps each) of PPO's preset on CartPole-v1
        as one program, beside one agent alone on one core: seconds of training, not of compiling.
study   `actorcritic study S1` as a whole process with an empty compilation cache, beside
        Stable-Baselines3's A2C alone on as many seeds and steps, one after another. P is a Python
        that has Stable-Baselines3 (benchmarks/peers/stable_baselines3.txt).

Written to benchmarks/results/experiments.json.
"""

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import actorcritic as ac
from actorcritic.algorithms.presets import PRESETS
from actorcritic.runners.seeds import CompiledSession, use_all_cores

HERE = Path(__file__).resolve().parent
PROGRAM = (sys.executable, "-m", "actorcritic")
RATES, SEEDS, STEPS = 32, 4, 50_000


def train(algorithms: Any, seeds: list[int]) -> float:
    """Seconds of training, without compilation, of one stretch after another."""
    session = CompiledSession(algorithms, ac.envs.CartPole(), seeds, STEPS, rows=range(len(seeds)))
    session.compile()
    jax.block_until_ready(session.state)
    seconds = 0.0
    while not session.finished:
        seconds += session.advance(0.3).seconds
    return seconds


def sweep() -> dict[str, Any]:
    use_all_cores()
    ppo = PRESETS["ppo", "CartPole-v1"].algorithm
    rates = np.geomspace(1e-4, 1e-2, RATES)
    agents = [replace(ppo, learning_rate=float(rate)) for rate in rates for _ in range(SEEDS)]
    compiled = Compilations()
    together = train(agents, [seed for _ in rates for seed in range(SEEDS)])
    programs = compiled.of("train")
    # One core for one agent; with both, a single seed would have its minibatches spread.
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import experiments;"
        "print(experiments.train(experiments.PRESETS['ppo', 'CartPole-v1'].algorithm, [0]))"
    )
    alone = float(
        subprocess.run(
            ["taskset", "-c", "0", sys.executable, "-c", code, str(HERE)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    cores = len(os.sched_getaffinity(0))
    fair = RATES * SEEDS / cores * alone
    return {
        "agents": RATES * SEEDS,
        "seconds": round(together, 2),
        "one_agent_seconds": round(alone, 3),
        "ratio": round(together / fair, 3),  # of the time that as many single runs take
        "programs_compiled": programs,
    }


class Compilations(logging.Handler):
    """Counts what JAX compiles."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        jax.config.update("jax_log_compiles", True)
        logger = logging.getLogger("jax")
        logger.handlers, logger.propagate = [self], False

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def of(self, name: str) -> int:
        return sum(f"XLA compilation of jit({name})" in each for each in self.messages)


def study(peer: str | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [
                sys.executable,
                "-m",
                "actorcritic",
                "study",
                "S1",
                "--quiet",
                "--out",
                f"{folder}/s1",
            ],
            env={**os.environ, "ACTORCRITIC_CACHE_DIR": f"{folder}/cache"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        ours = time.perf_counter() - start
    row: dict[str, Any] = {"seconds": round(ours, 1)}
    if peer is not None:
        code = (
            "from stable_baselines3 import A2C\n"
            "from stable_baselines3.common.env_util import make_vec_env\n"
            "for seed in range(10):\n"
            "    env = make_vec_env('CartPole-v1', n_envs=8, seed=seed)\n"
            "    A2C('MlpPolicy', env, seed=seed, device='cpu').learn(100_000)\n"
        )
        start = time.perf_counter()
        subprocess.run([peer, "-c", code], check=True, stdout=subprocess.DEVNULL)
        row["stable_baselines3_a2c_seconds"] = round(time.perf_counter() - start, 1)
        row["ratio"] = round(row["stable_baselines3_a2c_seconds"] / ours, 2)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("sweep", "study"))
    parser.add_argument("--peer-python", metavar="P")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "experiments.json")
    options = parser.parse_args()
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    if options.only != "study":
        results["sweep"] = sweep()
        print(results["sweep"])
    if options.only != "sweep":
        results["study S1"] = study(options.peer_python)
        print(results["study S1"])
    results["machine"] = f"{os.cpu_count()} cores, {platform.machine()}"
    options.results.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
