"""The user's files stay, nothing is written through a link, a killed start begins again."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actorcritic as ac
from actorcritic import cli
from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.envs import CartPole
from actorcritic.runs import checkpoints, trackers

TINY: dict[str, Any] = {"num_envs": 2, "num_steps": 8, "hidden_sizes": (8,)}
QUICK: dict[str, Any] = {"total_steps": 64, "evaluation_episodes": 0, "quiet": True}


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file and link below a folder."""
    return {
        path.relative_to(folder).as_posix(): (
            os.readlink(path) if path.is_symlink() else path.read_bytes()
        )
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


# ---------------------------------------------------------------------------- whole or not at all


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    files.write(path, "old é\n")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"Could not write .*config.json: No space left"):
            files.write(path, "new")
    assert contents(tmp_path) == {"config.json": "old é\n".encode()}
    files.write(path, "new")
    assert path.read_text() == "new"


def test_a_file_in_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        files.write(tmp_path / "missing" / "config.json", "{}")


# ---------------------------------------------------------------------------- the user's own files

OTHERS = {
    "a model": ["checkpoints/my_model.pt"],
    "a table": ["metrics.csv"],
    "logs": ["tensorboard/events", "wandb/run"],
    "notes": ["notes.txt"],
}


@pytest.mark.parametrize("names", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("what", ["train", "compare"])
def test_a_folder_with_files_of_the_user_s_is_refused_and_left_alone(what, names, tmp_path):
    out = tmp_path / "mine"
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("precious")
    before = contents(out)
    call = {"train": ac.train, "compare": ac.compare}[what]
    algorithm = ac.A2C(**TINY)
    with pytest.raises(UserError, match="is not empty, and nothing of ours: it holds") as refused:
        call(algorithm if what == "train" else [algorithm], "CartPole-v1", out=out, **QUICK)
    assert names[0].partition("/")[0] in str(refused.value)
    assert contents(out) == before


def test_what_fails_removes_only_what_it_made(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("actorcritic.runners.seeds.CompiledSession.compile", stop)
    for name in ("empty", "new"):
        with pytest.raises(KeyboardInterrupt):
            ac.train(ac.A2C(**TINY), "CartPole-v1", out=tmp_path / name, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert contents(tmp_path / "empty") == {}


# ---------------------------------------------------------------------------- killed at the start


def killed_in_the_first_save(out: Path) -> None:
    """What a kill leaves between the first file and the complete checkpoint."""
    out.mkdir(parents=True)
    run = ac.train(ac.A2C(**TINY), "CartPole-v1", **QUICK)
    files.write(out / "run.json", json.dumps(run.configuration()))
    (out / ".run.json.0123.saving").write_text("{")
    half = out / "checkpoints" / ".saving-0-0123"
    half.mkdir(parents=True)
    (half / checkpoints.STATE).write_bytes(b"half")


@pytest.mark.parametrize("how", ["resume", "train"])
def test_a_run_killed_in_its_first_save_begins_again(how, tmp_path):
    out = tmp_path / "run"
    killed_in_the_first_save(out)
    if how == "resume":
        run = ac.resume(out, **QUICK)
    else:
        run = ac.train(ac.A2C(**TINY), "CartPole-v1", out=out, **QUICK)
    whole = ac.train(ac.A2C(**TINY), "CartPole-v1", **QUICK)
    assert run.finished
    assert checkpoints.hashes(run.learners) == checkpoints.hashes(whole.learners)
    assert not [name for name in contents(out) if "saving" in name]


@pytest.mark.long
def test_a_comparison_begins_such_a_run_again(tmp_path):
    out = tmp_path / "compared"
    arguments: dict[str, Any] = {"seeds": 3, "out": out} | QUICK | {"total_steps": 1024}
    variants = {"one": ac.A2C(**TINY), "two": ac.A2C(**TINY, gamma=0.5)}
    whole = ac.compare(variants, "CartPole-v1", **arguments)
    broken = out / "variants" / "01-two"
    shutil.rmtree(broken / "checkpoints")
    for name in ("metrics.csv", "episodes.csv"):
        (broken / name).unlink()
    (broken / "checkpoints" / ".saving-0-0123").mkdir(parents=True)
    again = ac.compare(variants, "CartPole-v1", **arguments)
    np.testing.assert_array_equal(again.scores["two"], whole.scores["two"])


# ---------------------------------------------------------------------------- links


@pytest.fixture
def run(tmp_path) -> Path:
    out = tmp_path / "run"
    ac.train(ac.A2C(**TINY), "CartPole-v1", out=out, **QUICK | {"evaluation_episodes": 2})
    return out


@pytest.fixture
def start_file(tmp_path) -> Path:
    """A file of the user's that a stranger would like to write to."""
    path = tmp_path / "home" / ".profile"
    path.parent.mkdir()
    path.write_text("export EDITOR=vi\n")
    return path


WRITTEN = ("run.json", "metrics.csv", "episodes.csv", "evaluation.json", "curve.png", "play.gif")


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.long
def test_no_file_is_written_through_a_link_that_waits_for_it(name, run, start_file):
    """Whether the file itself is a link, or one of a name that is easy to foresee."""
    (run / f".{name}.saving").symlink_to(start_file)
    if name in ("evaluation.json", "curve.png", "play.gif"):  # replaced, whatever they are
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(start_file)
    ac.resume(run, total_steps=128, evaluation_episodes=2, quiet=True)
    if name == "play.gif":
        assert cli.main(["play", str(run)]) == 0
        assert not (run / name).is_symlink()
    assert start_file.read_text() == "export EDITOR=vi\n"


def test_a_column_s_name_cannot_become_a_command(run, start_file):
    """Tables that are cut to what a checkpoint knows are written anew: not into a link."""
    for name in ("metrics.csv", "episodes.csv"):
        table = (run / name).read_text()
        header, _, body = table.partition("\n")
        (run / name).write_text(f'{header},"\ntouch owned\n"\n{body}')
        (run / f".{name}.saving").symlink_to(start_file)
    with pytest.raises(UserError):
        ac.resume(run, total_steps=128, quiet=True)
    assert start_file.read_text() == "export EDITOR=vi\n"


@pytest.mark.parametrize("name", ["metrics.csv", "warnings.txt"])
def test_rows_are_not_appended_through_a_link(name, tmp_path, start_file):
    start_file.write_text("seed,update,step\n")
    link = tmp_path / name
    link.symlink_to(start_file)
    with pytest.raises(UserError, match=rf"{name} is a link to .*, and nothing is written"):
        trackers._append(link, ("seed",), "%d\n", [np.arange(3)])
    assert start_file.read_text() == "seed,update,step\n"


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "run.lock"])
def test_a_linked_part_of_a_run_is_refused_in_plain_words(name, run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    if (run / name).is_dir():
        (run / name).rename(elsewhere)
        (elsewhere / "000000000000.9").mkdir()  # which pruning would remove
    else:
        elsewhere.write_text("precious")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(elsewhere)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=rf"{name} is a link to .*elsewhere"):
        ac.resume(run, total_steps=128, quiet=True)
    assert contents(tmp_path) == before


def test_a_linked_checkpoint_is_unlinked_and_not_emptied(tmp_path):
    folder, precious = tmp_path / "checkpoints", tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years")
    checkpoints.save(folder, {"x": np.zeros(1)}, {"update": 5})
    for name in ("000000000001", ".saving-3-99"):
        (folder / name).symlink_to(precious)
    for update in (6, 7):
        checkpoints.save(folder, {"x": np.zeros(1)}, {"update": update})
    assert sorted(path.name for path in folder.iterdir()) == ["000000000006", "000000000007"]
    assert (precious / "thesis.tex").read_text() == "years"


def test_a_page_s_pictures_are_not_written_through_a_link(run, tmp_path, start_file):
    (tmp_path / "report-pictures").symlink_to(start_file.parent)
    with pytest.raises(UserError, match="report-pictures is a link"):
        ac.report([run], tmp_path / "report.html")
    assert [path.name for path in start_file.parent.iterdir()] == [".profile"]


# ---------------------------------------------------------------------------- damaged tables


def test_evaluating_and_playing_read_no_tables(run, tmp_path, capsys):
    for name in ("metrics.csv", "episodes.csv"):
        (run / name).write_bytes(b"seed,update,step\n\xff\xfe not a table")
    assert ac.open_run(run).evaluate(3).returns.shape == (1, 3)
    assert ac.load(run)(np.zeros(4)) in (0, 1)
    assert cli.main(["play", str(run), "--out", str(tmp_path / "clip.gif")]) == 0
    (run / "evaluation.json").unlink()
    assert ac.load(run)(np.zeros(4)) in (0, 1)


# ---------------------------------------------------------------------------- numbers, names


def test_weights_that_are_not_finite_do_not_act(tmp_path):
    out = tmp_path / "run"
    run = ac.train(ac.A2C(**TINY), "CartPole-v1", out=out, seeds=2, **QUICK)
    state, about = checkpoints.load(out / "checkpoints", run_state(run), print)
    weight = state.learner.params["policy_head"].weight
    params = state.learner.params | {
        "policy_head": state.learner.params["policy_head"]._replace(
            weight=weight.at[1, 0, 0].set(np.nan)
        )
    }
    learner = dataclasses.replace(state.learner, params=params)
    checkpoints.save(out / "checkpoints", state._replace(learner=learner), about)
    opened = ac.open_run(out)
    with pytest.raises(UserError, match=r"parameters that are not finite \(seed 1\)"):
        opened.evaluate(2)
    with pytest.raises(UserError, match="not finite"):
        ac.load(out, seed=1)
    assert ac.load(out, seed=0)(np.zeros(4)) in (0, 1)


def run_state(run: ac.Run) -> Any:
    from actorcritic.runners.seeds import CompiledSession

    return CompiledSession(run.algorithm, run.environment, run.seeds, run.total_steps).shapes


class Brackets(CartPole):
    """An environment whose name looks like markup."""

    @property
    def spec(self):
        return dataclasses.replace(super().spec, id="[/x] [bold]odd")


def test_names_that_look_like_markup_are_only_names(tmp_path, capsys):
    ac.train(ac.A2C(**TINY), Brackets(), out=tmp_path / "run", total_steps=64)
    assert ac.open_run(tmp_path / "run", environment=Brackets()).label == "a2c on [/x] [bold]odd"


@pytest.mark.parametrize("label", ["bell \a", "\x1b[31mred", "two\nlines"])
def test_a_variant_s_name_is_one_printable_line(label, tmp_path):
    with pytest.raises(UserError, match="one line of printable characters"):
        ac.compare({label: ac.A2C(**TINY)}, "CartPole-v1", out=tmp_path / "new", **QUICK)
    assert not (tmp_path / "new").exists()


def test_a_stranger_s_run_cannot_command_the_terminal(run, tmp_path, capsys):
    data = json.loads((run / "run.json").read_text())
    data["environment"]["id"] = "CartPole-v1\x1b]0;owned\a"
    data["algorithm"]["name"] = "a2c"
    (run / "run.json").write_text(json.dumps(data))
    (run / "warnings.txt").write_text("\x1b[2Jgone\n")
    metrics = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(metrics.replace("entropy", "entro\x1bpy", 1))
    cli.main(["evaluate", str(run), "--episodes", "2"])
    cli.main(["report", str(run), "--out", str(tmp_path / "report.html")])
    said = "".join(capsys.readouterr())
    assert "CartPole" in said
    assert not [c for c in said if ord(c) < 32 and c not in "\n\t\r"]
    page = (tmp_path / "report.html").read_text()
    assert "gone" in page
    assert "\x1b" not in page
    assert "\a" not in page
