"""An experiment on two nodes of this machine beside the same in one process: folders and seconds.

    python benchmarks/cluster_experiment.py [--steps 50000]

20 variants (4 programs of 5) on 2 seeds. Both nodes say that they have the cores of the machine: a
task then uses as many as the one process does, and the bits have to be the same.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ALGORITHMS = ("a2c", "ppo:num_epochs=4", "impala:lag=4", "a3c:num_workers=4")
RATES = ("3e-4", "5e-4", "7e-4", "1e-3", "2e-3")
VARIANTS = [
    f"{name}{',' if ':' in name else ':'}learning_rate={rate}"
    for name in ALGORITHMS
    for rate in RATES
]


def command(
    out: Path, steps: int, *more: str, variants: Sequence[str] = VARIANTS
) -> list[str | Path]:
    """The comparison of the variants, as words of the command line."""
    found = [Path(sys.executable).with_name("actorcritic"), "compare", *variants, "CartPole-v1"]
    return [*found, "--seeds", "2", "--total-steps", str(steps), "--out", str(out), *more]


def carry_out(out: Path, steps: int, *more: str, **options: Any) -> float:
    """Seconds of the whole command."""
    start = time.perf_counter()
    subprocess.run(command(out, steps, *more, **options), check=True, capture_output=True)
    return time.perf_counter() - start


def content(folder: Path) -> dict[str, Any]:
    """Every file but those that depend on the clock."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.name not in ("run.lock", "speed.csv"):
            found[name] = path.read_bytes()
    return found


def main() -> int:
    from ray.cluster_utils import Cluster

    from actorcritic.core.machine import cores

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50_000)
    steps = parser.parse_args().steps
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cores()})
    cluster.add_node(num_cpus=cores())
    try:
        with tempfile.TemporaryDirectory() as folder:
            here, there = Path(folder) / "here", Path(folder) / "there"
            seconds = [carry_out(here, steps)]
            seconds.append(carry_out(there, steps, "--cluster", cluster.address))
            same = content(here / "variants") == content(there / "variants")
            files = len(content(here / "variants"))
            seconds.append(carry_out(there, steps, "--cluster", cluster.address))
    finally:
        cluster.shutdown()
    print(f"{len(VARIANTS)} variants × 2 seeds, {steps:,} steps each, on {cores()} cores")
    print(f"{files} files: {'the same' if same else 'NOT the same'}")
    print(
        f"one process {seconds[0]:.0f} s; two nodes {seconds[1]:.0f} s; repeated {seconds[2]:.0f} s"
    )
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
