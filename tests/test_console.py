"""What a terminal shows: of any width, any encoding, and where nothing can be drawn again."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from typing import Any

import numpy as np
import pytest
from command_line import ENVIRONMENT, PROGRAM
from rich.console import Console

from actorcritic.cli.terminal import simpler
from actorcritic.runners.session import EpisodeTable, MetricTable, Report
from actorcritic.runs import console
from actorcritic.runs.console import TrainingDisplay, working

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def drawn(display: TrainingDisplay) -> str:
    """The progress line as it is now."""
    out = io.StringIO()
    Console(file=out, width=display.console.width, force_terminal=True).print(
        display._bar.get_renderable()
    )
    return ESCAPES.sub("", out.getvalue()).rstrip("\n")


def report(seconds: float, *returns: float) -> Report:
    table = EpisodeTable.join([])._replace(returns=np.asarray(returns))
    return Report(MetricTable.join([]), table, seconds)


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 160])
def test_percent_and_time_left_stay_at_every_width(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    display = TrainingDisplay("td-actor-critic on MountainCarContinuous-v0", 1_000_000)
    display.advance(250_000, report(1200.0, 3.0, 5.0))
    line = drawn(display)
    assert len(line.splitlines()) == 1
    assert len(line) <= columns
    assert "25%" in line
    assert "1 h 00 min left" in line
    assert ("return 4.0" in line) == (columns >= 100)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("term", "drawing"), [("xterm", True), ("dumb", False)])
def test_nothing_is_drawn_again_in_a_dumb_terminal(term, drawing, monkeypatch):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("TTY_COMPATIBLE", "")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(console, "PATIENCE", 0.0)
    with working("Drawing") as say:
        say("a curve")
        time.sleep(0.05)
    with TrainingDisplay("ppo", 10) as display:
        display.say("a note")
    text = sys.stderr.getvalue()
    assert ("\x1b[" in text) == drawing
    assert "Drawing" in text
    assert "a note\n" in ESCAPES.sub("", text).replace("\r", "")


def test_where_nothing_moves_a_line_says_what_takes_long(capsys, monkeypatch):
    monkeypatch.setattr(console, "PATIENCE", 0.01)
    with TrainingDisplay("ppo", 10) as display:
        time.sleep(0.1)
        display.advance(10, report(1.0))
        display.say_what("evaluating …")
        time.sleep(0.1)
    assert capsys.readouterr().err.splitlines() == ["ppo: compiling …", "ppo: evaluating …"]
    with TrainingDisplay("ppo", 10, quiet=True):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_what_is_done_at_once_is_not_announced(capsys):
    with working("Drawing"):
        pass
    assert capsys.readouterr().err == ""


def test_characters_that_an_encoding_lacks():
    written = {"−": "-", "×": "x", "→": "->", "λ": "lambda", "γ": "gamma", "…": "...", "²": "^2"}
    written |= {"╭": "+", "─": "-", "│": "|", "é": "e", "\u0302": "", "�": "?"}
    assert {c: simpler(c) for c in written} == written
    every = {simpler(chr(k)) for k in range(128, 0x3000)}
    assert all(text.isascii() for text in every)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    "words",
    ["--help", "list", "train ppo --help", "train a2c CartPole-v1 --total-steps 640 --episodes 2"],
)
@pytest.mark.long
def test_every_encoding_can_say_it(encoding, words, tmp_path):
    done = subprocess.run(
        [*PROGRAM, *words.split()],
        env=ENVIRONMENT | {"PYTHONIOENCODING": encoding},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    text = (done.stdout + done.stderr).decode(encoding)
    assert done.returncode == 0, text
    assert "Traceback" not in text
    assert ("GAE(lambda)" in text) == (words == "list")
    assert ("1 seed, 640 steps -> runs" in text) == ("640" in words)


def in_terminal(words: str, columns: int, cwd: Any, **more: str) -> tuple[str, float]:
    """What a command writes to a terminal, and after how many seconds it writes something."""
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in ENVIRONMENT.items() if k not in ("COLUMNS", "LINES")} | more
    begun, first, text = time.monotonic(), 0.0, b""
    process = subprocess.Popen(
        [*PROGRAM, *words.split()], env=environment, cwd=cwd, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        while data := os.read(mine, 65536):
            first = first or time.monotonic() - begun
            text += data
    except OSError:  # how a terminal ends
        pass
    os.close(mine)
    assert process.wait() == 0, text
    return text.decode(), first


@pytest.mark.long
def test_a_training_in_a_narrow_terminal(tmp_path):
    words = "train a2c CartPole-v1 --total-steps 6400 --episodes 2 --seeds 2"
    text, first = in_terminal(words, 40, tmp_path, TERM="xterm", NO_COLOR="1")
    assert first < 1.0  # 0.1 s on a machine that has nothing else to do
    assert text.startswith("Loading JAX …\r\x1b[K")
    lines = [ESCAPES.sub("", line) for line in re.split(r"[\r\n]+", text)]
    assert "a2c on CartPole-v1: 2 seeds, 6,400 steps → runs/a2c-CartPole-v1-1" in lines
    assert any(re.fullmatch(r". a2c on CartPole-v1 +\d+% compiling … *", line) for line in lines)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text)  # no colours


@pytest.mark.long
def test_a_training_in_a_dumb_terminal_is_plain_lines(tmp_path):
    words = "train a2c CartPole-v1 --total-steps 640 --episodes 2"
    text, _ = in_terminal(words, 80, tmp_path, TERM="dumb")
    assert "\x1b" not in text
    assert text.startswith("Loading JAX …\r\na2c on CartPole-v1: 1 seed, 640 steps → ")
