"""Sinks: what goes in is what can be read back, also after a crash."""

import errno
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorboardX.proto import event_pb2

from actorcritic.core.errors import UserError
from actorcritic.runners.session import EpisodeTable, MetricTable, Report
from actorcritic.runs import trackers

NAMES = ("policy_loss", "value_loss")
NO_UPDATES = MetricTable(*(np.zeros(0, int),) * 3, NAMES, np.zeros((0, 2), np.float32))


def updates(seeds: int, first: int, last: int) -> MetricTable:
    seed = np.repeat(np.arange(seeds), last - first + 1)
    update = np.tile(np.arange(first, last + 1), seeds)
    values = np.stack([update / 3, -1e-7 * update], -1).astype(np.float32)
    return MetricTable(seed, update, update * 10 + seed, NAMES, values)


def episodes(seeds: int, first: int, last: int) -> EpisodeTable:
    seed, update, step, _, values = updates(seeds, first, last)
    return EpisodeTable(seed, step - 3, values[:, 0].astype(float) * np.pi, update + 1)


def report(seeds: int, first: int, last: int) -> Report:
    return Report(updates(seeds, first, last), episodes(seeds, first, last), 0.5)


def same(a, b) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype


def joined(tables):
    first = tables[0]
    return first._replace(
        **{
            name: np.concatenate([getattr(t, name) for t in tables])
            for name in first._fields
            if name != "names"
        }
    )


# ---------------------------------------------------------------------------- CSV


def test_csv_keeps_everything(tmp_path):
    writer = trackers.CsvWriter(tmp_path)
    reports = [report(2, 1, 5), Report(NO_UPDATES, EpisodeTable.join([]), 0.1), report(2, 6, 9000)]
    for one in reports:
        writer.write(one)
        assert (tmp_path / trackers.METRICS).read_bytes().endswith(b"\n")
    writer.close()
    metrics = trackers.read_metrics(tmp_path / trackers.METRICS)
    same(metrics, joined([r.metrics for r in reports]))
    ended = trackers.read_episodes(tmp_path / trackers.EPISODES)
    same(ended, joined([r.episodes for r in reports]))
    lines = (tmp_path / trackers.METRICS).read_text().splitlines()
    assert lines[:3] == [
        "seed,update,step,policy_loss,value_loss",
        "0,1,10,0.333333343,-1.00000001e-07",
        "0,2,20,0.666666687,-2.00000002e-07",
    ]
    lines = (tmp_path / trackers.EPISODES).read_text().splitlines()
    assert lines[:2] == ["seed,step,return,length", f"0,7,{float(np.float32(1 / 3)) * np.pi!r},2"]


@given(
    values=hnp.arrays(np.float32, (5, 2), elements=st.floats(width=32)),
    returns=hnp.arrays(np.float64, 5, elements=st.floats()),
    counts=hnp.arrays(np.int64, 5, elements=st.integers(0, 2**52)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_csv_keeps_every_bit(tmp_path, values, returns, counts):
    for path in tmp_path.iterdir():
        path.unlink()
    metrics = MetricTable(np.arange(5), counts, counts, NAMES, values)
    ended = EpisodeTable(np.arange(5), counts, returns, counts)
    trackers.CsvWriter(tmp_path).write(Report(metrics, ended, 1.0))
    same(trackers.read_metrics(tmp_path / trackers.METRICS), metrics)
    same(trackers.read_episodes(tmp_path / trackers.EPISODES), ended)


def test_csv_of_nothing(tmp_path):
    trackers.CsvWriter(tmp_path).write(Report(NO_UPDATES, EpisodeTable.join([]), 0.1))
    same(trackers.read_metrics(tmp_path / trackers.METRICS), NO_UPDATES)
    same(trackers.read_episodes(tmp_path / trackers.EPISODES), EpisodeTable.join([]))


def test_names_of_any_kind(tmp_path):
    odd = NO_UPDATES._replace(names=('a,"b"', "c d"))
    trackers.CsvWriter(tmp_path).write(Report(odd, EpisodeTable.join([]), 0.1))
    assert trackers.read_metrics(tmp_path / trackers.METRICS).names == odd.names


def test_every_cut_is_mended(tmp_path):
    """A crash may cut a file anywhere: complete rows are read, and the next write goes on."""
    path = tmp_path / trackers.METRICS
    trackers.CsvWriter(tmp_path).write(report(1, 1, 3))
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        rows = max(0, whole[:length].count(b"\n") - 1)
        if b"\n" in whole[:length]:
            same(
                trackers.read_metrics(path),
                updates(1, 1, 3)._replace(
                    **{
                        name: getattr(updates(1, 1, 3), name)[:rows]
                        for name in ("seed", "update", "step", "values")
                    }
                ),
            )
        trackers.CsvWriter(tmp_path).write(report(1, 7, 7))
        assert trackers.read_metrics(path).update.tolist() == [*[1, 2, 3][:rows], 7]


def test_a_long_partial_line_is_removed(tmp_path):
    path = tmp_path / trackers.METRICS
    trackers.CsvWriter(tmp_path).write(report(1, 1, 2))
    with open(path, "ab") as file:
        file.write(bytes(10_000))  # as a file system may leave after a power cut
    trackers.CsvWriter(tmp_path).write(report(1, 3, 3))
    assert trackers.read_metrics(path).update.tolist() == [1, 2, 3]


def test_resuming_leaves_no_trace(tmp_path):
    """Rows beyond the checkpoint are dropped, so that an interrupted run has the same files."""
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for folder in (straight, resumed):
        folder.mkdir()
        trackers.CsvWriter(folder).write(report(3, 1, 4))
    trackers.CsvWriter(resumed).write(report(3, 5, 30))  # lost in the crash
    trackers.truncate_after(resumed, (0, 1, 2), [4, 4, 4], [40, 41, 42])
    for folder in (straight, resumed):
        trackers.CsvWriter(folder).write(report(3, 5, 9))
    for name in (trackers.METRICS, trackers.EPISODES):
        assert (straight / name).read_bytes() == (resumed / name).read_bytes()


def test_tables_are_the_same_however_a_training_was_divided(tmp_path):
    """Only the table of the speed is of the clock."""
    for folder, ends in ("one", [9]), ("other", [2, 7, 8, 9]):
        (tmp_path / folder).mkdir()
        writer, start = trackers.CsvWriter(tmp_path / folder), 1
        for end in ends:
            writer.write(report(3, start, end)._replace(gained=10))
            start = end + 1
        trackers.settle(tmp_path / folder)
    for name in (trackers.METRICS, trackers.EPISODES):
        one, other = ((tmp_path / folder / name).read_bytes() for folder in ("one", "other"))
        assert one == other
        assert one.count(b"\n") == 1 + 27
    step, seconds, rate = trackers.read_speed(tmp_path / "other" / trackers.SPEED)
    assert step.tolist() == [22, 72, 82, 92]
    assert seconds.tolist() == [0.5] * 4
    assert rate.tolist() == [20.0] * 4


def test_stretches_without_a_row_count_in_the_next_that_has_one(tmp_path):
    writer, empty = trackers.CsvWriter(tmp_path), EpisodeTable.join([])
    for table, seconds, gained in (NO_UPDATES, 1.0, 10), (updates(1, 1, 1), 3.0, 50):
        writer.write(Report(table, empty, seconds, gained=gained))
    assert trackers.read_speed(tmp_path / trackers.SPEED).tolist() == [[10.0], [4.0], [15.0]]


def test_truncating_by_seed(tmp_path):
    trackers.CsvWriter(tmp_path).write(report(3, 1, 4))
    trackers.truncate_after(tmp_path, (0, 2), [2, 100], [7, 18])
    updates_left = trackers.read_metrics(tmp_path / trackers.METRICS)
    rows = zip(updates_left.seed.tolist(), updates_left.update.tolist(), strict=True)
    assert list(rows) == [(0, 1), (0, 2), (2, 1), (2, 2), (2, 3), (2, 4)]
    episodes_left = trackers.read_episodes(tmp_path / trackers.EPISODES)
    rows = zip(episodes_left.seed.tolist(), episodes_left.step.tolist(), strict=True)
    assert list(rows) == [(0, 7), (2, 9)]
    for _ in range(2):
        trackers.truncate_after(tmp_path, (), (), ())
        same(trackers.read_metrics(tmp_path / trackers.METRICS), NO_UPDATES)
    kept = [trackers.EPISODES, trackers.METRICS, trackers.SPEED]
    assert sorted(os.listdir(tmp_path)) == kept


def test_truncating_what_is_missing_or_something_else(tmp_path):
    trackers.truncate_after(tmp_path, (0,), (3,), (30,))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / trackers.METRICS).write_text("something,else\n1,2\n")
    with pytest.raises(UserError, match=r"Expected the columns seed and update in .*metrics\.csv"):
        trackers.truncate_after(tmp_path, (0,), (3,), (30,))


def test_truncating_on_a_full_disk_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / trackers.METRICS
    trackers.CsvWriter(tmp_path).write(report(1, 1, 4))
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"metrics\.csv: No space left"):
        trackers.truncate_after(tmp_path, (0,), (2,), (20,))
    assert path.read_bytes() == before


def test_other_columns(tmp_path):
    trackers.CsvWriter(tmp_path).write(report(1, 1, 4))
    other = NO_UPDATES._replace(names=("entropy", "value_loss"))
    with pytest.raises(UserError, match=r"policy_loss.* and this training reports .*entropy"):
        trackers.CsvWriter(tmp_path).write(Report(other, EpisodeTable.join([]), 0.1))
    with pytest.raises(UserError, match=r"Expected the columns seed,step,return,length in"):
        trackers.read_episodes(tmp_path / trackers.METRICS)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"Expected .*metrics\.csv, which a training writes"):
        trackers.read_metrics(tmp_path / trackers.METRICS)
    path = tmp_path / trackers.EPISODES
    for text in ("0,1,spam,3\n", "0,1\n", "0,1,2,3\n0,1,2\n", "0,1,2,3,4\n"):
        path.write_text("seed,step,return,length\n" + text)
        with pytest.raises(UserError, match=r"episodes\.csv is damaged"):
            trackers.read_episodes(path)
    for content in (b"", b"\xff\xfe\n", b"something\nelse\n"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"episodes\.csv"):
            trackers.read_episodes(path)


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"Could not write .*metrics\.csv: No such file"):
        trackers.CsvWriter(tmp_path / "missing").write(report(1, 1, 1))


# ---------------------------------------------------------------------------- TensorBoard


def events(folder):
    """All events of a folder, read from the files' own framing."""
    found = []
    for path in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def points(folder):
    return {
        (value.tag, event.step): value.simple_value
        for event in events(folder)
        for value in event.summary.value
    }


def test_tensorboard_gets_one_point_a_report(tmp_path):
    board = trackers.TensorBoard(tmp_path / "logs")
    board.write(report(2, 1, 3))
    only_updates = Report(updates(1, 4, 5), EpisodeTable.join([]), 1.0)
    board.write(only_updates)
    board.write(Report(NO_UPDATES, EpisodeTable.join([]), 1.0))
    board.close()
    board.close()
    assert sorted(p.name for p in (tmp_path / "logs").iterdir()) == ["seed-0", "seed-1"]
    assert points(tmp_path / "logs" / "seed-1") == pytest.approx(
        {
            ("train/policy_loss", 31): 2 / 3,
            ("train/value_loss", 31): -2e-7,
            ("train/return", 31): 2 / 3 * np.pi,
            ("train/length", 31): 3.0,
        }
    )
    assert points(tmp_path / "logs" / "seed-0") == pytest.approx(
        {
            ("train/policy_loss", 30): 2 / 3,
            ("train/value_loss", 30): -2e-7,
            ("train/return", 30): 2 / 3 * np.pi,
            ("train/length", 30): 3.0,
            ("train/policy_loss", 50): 1.5,
            ("train/value_loss", 50): -4.5e-7,
        }
    )


def test_updates_in_which_no_episode_ended(tmp_path):
    """Sessions report NaN for them; a point is of the episodes there were, or is left out."""
    metrics = updates(1, 1, 3)._replace(names=("return", "length"))
    metrics.values[:] = [[np.nan, np.nan], [6.0, 60.0], [1.0, 10.0]]
    ended = EpisodeTable(np.zeros(3, int), np.array([11, 12, 21]), *np.array([[5.0, 7, 1]] * 2))
    board = trackers.TensorBoard(tmp_path)
    board.write(Report(metrics, ended, 1.0))
    metrics.values[:], later = np.nan, metrics._replace(step=metrics.step + 100)
    board.write(Report(later, EpisodeTable.join([]), 1.0))
    board.close()
    expected = {("train/return", 30): 13 / 3, ("train/length", 30): 13 / 3}
    assert points(tmp_path / "seed-0") == pytest.approx(expected)


def test_tensorboard_is_told_what_a_resumed_training_repeats(tmp_path):
    first = trackers.TensorBoard(tmp_path)
    first.write(report(1, 1, 3))
    first.close()
    second = trackers.TensorBoard(tmp_path, resume_from={0: 30})
    second.write(report(1, 4, 4))
    second.close()
    assert len(list((tmp_path / "seed-0").iterdir())) == 2  # the first file is as it was
    starts = [e.step for e in events(tmp_path / "seed-0") if e.HasField("session_log")]
    assert starts == [31]
    assert {step for _, step in points(tmp_path / "seed-0")} == {30, 40}


def test_tensorboard_in_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Could not write TensorBoard's files in .*seed-0"):
        trackers.TensorBoard(tmp_path / "file").write(report(1, 1, 1))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_tensorboard_on_a_full_disk(tmp_path, monkeypatch):
    before = threading.active_count()
    full = Path("/dev/full")
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: full.open("wb"))
    board = trackers.TensorBoard(tmp_path)
    board.write(report(1, 1, 1))
    with pytest.raises(UserError, match=r"Could not write TensorBoard's .*seed-0: No space left"):
        board.close()
    board.close()
    assert threading.active_count() == before


# ---------------------------------------------------------------------------- Weights & Biases


def test_wandb_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r'pip install "actorcritic\[wandb\]"'):
        trackers.WandB("project", "name", {})


def wandb_records(file):
    """The records of an offline run, read from LevelDB's framing: blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:  # no header fits into what is left of the block
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def all_wandb_records(file):
    """Those up to the last one, which wandb's own process writes a moment after it was told."""
    for _ in range(300):
        found = list(wandb_records(file))
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{file} was never finished.")


@pytest.mark.extras
@pytest.mark.filterwarnings("ignore")  # wandb's own
def test_wandb_offline(tmp_path):
    pytest.importorskip("wandb")
    run = trackers.WandB("project", "a name", {"gamma": 0.99}, offline=True, folder=tmp_path)
    run.write(report(2, 1, 3))
    run.close()
    (file,) = tmp_path.rglob("*.wandb")
    config, points = {}, []
    for record in all_wandb_records(file):
        if record.HasField("run"):
            assert (record.run.project, record.run.display_name) == ("project", "a name")
            config |= {item.key: item.value_json for item in record.run.config.update}
        if record.HasField("history"):
            points.append(
                {
                    "".join(item.nested_key) or item.key: float(item.value_json)
                    for item in record.history.item
                }
            )
    assert config["gamma"] == "0.99"
    for seed, point in enumerate(points):
        expected = {"step": 30 + seed, "policy_loss": 2 / 3, "return": 2 / 3 * np.pi}
        named = {f"seed-{seed}/{name}": value for name, value in expected.items()}
        assert {name: point[name] for name in named} == pytest.approx(named)
    assert len(points) == 2


def test_only_the_sinks_that_are_used_are_imported():
    code = (
        "import sys, actorcritic.runs.trackers; "
        "assert not {'wandb', 'tensorboardX', 'matplotlib', 'scipy.stats'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
