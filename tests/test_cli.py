"""The command line: what a person types, sees and finds on the disk."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import command, final_hashes, newest_update, start, table
from PIL import Image

import actorcritic as ac
from actorcritic import cli
from actorcritic.algorithms import ALGORITHMS
from actorcritic.algorithms.catalogue import FROM_DATA
from actorcritic.algorithms.presets import PRESETS
from actorcritic.cli.options import NOT_OPTIONS
from actorcritic.envs import COMPILED, CartPole
from actorcritic.runners.seeds import layout
from actorcritic.studies import STUDIES

TINY: dict[str, Any] = {"num_envs": 2, "num_steps": 8, "hidden_sizes": (8,)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A run made by the command itself, in a folder it chose, and what it printed."""
    cwd = tmp_path_factory.mktemp("trained")
    options = ("--total-steps", 2000, "--learning-rate", 0.002, "--num-epochs", 3)
    done = command("train", "ppo", "CartPole-v1", *options, "--clip-range", 0.1, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd / "runs" / "ppo-CartPole-v1-1", done


@pytest.fixture
def copied(trained: tuple[Path, Any], tmp_path: Path) -> Path:
    """The same run, for a test that changes it."""
    return shutil.copytree(trained[0], tmp_path / "copied")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny runs of environments of every kind that `play` draws."""
    folder = tmp_path_factory.mktemp("clips")

    def run_of(id: str) -> Path:
        ac.train(
            ac.A2C(**TINY), id, total_steps=64, out=folder / id, evaluation_episodes=0, quiet=True
        )
        return folder / id

    return run_of


def call(capsys: pytest.CaptureFixture, *words: Any) -> tuple[str, str]:
    """A command in this process, which has to succeed: its stdout and stderr."""
    capsys.readouterr()
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out, err


# ---------------------------------------------------------------------------------- train


def test_training_leaves_a_complete_run_folder(trained):
    run, _ = trained
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "run.json", "metrics.csv", "episodes.csv", "tensorboard", "checkpoints", "early",
        "evaluation.json", "curve.png",
    }  # fmt: skip
    assert list((run / "tensorboard").rglob("events.out.tfevents.*"))
    assert newest_update(run) == 8  # 2,000 steps in updates of 256
    assert len(list((run / "checkpoints").iterdir())) == 2
    metrics = table(run / "metrics.csv")
    assert len(metrics) == 1 + 8
    for column in (
        "return", "length", "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction",
        "explained_variance", "gradient_norm", "learning_rate",
    ):  # fmt: skip
        assert column in metrics[0].split(",")
    assert table(run / "episodes.csv")[0] == "seed,step,return,length"
    assert len(table(run / "episodes.csv")) > 20
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert [len(row) for row in evaluation["returns"]] == [100]
    with Image.open(run / "curve.png") as picture:
        assert picture.width > 400
        assert len(set(picture.convert("L").tobytes())) > 50  # something is drawn


def test_the_last_lines_say_what_was_reached_and_what_to_do_next(trained):
    run, done = trained
    lines = done.stdout.splitlines()[-5:]
    reached = r"ppo on CartPole-v1: IQM [\d.]+ \(95 % interval [\d.]+–[\d.]+, over 100 episodes"
    assert re.match(reached, lines[0])
    assert "deterministic evaluation, 2,048 steps" in lines[0]
    where = run.relative_to(run.parents[1])
    assert lines[1].split()[:3] == ["Run", "folder:", str(where)]
    for line, name in zip(lines[2:], ("play", "plot", "evaluate"), strict=True):
        assert f"actorcritic {name} {where}" in line
    assert "Traceback" not in done.stderr
    evaluation = json.loads((run / "evaluation.json").read_text())
    iqm = float(re.search(r"IQM ([\d.]+)", lines[0])[1])
    assert min(evaluation["returns"][0]) < iqm < max(evaluation["returns"][0])


def test_the_tuned_preset_with_hyperparameters_on_top(trained):
    written = json.loads((trained[0] / "run.json").read_text())
    assert {"actorcritic", "jax", "numpy", "python"} <= set(written["versions"])
    assert (written["seeds"], written["total_steps"]) == ([0], 2000)
    expected = dataclasses.asdict(PRESETS["ppo", "CartPole-v1"].algorithm)
    expected |= {"learning_rate": 0.002, "num_epochs": 3, "clip_range": 0.1}
    expected["hidden_sizes"] = list(expected["hidden_sizes"])
    assert written["algorithm"]["hyperparameters"] == expected


def test_switches_lists_and_choices_take_effect(tmp_path, capsys):
    out = tmp_path / "run"
    call(
        capsys, "train", "a2c", "Pendulum-v1", "--total-steps", 64, "--num-envs", 2, "--out", out,
        "--hidden-sizes", 8, 4, "--normalize-reward", "--no-normalize-advantage", "--activation",
        "relu", "--env-option", "gravity=0.0", "--seeds", 2, "--seed", 5, "--episodes", 2,
    )  # fmt: skip
    written = json.loads((out / "run.json").read_text())
    chosen = written["algorithm"]["hyperparameters"]
    assert chosen["hidden_sizes"] == [8, 4]
    assert chosen["activation"] == "relu"
    assert (chosen["normalize_reward"], chosen["normalize_advantage"]) == (True, False)
    assert written["environment"]["options"]["gravity"] == 0.0
    assert written["seeds"] == [5, 6]
    assert {row.split(",")[0] for row in table(out / "metrics.csv")[1:]} == {"5", "6"}


def test_each_training_gets_a_folder_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ("train", "a2c", "CartPole-v1", "--total-steps", 40, "--episodes", 0, "--quiet")
    for number in (1, 2):
        out, _ = call(capsys, *words)
        assert f"actorcritic play runs/a2c-CartPole-v1-{number}" in out
    assert "not evaluated" in out
    assert len(list(Path("runs").iterdir())) == 2


@pytest.mark.parametrize("name", ALGORITHMS)
def test_help_shows_every_hyperparameter_with_meaning_default_and_range(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", name, "--help"])
    assert stop.value.code == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for field in dataclasses.fields(ALGORITHMS[name]):
        if field.name in NOT_OPTIONS:
            continue
        _, found, rest = text.partition(f"--{field.name.replace('_', '-')} ")
        if isinstance(field.default, bool):
            _, found, rest = text.partition(f"--{field.name.replace('_', '-')}, --no-")
        assert found, field.name
        entry = rest.partition(" --")[0]
        assert " ".join(field.metadata["meaning"].split()) in entry
        if field.metadata["within"]:
            assert f"; in {field.metadata['within']}" in entry
        default = field.default
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        assert f"(default: {shown})" in entry


@pytest.mark.parametrize("words", [("train",), ("resume",), ("evaluate",), ("play",), ("plot",)])
def test_help_of_every_command(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--help"])
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert "--out" in out or "--episodes" in out
    assert not err


def test_help_and_version_of_the_program(capsys):
    assert call(capsys) == call(capsys, "--help") == (cli.USAGE, "")
    assert call(capsys, "--version")[0].strip() == ac.__version__
    assert "actorcritic list" in call(capsys, "list", "--help")[0]


# ---------------------------------------------------------------------------------- resume


def test_resuming_with_more_steps(copied):
    done = command("resume", copied, "--total-steps", 4000, "--episodes", 3)
    assert done.returncode == 0, done.stderr
    assert "deterministic evaluation, 4,096 steps" in done.stdout
    assert json.loads((copied / "run.json").read_text())["total_steps"] == 4000
    updates = [int(row.split(",")[1]) for row in table(copied / "metrics.csv")[1:]]
    assert updates == list(range(1, 17))
    assert newest_update(copied) == 16
    assert len(json.loads((copied / "evaluation.json").read_text())["returns"][0]) == 3


def test_what_resuming_keeps_on_the_host_is_said_when_a_run_goes_on(tmp_path, capsys):
    run = tmp_path / "run"
    words = ("--host", "--total-steps", 40, "--episodes", 0)
    _, err = call(capsys, "train", "a2c", "CartPole-v1", *words, "--out", run)
    # On a slow machine a line says that it compiles, or evaluates.
    assert [line for line in err.splitlines() if not line.endswith(" …")] == [
        f"a2c on CartPole-v1: 1 seed, 40 steps → {run}",
        "The tuned preset of a2c for CartPole-v1.",
    ]
    _, err = call(capsys, "resume", run, "--total-steps", 80, "--episodes", 0)
    first, *_, last = err.splitlines()
    assert first == f"a2c on CartPole-v1: 1 seed, 80 steps → {run} (resumed)"
    assert last.startswith("Resuming preserves the parameters")


def test_resuming_a_finished_run_evaluates_it_again(copied, capsys):
    before = final_hashes(copied)
    out, _ = call(capsys, "resume", copied, "--episodes", 4, "--quiet")
    assert "over 4 episodes" in out
    assert final_hashes(copied) == before


# ---------------------------------------------------------------------------------- look at runs


def test_evaluate(trained, capsys):
    done = command("evaluate", trained[0], "--episodes", 7)
    assert done.returncode == 0, done.stderr
    per_seed, summary = done.stdout.splitlines()
    assert re.match(r"seed 0: mean return [\d.]+ \(deviation [\d.]+, [\d.]+ to [\d.]+\)", per_seed)
    assert re.match(r"ppo on CartPole-v1: IQM [\d.]+ \(95 % interval .*7 episodes", summary)

    words = ("evaluate", trained[0], "--episodes", 7, "--json")
    result, sampled, other = (
        json.loads(call(capsys, *words, *more)[0])
        for more in ((), ("--stochastic",), ("--seed", 3))
    )
    assert len(result["returns"]["0"]) == 7
    assert f"IQM {result['iqm']:.1f}" in summary or f"IQM {result['iqm']:.2f}" in summary
    assert result["interval"][0] <= result["iqm"] <= result["interval"][1]
    assert result == json.loads(call(capsys, *words)[0])
    assert result["returns"] != sampled["returns"]
    assert result["returns"] != other["returns"]


def test_plot(trained, copied, tmp_path, capsys):
    out = tmp_path / "pictures.svg"
    done = command("plot", trained[0], copied, "--out", out)
    assert (done.returncode, done.stdout) == (0, f"Wrote {out}\n"), done.stderr
    text = out.read_text()
    assert "<svg" in text
    png = tmp_path / "one.png"
    call(capsys, "plot", trained[0], "--out", png)
    with Image.open(png) as picture:
        assert picture.format == "PNG"
    # The same run twice, under two names, is another picture than once.
    both = tmp_path / "both.png"
    call(capsys, "plot", trained[0], copied, "--out", both)
    assert both.read_bytes() != png.read_bytes()


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1", "GridWorld-v0", "FrozenLake-v1"])
@pytest.mark.long
def test_play_writes_a_moving_picture(id, clips, tmp_path, capsys):
    clip = tmp_path / "clip.gif"
    out, _ = call(capsys, "play", clips(id), "--out", clip, "--stochastic")
    assert f"Wrote {clip}" in out
    with Image.open(clip) as picture:
        assert picture.format == "GIF"
        assert picture.n_frames > 1
        frames = set()
        for k in range(picture.n_frames):
            picture.seek(k)
            frames.add(picture.convert("RGB").tobytes())
        assert len(frames) > 1  # it moves


def test_play_without_a_screen_writes_into_the_run_folder(copied, monkeypatch, capsys):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    out, _ = call(capsys, "play", copied, "--episodes", 2)
    assert f"Wrote {copied / 'play.gif'} (2 episode(s), return " in out
    assert Image.open(copied / "play.gif").n_frames > 2


def test_lists(capsys):
    everything, _ = call(capsys, "list")
    algorithms, environments, presets = (
        call(capsys, "list", kind)[0] for kind in ("algorithms", "environments", "presets")
    )
    assert everything == algorithms + environments + presets
    for names, text in ((ALGORITHMS, algorithms), (COMPILED, environments)):
        for name in names:
            assert re.search(rf"^  {name} +\w", text, re.MULTILINE)
    for algorithm, id in PRESETS:
        unit = "updates" if algorithm in FROM_DATA else "steps"
        assert re.search(rf"^  {algorithm} {id} +[\d,]+ {unit}$", presets, re.MULTILINE)


@pytest.mark.parametrize(
    "words", ["list", "study", "--help", "--version", "trian", "list algorithm", "help"]
)
def test_what_only_tells_does_not_wait_for_jax(words):
    code = "import sys; from actorcritic import __main__; "
    code += f"sys.argv[1:] = {words.split()!r}; __main__.main(); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.mark.parametrize("catalogue", [ALGORITHMS, COMPILED, STUDIES], ids=lambda x: x.kind)
def test_everything_listed_is_there(catalogue):
    for name, entry in catalogue.entries.items():
        found = catalogue[name]
        assert found.__doc__
        assert len(entry.meaning) < 70
        assert catalogue.named(name.upper()) is found
        if catalogue is ALGORITHMS:
            assert found.name == name


def test_a_closed_pipe_is_no_error(trained):
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; '{trained[1].args[0]}' -m actorcritic list | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------------------------- stopped


@contextlib.contextmanager
def training(*words: Any) -> Iterator[subprocess.Popen]:
    """A training under way, that does not outlive the test."""
    process = start(*words)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


CASES = {
    # One seed, its rows spread over the cores; several kills after several updates each.
    "ppo rows": (("ppo", "CartPole-v1", "--total-steps", 30_000), (0, 1, 30)),
    # Two seeds of whole episodes; the first kill before anything was saved.
    "reinforce seeds": (
        ("reinforce", "CartPole-v1", "--total-steps", 20_000, "--seeds", 2),
        (-1, 1),
    ),
    # A replay buffer, and updates of which only some are reported.
    "sac": (("sac", "Pendulum-v1", "--total-steps", 3000), (0, 500)),
}


@pytest.mark.faults
@pytest.mark.parametrize("case", CASES)
@pytest.mark.long
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(case, tmp_path):
    (algorithm, id, *options), moments = CASES[case]
    if case == "ppo rows":
        assert layout(PRESETS[algorithm, id].algorithm, CartPole().spec, 1, 2)[2] == 2
    more = ("--episodes", 0, "--checkpoint-seconds", 0, "--quiet")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = command("train", algorithm, id, *options, *more, "--out", whole)
    assert done.returncode == 0, done.stderr

    words: tuple[Any, ...] = ("train", algorithm, id, *options, *more, "--out", killed)
    for least in moments:
        with training(*words) as process:
            after = max(newest_update(killed), 0) + least if least >= 0 else -1
            wait_for(process, (killed / "run.json").exists)
            wait_for(process, lambda after=after: newest_update(killed) >= after)
            process.kill()
            process.wait()
            assert process.returncode == -signal.SIGKILL
        assert newest_update(killed) > 0 or least < 1
        words = ("resume", killed, *more)
    assert newest_update(killed) < newest_update(whole)
    done = command(*words)
    assert done.returncode == 0, done.stderr

    assert final_hashes(killed) == final_hashes(whole)
    for name in ("episodes.csv", "metrics.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
        assert (whole / name).stat().st_size > 400
    assert json.loads((killed / "run.json").read_text()) == json.loads(
        (whole / "run.json").read_text()
    )


@pytest.mark.faults
@pytest.mark.long
def test_ctrl_c_saves_and_a_live_run_is_left_alone(tmp_path):
    run = tmp_path / "run"
    words = ("train", "ppo", "CartPole-v1", "--total-steps", 10_000_000, "--out", run)
    with training(*words, "--checkpoint-seconds", 0) as process:
        wait_for(process, lambda: newest_update(run) > 0)
        for second in (
            command("resume", run),
            command("train", "ppo", "CartPole-v1", "--out", run),
        ):
            assert second.returncode == 1
            assert re.search("is in use: another process|already holds a run", second.stderr)
            assert "Traceback" not in second.stderr
        before = newest_update(run)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"actorcritic resume {run}" in out
    assert "Traceback" not in err
    assert newest_update(run) >= before
    rows = table(run / "metrics.csv")[1:]
    assert int(rows[-1].split(",")[1]) == newest_update(run)  # saved where it stopped


@pytest.mark.faults
def test_ctrl_c_before_the_first_step_leaves_nothing(tmp_path):
    run = tmp_path / "run"
    with training("train", "ppo", "CartPole-v1", "--out", run) as process:
        wait_for(process, (run / "run.json").exists)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    # Either it was soon enough that nothing had begun, or the start was saved.
    assert not run.exists() or f"actorcritic resume {run}" in out
