"""How near PPO and DPO come to the best policy of enumerated worlds.

    python benchmarks/rlhf.py [--worlds 0 1 2] [--seeds 5] [--out FILE.json]

Worlds are `lab.random_world(default_rng(w))`: two prompts with 40 responses each. A number is the
share of the way from J(π_ref) to J*: the median of the seeds, with the least and the most. DPO
learns from 20,000 exact preference pairs, which each seed draws for itself. Then the rate of
agreeing in `lab.Sycophancy`, beside its formula. Settings are those of S10, chosen on world 0.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from actorcritic.core import files
from actorcritic.lab import Sycophancy, random_world
from actorcritic.language import enumerated
from actorcritic.studies.s10_from_a2c_to_rlhf import exact_dpo, exact_ppo

BETAS = (1.0, 0.5, 0.2, 0.1)


def told(x: np.ndarray) -> str:
    return f"{np.median(x):.4f} ({x.min():.4f} to {x.max():.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seeds = range(options.seeds)
    found: list[dict[str, Any]] = []
    for number in options.worlds:
        world = random_world(np.random.default_rng(number))
        pairs = [world.sample_pairs(20_000, np.random.default_rng(seed)) for seed in seeds]
        for beta in BETAS:
            tables = {
                "ppo": enumerated.train_ppo(world, exact_ppo(beta), seeds),
                "dpo": enumerated.train_dpo(world, exact_dpo(beta), pairs, seeds),
            }
            for name, table in tables.items():
                shares = np.array([world.share(each, beta) for each in table])
                found.append(
                    {"world": number, "beta": beta, "method": name, "shares": shares.tolist()}
                )
                print(f"world {number}, β = {beta:g}, {name}: {told(shares)}", flush=True)
    for penalty in (0.0, 1.5):
        for beta in BETAS[:3]:
            world_of = Sycophancy(penalty=penalty)
            rates = enumerated.train_ppo(world_of.world, exact_ppo(beta), seeds)[:, 0, 0]
            row = {"penalty": penalty, "beta": beta, "formula": world_of.rate(beta)}
            found.append(row | {"rates": rates.tolist()})
            print(
                f"penalty {penalty:g}, β = {beta:g}: {world_of.rate(beta):.4f}, PPO {told(rates)}"
            )
    if options.out is not None:
        files.write(options.out, json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
