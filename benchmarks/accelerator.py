"""Steps a second on an accelerator.

    python benchmarks/accelerator.py [--seconds 5] [--out FILE.json]

PPO on CartPole-v1 and SAC on Pendulum-v1, compiled, with 1, 64 and 2,048 environments, and with 64
and 2,048 seeds as one program. It needs this package and a JAX that sees the device, and no
network. Without an accelerator it says what it would measure; `--here` measures on the CPU.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax

from actorcritic.algorithms import PPO, SAC
from actorcritic.envs import CartPole, Pendulum
from actorcritic.runners.seeds import CompiledSession

SIZES = (1, 64, 2048)


def rows() -> dict[str, tuple[Any, Any, int]]:
    """Name: algorithm, environment, number of seeds."""
    found: dict[str, tuple[Any, Any, int]] = {}
    for n in SIZES:
        ppo = PPO(num_envs=n, num_steps=128 if n < SIZES[-1] else 32)
        sac = SAC(num_envs=n, gradient_steps=max(1, n // 16), buffer_size=100_000)
        found[f"ppo, {n} environments"] = ppo, CartPole(), 1
        found[f"sac, {n} environments"] = sac, Pendulum(), 1
    for n in SIZES[1:]:
        found[f"ppo, {n} seeds"] = PPO(num_envs=4), CartPole(), n
        found[f"sac, {n} seeds"] = SAC(buffer_size=2_000), Pendulum(), n
    return found


def rate(algorithm: Any, environment: Any, seeds: int, seconds: float) -> dict[str, float]:
    start = time.perf_counter()
    session = CompiledSession(algorithm, environment, range(seeds), 1_000_000_000)
    session.compile()
    session.advance(0.0)
    compiled = time.perf_counter() - start
    session.advance(0.5)
    before, start = session.steps.sum(), time.perf_counter()
    while time.perf_counter() - start < seconds:
        session.advance(0.5)
    gained = float(session.steps.sum() - before)
    return {
        "steps_per_second": gained / (time.perf_counter() - start),
        "compile_seconds": compiled,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each row")
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument(
        "--only", nargs="*", default=[], help="rows whose names contain one of these"
    )
    parser.add_argument("--here", action="store_true", help="measure on the CPU")
    options = parser.parse_args()
    device = jax.devices()[0]
    chosen = {
        name: row
        for name, row in rows().items()
        if not options.only or any(word in name for word in options.only)
    }
    if device.platform == "cpu" and not options.here:
        print("JAX sees no accelerator here. On one, this would measure steps a second of:")
        print("\n".join(f"  {name}" for name in chosen))
        return 0
    found = {"device": device.device_kind, "jax": jax.__version__, "rows": {}}
    for name, (algorithm, environment, seeds) in chosen.items():
        measured = rate(algorithm, environment, seeds, options.seconds)
        found["rows"][name] = measured
        print(f"{name:<24} {measured['steps_per_second']:>14,.0f} steps/s", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
