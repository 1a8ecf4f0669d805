"""V-trace beside rlax's, on random batches with terminations: `python benchmarks/vtrace.py`.

rlax lives in a virtual environment of its own, made on first use; `--python` names another. What
rlax has no word for is left out: truncation, and a c̄ other than 1. At λ < 1 its advantages
bootstrap from a mixture of v and V, ours from v, so that only targets are compared there.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from speed import CACHE, peer_python

from actorcritic.maths.estimators import vtrace

HERE = Path(__file__).resolve().parent
LARGEST = 1e-6  # difference that is allowed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, help="an interpreter that has rlax")
    python = parser.parse_args().python or peer_python(
        CACHE / "actorcritic" / "benchmark-peers" / "rlax", HERE / "peers" / "rlax.txt"
    )
    jax.config.update("jax_enable_x64", True)
    rng, worst = np.random.default_rng(0), 0.0
    print("| λ | ρ̄ | targets, largest difference | advantages |\n| ---: | ---: | ---: | ---: |")
    for gae_lambda in (1.0, 0.9, 0.0):
        for rho_clip in (0.5, 1.0, 3.0):
            found = differences(python, rng, gae_lambda, rho_clip)
            print(f"| {gae_lambda} | {rho_clip} | {found[0]:.1e} | ", end="")
            print(f"{found[1]:.1e} |" if gae_lambda == 1 else "not compared |", flush=True)
            worst = max(worst, found[0], found[1] if gae_lambda == 1 else 0.0)
    return int(worst > LARGEST)


def differences(
    python: Path, rng: np.random.Generator, gae_lambda: float, rho_clip: float
) -> list[float]:
    shape = (20, 64)
    value = rng.normal(size=shape)
    terminated = rng.random(shape) < 0.1
    batch = {
        "reward": rng.normal(size=shape),
        "value": value,
        "next_value": np.concatenate([value[1:], rng.normal(size=(1, shape[1]))]),
        "terminated": terminated,
        "ratio": np.exp(rng.normal(0.0, 0.7, shape)),
    }
    numbers = {"gamma": 0.97, "gae_lambda": gae_lambda, "rho_clip": rho_clip}
    ours = vtrace(**batch, truncated=np.zeros(shape, bool), **numbers, c_clip=1.0)
    with tempfile.TemporaryDirectory() as folder:
        given, back = Path(folder) / "given.npz", Path(folder) / "back.npz"
        np.savez(given, **batch, **numbers)
        subprocess.run([python, HERE / "peers" / "vtrace_rlax.py", given, back], check=True)
        theirs = np.load(back)
        pairs = zip(ours, (theirs["target"], theirs["advantage"]), strict=True)
        return [float(np.abs(np.asarray(mine) - other).max()) for mine, other in pairs]


if __name__ == "__main__":
    sys.exit(main())
