"""Run folders that were damaged, or made by a stranger: one message, no hang, no full memory."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import actorcritic as ac
from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.data.folder import save as save_data
from actorcritic.runs import checkpoints
from actorcritic.runs.run import read_run

VALUES = (
    *(None, True, -1, 0, 3.7, 2**40, -(10**9), 10**30, float("nan"), float("inf")),
    *("", "x", "Box", "../..", "CartPole-v1", [], {}, [[]], [1], ["a"], {"a": 1}),
)
# What opens a run, each in its own way.
OPENERS: tuple[Callable[[Path], Any], ...] = (
    ac.open_run,
    ac.load,
    lambda path: read_run(path).episodes,
    lambda path: read_run(path).metrics,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("damage") / "run"
    how = {"total_steps": 400, "num_envs": 4, "seeds": 2, "evaluation_episodes": 2}
    ac.train("a2c", "Pendulum-v1", out=out, quiet=True, **how)
    (out / "warnings.txt").write_text("a word\n")
    return out


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def places(data: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield (*place, key)
        yield from places(data[key], (*place, key))


def damaged(data: Any, rng: random.Random) -> Any:
    """The same with one part that is gone, is something else, or is nested deeply."""
    data = copy.deepcopy(data)
    *above, last = rng.choice(list(places(data)))
    at = data
    for key in above:
        at = at[key]
    chance = rng.random()
    if chance < 0.2:
        del at[last]
    elif chance < 0.3:
        at[last] = 1
        for _ in range(rng.choice([3, 300])):
            at[last] = [at[last]]
    else:
        at[last] = rng.choice(VALUES)
    return data


def opened(path: Path, capsys) -> None:
    """Open it in all ways; whatever is wrong is said by a UserError."""
    for opener in OPENERS:
        with suppress(UserError):
            opener(path)
    capsys.readouterr()


def test_any_damage_of_run_json_is_one_message(run, capsys):
    path, rng = run / "run.json", random.Random(0)
    good = path.read_text()
    for _ in range(60):
        path.write_text(json.dumps(damaged(json.loads(good), rng)))
        opened(run, capsys)
    for _ in range(20):
        data = bytearray(good.encode())
        data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(bytes(data))
        opened(run, capsys)
    for text in ("[" * 100_000, '{"a":' * 100_000, "[]", "null", ""):
        path.write_text(text)
        for opener in OPENERS:
            with pytest.raises(UserError):
                opener(run)


@pytest.mark.long
def test_any_manifest_with_a_right_checksum_is_one_message(run, capsys):
    manifest = max(run.glob("checkpoints/*/manifest.json"))
    good, rng = json.loads(manifest.read_text()), random.Random(0)
    for _ in range(60):
        body = damaged(good["body"], rng)
        sha256 = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        manifest.write_text(json.dumps({"body": body, "sha256": sha256}))
        opened(run, capsys)


def test_any_evaluation_is_one_message(run, capsys):
    path, rng = run / "evaluation.json", random.Random(0)
    good = json.loads(path.read_text())
    for _ in range(40):
        path.write_text(json.dumps(damaged(good, rng)))
        opened(run, capsys)
    for change in (
        {"returns": [[1.0], [1.0, 2.0]]},
        {"returns": [[], []], "lengths": [[], []]},
        {"seeds": [0]},
        {"seeds": [7, 8]},
        {"cut": [[1, 2], [3, 4]]},
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(UserError, match="not what a training writes"):
            ac.open_run(run)


def test_warnings_that_are_no_text(run):
    (run / "warnings.txt").write_bytes(b"a word \xff\xfe\n")
    assert ac.open_run(run).warnings == ["a word \ufffd\ufffd"]


@contextmanager
def within(gigabytes: int) -> Iterator[None]:
    """No more memory than this, above what is in use."""
    resource = pytest.importorskip("resource")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + gigabytes * 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


ODD: dict[str, Callable[[Path], Any]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a file of 20 GB": lambda path: path.touch() or os.truncate(path, 20 * 2**30),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures memory as Linux does")
@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_regular_file_is_not_read(odd, run, capsys):
    checkpoint = max(run.glob("checkpoints/*"))
    for path in (
        *(run / name for name in ("run.json", "evaluation.json", "warnings.txt")),
        *(run / name for name in ("metrics.csv", "episodes.csv")),
        *(checkpoint / name for name in ("manifest.json", "state.safetensors")),
    ):
        kept = path.read_bytes()
        path.unlink()
        ODD[odd](path)
        with within(gigabytes=3):
            opened(run, capsys)
        path.rmdir() if odd == "a folder" else path.unlink()
        path.write_bytes(kept)
    assert ac.open_run(run).finished


def test_numbers_of_another_kind_are_not_taken_for_these(tmp_path):
    state = {"x": np.arange(4, dtype=np.float32)}
    checkpoint = checkpoints.save(tmp_path, state, {"update": 1})
    data = safetensors.numpy.save({"['x']": np.arange(4, dtype=np.int32)})
    (checkpoint / "state.safetensors").write_bytes(data)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    body = manifest["body"]
    body["state"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    sha256 = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps({"body": body, "sha256": sha256}))
    with pytest.raises(UserError, match="numbers of int32, not float32"):
        checkpoints.load(tmp_path, state, lambda text: None)


def test_tables_are_on_disk_before_the_checkpoint_that_stands_for_them(tmp_path, monkeypatch):
    order = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (order.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1]
    )
    ac.train("a2c", "CartPole-v1", total_steps=400, out=tmp_path / "run", quiet=True)
    names = [Path(path).name for path in order]
    last = max(k for k, name in enumerate(names) if name == "state.safetensors")
    assert {"metrics.csv", "episodes.csv"} <= set(names[:last])
    assert not {"metrics.csv", "episodes.csv"} & set(names[last:])


@pytest.mark.parametrize(
    ("data", "form", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (True, bool, True),
        (None, int | None, True),
        ([1, 2], [int], True),
        ([1, "2"], [int], False),
        ({"a": [1]}, {"a": [int]}, True),
        ({"a": 1, "b": 2}, {"a": int}, True),
        ({}, {"a": int}, False),
        ([], {"a": int}, False),
        ([[1.0, 2]], [[float | int]], True),
    ],
)
def test_forms(data, form, fits):
    assert files.fits(data, form) == fits


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_sizes": (10**9,)}, "take .* GiB, and there are .* GiB of memory"),
        (
            {"num_envs": 65_536, "num_steps": 8192, "total_steps": 10**9},
            "batches .* take .* Take fewer environments",
        ),
        ({"out": "a" * 300}, "cannot be used: File name too long"),
        ({"env_options": {"gravity": float("nan")}}, "gravity must be finite, not nan"),
        ({"env_options": {"max_episode_steps": -5}}, "max_episode_steps = -5; expected 1 or more"),
    ],
)
def test_what_cannot_be_is_said_before_it_is_tried(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        ac.train("ppo", "Pendulum-v1", quiet=True, **options)
    assert not list(tmp_path.iterdir())


def test_a_number_of_numpys_is_a_number(trained):
    run = ac.Run(
        ac.A2C(learning_rate=np.float32(0.5)), ac.open_run(trained).environment, (0,), 5, None
    )
    kept = run.configuration()["algorithm"]
    assert (kept["own"], kept["hyperparameters"]["learning_rate"]) == ([], 0.5)


def test_many_seeds_keep_few_files_open(tmp_path, monkeypatch):
    monkeypatch.setattr("actorcritic.runs.trackers.MOST_WRITERS", 2)
    how = {"total_steps": 200, "seeds": 4, "evaluation_episodes": 0, "quiet": True}
    ac.train("a2c", "CartPole-v1", out=tmp_path / "run", **how)
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 2


def test_a_first_line_of_a_table_that_is_no_line(run):
    path = run / "metrics.csv"
    path.write_bytes(path.read_bytes().replace(b",", b"\r", 1))
    with pytest.raises(UserError, match=r"metrics.csv is damaged"):
        _ = read_run(run).metrics


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("action_space", "n"), "two"),
        (("action_space", "n"), -1),
        (("action_space", "start"), [1]),
        (("action_space", "n"), 10**30),
        (("rows", "bytes"), "many"),
    ],
)
def test_entries_of_a_data_set_that_are_something_else(place, value, tmp_path):
    folder = data_folder(tmp_path)
    about = json.loads((folder / "dataset.json").read_text())
    about[place[0]][place[1]] = value
    (folder / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="is not what a data set of actorcritic has"):
        ac.dataset(folder)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures memory as Linux does")
def test_rows_of_a_data_set_that_are_far_too_many_are_not_read(tmp_path):
    folder = data_folder(tmp_path)
    (rows,) = folder.glob("*.safetensors")
    os.truncate(rows, 20 * 2**30)
    with within(2), pytest.raises(UserError, match=r"has 21,474,836,480 bytes; expected at most"):
        ac.dataset(folder)


def data_folder(work: Path) -> Path:
    run = ac.train(
        "a2c", "CartPole-v1", total_steps=64, hidden_sizes=(4,), evaluation_episodes=0, quiet=True
    )
    return save_data(ac.collect(run, 50), work / "data")
