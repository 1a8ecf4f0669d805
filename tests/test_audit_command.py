"""`actorcritic audit` in a process of its own: exit codes 0, 1 and 2, and what is printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ENVIRONMENT

from actorcritic.audit.command import audit_command

RIGHT = """
import numpy as np

def compute_gae(rewards, values, dones, last_value, gamma=0.99, lam=0.95):
    print("noise")
    advantages, running = np.zeros_like(rewards), 0
    for t in reversed(range(len(rewards))):
        following = last_value if t == len(rewards) - 1 else values[t + 1]
        delta = rewards[t] + gamma * following * (1 - dones[t]) - values[t]
        running = delta + gamma * lam * (1 - dones[t]) * running
        advantages[t] = running
    return advantages

class Agent:
    def __init__(self, network, gamma):
        self.network, self.gamma = network, gamma

    def get_returns(self, rewards):
        total, out = 0.0, []
        for r in reversed(rewards):
            total = r + self.gamma * total
            out.insert(0, total)
        return out
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_code.py"
    path.write_text(RIGHT)
    return path


def audit(*words: object) -> subprocess.CompletedProcess:
    program = "import sys; from actorcritic.audit.command import audit_command as audit; "
    program += "sys.exit(audit(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_clean_function_is_0(file):
    done = audit(f"{file}:compute_gae")
    assert done.returncode == 0, done.stderr
    assert "Nothing wrong was found" in done.stdout
    assert "noise" not in done.stdout


def test_no_framework_is_imported_that_the_function_does_not_use(file):
    program = (
        "import sys; from actorcritic.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or bool({'jax', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "audit", f"{file}:compute_gae"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_failure_is_1_and_names_the_check(file):
    file.write_text(RIGHT.replace("gamma * lam * (1 - dones[t])", "gamma * lam"))
    done = audit(f"{file}:compute_gae", "--json")
    assert done.returncode == 1, done.stderr
    data = json.loads(done.stdout)
    assert [found["check"] for found in data["failures"]] == ["trace-cut-at-episode-end"]


def test_what_cannot_be_called_is_2_and_says_why(file):
    file.write_text(RIGHT.replace("dones, last_value", "dones, mystery"))
    file.write_text(file.read_text().replace("last_value if", "mystery if"))
    done = audit(f"{file}:compute_gae")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "mystery" in done.stderr
    assert "--map mystery=NAME" in done.stderr
    assert "Traceback" not in done.stderr
    assert audit(f"{file}:compute_gae", "--map", "mystery=last_value").returncode == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.py:f", "There is no file"),
        ("{file}:nothing", "has no function 'nothing'"),
        ("no_such_module:f", "ModuleNotFoundError"),
    ],
)
def test_names_that_are_not_there(file, capsys, name, words):
    assert audit_command([name.format(file=file)]) == 2
    assert words in capsys.readouterr().err


def test_a_file_that_does_not_import(file, capsys):
    file.write_text("raise RuntimeError('too early')")
    assert audit_command([f"{file}:f"]) == 2
    assert "RuntimeError: too early" in capsys.readouterr().err


def test_a_method_whose_class_wants_arguments(file, capsys):
    assert audit_command([f"{file}:Agent.get_returns"]) == 0
    printed = capsys.readouterr().out
    assert "made without its __init__" in printed
    assert "self.gamma set to gamma" in printed


def test_a_page(file, tmp_path, capsys):
    page = tmp_path / "audit.html"
    assert audit_command([f"{file}:compute_gae", "--html", str(page)]) == 0
    assert "compute_gae" in page.read_text()
    assert audit_command([f"{file}:compute_gae", "--html", str(tmp_path / "x.txt")]) == 2


def test_a_whole_file(file, capsys):
    assert audit_command([str(file)]) == 0
    printed = capsys.readouterr().out
    assert "1 recognised, 0 with something wrong" in printed
    assert "compute_gae: advantages" in printed
    (file.parent / "other.py").write_text(
        RIGHT.replace("gamma * lam * (1 - dones[t])", "gamma * lam")
    )
    assert audit_command([str(file.parent)]) == 1
    assert "other.py: compute_gae" in capsys.readouterr().out


def test_a_file_in_which_nothing_is_recognised(tmp_path, capsys):
    (tmp_path / "empty.py").write_text("x = 1")
    assert audit_command([str(tmp_path / "empty.py")]) == 2
    assert "nothing is recognised" in capsys.readouterr().err


def test_help_lists_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as stop:
        audit_command(["--help"])
    assert stop.value.code == 0
    assert "not judged" in capsys.readouterr().out


def test_a_bad_map_is_2(file, capsys):
    assert audit_command([f"{file}:compute_gae", "--map", "rewards"]) == 2
    assert "theirs=ours" in capsys.readouterr().err
