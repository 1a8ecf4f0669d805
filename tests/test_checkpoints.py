"""Checkpoints: bit for bit there and back, and whatever breaks, an intact one or a clear error."""

import errno
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actorcritic.core.errors import UserError
from actorcritic.runs import checkpoints


class State(NamedTuple):
    weights: dict
    key: jax.Array
    updates: jax.Array


def make(update: int, width: int = 3, impl: str = "threefry2x32") -> State:
    weights = {"w": jnp.full((2, width), update + 0.5), "b": jnp.zeros((0, 4), jnp.bfloat16)}
    key = jax.random.split(jax.random.key(update, impl=impl), 2)
    return State(weights, key, jnp.int32(update))


def save(folder: Path, update: int, **more) -> Path:
    return checkpoints.save(folder, make(update), {"update": update, "name": "é"}, **more)


def load(folder: Path, *like):
    """(state, about, warnings), for a state like that of `make` unless another is given."""
    warnings: list[str] = []
    state, about = checkpoints.load(folder, *like or (make(0),), warnings.append)
    return state, about, warnings


def is_update(state: State, update: int) -> bool:
    return checkpoints.hashes(state) == checkpoints.hashes(make(update))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def edit_manifest(checkpoint: Path, change) -> None:
    """Change the manifest's body and sign it anew, as a program that writes it would."""
    file = checkpoint / checkpoints.MANIFEST
    body = json.loads(file.read_text())["body"]
    change(body)
    digest = checkpoints._sha256(checkpoints._canonical(body))
    file.write_text(json.dumps({"body": body, "sha256": digest}))


# ---------------------------------------------------------------------------- there and back

DTYPES = ["bool", "int8", "uint8", "int32", "uint32", "float16", "bfloat16", "float32", "complex64"]


def to_array(data: bytes, shape: tuple[int, ...], dtype: str) -> jax.Array:
    dtype = jnp.dtype(dtype)
    bits = np.resize(np.frombuffer(data or b"\1", np.uint8), int(np.prod(shape)) * dtype.itemsize)
    values = (bits & 1).astype(bool) if dtype.kind == "b" else bits.view(dtype)
    return jnp.array(values).reshape(shape)


SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
ARRAYS = st.builds(to_array, st.binary(max_size=64), SHAPES, st.sampled_from(DTYPES))
KEYS = st.builds(
    lambda seed, shape, impl: (
        jax.random.split(jax.random.key(seed, impl=impl), shape)
        if shape
        else jax.random.key(seed, impl=impl)
    ),
    st.integers(0, 2**31 - 1),
    SHAPES,
    st.sampled_from(["threefry2x32", "rbg"]),
)
NUMPY = st.builds(np.asarray, ARRAYS) | hnp.arrays(st.sampled_from([np.float64, np.int64]), SHAPES)
SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
TREES = st.recursive(
    ARRAYS | KEYS | NUMPY | SCALARS | st.none(),
    lambda children: (
        st.dictionaries(st.text(max_size=3), children, max_size=3)
        | st.lists(children, max_size=3)
        | st.tuples(children, children)
    ),
    max_leaves=6,
)


@given(tree=TREES)
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_tree_comes_back_bit_for_bit(tmp_path, tree):
    shutil.rmtree(tmp_path)
    checkpoints.save(tmp_path, tree, {"update": 7})
    state, about, warnings = load(tmp_path, tree)
    assert jax.tree.structure(state) == jax.tree.structure(tree)
    assert checkpoints.hashes(state) == checkpoints.hashes(tree)
    assert [type(x) for x in jax.tree.leaves(state)] == [type(x) for x in jax.tree.leaves(tree)]
    assert (about, warnings) == ({"update": 7}, [])


def test_a_description_of_the_state_is_enough_to_load(tmp_path):
    save(tmp_path, 5)
    state, about, _ = load(tmp_path, jax.eval_shape(lambda: make(0)))
    assert is_update(state, 5)
    assert about == {"update": 5, "name": "é"}
    assert isinstance(state.weights["w"], jax.Array)
    assert jax.random.key_impl(state.key) == "threefry2x32"
    # The restored arrays may be donated, as a session does with its state.
    jax.jit(lambda s: s._replace(updates=s.updates + 1), donate_argnums=0)(state)


def test_hashes_tell_value_type_and_shape_apart():
    for a, b in [
        (jnp.float32(1), jnp.float32(2)),
        (jnp.float32(0), jnp.int32(0)),
        (jnp.zeros((2, 3)), jnp.zeros((3, 2))),
        (jax.random.key(0), jax.random.key(1)),
        (jnp.float32(0.0), jnp.float32(-0.0)),
    ]:
        assert checkpoints.hashes({"x": a}) != checkpoints.hashes({"x": b})
        assert checkpoints.hashes({"x": a}) == checkpoints.hashes({"x": a})


def test_a_part_of_the_state(tmp_path):
    class Part(NamedTuple):
        weights: dict

    save(tmp_path, 5)
    warnings: list[str] = []
    part, about = checkpoints.load(tmp_path, Part(make(0).weights), warnings.append, partial=True)
    assert checkpoints.hashes(part) == checkpoints.hashes(Part(make(5).weights))
    assert about["update"] == 5
    for wrong, here in [({"c": jnp.zeros(2)}, "['c'] is"), (make(0, width=9).weights, "[2, 9]")]:
        with pytest.raises(UserError, match="another architecture") as error:
            checkpoints.load(tmp_path, Part(wrong), warnings.append, partial=True)
        assert here in str(error.value)
    with pytest.raises(UserError, match="another architecture"):
        checkpoints.load(tmp_path, Part(make(0).weights), warnings.append)


# ---------------------------------------------------------------------------- which are kept


def test_keeps_the_newest_two_whatever_order_names_sort_in(tmp_path):
    for update in (9, 10, 99, 100):
        path = save(tmp_path, update)
        assert checkpoints.newest(tmp_path) == path
    assert names(tmp_path) == ["000000000099", "000000000100"]
    assert is_update(load(tmp_path)[0], 100)


def test_keeps_at_least_two_and_more_on_demand(tmp_path):
    for update in range(5):
        save(tmp_path, update, keep=1)
    assert len(names(tmp_path)) == 2
    for update in range(5, 9):
        save(tmp_path, update, keep=3)
    assert len(names(tmp_path)) == 3


def test_saving_an_update_again_takes_over_without_touching_the_first(tmp_path):
    first = save(tmp_path, 3)
    inode = (first / checkpoints.STATE).stat().st_ino
    for _ in range(12):
        second = checkpoints.save(tmp_path, make(4), {"update": 3})
    assert is_update(load(tmp_path)[0], 4)
    assert checkpoints.newest(tmp_path) == second
    assert not first.exists() or (first / checkpoints.STATE).stat().st_ino == inode
    assert len(names(tmp_path)) == 2


def test_a_later_checkpoint_that_was_given_up_does_not_push_out_good_ones(tmp_path):
    for update in (1, 2, 3):
        save(tmp_path, update)
    (tmp_path / "000000000003" / checkpoints.STATE).write_bytes(b"")
    assert load(tmp_path)[1]["update"] == 2  # training goes on from here …
    checkpoints.save(tmp_path, make(0), {"update": 2})  # … and saves before it reaches 3
    assert names(tmp_path) == ["000000000002", "000000000002.1"]


def test_what_a_killed_writer_left_is_cleaned_up_and_never_loaded(tmp_path):
    save(tmp_path, 1)
    left = tmp_path / ".saving-2-12345"
    shutil.copytree(tmp_path / "000000000001", left)
    assert checkpoints.newest(tmp_path).name == "000000000001"
    load(tmp_path)
    assert left.exists()  # a reader leaves the writer's files alone
    save(tmp_path, 3)
    assert names(tmp_path) == ["000000000001", "000000000003"]


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for update in range(4):
        save(tmp_path, update)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_no_checkpoint(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        assert checkpoints.newest(folder) is None
        with pytest.raises(UserError, match=f"Expected a checkpoint in {folder}"):
            load(folder)


# ---------------------------------------------------------------------------- damage


def falls_back(folder: Path, file: Path) -> None:
    """The checkpoint of update 2 is damaged: the one of update 1 is loaded, and why is said."""
    state, about, warnings = load(folder)
    assert about["update"] == 1
    assert is_update(state, 1)
    assert len(warnings) == 1
    assert str(file) in warnings[0]


@pytest.fixture
def two(tmp_path):
    save(tmp_path, 1)
    return tmp_path, save(tmp_path, 2)


@pytest.mark.parametrize("name", [checkpoints.STATE, checkpoints.MANIFEST])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file(two, name, share):
    folder, newest = two
    data = (newest / name).read_bytes()
    (newest / name).write_bytes(data[: int(len(data) * share)])
    falls_back(folder, newest / name)


@pytest.mark.parametrize("name", [checkpoints.STATE, checkpoints.MANIFEST])
def test_a_missing_file(two, name):
    folder, newest = two
    (newest / name).unlink()
    falls_back(folder, newest / name)


@pytest.mark.parametrize("name", [checkpoints.STATE, checkpoints.MANIFEST])
def test_a_folder_where_a_file_should_be(two, name):
    folder, newest = two
    (newest / name).unlink()
    (newest / name).mkdir()
    falls_back(folder, newest / name)


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b"null",
        b"3",
        b'"text"',
        b"{}",
        b'{"body": {}}',
        b'{"body": {}, "sha256": 3}',
        b'{"body": null, "sha256": null}',
        b"\xff\x80",
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"9" * 100_000, id="long"),
    ],
)
def test_a_manifest_that_is_something_else(two, text):
    folder, newest = two
    file = newest / checkpoints.MANIFEST
    file.write_bytes(text)
    falls_back(folder, file)


def test_every_bit_of_the_state_counts(two):
    folder, newest = two
    file = newest / checkpoints.STATE
    data = file.read_bytes()
    positions = np.unique(np.linspace(0, len(data) - 1, 25).astype(int))
    for position in positions:
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            file.write_bytes(flipped)
            falls_back(folder, file)


def test_every_bit_of_the_manifest_counts(two):
    folder, newest = two
    file = newest / checkpoints.MANIFEST
    data = file.read_bytes()
    intact = 0
    for position in np.unique(np.linspace(0, len(data) - 1, 60).astype(int)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            file.write_bytes(flipped)
            state, about, warnings = load(folder)
            if warnings:
                assert about["update"] == 1
            else:  # blanks may change, and nothing else may
                intact += 1
                assert about == {"update": 2, "name": "é"}
            assert is_update(state, about["update"])
    assert intact < 10


def test_a_pickle_is_never_unpickled(two, tmp_path_factory):
    folder, newest = two
    trace = tmp_path_factory.mktemp("trace") / "executed"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    data = pickle.dumps(Payload())
    pickle.loads(data)
    assert trace.exists()  # the payload works
    trace.rmdir()

    file = newest / checkpoints.STATE
    file.write_bytes(data)
    falls_back(folder, file)
    # Not even where the manifest vouches for it.
    entry = {"sha256": checkpoints._sha256(data), "bytes": len(data)}
    edit_manifest(newest, lambda body: body.update(state=entry))
    falls_back(folder, file)
    file.rename(newest / "state.pkl")
    (newest / checkpoints.MANIFEST).write_bytes(data)
    falls_back(folder, newest / checkpoints.MANIFEST)
    assert not trace.exists()


def test_tensors_other_than_the_manifest_says(two):
    folder, newest = two
    file = newest / checkpoints.STATE
    for tensors in (
        {},
        {"x": np.zeros(3)},
        {name: np.zeros(7, np.uint32) for name in checkpoints.hashes(make(2))},
    ):
        data = checkpoints.safetensors.numpy.save(tensors)
        file.write_bytes(data)
        entry = {"sha256": checkpoints._sha256(data), "bytes": len(data)}
        edit_manifest(newest, lambda body, entry=entry: body.update(state=entry))
        falls_back(folder, file)


def test_none_intact(two):
    folder, newest = two
    older = folder / "000000000001" / checkpoints.MANIFEST
    older.write_text("")
    (newest / checkpoints.STATE).unlink()
    with pytest.raises(UserError, match=r"No checkpoint .* is intact") as error:
        load(folder)
    assert f"{newest / checkpoints.STATE} is missing" in str(error.value)
    assert f"{older} is empty" in str(error.value)


# ---------------------------------------------------------------------------- not for this run


@pytest.mark.parametrize(
    ("change", "there", "here"),
    [
        (lambda s: make(0, width=4), "['w'] is float32[2, 3]", "['w'] is float32[2, 4]"),
        (
            lambda s: s._replace(updates=jnp.float32(0)),
            ".updates is int32[]",
            ".updates is float32[]",
        ),
        (lambda s: s._replace(updates=None), ".updates is int32[]", "no further leaf"),
        (lambda s: (s, jnp.zeros(2)), ".weights['b'] is", "[0].weights['b'] is"),
        (lambda s: make(0, impl="rbg"), "key<fry>[2]", "key<rbg>[2]"),
    ],
)
def test_another_architecture_stops_at_once(two, change, there, here):
    folder, newest = two
    warnings: list[str] = []
    with pytest.raises(UserError) as error:
        checkpoints.load(folder, change(make(0)), warnings.append)
    text = str(error.value)
    assert str(newest) in text
    assert there in text.split(" there, ")[0]
    assert here in text.split(" there, ")[1]
    assert warnings == []


def test_a_later_format_asks_for_an_upgrade(two):
    folder, newest = two

    def change(body):
        body.clear()
        body.update(format=checkpoints.FORMAT + 1, anything={"else": 3})

    edit_manifest(newest, change)
    with pytest.raises(UserError, match="Upgrade actorcritic"):
        load(folder)


# ---------------------------------------------------------------------------- failing writers


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files, on Linux")
def test_nothing_gets_its_name_or_goes_before_the_new_one_is_on_disk(two, monkeypatch):
    folder, _ = two
    done = []
    real = {os: os.fsync, Path: Path.rename}

    def fsync(descriptor):
        done.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        real[os](descriptor)

    def rename(path, target):
        done.append(("rename", Path(target).name))
        return real[Path](path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    save(folder, 3)
    name = done[2][1]
    assert name.startswith(".saving-3-")
    assert done == [
        ("sync", checkpoints.STATE),
        ("sync", checkpoints.MANIFEST),
        ("sync", name),
        ("rename", "000000000003"),
        ("sync", folder.name),
        ("rename", ".saving-removing-000000000001"),
    ]
    assert names(folder) == ["000000000002", "000000000003"]


def test_a_full_disk_at_any_moment(two, monkeypatch):
    folder, _ = two
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    real, failures = os.fsync, 0
    for call in range(3):  # the state, the manifest, the new folder
        left = call

        def fsync(descriptor):
            nonlocal left
            if left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left -= 1
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(UserError, match="No space left on device") as error:
            save(folder, 3)
        monkeypatch.setattr(os, "fsync", real)
        failures += 1
        assert str(folder) in str(error.value)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        assert names(folder) == ["000000000001", "000000000002"]
    assert failures == 3
    save(folder, 3)
    assert load(folder)[1]["update"] == 3


def test_a_file_that_may_not_grow(two):
    folder, _ = two
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(UserError, match="File too large"):
            checkpoints.save(folder, {"w": np.zeros(2**17)}, {"update": 3})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(folder) == ["000000000001", "000000000002"]
    assert load(folder)[1]["update"] == 2


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Could not save a checkpoint in .*file"):
        save(tmp_path / "file" / "checkpoints", 1)


def test_an_interrupted_save_leaves_nothing(two, monkeypatch):
    folder, _ = two

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(folder, 3)
    assert names(folder) == ["000000000001", "000000000002"]


WRITER = """
    import itertools, sys
    from pathlib import Path
    import numpy as np
    from actorcritic.runs import checkpoints

    folder = Path(sys.argv[1])
    first = checkpoints.newest(folder)
    first = int(first.name.split(".")[0]) + 1 if first else 1
    for update in itertools.count(first):
        state = {name: np.full(20_000, update) for name in "abc"}
        checkpoints.save(folder, state, {"update": update})
        print(update, flush=True)
"""


@pytest.mark.long
def test_kill_9_at_any_moment(tmp_path):
    like = {name: np.zeros(20_000, int) for name in "abc"}
    rng, saved = np.random.default_rng(0), 0
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)], stdout=subprocess.PIPE
        )
        for _ in range(int(rng.integers(1, 20))):
            saved = int(writer.stdout.readline())
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(rng.uniform(0, 0.02))
        writer.send_signal(signal.SIGKILL)
        saved = int((writer.communicate()[0].split() or [saved])[-1])
        state, about, warnings = load(tmp_path, like)
        assert warnings == []
        assert about["update"] in (saved, saved + 1)  # renamed, but not yet printed
        assert all((leaf == about["update"]).all() for leaf in state.values())


def test_reading_while_another_process_saves(tmp_path):
    like = {name: np.zeros(20_000, int) for name in "abc"}
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)], stdout=subprocess.PIPE
    )
    writer.stdout.readline()
    seen, reads, deadline = set(), 0, time.monotonic() + 60  # how fast a disk saves is no matter
    while reads < 60 or (len(seen) <= 3 and time.monotonic() < deadline):
        state, about, warnings = load(tmp_path, like)
        assert warnings == []
        assert all((leaf == about["update"]).all() for leaf in state.values())
        seen.add(about["update"])
        reads += 1
    writer.kill()
    writer.communicate()
    assert len(seen) > 3
