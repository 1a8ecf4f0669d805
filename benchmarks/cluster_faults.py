"""What a training on a cluster survives: the table of docs/cluster.md.

    python benchmarks/cluster_faults.py [--kills 20] [--drivers 5] [--hangs 5] [--interrupts 3]

Each training is a process of its own, with a Ray of its own on this machine. Workers are killed
(SIGKILL) or stopped (SIGSTOP) at random moments; so is the driver, which holds the learner. After
every fault the tables say whether the training goes on, and since when. A node leaves a training,
and an experiment. tests/test_cluster_faults.py does each a few times.
"""

import argparse
import csv
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cluster_experiment

from actorcritic.core.machine import cores

PATIENCE = 60.0  # seconds after which a fault counts as not survived
LEFT = 120.0  # seconds after which a process counts as left
WORKER_TIMEOUT = 5.0
VARIANTS = ["a2c", "ppo", "impala", "ppo:num_epochs=2"]  # of the experiment that loses a node

TRAIN = """
import sys
import actorcritic as ac
from actorcritic.envs.host.environment import HostEnvironment
out, algorithm, address = sys.argv[1:4]
world = HostEnvironment("CartPole-v1", worker_timeout={timeout})
ac.train(algorithm, world, cluster=address, workers=2, total_steps=100_000_000, out=out,
         checkpoint_seconds=1.0, evaluation_episodes=0)
"""
RESUME = """
import sys
import actorcritic as ac
ac.resume(sys.argv[1], cluster=sys.argv[2], workers=2, checkpoint_seconds=1.0,
          evaluation_episodes=0)
"""


def processes(*words: str) -> list[int]:
    """Processes whose command lines have one of the words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if any(word in line for word in words):
                found.append(int(entry.name))
    return found


def descendants(pid: int) -> set[int]:
    """The processes that a process started, and those that they started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = set(), [pid]
    while waiting:
        mine = children.get(waiting.pop(), [])
        found.update(mine)
        waiting += mine
    return found


def rays() -> set[int]:
    return set(processes("ray::", "raylet/raylet", "gcs/gcs_server", "ray/_private"))


class NotSurvived(Exception):
    """What had to hold after a fault does not."""


class Training:
    """A training in a process of its own."""

    def __init__(self, folder: Path, algorithm: str, address: str = "local") -> None:
        self.out, self.address = folder / "run", address
        self.before = rays()
        self._begin(TRAIN.format(timeout=WORKER_TIMEOUT), str(self.out), algorithm, address)

    def _begin(self, program: str, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def resume(self) -> None:
        self._begin(RESUME, str(self.out), self.address)

    def workers(self) -> list[int]:
        mine = descendants(os.getpid())
        return [pid for pid in processes("ray::_Worker") if pid in mine]

    def rows(self) -> list[dict[str, str]]:
        path = self.out / "metrics.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if row.get("length") is not None]

    def updates(self) -> int:
        rows = self.rows()
        return int(rows[-1]["update"]) if rows else 0

    def wait(self, holds: Callable[[], bool], what: str) -> float:
        """Seconds until something holds."""
        start = time.monotonic()
        while not holds():
            if time.monotonic() - start > PATIENCE:
                raise NotSurvived(f"After {PATIENCE:g} s it does not hold that {what}.")
            if self.process.poll() is not None:
                raise NotSurvived(f"The training ended: {self.process.stderr.read()[-2000:]}")
            time.sleep(0.05)
        return time.monotonic() - start

    def wait_until_trained(self) -> None:
        self.wait(lambda: self.updates() > 0 and len(self.workers()) >= 2, "the training began")

    def nobody_left(self) -> float:
        """Seconds until no process of Ray is left."""
        start = time.monotonic()
        while rays() - self.before:
            if time.monotonic() - start > LEFT:
                raise NotSurvived(f"Processes are left: {sorted(rays() - self.before)}")
            time.sleep(0.1)
        return time.monotonic() - start

    def end(self, number: int = signal.SIGINT) -> float:
        os.killpg(self.process.pid, number)
        self.process.wait(PATIENCE)
        return self.nobody_left()

    def check_nothing_lost(self) -> None:
        """Every update is there once, in its order."""
        updates = [int(row["update"]) for row in self.rows() if int(row["update"]) <= 8192]
        if updates != list(range(1, len(updates) + 1)):
            raise NotSurvived("Updates are missing or came twice.")


def row(what: str, number: int, seconds: list[float], left: str) -> None:
    middle = f"{statistics.median(seconds):.1f} (at most {max(seconds):.1f})" if seconds else ""
    print(f"| {what} | {number} | {middle} | {left} |", flush=True)


def strike(training: Training, number: int, rng: random.Random) -> tuple[float, float]:
    """Kill or stop a worker at a random moment: seconds until the next update, and until another
    worker is in its place."""
    time.sleep(rng.uniform(0.0, 2.0))
    training.wait(lambda: len(training.workers()) >= 2, "two workers are there")
    struck = rng.choice(training.workers())
    made = training.updates()
    os.kill(struck, number)
    on = training.wait(lambda: training.updates() > made + 2, "updates go on")

    def replaced() -> bool:
        now = training.workers()
        return struck not in now and len(now) >= 2

    return on, on + training.wait(replaced, "another worker is there")


def workers(folder: Path, algorithm: str, number: int, count: int, what: str) -> None:
    rng, training = random.Random(0), Training(folder, algorithm)
    training.wait_until_trained()
    found = [strike(training, number, rng) for _ in range(count)]
    time.sleep(1.0)
    training.end()
    training.check_nothing_lost()
    on, there = ([pair[k] for pair in found] for k in (0, 1))
    lost = int(float(training.rows()[-1]["workers_lost"]))
    row(f"{what}, {algorithm}: the next updates", count, on, "none")
    row(f"{what}, {algorithm}: another worker", count, there, f"none; {lost} replaced")


def drivers(folder: Path, count: int) -> None:
    rng, training = random.Random(1), Training(folder, "impala")
    training.wait_until_trained()
    on, left = [], []
    for _ in range(count):
        time.sleep(rng.uniform(1.5, 4.0))
        made = training.updates()
        training.process.kill()
        training.process.wait()
        left.append(training.nobody_left())
        start = time.monotonic()
        training.resume()
        training.wait(lambda made=made: training.updates() > made, "it goes on")
        on.append(time.monotonic() - start)
    training.end()
    training.check_nothing_lost()
    row("driver killed, resumed from its checkpoint", count, on, f"none after {max(left):.1f} s")


def interrupts(folder: Path, count: int) -> None:
    left = []
    for k in range(count):
        training = Training(folder / str(k), "ppo")
        training.wait_until_trained()
        start = time.monotonic()
        training.end(signal.SIGINT)
        left.append(time.monotonic() - start)
        training.check_nothing_lost()
    row("Ctrl-C", count, left, "none")


def a_node_leaves(folder: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    training = Training(folder, "impala", cluster.address)
    before = rays()
    training.wait_until_trained()
    made = training.updates()
    cluster.remove_node(second, allow_graceful=False)
    on = training.wait(lambda: training.updates() > made + 2, "updates go on")
    there = on + training.wait(
        lambda: float(training.rows()[-1]["workers_lost"]) >= 1 and len(training.workers()) >= 2,
        "another worker is there",
    )
    training.before |= before
    training.end()
    training.check_nothing_lost()
    cluster.shutdown()
    row("a second node leaves, impala: the next updates", 1, [on], "none")
    row("a second node leaves, impala: another worker", 1, [there], "none")


def a_node_leaves_an_experiment(folder: Path, steps: int = 200_000) -> None:
    """Its tasks are begun again on the other node, and the folders are those of a local run."""
    from ray.cluster_utils import Cluster

    here, there = folder / "here", folder / "there"
    cluster_experiment.carry_out(here, steps, variants=VARIANTS)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cores()})
    second = cluster.add_node(num_cpus=cores())
    try:
        before, start = rays(), time.monotonic()
        words = "--cluster", cluster.address
        process = subprocess.Popen(
            cluster_experiment.command(there, steps, *words, variants=VARIANTS),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while len(set(processes("ray::_task")) - before) < 2:  # each node has one
            if process.poll() is not None or time.monotonic() - start > PATIENCE:
                process.kill()
                raise NotSurvived(f"No two tasks began: {process.stderr.read()[-2000:]}")
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)
        if process.wait(10 * PATIENCE):
            raise NotSurvived(f"The experiment ended: {process.stderr.read()[-2000:]}")
        seconds = time.monotonic() - start
    finally:
        cluster.shutdown()
    content = cluster_experiment.content
    if content(here / "variants") != content(there / "variants"):
        raise NotSurvived("The folders differ from those of a local run.")
    row("a second node leaves an experiment: its end", 1, [seconds], "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, count in (("kills", 20), ("drivers", 5), ("hangs", 5), ("interrupts", 3)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--nodes", action=argparse.BooleanOptionalAction, default=True)
    asked = parser.parse_args()
    print("| what | times | seconds, median | processes left |\n| --- | ---: | ---: | --- |")
    folder = Path(tempfile.mkdtemp())
    try:
        for algorithm in ("impala", "ppo") if asked.kills else ():
            kill = folder / f"kill-{algorithm}"
            workers(kill, algorithm, signal.SIGKILL, asked.kills, "a worker is killed")
        if asked.hangs:
            workers(folder / "hang", "impala", signal.SIGSTOP, asked.hangs, "a worker hangs")
        if asked.drivers:
            drivers(folder / "driver", asked.drivers)
        if asked.interrupts:
            interrupts(folder / "interrupt", asked.interrupts)
        if asked.nodes:
            a_node_leaves(folder / "node")
            a_node_leaves_an_experiment(folder / "experiment")
    except NotSurvived as error:
        raise SystemExit(f"Not survived: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
