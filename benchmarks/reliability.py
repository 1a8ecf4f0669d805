"""The reliability campaign: what is killed, damaged, filled and starved, and what must hold then.

    python benchmarks/reliability.py                       # every row, as often as the page says
    python benchmarks/reliability.py kill bytes --share 0.1 --record found.jsonl
    python benchmarks/reliability.py --table found.jsonl   # the table of docs/reliability.md

A row is a function of how often and of a random generator; it returns how often it was tried and
says what did not hold. Records add up, so that a long row can be run in pieces (`--seed` differs).
Faults that need a cluster or a service have scripts of their own: cluster_faults.py, decisions.py.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.monitoring
import numpy as np

import actorcritic as ac
from actorcritic.algorithms import ALGORITHMS
from actorcritic.core.errors import UserError
from actorcritic.data.folder import save as save_data
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.runners.seeds import CompiledSession
from actorcritic.runs import checkpoints
from actorcritic.runs.run import read_run

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))  # the command line as a process, and environments that go wrong
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
import command_line  # noqa: E402
from host_environments import Late  # noqa: E402
from test_damage import OPENERS, damaged  # noqa: E402

QUICK: dict[str, Any] = {"evaluation_episodes": 0, "quiet": True}
MIB = 2**20


@dataclass
class Result:
    """What a row found: how often it was tried, what did not hold, and numbers worth a word."""

    tried: int = 0
    broken: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)  # the greatest of each counts

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.broken.append(what)

    def most(self, name: str, value: float) -> None:
        self.numbers[name] = max(value, self.numbers.get(name, value))


Row = Callable[[int, random.Random, Path], Result]


# ------------------------------------------------------------------------------------ kill -9

# Of every runner, and of every kind of learner: a name, what is trained, whether bit for bit.
ASYNC = ("--vectorization", "async", "--num-envs", 2)
TRAININGS: list[tuple[str, tuple[Any, ...], bool]] = [
    ("rows over cores", ("ppo", "CartPole-v1", "--total-steps", 60_000), True),
    ("seeds", ("a2c", "CartPole-v1", "--total-steps", 40_000, "--seeds", 3), True),
    ("episodes", ("reinforce", "CartPole-v1", "--total-steps", 20_000, "--seeds", 2), True),
    ("buffer", ("sac", "Pendulum-v1", "--total-steps", 1500), True),
    ("a step", ("td-actor-critic", "CartPole-v1", "--total-steps", 20_000), True),
    ("q", ("q-actor-critic", "CartPole-v1", "--total-steps", 20_000), True),
    ("trust region", ("trpo", "CartPole-v1", "--total-steps", 30_000), True),
    ("snapshots", ("a3c", "CartPole-v1", "--total-steps", 20_000), True),
    ("lag", ("impala", "CartPole-v1", "--total-steps", 20_000), True),
    ("agents", ("mappo", "simple-spread", "--total-steps", 12_000), True),
    ("agents apart", ("ippo", "simple-spread", "--total-steps", 12_000), True),
    ("data", ("iql", "Pendulum-v1", "--total-steps", 1500, "--data", "DATA"), True),
    ("data, cql", ("cql", "Pendulum-v1", "--total-steps", 300, "--data", "DATA"), True),
    ("data, bc", ("bc", "Pendulum-v1", "--total-steps", 2000, "--data", "DATA"), True),
    ("host", ("a2c", "CartPole-v1", "--total-steps", 8000, "--host"), False),
    ("workers", ("ppo", "CartPole-v1", "--total-steps", 4000, "--host", *ASYNC), False),
]  # fmt: skip
SAVING = ("--checkpoint-seconds", 0, "--episodes", 0, "--quiet")


def kill(count: int, rng: random.Random, work: Path) -> Result:
    """kill −9 at random moments of a training's life, start and compilation included; then it is
    resumed. A compiled run has to end with the bits of one that was never killed, and with its
    tables; one on the host has to go on from its newest checkpoint."""
    found, data = Result(), work / "data"
    which = list(TRAININGS)
    rng.shuffle(which)
    if any("DATA" in words for _, words, _ in which[:count]):
        policy = ac.train("sac", "Pendulum-v1", total_steps=1000, hidden_sizes=(8,), **QUICK)
        save_data(ac.collect(policy, 1000), data)
    each = max(1, round(count / len(which)))
    for name, words, exact in which:
        if found.tried >= count:
            break
        words = tuple(str(data) if word == "DATA" else word for word in words)
        whole, run = work / f"{name}-whole", work / f"{name}-run"
        begun = time.monotonic()
        done = command_line.command("train", *words, *SAVING, "--out", whole)
        life = time.monotonic() - begun
        assert done.returncode == 0, done.stderr
        kills, last = 0, -1

        def begin(run: Path = run, words: tuple[Any, ...] = words) -> tuple[Any, ...]:
            on = ("resume", run) if (run / "run.json").exists() else ("train", *words, "--out", run)
            return (*on, *SAVING)

        while kills < each:
            process = command_line.start(*begin())
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.2, 1.0) * life)
            process.kill()
            _, err = process.communicate()
            if process.returncode == -signal.SIGKILL:
                kills += 1
                found.tried += 1
            elif process.returncode != 0:
                found.expect(False, f"{name}: {err.strip()[-200:]}")
                break
            else:
                life *= 0.8  # it came to its end first: the machine is less busy than it was
            now = command_line.newest_update(run)
            found.expect(now >= last, f"{name}: from update {last} back to {now}")
            last = now
            finished = now >= command_line.newest_update(whole)
            if finished and kills < each:  # it was over too soon: once more, from the start
                _compare(found, name, exact, run, whole)
                shutil.rmtree(run)
                last = -1
        done = command_line.command(*begin())
        found.expect(done.returncode == 0, f"{name}: {done.stderr.strip()[-200:]}")
        if done.returncode == 0:
            _compare(found, name, exact, run, whole)
        for folder in (whole, run):
            shutil.rmtree(folder, ignore_errors=True)
    return found


def _compare(found: Result, name: str, exact: bool, run: Path, whole: Path) -> None:
    if not exact:
        kept = read_run(run)
        found.expect(kept.finished, f"{name}: not finished")
        steps = kept.metrics.step
        found.expect(
            bool((np.diff(steps) > 0).all()), f"{name}: a gap or a repetition in the table"
        )
        return
    same = command_line.final_hashes(run) == command_line.final_hashes(whole)
    found.expect(same, f"{name}: other bits than the run that was never killed")
    for table in ("metrics.csv", "episodes.csv"):
        one, other = ((folder / table).read_bytes() for folder in (run, whole))
        found.expect(one == other, f"{name}: {table} differs")


# ------------------------------------------------------------------------------------ saving


class Crash(BaseException):
    """The process is dead from here on."""


OPERATIONS = ("open", "mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "truncate")


@contextlib.contextmanager
def failing_at(
    number: int, error: Callable[[], BaseException], forever: bool
) -> Iterator[list[str]]:
    """The file operation of this number fails; with `forever`, and every one after it.

    A crash in fsync leaves half of the file that was not on the disk yet.
    """
    done: list[str] = []
    real = {name: getattr(os, name) for name in OPERATIONS}

    def patched(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            done.append(name)
            if len(done) == number or (forever and len(done) > number):
                if name == "fsync" and forever and len(done) == number:
                    with contextlib.suppress(OSError):
                        os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
                raise error()
            return real[name](*arguments, **options)

        return call

    for name in OPERATIONS:
        setattr(os, name, patched(name))
    try:
        yield done
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def small_states() -> Iterator[tuple[str, list[Any]]]:
    """Of every algorithm that collects, its state at three moments of a small training."""
    for name, kind in ALGORITHMS.items():
        options = {"num_envs": 2, "num_steps": 4, "hidden_sizes": (4,), "num_minibatches": 1}
        options |= {"learning_starts": 1, "buffer_size": 50, "num_workers": 2}
        known = {key: value for key, value in options.items() if key in kind.__dataclass_fields__}
        algorithm = kind(**known)
        if algorithm.collects is None:
            continue
        env = ac.envs.CartPole() if name != "sac" else ac.envs.Pendulum()
        if name in ("mappo", "ippo"):
            env = ac.envs.SimpleSpread()
        session, states = CompiledSession(algorithm, env, [0, 1], 10**6), []
        for _ in range(3):
            session.advance(0.0)
            states.append(session.state)
        yield name, states


def at_every_operation(
    found: Result, name: str, states: list[Any], work: Path, errors: list[int | None]
) -> None:
    """Save the third state where the second is the newest, and fail at each operation in turn."""
    hashes = [checkpoints.hashes(state) for state in states]
    for code in errors:
        number, over = 0, False
        while not over:
            number += 1
            folder = work / f"{name}-{code}"
            shutil.rmtree(folder, ignore_errors=True)
            since = None
            for k in range(2):
                since = checkpoints.save(folder, states[k], {"update": k + 1}, since=since)

            def error(code: int | None = code) -> BaseException:
                return Crash() if code is None else OSError(code, os.strerror(code))

            with failing_at(number, error, code is None) as done:
                try:
                    checkpoints.save(folder, states[2], {"update": 3}, since=since)
                    over = len(done) < number
                except Crash:
                    pass
                except UserError as told:
                    found.expect(str(folder) in str(told), f"{name}: {told}")
            found.tried += not over
            state, about = checkpoints.load(folder, states[0], lambda text: None)
            right = checkpoints.hashes(state) == hashes[about["update"] - 1]
            found.expect(about["update"] in (2, 3) and right, f"{name}: operation {number}, {code}")
            if over:
                found.expect(about["update"] == 3, f"{name}: the last save is not there")


def crash(count: int, rng: random.Random, work: Path) -> Result:
    """A crash at every single file operation of a save, for every algorithm that collects."""
    found = Result()
    for name, states in islice(small_states(), count):
        at_every_operation(found, name, states, work, [None])
    return found


def disk(count: int, rng: random.Random, work: Path) -> Result:
    """A full disk, a quota, no inodes, a disk that becomes read-only, no file descriptors: each at
    every operation of a save."""
    found = Result()
    codes: list[int | None] = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.EIO]
    name, states = next(small_states())
    at_every_operation(found, name, states, work, codes[: max(1, count // 10)])
    return found


# In name spaces of its own: a small file system is filled by a training, made larger, and the
# training goes on.
FILL = """
mount -t tmpfs -o size=$KIB"k",nr_inodes=$INODES tmpfs "$PLACE" || exit 99
(ulimit -f $LARGEST; exec $TRAIN --out "$PLACE/run" > "$WORK/out" 2> "$WORK/said")
echo $? > "$WORK/code"
mount -o remount,size=1g,nr_inodes=100000 "$PLACE" || exit 99
if [ -e "$PLACE/run/run.json" ]; then on="$RESUME"; else on="$TRAIN --out"; fi
$on "$PLACE/run" >> "$WORK/out" 2>> "$WORK/said" || echo "going on: exit code $?" >> "$WORK/said"
cp -r "$PLACE/run" "$WORK/run"
"""


def full(count: int, rng: random.Random, work: Path) -> Result:
    """A real file system without blocks, without inodes, or with a limit on the size of files is
    filled by a training: one message, and what was saved goes on to the bits of an undisturbed one.
    """
    found, place, whole = Result(), work / "place", work / "whole"
    place.mkdir()
    words = ("train", "a2c", "CartPole-v1", "--total-steps", 40_000)
    done = command_line.command(*words, *SAVING, "--out", whole)
    assert done.returncode == 0, done.stderr
    size = sum(path.stat().st_size for path in whole.rglob("*")) // 1024
    for number in range(count):
        kind = rng.choice(["blocks", "blocks", "inodes", "largest"])
        kib = rng.randrange(4, size) if kind == "blocks" else 2**20
        inodes = rng.randrange(3, 40) if kind == "inodes" else 100_000
        largest = rng.randrange(1, size // 2) if kind == "largest" else 2**20
        own, program = work / f"{number}", " ".join(command_line.PROGRAM)
        own.mkdir()
        saving = " ".join(map(str, SAVING))
        variables = {
            "KIB": kib, "INODES": inodes, "LARGEST": largest, "PLACE": place, "WORK": own,
            "TRAIN": f"{program} {' '.join(map(str, words))} {saving}",
            "RESUME": f"{program} resume {saving}",
        }  # fmt: skip
        environment = command_line.ENVIRONMENT | {k: str(v) for k, v in variables.items()}
        fill = ["unshare", "-Urm", "bash", "-c", FILL]
        code = subprocess.run(fill, env=environment, check=False).returncode
        if code == 99:
            raise SystemExit("A file system cannot be mounted here: unshare -Urm, mount -t tmpfs.")
        said, what = (own / "said").read_text(), f"{number}: {kind} {kib} KiB, {inodes}, {largest}"
        failed = (own / "code").read_text().strip() != "0"
        found.expect("Traceback" not in said, f"{what}: {said[-300:]}")
        found.expect(not failed or "actorcritic:" in said, f"{what}: no message: {said[-300:]}")
        found.expect("going on" not in said, f"{what}: {said[-300:]}")
        if "going on" not in said:
            _compare(found, what, True, own / "run", whole)
        found.tried += failed
        shutil.rmtree(own)
    return found


# ------------------------------------------------------------------------------------ damage


def every_byte(count: int, rng: random.Random, work: Path) -> Result:
    """Every byte of a checkpoint of 64 KiB changed, and the file cut at every length: the older
    checkpoint is taken, with a word. `count` bytes are spread evenly over the file."""
    found, folder = Result(), work / "checkpoints"
    states = [{"w": np.full(2**14, k, np.float32)} for k in range(2)]  # 64 KiB
    for k, state in enumerate(states):
        newest = checkpoints.save(folder, state, {"update": k})
    expected = checkpoints.hashes(states[0])

    def check(what: str) -> None:
        said: list[str] = []
        state, about = checkpoints.load(folder, states[0], said.append)
        found.tried += 1
        held = about["update"] == 0 and len(said) == 1 and checkpoints.hashes(state) == expected
        found.expect(held, what)

    for file in (newest / checkpoints.STATE, newest / checkpoints.MANIFEST):
        good = file.read_bytes()
        for place in range(0, len(good), max(1, (2 * len(good)) // max(count, 1))):
            with file.open("r+b") as opened:
                opened.seek(place)
                opened.write(bytes([good[place] ^ (1 << rng.randrange(8))]))
            check(f"byte {place} of {file.name}")
            os.truncate(file, place)
            check(f"{file.name} cut after {place} bytes")
            file.write_bytes(good)
    return found


def strangers(count: int, rng: random.Random, work: Path) -> Result:
    """Random and crafted files in a run folder, links, pipes and devices included: opened in four
    ways, each within 256 MiB and 5 seconds, and answered by a UserError or by what is right."""
    how = {"total_steps": 400, "num_envs": 4, "evaluation_episodes": 2, "quiet": True}
    ac.train("a2c", "Pendulum-v1", out=work / "original", **how)
    return _damaged_folders(count, rng, work, OPENERS)


def data_sets(count: int, rng: random.Random, work: Path) -> Result:
    """The same of the folder of a data set."""
    policy = ac.train("a2c", "CartPole-v1", total_steps=200, hidden_sizes=(4,), **QUICK)
    save_data(ac.collect(policy, 300), work / "original")
    return _damaged_folders(count, rng, work, (ac.dataset,))


def _damaged_folders(
    count: int, rng: random.Random, work: Path, openers: Sequence[Callable[[Path], Any]]
) -> Result:
    found, original, outside, place = Result(), *(work / n for n in ("original", "outside", "run"))
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    before = _snapshot(outside)
    shutil.copytree(original, place)
    parts = [p.relative_to(place) for p in sorted(place.rglob("*")) if p.is_file()]
    ignored = ("run.lock", "curve.png")
    parts = [p for p in parts if p.parts[0] != "tensorboard" and p.name not in ignored]
    signal.signal(signal.SIGALRM, _too_long)
    for opener in openers:
        opener(place)  # which is right as it is
    base = _rss()
    for number in range(count):
        part = rng.choice(parts)
        what = f"{number}: {_damage(place / part, rng, outside)} in {part}"
        for opener in openers:
            start = time.monotonic()
            signal.alarm(5)
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # warnings by the thousand
                    opener(place)
            except UserError:
                pass
            except BaseException as error:  # whatever comes here is what the row is about
                found.expect(False, f"{what}: {type(error).__name__}: {error}"[:200])
            signal.alarm(0)
            found.most("seconds", time.monotonic() - start)
        found.tried += 1
        _restore(place / part, original / part)
        if number % 100 == 0 or number == count - 1:
            found.expect(_snapshot(outside) == before, f"{what}: a file outside was changed")
            found.most("MiB grown", (_rss() - base) / MIB)
    found.expect(found.numbers["MiB grown"] < 256, "memory grew")
    return found


def _too_long(number: int, frame: Any) -> None:
    raise TimeoutError("no answer")


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _restore(path: Path, good: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    shutil.copy2(good, path)


def _damage(path: Path, rng: random.Random, outside: Path) -> str:
    """Do something to a file, and say what."""
    good = path.read_bytes()
    kind = rng.choice(
        ["bytes", "cut", "noise", "json", "json", "json", "text", "odd", "link", "gone"]
    )
    if kind == "json" and path.suffix != ".json":
        kind = "bytes"
    match kind:
        case "json":
            text = json.dumps(damaged(json.loads(good), rng))
            path.write_text(text)
        case "bytes":
            changed = bytearray(good)
            for _ in range(rng.choice([1, 1, 3, 50])):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            path.write_bytes(bytes(changed))
        case "cut":
            path.write_bytes(good[: rng.randrange(len(good))])
        case "noise":
            path.write_bytes(rng.randbytes(rng.choice([0, 1, 100, 100_000])))
        case "text":
            text = rng.choice(
                ["[" * 50_000, "null", "1e999", '{"a":' * 9_000, "seed\n" * 99, "\0" * 9]
            )
            path.write_text(text)
        case "gone":
            path.unlink()
        case "link":
            path.unlink()
            target = rng.choice(
                [outside / "kept.txt", outside, Path("/etc/passwd"), path, outside / "no"]
            )
            path.symlink_to(target)
        case "odd":
            path.unlink()
            odd = rng.choice(["fifo", "folder", "sparse", "zero"])
            if odd == "fifo":
                os.mkfifo(path)
            elif odd == "folder":
                path.mkdir()
            elif odd == "zero":
                path.symlink_to("/dev/zero")
            else:
                with path.open("wb") as file:
                    file.truncate(20 * 2**30)
            return odd
    return kind


# ------------------------------------------------------------------------------------ environments


def workers(count: int, rng: random.Random, work: Path) -> Result:
    """A worker process is killed, hangs or raises at a random step of a training: it ends within
    10 s (of the patience, where it hangs) with a message, and what was trained is kept."""
    found = Result()
    for number in range(count):
        fault = rng.choices(["kill", "hang", "raise"], [4, 1, 1])[0]
        after, out = rng.randrange(4, 60), work / f"worker-{number}"

        def make(fault: str = fault, after: int = after) -> gymnasium.Env:
            return Late(fault, after)

        environment = HostEnvironment(make, vectorization="async", worker_timeout=2.0)
        algorithm = ac.A2C(num_envs=2, num_steps=2, hidden_sizes=(4,))
        start = time.monotonic()
        try:
            ac.train(algorithm, environment, total_steps=10_000, out=out, **QUICK)
            found.expect(False, f"{fault}: it was trained to the end")
        except UserError as error:
            told = str(error)
            found.expect("What was trained before" in told, f"{fault}: {told}")
        found.most("seconds, start to end", time.monotonic() - start)
        kept = ac.open_run(out, environment=environment)
        steps = kept.metrics.step
        last = steps.max() if len(steps) else 0  # a row is of 8 steps
        found.expect(last <= kept.steps < last + 8, f"{fault}: table and checkpoint differ")
        found.expect(
            kept.steps >= 2 * (after - 2) - 4, f"{fault}: {kept.steps} steps of 2 × {after}"
        )
        found.tried += 1
        shutil.rmtree(out)
    return found


def signals(count: int, rng: random.Random, work: Path) -> Result:
    """SIGTERM or SIGINT at random moments, start and compilation included: the right exit code, no
    traceback, and a run that goes on, if there was one yet."""
    found = Result()
    for number in range(count):
        run = work / f"signal-{number}"
        words = ("train", "ppo", "CartPole-v1", "--total-steps", 10**9, "--out", run, "--quiet")
        host = ("--host",) if rng.random() < 0.3 else ()
        process = command_line.start(*words, *host)
        time.sleep(rng.uniform(0.3, 8.0))
        which = rng.choice([signal.SIGTERM, signal.SIGINT])
        process.send_signal(which)
        begun = time.monotonic()
        try:
            _, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            found.expect(False, f"{which.name}: no end within 60 s")
            continue
        found.most("seconds to end", time.monotonic() - begun)
        found.tried += 1
        saved = command_line.newest_update(run) >= 0
        codes = {signal.SIGTERM: (143, -15), signal.SIGINT: (130, -2)}[which]
        if which == signal.SIGINT and saved:
            codes = (*codes, 0)
        found.expect(process.returncode in codes, f"{which.name}: exit code {process.returncode}")
        found.expect("Traceback" not in err, f"{which.name}: {err[-300:]}")
        if saved:
            found.expect(read_run(run).steps >= 0, "not readable")
        shutil.rmtree(run, ignore_errors=True)
    return found


# ------------------------------------------------------------------------------------ endurance


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def soak(count: int, rng: random.Random, work: Path) -> Result:
    """A long compiled training (`count` steps) and one on the host (a hundredth): after the first
    tenth memory grows by less than 32 MiB, nothing is compiled again, descriptors stay."""
    found, compilations = Result(), [0]

    def listen(event: str, seconds: float, **about: Any) -> None:
        compilations[0] += "backend_compile" in event

    jax.monitoring.register_event_duration_secs_listener(listen)
    for name, steps in (("compiled", count), ("host", count // 100)):
        marks: list[tuple[float, int, int, int]] = []

        def look(moment: Any, steps: int = steps, marks: list[Any] = marks) -> None:
            gc.collect()
            share = min(moment.steps.values()) / steps
            marks.append((share, _rss(), compilations[0], _descriptors()))

        ac.train(
            "a2c", "CartPole-v1", host=name == "host", total_steps=steps, callbacks=[look],
            out=work / name, checkpoint_seconds=0.2, **QUICK,
        )  # fmt: skip
        late = [mark for mark in marks if 0.1 <= mark[0] < 1]
        settled = [mark for mark in late if mark[0] > 0.2]  # early policies are kept at 1/8
        found.tried += steps
        if not settled:
            found.expect(False, f"{name}: too short to tell")
            continue
        grown = max(mark[1] for mark in late) - late[0][1]
        found.most(f"MiB grown, {name}", grown / MIB)
        found.expect(grown < 32 * MIB, f"{name}: memory grew by {grown / MIB:.0f} MiB")
        first, last = settled[0], settled[-1]
        found.expect(last[2] == first[2], f"{name}: compiled again")
        found.expect(last[3] <= first[3], f"{name}: {first[3]} → {last[3]} descriptors")
    return found


def ladder(count: int, rng: random.Random, work: Path) -> Result:
    """Environments from 1 to 65,536 and seeds from 1 to 1,000: it works. The last of 10 rungs is
    too much, and that is said before anything is allocated."""
    found = Result()
    rungs = [(1, 1), (8, 1), (1, 10), (64, 1), (1, 100), (512, 1), (4096, 1), (1, 1000)]
    rungs += [(65_536, 1), (65_536, 10_000)]
    for envs, seeds in rungs[:count]:
        what, start = f"{envs} environments, {seeds} seeds", time.monotonic()
        algorithm = ac.A2C(num_envs=envs, num_steps=2, hidden_sizes=(8,))
        try:
            how = {"seeds": seeds, "total_steps": 4 * envs, "out": work / what, **QUICK}
            run = ac.train(algorithm, "CartPole-v1", **how)
            found.expect(run.finished, what)
            found.most("seconds", time.monotonic() - start)
        except UserError as error:
            found.most("seconds to refuse", time.monotonic() - start)
            found.expect("GiB" in str(error) and time.monotonic() - start < 20, f"{what}: {error}")
        found.tried += 1
        shutil.rmtree(work / what, ignore_errors=True)
    return found


# How often each row is run as a whole: for most, how many faults.
ROWS: dict[str, tuple[Row, int, str]] = {
    "kill": (kill, 500, "kill −9 during training, all algorithms and runners"),
    "crash": (crash, 99, "crash at every file operation of a save, every algorithm"),
    "bytes": (every_byte, 140_000, "every byte of a 64 KiB checkpoint changed; every truncation"),
    "strangers": (strangers, 100_000, "random and crafted files in a run folder, links included"),
    "disk": (disk, 50, "disk full, quota, no inodes, read-only, no descriptors"),
    "full": (full, 70, "a real file system: no blocks, no inodes, files too large"),
    "workers": (workers, 300, "worker killed, hung or raising"),
    "signals": (signals, 100, "SIGTERM, SIGINT at random moments, compilation included"),
    "soak": (soak, 10**8, "soak: compiled steps, and a hundredth of them on the host"),
    "ladder": (ladder, 10, "environments 1 … 65,536, seeds 1 … 1,000"),
    "data": (data_sets, 10_000, "random and crafted files in a data set"),
}


def table(records: list[dict[str, Any]]) -> str:
    """The rows of several records together."""
    lines = ["| fault | tried | did not hold | measured |", "| --- | ---: | ---: | --- |"]
    for name, (_, _, title) in ROWS.items():
        mine = [record for record in records if record["row"] == name]
        if mine:
            numbers: dict[str, float] = {}
            for record in mine:
                for key, value in record["numbers"].items():
                    numbers[key] = max(value, numbers.get(key, value))
            told = ", ".join(f"{key} {value:.3g}" for key, value in numbers.items())
            tried, broken = (sum(r[key] for r in mine) for key in ("tried", "broken"))
            lines.append(f"| {title} | {tried:,} | {broken} | {told} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="which rows (default: all)")
    parser.add_argument("--share", type=float, default=1.0, help="of how often each row is tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="append what was found to this file")
    parser.add_argument("--table", type=Path, help="print the table of such a file, and no more")
    options = parser.parse_args()
    if options.table:
        print(table([json.loads(line) for line in options.table.read_text().splitlines()]))
        return 0
    failed, records = False, []
    for name in options.rows or ROWS:
        row, count, title = ROWS[name]
        with tempfile.TemporaryDirectory() as work:
            start = time.monotonic()
            found = row(
                max(1, round(count * options.share)), random.Random(options.seed), Path(work)
            )
        for what in found.broken[:20]:
            print(f"  {name}: did not hold: {what}", file=sys.stderr)
        failed |= bool(found.broken)
        records.append(
            {"row": name, "seed": options.seed, "tried": found.tried, "broken": len(found.broken),
             "numbers": found.numbers, "seconds": round(time.monotonic() - start)}
        )  # fmt: skip
        print(
            f"{title}: {found.tried:,} in {records[-1]['seconds']} s", file=sys.stderr, flush=True
        )
        if options.record:
            with options.record.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")
    print(table(records))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
