"""Bad input: one clear message, an exit code that is not zero, nothing half-written.

What is wrong with an environment, a hyperparameter or a checkpoint is tested one by one beside
each; here it has to arrive where a person sees it.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import command, final_hashes

import actorcritic as ac
from actorcritic import cli
from actorcritic.runs import checkpoints

TINY: dict[str, Any] = {"num_envs": 2, "num_steps": 8, "hidden_sizes": (8,)}
TRAIN = ("train", "ppo", "CartPole-v1")
SMALL = ("--num-envs", "2", "--num-steps", "8", "--hidden-sizes", "8", "--num-minibatches", "2")
ODD = "host_environments"


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., str]:
    """Runs a command that has to fail in one message, which comes back, and to leave nothing."""
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> str:
        before = everything(tmp_path)
        capsys.readouterr()
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:  # the parser's way
            code = stop.code
        out, err = capsys.readouterr()
        assert code not in (0, None)
        assert "Traceback" not in out + err
        assert out == ""
        assert everything(tmp_path) == before
        return err

    return run


def everything(folder: Path) -> dict[str, bytes]:
    """Every file and folder below; not the lock, which is no part of a run."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if path.name != "run.lock"
    }


# What may be said before: that something goes on, and what is trained.
GOING_ON = re.compile(
    r"Loading JAX …|\S+ on \S+: (\d+ seeds?, [\d,]+ steps → \S+ \(resumed\)|\S+ing …)"
)


def is_one_message(err: str) -> bool:
    lines = [line for line in err.strip().splitlines() if not GOING_ON.fullmatch(line)]
    return len(lines) == 1 and lines[0].startswith("actorcritic: ")


# ------------------------------------------------------------------------------------ words


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (("trian", "ppo"), ["no command 'trian'", "Did you mean 'train'?"]),
        (("train",), ["Usage: actorcritic train ALGORITHM ENV"]),
        (("train", "ppo"), ["Usage: actorcritic train ALGORITHM ENV"]),
        (("train", "--seeds", "3"), ["Usage: actorcritic train ALGORITHM ENV"]),
        (("train", "pop", "CartPole-v1"), ["no algorithm 'pop'", "Did you mean 'ppo'?"]),
        (("train", "reinforced", "--help"), ["Did you mean 'reinforce'?"]),
        (("train", "ppo", "CartPol-v1"), ["No environment 'CartPol-v1'", "'CartPole-v1'?"]),
        (("train", "ppo", "cartpole-v1"), ["Did you mean 'CartPole-v1'?"]),
        (("train", "ppo", "GridWrld-v0"), ["Did you mean 'GridWorld-v0'?"]),
        (("train", "ppo", "nowhere:Thing"), ["no module 'nowhere'"]),
        (("train", "ppo", f"{ODD}:Wakl"), ["Did you mean 'Walk'?"]),
        ((*TRAIN, "--env-option", "gravity"), ["--env-option takes NAME=VALUE", "'gravity'"]),
        (("train", "ppo", "Pendulum-v1", "--env-option", "gravty=1"), ["'gravity'?"]),
        (("train", "ppo", "Pendulum-v1", "--env-option", "gravity=up"), ["gravity", "number"]),
        (("resume",), ["Usage: actorcritic resume RUN"]),
        (("evaluate",), ["Usage: actorcritic evaluate RUN"]),
        (("play",), ["Usage: actorcritic play RUN"]),
        (("plot",), ["Usage: actorcritic plot RUN"]),
        (("list", "algoritms"), ["Did you mean 'algorithms'?"]),
        (("resume", "nowhere"), ["nowhere is not a run folder"]),
        (("evaluate", "nowhere"), ["nowhere is not a run folder"]),
        (("play", "nowhere"), ["nowhere is not a run folder"]),
        (("plot", "nowhere"), ["nowhere is not a run folder"]),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else None,
)
def test_words_that_mean_nothing(words, messages, refused):
    err = refused(*words)
    assert is_one_message(err)
    for message in messages:
        assert message in err


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (("--lerning-rate", "0.1"), ["--lerning-rate", "--learning-rate FLOAT"]),
        (("--gama", "0.9"), ["--gama", "--gamma FLOAT"]),
        (("--learning-rate", "fast"), ["--learning-rate", "fast"]),
        (("--num-envs", "2.5"), ["--num-envs", "2.5"]),
        (("--activation", "tnah"), ["--activation", "tanh"]),
        (("--total-steps",), ["--total-steps"]),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else None,
)
def test_options_that_cannot_be_read(words, messages, refused):
    err = refused(*TRAIN, *words)
    for message in messages:
        assert message in err


# ------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (("--gamma", "0"), ["gamma must lie in (0, 1]", "got 0.0"]),
        (("--gamma", "1.01"), ["gamma must lie in (0, 1]"]),
        (("--gamma", "nan"), ["gamma must lie in (0, 1]"]),
        (("--gae-lambda", "-0.1"), ["gae_lambda must lie in [0, 1]"]),
        (("--gae-lambda", "1.1"), ["gae_lambda must lie in [0, 1]"]),
        (("--learning-rate", "0"), ["learning_rate must lie in (0, 10]"]),
        (("--learning-rate", "-1e-3"), ["learning_rate must lie in (0, 10]", "-0.001"]),
        (("--clip-range", "0"), ["clip_range must lie in (0,"]),
        (("--clip-range", "-0.2"), ["clip_range must lie in (0,"]),
        (("--num-envs", "0"), ["num_envs must lie in [1,", "got 0"]),
        (("--num-minibatches", "3"), ["256", "3"]),
        (("--num-envs", "4", "--num-steps", "1", "--num-minibatches", "4"), ["minibatch"]),
        (("--total-steps", "255"), ["total_steps = 255 is fewer than one update", "8 × 32 = 256"]),
        (("--total-steps", "0"), ["total_steps"]),
        (("--total-steps", "3e15"), ["total_steps must lie in [1, 1000000000000000]"]),
        (("--seeds", "0"), ["seeds must lie in [1, 10000]", "got 0"]),
        (("--seed", "-1"), ["seed must lie in [0,", "got -1"]),
        (("--seed", "99999999999"), ["seed must lie in [0,", "got 99999999999"]),
        (("--episodes", "-1"), ["evaluation_episodes must lie in", "got -1"]),
        (("--checkpoint-seconds", "-1"), ["checkpoint_seconds must lie in", "got -1"]),
        (("--checkpoint-seconds", "nan"), ["checkpoint_seconds must lie in", "got nan"]),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else None,
)
def test_numbers_out_of_range(words, messages, refused):
    err = refused(*TRAIN, *words)
    assert is_one_message(err)
    for message in messages:
        assert message in err


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (("sac", "CartPole-v1"), ["sac is for actions of Box", "Discrete(2)", "ppo"]),
        (("q-actor-critic", "Pendulum-v1"), ["is for actions of Discrete", "Box(-2.0", "sac"]),
        (("trpo", "CartPole-v1", "--shared-network"), ["separate networks"]),
        (("ppo", "CartPole-v1", "--torso", "cnn"), ['torso="cnn" needs one image', "(4,)"]),
        (("sac", "Pendulum-v1", "--buffer-size", "10"), ["buffer_size = 10 is too small"]),
        (("sac", "Pendulum-v1", "--tau", "0"), ["tau must lie in (0, 1]"]),
        (("trpo", "CartPole-v1", "--line-search-shrink", "1"), ["must lie in (0, 1)"]),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else None,
)
def test_what_an_algorithm_cannot_do(words, messages, refused):
    err = refused("train", *words)
    assert is_one_message(err)
    for message in messages:
        assert message in err


def test_the_same_from_python():
    with pytest.raises(ac.UserError, match="seeds must be a whole number"):
        ac.train(ac.A2C(**TINY), "CartPole-v1", seeds=2.5)
    with pytest.raises(ac.UserError, match="total_steps must be a whole number"):
        ac.train(ac.A2C(**TINY), "CartPole-v1", total_steps=1e3)
    with pytest.raises(ac.UserError, match="gamma must be a number"):
        ac.train("ppo", "CartPole-v1", gamma="0.9")
    with pytest.raises(ac.UserError, match="Did you mean 'clip_range'"):
        ac.train("ppo", "CartPole-v1", clip_rang=0.1)
    with pytest.raises(ac.UserError, match="has no hyperparameter 'clip_range'"):
        ac.train("a2c", "CartPole-v1", clip_range=0.1)
    options: dict[str, Any] = {"total_steps": 16, "evaluation_episodes": 0, "quiet": True}
    run = ac.train(ac.A2C(**TINY), "CartPole-v1", **options)
    with pytest.raises(ac.UserError, match="at least one episode; got 0"):
        run.evaluate(episodes=0)


# ------------------------------------------------------------------------------------ environments


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WrongShape", "shape"),
        ("WrongDtype", "float64"),
        ("WrongKeys", "observation"),
        ("OutsideDiscrete", "observation"),
        ("NotANumber", "nan"),
        ("InfiniteReward", "reward"),
        ("FourValues", "terminated, truncated"),
        ("OldReset", "def reset(self, *, seed=None"),
        ("Unbounded", "bound"),
        ("Reversed", "bound"),
        ("TextAction", "Text"),
        ("NoSpaces", "observation_space"),
        ("RaisesInStep", "the walk has no length"),
        ("RaisesWhenMade", "the simulator does not answer"),
    ],
)
def test_broken_environments(name, message, refused):
    err = refused("train", "ppo", f"{ODD}:{name}", *SMALL, "--total-steps", 64)
    assert is_one_message(err)
    assert name in err or "Text" in err
    assert message in err


@pytest.mark.parametrize("name", ["Endless", "InPlace", "OneStep"])
def test_odd_environments_that_have_to_work(name, tmp_path, capsys):
    out = tmp_path / "run"
    words = ("train", "ppo", f"{ODD}:{name}", *SMALL, "--total-steps", "64", "--episodes", "1")
    assert cli.main([*words, "--out", str(out), "--quiet"]) == 0
    assert f"on {ODD}:{name}: IQM" in capsys.readouterr().out


@pytest.mark.faults
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("fault", ["observation", "raise"])
def test_failures_during_the_training_end_it(fault, vectorization, tmp_path, capsys):
    run = tmp_path / "run"
    words = ("train", "a2c", f"{ODD}:Late", *SMALL[:6], "--total-steps", "4000", "--out", str(run))
    options = ("--env-option", f"fault={fault}", "--vectorization", vectorization, "--quiet")
    assert cli.main([*words, *options]) == 1
    err = capsys.readouterr().err
    assert f"{ODD}:Late" in err
    assert "Traceback" not in err
    # What was trained before it broke is there to be used.
    assert ac.load(run)([0.0, 0.0]) in (0, 1)


@pytest.mark.faults
def test_a_worker_that_crashes(tmp_path, capsys):
    words = ("train", "a2c", f"{ODD}:Late", *SMALL[:6], "--total-steps", "4000", "--quiet")
    options = ("--env-option", "fault=kill", "--vectorization", "async")
    assert cli.main([*words, *options, "--out", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert f"{ODD}:Late" in err
    assert "Traceback" not in err


@pytest.mark.long
def test_a_training_that_diverges(tmp_path):
    run = tmp_path / "run"
    done = command(
        "train", "a2c", "Pendulum-v1", "--total-steps", 4000, "--learning-rate", 10,
        "--critic-learning-rate", 10, "--optimizer", "sgd", "--no-normalize-reward",
        "--max-grad-norm", 1e9, "--out", run,
    )  # fmt: skip
    assert done.returncode == 1
    said = "actorcritic: Training stopped: Seed 0: the training diverged at update"
    assert done.stderr.count(said) == done.stderr.count("diverged") == 1
    assert "lower learning_rate" in done.stderr
    assert "Traceback" not in done.stderr
    assert "IQM" not in done.stdout
    assert not (run / "evaluation.json").exists()
    # The checkpoint on the disk is from before: none of its numbers is NaN.
    assert ac.load(run)([1.0, 0.0, 0.0]).shape == (1,)


# ------------------------------------------------------------------------------------ folders


def test_a_folder_that_cannot_be_made(refused, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for out in ("file", "file/run"):
        err = refused(*TRAIN, *SMALL, "--out", out)
        assert is_one_message(err)
        assert f"run folder {out} cannot be written" in err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_is_read_only(refused, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot be written" in refused(*TRAIN, *SMALL, "--out", "locked/run")


def test_an_empty_folder_is_no_run(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("resume", "evaluate", "play", "plot"):
        err = refused(name, "empty")
        assert is_one_message(err)
        assert "empty is not a run folder: it has no run.json" in err
    assert list((tmp_path / "empty").iterdir()) == []


def test_where_pictures_cannot_be_written(refused, finished, monkeypatch):
    assert "pdf" in refused("plot", finished, "--out", "curve.pdf")
    assert "missing/curve.png" in refused("plot", finished, "--out", "missing/curve.png")
    assert "GIF and MP4 files; got clip.avi" in refused("play", finished, "--out", "clip.avi")
    monkeypatch.setitem(sys.modules, "av", None)
    assert "actorcritic[video]" in refused("play", finished, "--out", "clip.mp4")
    assert "at least one episode" in refused("play", finished, "--episodes", 0)
    assert "at least one episode" in refused("evaluate", finished, "--episodes", 0)
    assert "no seed 9" in refused("play", finished, "--seed", 9)


def test_wandb_that_is_not_installed(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    err = refused(*TRAIN, *SMALL, "--wandb", "project", "--out", "run", "--quiet")
    assert is_one_message(err)
    assert 'pip install "actorcritic[wandb]"' in err


# ------------------------------------------------------------------------------------ run folders


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("original") / "run"
    options: dict[str, Any] = {"total_steps": 64, "evaluation_episodes": 2, "quiet": True}
    ac.train(ac.PPO(**TINY, num_minibatches=2), "CartPole-v1", out=out, **options)
    return out


@pytest.fixture
def finished(original: Path, tmp_path: Path) -> Path:
    """A finished run in a folder of its own, to be damaged."""
    return shutil.copytree(original, tmp_path / "finished")


def test_a_folder_that_holds_a_run(refused, finished):
    err = refused(*TRAIN, *SMALL, "--out", finished)
    assert is_one_message(err)
    assert "already holds a run" in err
    assert f"actorcritic resume {finished}" in err


def change(finished: Path, *path: str, value: Any) -> None:
    data = json.loads((finished / "run.json").read_text())
    inner = data
    for name in path[:-1]:
        inner = inner[name]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    (finished / "run.json").write_text(json.dumps(data))


READERS = ("resume", "evaluate", "play")


def test_a_run_of_a_future_version(refused, finished):
    change(finished, "format", value=2)
    for name in (*READERS, "plot"):
        err = refused(name, finished)
        assert is_one_message(err)
        assert "later version of actorcritic" in err
        assert "Upgrade" in err
    with pytest.raises(ac.UserError, match="later version"):
        ac.load(finished)


@pytest.mark.parametrize(
    "text", ["", "{", '{"format": 1}', "[]", "1", '{"format": "1"}', '{"format": 1, "seeds": 0}']
)
def test_a_damaged_run_json(text, refused, finished):
    (finished / "run.json").write_text(text)
    for name in (*READERS, "plot"):
        err = refused(name, finished)
        assert is_one_message(err)
        assert str(finished / "run.json") in err


def test_a_truncated_run_json_at_any_place(refused, finished):
    text = (finished / "run.json").read_text()
    for share in (0.1, 0.5, 0.9, 0.99):
        (finished / "run.json").write_text(text[: int(len(text) * share)])
        assert "run.json" in refused("evaluate", finished)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("algorithm", "name"), "pppo", "Did you mean 'ppo'?"),
        (("algorithm", "hyperparameters", "gama"), 0.9, "Did you mean 'gamma'?"),
        (("algorithm", "hyperparameters", "gamma"), 1.5, "gamma must lie in (0, 1]"),
        (("algorithm", "hyperparameters", "num_envs"), "2", "num_envs must be a whole number"),
        (("environment", "make"), "CartPol-v1", "Did you mean 'CartPole-v1'?"),
        (("environment", "make"), f"{ODD}:Walk", "never imports code by itself"),
        (("environment",), None, "is not what a training of actorcritic writes"),
        (("algorithm", "hyperparameters", "hidden_sizes"), [16], "of another architecture"),
    ],
)
def test_a_run_json_that_was_changed(path, value, message, refused, finished):
    change(finished, *path, value=value)
    for name in READERS:
        err = refused(name, finished)
        assert is_one_message(err)
        assert message in err


def test_a_damaged_evaluation(refused, finished):
    for text in ("", "{}", "[1]"):
        (finished / "evaluation.json").write_text(text)
        assert "evaluation.json" in refused("play", finished)


def test_damaged_tables(refused, finished):
    text = (finished / "episodes.csv").read_text()
    for damaged in ("nonsense\n", text + "0,1,2\n", text + "0,x,1.0,1\n"):
        (finished / "episodes.csv").write_text(damaged)
        err = refused("plot", finished)
        assert is_one_message(err)
        assert str(finished / "episodes.csv") in err


# ------------------------------------------------------------------------------------ checkpoints


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


class Trap:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("imported"),))


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Trap()))


@pytest.mark.parametrize("damage", [empty, truncate, flip, pickled])
@pytest.mark.parametrize("file", [checkpoints.STATE, checkpoints.MANIFEST])
@pytest.mark.long
def test_damaged_checkpoints(damage, file, refused, finished, capsys, tmp_path):
    old, new = sorted((finished / "checkpoints").iterdir())
    damage(new / file)
    # The newest one is damaged: a warning, and the one before it.
    assert cli.main(["evaluate", str(finished), "--episodes", "1"]) == 0
    out, err = capsys.readouterr()
    assert "IQM" in out
    assert f"Warning: Checkpoint damaged: {new / file}" in err
    # All are: never from scratch.
    damage(old / file)
    for name in READERS:
        err = refused(name, finished)
        assert "actorcritic: No checkpoint in" in err
        assert str(old / file) in err
    assert not (tmp_path / "imported").exists()


def test_a_checkpoint_of_a_future_version(refused, finished):
    for manifest in finished.rglob(checkpoints.MANIFEST):
        body = json.loads(manifest.read_text())["body"] | {"format": 99}
        digest = checkpoints._sha256(checkpoints._canonical(body))
        manifest.write_text(json.dumps({"body": body, "sha256": digest}))
    for name in READERS:
        err = refused(name, finished)
        assert is_one_message(err)
        assert "format 99" in err


def test_checkpoints_that_were_removed(refused, finished):
    shutil.rmtree(finished / "checkpoints")
    for name in READERS:
        err = refused(name, finished)
        assert is_one_message(err)
        assert "Expected a checkpoint in" in err


# ------------------------------------------------------------------------------------ full disks


def small_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.faults
@pytest.mark.long
def test_a_disk_that_is_full_from_the_start(tmp_path):
    run = tmp_path / "run"
    done = command(*TRAIN, "--total-steps", 2000, "--out", run, preexec_fn=small_disk)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("actorcritic: Could not save a checkpoint in")
    assert "free some space" in message
    assert not run.exists()


@pytest.mark.faults
@pytest.mark.long
def test_a_disk_that_fills_up(tmp_path):
    run = tmp_path / "run"
    options: dict[str, Any] = {"total_steps": 512, "evaluation_episodes": 0, "quiet": True}
    ac.train("ppo", "CartPole-v1", num_epochs=1, out=run, **options)
    before = final_hashes(run)
    done = command("resume", run, "--total-steps", 2000, preexec_fn=small_disk)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "actorcritic: Could not save a checkpoint in" in done.stderr.splitlines()[-1]
    assert final_hashes(run) == before
    more = ac.resume(run, **options | {"total_steps": 1024})
    assert more.finished
    assert more.metrics.update.tolist() == [1, 2, 3, 4]


# ------------------------------------------------------------------------------------ for real


def test_the_program_itself_says_it_in_one_line(tmp_path):
    done = command("train", "ppo", "CartPol-v1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_message(done.stderr)
    assert list(tmp_path.iterdir()) == []
    done = command(*TRAIN, "--gama", "0.9", cwd=tmp_path)
    assert done.returncode == 2
    assert "--gamma" in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
