"""How fast we train, beside Stable-Baselines3, SBX and PureJaxRL on the same machine.

    python benchmarks/speed.py --purejaxrl CHECKOUT [--only ROW ...] [--repeats 3] [--quick]
    python benchmarks/speed.py --before CHECKOUT [--only ROW ...]    # an older commit of ours

Every measurement is a process of its own, on the CPU; a row's two sides take turns. The peers
live in virtual environments of their own, which are made on first use. PureJaxRL is not on the
package index: CHECKOUT is a clone of its repository (peers/purejaxrl.txt names the commit).
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
PEERS = {"sb3": "stable_baselines3.txt", "sbx": "sbx.txt", "purejaxrl": "purejaxrl.txt"}
CPU_ONLY = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}

A2C = {
    "num_envs": 8,
    "num_steps": 5,
    "learning_rate": 7e-4,
    "gamma": 0.99,
    "gae_lambda": 1.0,
    "entropy_coefficient": 0.0,
    "value_coefficient": 0.5,
    "max_grad_norm": 0.5,
}
A3C = A2C | {"num_envs": 1, "num_workers": 8}
PPO_HOPPER = A2C | {
    "num_envs": 1,
    "num_steps": 2048,
    "num_epochs": 10,
    "num_minibatches": 32,
    "learning_rate": 3e-4,
    "learning_rate_schedule": "constant",
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "clip_range_schedule": "constant",
    "clip_value": False,
    "normalize_observation": False,
}
PPO_PRESET = PPO_HOPPER | {
    "num_envs": 8,
    "num_steps": 32,
    "num_epochs": 20,
    "num_minibatches": 1,
    "learning_rate": 1e-3,
    "learning_rate_schedule": "linear",
    "gamma": 0.98,
    "gae_lambda": 0.8,
    "clip_range_schedule": "linear",
}
PPO_4X128 = PPO_HOPPER | {
    "num_envs": 4,
    "num_steps": 128,
    "num_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 2.5e-4,
    "learning_rate_schedule": "linear",
    "clip_value": True,
    "entropy_coefficient": 0.01,
}
PPO_64X128 = PPO_4X128 | {"num_envs": 64}
PPO_MINATAR = PPO_64X128 | {"num_minibatches": 8, "learning_rate": 5e-3, "activation": "relu"}
SAC = {
    "num_envs": 1,
    "num_steps": 1,
    "gradient_steps": 1,
    "batch_size": 256,
    "buffer_size": 1_000_000,
    "learning_starts": 100,
    "learning_rate": 3e-4,
    "critic_learning_rate": 3e-4,
    "temperature_learning_rate": 3e-4,
    "gamma": 0.99,
    "tau": 0.005,
    "hidden_sizes": [256, 256],
}


@dataclass(frozen=True)
class Row:
    """Two sides to compare. `steps` and `peer_steps` make both last some seconds."""

    algorithm: str
    hyperparameters: dict[str, Any]
    # "sb3", "sbx", "purejaxrl"; "ours": four seeds against one; "a2c": against our A2C
    peer: str
    target: float
    steps: int
    peer_steps: int
    environment: str = "CartPole-v1"
    cli: str = ""  # "cold" or "warm": the wall time of a whole process, by this compile cache
    host: bool = False  # our own compiled environments left aside, Gymnasium's taken
    flops: bool = False  # also report the share of the machine's sgemm peak
    a2c_envs: int = 8  # of the A2C that a row is held against


ROWS = {
    "a2c": Row("A2C", A2C, "sb3", 40, 2_000_000, 80_000),
    "a2c-host": Row("A2C", A2C, "sb3", 2, 60_000, 60_000, host=True),  # collecting, above all
    "impala": Row("IMPALA", A2C, "a2c", 0.8, 2_000_000, 2_000_000),
    "impala-lag-16": Row("IMPALA", A2C | {"lag": 16}, "a2c", 0.8, 2_000_000, 2_000_000),
    # Held against one gradient step for 5 rows, as each of its workers takes, and for all 40.
    "a3c": Row("A3C", A3C, "a2c", 0.8, 1_000_000, 1_000_000, a2c_envs=1),
    "a3c-all-rows": Row("A3C", A3C, "a2c", 0.0, 1_000_000, 2_000_000),
    "ppo-preset": Row("PPO", PPO_PRESET, "sb3", 16, 500_000, 40_000, flops=True),
    "ppo-4x128": Row("PPO", PPO_4X128, "purejaxrl", 1.3, 1_000_000, 1_000_000, flops=True),
    "ppo-64x128": Row("PPO", PPO_64X128, "purejaxrl", 1.7, 2_000_000, 2_000_000, flops=True),
    "seeds-a2c": Row("A2C", A2C, "ours", 1.8, 1_000_000, 1_000_000),
    "seeds-ppo": Row("PPO", PPO_4X128, "ours", 1.8, 500_000, 500_000),
    "cli-cold": Row("PPO", PPO_PRESET, "sb3", 4, 100_000, 100_000, cli="cold"),
    "cli-warm": Row("PPO", PPO_PRESET, "sb3", 8, 100_000, 100_000, cli="warm"),
    "host-hopper": Row("PPO", PPO_HOPPER, "sb3", 2, 4 * 2048, 3 * 2048, "Hopper-v5"),
    # Both sides need gymnax: ours in the environment that runs this script.
    "minatar": Row(
        "PPO", PPO_MINATAR, "purejaxrl", 1.3, 1_000_000, 1_000_000, "gymnax:Breakout-MinAtar"
    ),
    "sac": Row("SAC", SAC, "sbx", 3, 10_000, 5_000, "Pendulum-v1"),
    "sac-host": Row("SAC", SAC, "sbx", 1.2, 10_000, 5_000, "Pendulum-v1", host=True),
}


class Unmeasured(Exception):
    """One side of a row could not be measured; the text says why."""


def run(command: Iterable[str | Path], **environment: str) -> tuple[str, float]:
    """What a process printed, and the seconds it took."""
    start = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | CPU_ONLY | environment,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise Unmeasured((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
    return done.stdout, seconds


def peer_python(directory: Path, requirements: Path) -> Path:
    """The interpreter of a virtual environment that holds exactly what `requirements` says."""
    python = directory / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    installed = directory / "installed.txt"
    wanted = requirements.read_text()
    if not installed.exists() or installed.read_text() != wanted:
        print(f"installing {requirements.name} in {directory}", flush=True)
        first = next(line for line in wanted.splitlines() if not line.startswith("#"))
        run([sys.executable, "-m", "venv", "--clear", directory])
        run([python, "-m", "pip", "install", first])
        run([python, "-m", "pip", "install", "-r", requirements])
        installed.write_text(wanted)
    return python


class Bench:
    """Measures one side of a row at a time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.versions: dict[str, dict[str, str]] = {}
        self.threads: dict[str, int] = {}

    def python(self, peer: str) -> Path:
        given = getattr(self.options, f"{peer}_python")
        return given or peer_python(self.options.peers / peer, HERE / "peers" / PEERS[peer])

    def config(self, row: Row, steps: int, **more: Any) -> str:
        rollout = row.hyperparameters["num_envs"] * row.hyperparameters["num_steps"]
        config = {
            "algorithm": row.algorithm,
            "environment": row.environment,
            "host": row.host,
            "hyperparameters": row.hyperparameters,
            "total_steps": rollout * max(3, steps // rollout // (50 if self.options.quick else 1)),
            "seed": 0,
        }
        return json.dumps(config | more)

    def rate(self, side: str, *command: str | Path) -> float:
        reply = json.loads(run(command)[0].splitlines()[-1])
        self.versions[side] = reply["versions"]
        return float(reply["steps_per_second"])

    def ours(self, row: Row) -> float:
        if row.cli:
            return self.ours_cli(row)
        config = self.config(row, row.steps, seeds=4 if row.peer == "ours" else 1)
        return self.rate("ours", sys.executable, HERE / "ours_train.py", config)

    def ours_cli(self, row: Row) -> float:
        """Seconds of `actorcritic train`, with an empty compile cache or with a filled one."""
        command: list[str | Path] = [
            Path(sys.executable).with_name("actorcritic"),
            "train",
            "ppo",
            row.environment,
        ]
        if self.options.quick:
            steps = json.loads(self.config(row, row.steps))["total_steps"]
            command += ["--total-steps", str(steps)]
        with tempfile.TemporaryDirectory() as folder:
            cache = {"ACTORCRITIC_CACHE_DIR": f"{folder}/cache"}
            if row.cli == "warm":
                run([*command, "--out", f"{folder}/first"], **cache)
            return run([*command, "--out", f"{folder}/run"], **cache)[1]

    def before(self, row: Row) -> float:
        """Ours again, with the sources of another checkout."""
        config = self.config(row, row.steps, seeds=4 if row.peer == "ours" else 1)
        command = (sys.executable, HERE / "ours_train.py", config)
        sources = str(self.options.before.resolve() / "src")
        reply = json.loads(run(command, PYTHONPATH=sources)[0].splitlines()[-1])
        return float(reply["steps_per_second"])

    def theirs(self, row: Row) -> float:
        if self.options.before:
            return self.before(row)
        if row.peer == "ours":
            config = self.config(row, row.peer_steps, seeds=1)
            return self.rate("ours", sys.executable, HERE / "ours_train.py", config)
        if row.peer == "a2c":
            plain = replace(row, algorithm="A2C", hyperparameters=A2C | {"num_envs": row.a2c_envs})
            config = self.config(plain, row.peer_steps, seeds=1)
            return self.rate("ours", sys.executable, HERE / "ours_train.py", config)
        if row.peer == "purejaxrl":
            script = HERE / "peers" / "purejaxrl_train.py"
            config = self.config(row, row.peer_steps)
            python = self.python("purejaxrl")
            return self.rate("purejaxrl", python, script, self.options.purejaxrl, config)
        if row.peer == "sbx":
            script = HERE / "peers" / "sbx_train.py"
            return self.rate("sbx", self.python("sbx"), script, self.config(row, row.peer_steps))
        command = [self.python("sb3"), HERE / "peers" / "sb3_train.py"]
        config = self.config(row, row.peer_steps, threads=self.sb3_threads(row))
        if row.cli:
            return run([*command, "cli", config])[1]
        return self.rate("sb3", *command, "time", config)

    def sb3_threads(self, row: Row) -> int:
        """The number of PyTorch threads (0: its default) with which SB3 is the faster."""
        probe = self.config(row, 20_000)
        if probe not in self.threads:
            rates = {1: 0.0, 0: 0.0}
            for threads in (1, 0, 1, 0):  # the better of two, against other load on the machine
                config = self.config(row, 20_000, threads=threads)
                script = HERE / "peers" / "sb3_train.py"
                rate = self.rate("sb3", self.python("sb3"), script, "time", config)
                rates[threads] = max(rates[threads], rate)
            self.threads[probe] = max(rates, key=rates.__getitem__)
            print(f"SB3 threads (0: default) to steps/s: {rates}", flush=True)
        return self.threads[probe]

    def compare(self, name: str) -> dict[str, Any]:
        """Both sides of a row in turns; a side that fails once is not tried again."""
        row = ROWS[name]
        values: dict[str, list[float]] = {"ours": [], "peer": []}
        errors: dict[str, str] = {}
        for _ in range(self.options.repeats):
            for side, measure in (("ours", self.ours), ("peer", self.theirs)):
                if side in errors:
                    continue
                try:
                    values[side].append(measure(row))
                    print(f"{name}: {side} {values[side][-1]:,.4g}", flush=True)
                except Unmeasured as error:
                    errors[side] = str(error)
                    print(f"{name}: {side} failed: {error}", flush=True)
        threads = row.peer == "sb3" and values["peer"] and not self.options.before
        pairs = zip(values["ours"], values["peer"], strict=False)  # one side may have failed
        return {
            "unit": "s" if row.cli else "steps/s",
            "against": "before" if self.options.before else row.peer,
            "target": 0.97 if self.options.before else row.target,
            **values,
            "ratios": [peer / ours if row.cli else ours / peer for ours, peer in pairs],
            "errors": errors,
            "sb3_threads": self.sb3_threads(row) if threads else None,
            "measured": time.strftime("%Y-%m-%d"),
        }


def sgemm_peak(size: int = 1024, tries: int = 30) -> float:
    """The best rate, in GFLOP/s, of NumPy's float32 matrix product, on all cores."""
    a, b = np.random.default_rng(0).normal(size=(2, size, size)).astype(np.float32)
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        np.matmul(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def update_flops(inputs: int = 4, hidden: int = 64, actions: int = 2) -> int:
    """FLOPs of one transition in one epoch: forward and backward through actor and critic.

    Per weight and transition: 2 forward, 2 for the weight's gradient, and 2 for the gradient of
    the layer's input, which the first layer does without. Everything else is left out.
    """
    networks = [inputs * hidden + hidden * hidden + hidden * outputs for outputs in (actions, 1)]
    return sum(6 * weights - 2 * inputs * hidden for weights in networks)


def peak_share(name: str, rate: float, peak: float) -> float:
    """The share of the sgemm peak that the update reaches at `rate` steps per second.

    Every step goes through the update once per epoch. The time of the rollout is counted as
    well, so that the update itself does better than this.
    """
    flops_per_step: int = update_flops() * ROWS[name].hyperparameters["num_epochs"]
    return flops_per_step * rate / 1e9 / peak


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def medians(row: dict[str, Any], spec: str, scale: float = 1.0) -> str:
    """The Markdown cells of both sides."""
    sides = (row["ours"], row["peer"])
    return " | ".join(f"{scale * statistics.median(x):{spec}}" if x else "—" for x in sides)


def report(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    here = results["machine"]
    lines = [f"{here['cpu']}, {here['cores']} cores, {here['system']}, Python {here['python']}", ""]
    for side, versions in results["versions"].items():
        lines.append(f"- {side}: " + ", ".join(f"{k} {v[:20]}" for k, v in versions.items()))
    lines += ["", "| row | ours | peer | ratio | target |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, row in results["rows"].items():
        cells = medians(row, ",.1f" if row["unit"] == "s" else ",.0f")
        ratios = row["ratios"]
        ratio = "—"
        if ratios:
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        lines.append(f"| {name} ({row['unit']}) | {cells} | {ratio} | ≥ {row['target']:g} |")
    if peak := results.get("sgemm_gflops"):
        lines += ["", f"sgemm peak: {peak:,.0f} GFLOP/s. The share of it that the update reaches:"]
        lines += ["", "| row | ours | peer |", "| --- | ---: | ---: |"]
        for name in [name for name in results["rows"] if ROWS[name].flops]:
            cells = medians(results["rows"][name], ".2%", scale=peak_share(name, 1.0, peak))
            lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=CACHE / "actorcritic" / "benchmark-peers")
    parser.add_argument("--sb3-python", type=Path, help="use this environment instead")
    parser.add_argument("--sbx-python", type=Path, help="use this environment instead")
    parser.add_argument("--purejaxrl-python", type=Path, help="use this environment instead")
    parser.add_argument("--purejaxrl", type=Path, metavar="CHECKOUT")
    parser.add_argument(
        "--before",
        type=Path,
        metavar="CHECKOUT",
        help="measure against an older checkout of ours",
    )
    parser.add_argument("--only", nargs="+", choices=[*ROWS, "sgemm"], default=[*ROWS, "sgemm"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few steps: does it work at all?")
    parser.add_argument("--results", type=Path, help="where to write them; with --quick: nowhere")
    options = parser.parse_args()

    results: dict[str, Any] = {"machine": machine(), "versions": {}, "rows": {}}
    slug = re.sub(r"\W+", "-", f"{results['machine']['cpu']} {os.cpu_count()} cores").lower()
    kind = "before-after" if options.before else "speed"
    path = options.results or HERE / "results" / f"{kind}-{slug}.json"
    if path.exists() and not options.quick:  # rows that are not measured this time stay
        results = json.loads(path.read_text()) | {"machine": results["machine"]}
    if "sgemm" in options.only:
        results["sgemm_gflops"] = sgemm_peak()
    bench = Bench(options)
    failed = False
    for name in [name for name in ROWS if name in options.only]:
        if options.before and ROWS[name].cli:
            print(f"{name}: skipped: of two checkouts, only training is timed")
            continue
        if ROWS[name].peer == "purejaxrl" and not (options.purejaxrl or options.before):
            print(f"{name}: skipped: it needs --purejaxrl CHECKOUT")
            continue
        results["rows"][name] = bench.compare(name)
        failed |= bool(results["rows"][name]["errors"])
    results["rows"] = {name: results["rows"][name] for name in ROWS if name in results["rows"]}
    results["versions"] |= bench.versions
    print(f"\n{report(results)}")
    if options.results or not options.quick:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2) + "\n")
        print(f"\nwritten to {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
