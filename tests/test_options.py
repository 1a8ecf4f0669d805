"""How command lines are read: options anywhere, numbers as people write them, completion."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import actorcritic as ac
from actorcritic import cli, studies
from actorcritic.cli.commands import COMMANDS, options_of
from actorcritic.cli.completion import SHELLS, WORDS, script
from actorcritic.cli.options import separated
from actorcritic.core import hyperparameters
from actorcritic.core.errors import UserError
from actorcritic.core.words import whole
from actorcritic.envs import CartPole

CALLED = {
    "train": "actorcritic.runs.train.train",
    "resume": "actorcritic.runs.train.resume",
    "compare": "actorcritic.experiments.compare.compare",
    "ablate": "actorcritic.experiments.compare.ablate",
    "sweep": "actorcritic.experiments.sweep.sweep",
}


class Called(Exception):
    """A command was understood: what it calls, and with what."""


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The positional and named arguments of the function that a command calls."""

    def stop(*words: Any, **options: Any) -> None:
        raise Called(words, options)

    for target in CALLED.values():
        monkeypatch.setattr(target, stop)
    # Whatever its options are: they are what is looked at here, not what they do.
    made = "actorcritic.runs.configuration.resolve_environment"
    monkeypatch.setattr(made, lambda environment, settings: CartPole())

    def call(line: str) -> tuple[tuple, dict[str, Any]]:
        with pytest.raises(Called) as found:
            cli.main(line.split())
        return found.value.args

    return call


# ------------------------------------------------------------------------------------ order


@pytest.mark.parametrize(
    "line",
    [
        "train ppo CartPole-v1 --seeds 3 --learning-rate 0.1 --normalize-reward",
        "train --seeds 3 ppo CartPole-v1 --learning-rate 0.1 --normalize-reward",
        "train --seeds 3 --normalize-reward ppo --learning-rate=0.1 CartPole-v1",
        "train --learning-rate 0.1 --normalize-reward ppo --seeds=3 CartPole-v1",
        "train --learning_rate 0.1 --normalize_reward --seeds 3 ppo CartPole-v1",
    ],
)
def test_options_may_stand_anywhere(line, called):
    (algorithm, environment, settings), own = called(line)
    assert (algorithm, environment, settings.seeds) == ("ppo", "CartPole-v1", 3)
    assert (own["learning_rate"], own["normalize_reward"]) == (0.1, True)


def test_options_with_several_values(called):
    (algorithm, environment, settings), own = called(
        "train --hidden-sizes 8 4 --env-option a=1 b=x ppo --env-option c=2.5 CartPole-v1"
    )
    assert (algorithm, environment, own["hidden_sizes"]) == ("ppo", "CartPole-v1", (8, 4))
    assert settings.env_options == {"a": 1, "b": "x", "c": 2.5}
    words, options = called("ablate --vary gae_lambda=0,1 --grid a2c --vary gamma=0.9 CartPole-v1")
    assert words[:2] == ("a2c", "CartPole-v1")
    assert options == {"vary": {"gae_lambda": [0.0, 1.0], "gamma": [0.9]}, "grid": True}
    words, options = called("sweep --space gamma=uniform:0.9:1 ppo CartPole-v1 --trials 4")
    assert words[:2] == ("ppo", "CartPole-v1")
    assert (words[2].trials, list(options["space"])) == (4, ["gamma"])


def test_names_are_values_where_no_other_words_are_to_come(called):
    for line in (
        "train ppo CartPole-v1 --info-metric success speed --seeds 3",
        "train --info-metric success ppo --info-metric speed CartPole-v1 --seeds 3",
    ):
        (algorithm, environment, settings), _ = called(line)
        assert (algorithm, environment, settings.seeds) == ("ppo", "CartPole-v1", 3)
        assert settings.info_metrics == ("success", "speed")


def test_negative_numbers_are_values():
    words, given, unknown = separated(
        ["--threshold", "-5", "-1e2", "runs/a", "--out", "-", "runs/b"], options_of("report")
    )
    assert (words, unknown) == (["runs/a", "runs/b"], [])
    assert given == ["--out", "-", "--threshold", "-5", "-1e2"]


def test_an_unknown_option_before_the_words(capsys):
    assert cli.main(["train", "--quite", "ppo", "CartPole-v1"]) == 1
    assert "There is no option '--quite'. Did you mean '--quiet'?" in capsys.readouterr().err
    assert cli.main(["plot"]) == 1
    assert cli.main(["train", "ppo", "CartPole-v1", "Acrobot-v1"]) == 1
    assert capsys.readouterr().err.count("Usage: actorcritic") == 2


# ------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("text", ["100000", "100_000", "1e5", "1E5", "1.0e5", "10e4", "100000.0"])
def test_a_number_of_steps(text, called):
    assert whole(text) == 100_000
    (*_, settings), _ = called(f"train ppo CartPole-v1 --total-steps {text}")
    assert settings.total_steps == 100_000
    assert called(f"resume run --total-steps={text}")[0][1].total_steps == 100_000
    assert hyperparameters.parse(type_of("ppo"), "num_steps", text) == 100_000


@pytest.mark.parametrize("text", ["1.5", "1e-3", "1e400", "many", "nan", "inf", "1,000", "0x10"])
def test_no_number_of_steps(text, capsys):
    assert cli.main(["train", "ppo", "CartPole-v1", "--total-steps", text]) == 1
    expected = f"--total-steps must be a whole number, as 100000, 100_000 or 1e5; got '{text}'."
    assert expected in capsys.readouterr().err
    with pytest.raises(UserError, match="must be a whole number"):
        hyperparameters.parse(type_of("ppo"), "num_steps", text)


def type_of(name: str) -> type:
    from actorcritic.algorithms import ALGORITHMS

    return ALGORITHMS[name]


# ------------------------------------------------------------------------------------ compare


@pytest.mark.parametrize(
    "line",
    [
        "compare ppo a2c CartPole-v1 --seeds 3",
        "compare --seeds 3 ppo a2c CartPole-v1",
        "compare ppo a2c --env CartPole-v1 --seeds 3",
        "compare ppo --seeds 3 --env CartPole-v1 a2c",
        "compare CartPole-v1 ppo a2c --seeds 3",
    ],
)
def test_compare_takes_its_environment_as_the_others_do(line, called):
    (variants, environment, settings), _ = called(line)
    assert (variants, environment, settings.seeds) == (["ppo", "a2c"], "CartPole-v1", 3)


def test_compare_with_settings_and_environments_with_a_colon(called):
    (variants, environment, _), _ = called("compare ppo:gamma=0.9 PPO:gamma=1 gymnax:Breakout")
    assert (variants, environment) == (["ppo:gamma=0.9", "PPO:gamma=1"], "gymnax:Breakout")
    (variants, environment, _), _ = called("compare ppo mine:Algorithm mine:World")
    assert (variants, environment) == (["ppo", "mine:Algorithm"], "mine:World")


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        ("compare ppo a2c", ["compare needs an environment", "compare VARIANT… ENV"]),
        ("compare ppo pop CartPole-v1", ["Of 'pop' and 'CartPole-v1'", "Did you mean 'ppo'?"]),
        ("compare ppo Acrobot-v1 CartPole-v1", ["only one can be the environment"]),
    ],
)
def test_compare_without_one_environment(line, messages, capsys):
    assert cli.main(line.split()) == 1
    err = capsys.readouterr().err
    for message in messages:
        assert message in err


# ------------------------------------------------------------------------------------ completion


def test_every_command_is_completed():
    assert set(WORDS) == set(COMMANDS)


def test_a_shell_that_is_not_known(capsys):
    assert cli.main(["completion", "tcsh"]) == 1
    assert "completion bash|zsh|fish" in capsys.readouterr().err


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What bash offers for the last of some words."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    folder = tmp_path_factory.mktemp("completion")
    (folder / "runs" / "ppo-1").mkdir(parents=True)
    (folder / "runs" / "ppo-1" / "run.json").touch()
    (folder / "runs" / "else").mkdir()
    (folder / "mine.py").touch()
    (folder / "script").write_text(script("bash"), encoding="utf-8")
    program = (
        'source ./script; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _actorcritic actorcritic '
        '"${@: -1}"; printf "%s\\n" "${COMPREPLY[@]}"'
    )

    def complete(*words: str) -> set[str]:
        done = subprocess.run(
            ["bash", "-c", program, "bash", "actorcritic", *words],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr == ""
        return set(done.stdout.split())

    return complete


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("pl",), {"play", "plot"}),
        (("train", "pp"), {"ppo"}),
        (("train", "ppo", "Pendulum"), {"Pendulum-v1"}),
        (("train", "--seeds", "3", "ppo", "Pendulum"), {"Pendulum-v1"}),
        (("train", "--normalize-reward", "ppo", "Pendulum"), {"Pendulum-v1"}),
        (("train", "ppo", "--clip-v"), {"--clip-value"}),
        (("train", "sac", "--clip-v"), set()),
        (("train", "--config", "mi"), {"mine.py"}),
        (("train", "--like", "ru"), {"runs/ppo-1"}),
        (("train", "ppo", "--li"), {"--like"}),
        (("train", "ppo", "CartPole-v1", ""), set()),
        (("evaluate", ""), {"runs/ppo-1"}),
        (("evaluate", "runs/ppo-1", "--ep"), {"--episodes"}),
        (("report", "runs/ppo-1", "runs/p"), {"runs/ppo-1"}),
        (("compare", "ppo", "Acrobot"), {"Acrobot-v1"}),
        (("compare", "ppo", "--env", "Acrobot"), {"Acrobot-v1"}),
        (("study", "S7"), {"S7"}),
        (("list", "pre"), {"presets"}),
        (("audit", "mi"), {"mine.py"}),
        (("audit", "mine.py:f", "--ki"), {"--kind"}),
        (("completion", ""), set(SHELLS)),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else None,
)
def test_bash_completes(words, expected, completed):
    assert completed(*words) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_their_script(shell, tmp_path: Path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(script(shell), encoding="utf-8")
    subprocess.run([shell, "-n", tmp_path / "script"], check=True)


# ------------------------------------------------------------------------------- on a cluster


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 2}, "workers are processes of a cluster: name it as well"),
        ({"cluster": "local", "workers": 0}, r"workers must lie in \[1, 100000\]"),
    ],
)
def test_a_cluster_is_named_right_or_not_at_all(options, message):
    with pytest.raises(UserError, match=message):
        ac.train("a2c", "CartPole-v1", **options)


def test_without_ray_a_cluster_is_one_clear_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    for call in (
        lambda out: ac.train("impala", "CartPole-v1", cluster="local", out=out),
        lambda out: ac.compare(["a2c"], "CartPole-v1", cluster="local", out=out),
        lambda out: studies.study("S9", quick=True, cluster="local", out=out),
    ):
        with pytest.raises(UserError, match=r'Ray, .* Run: pip install "actorcritic\[ray\]"'):
            call(tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_flag_may_say_true_or_false():
    @dataclasses.dataclass
    class Flags:
        share_policy: bool = True
        quiet: bool = False

    for rest, wanted in (
        (["--share-policy", "false", "env"], ["--no-share-policy"]),
        (["env", "--share_policy=False"], ["--no-share-policy"]),
        (["--quiet", "true", "env"], ["--quiet"]),
        (["--quiet", "env"], ["--quiet"]),
    ):
        assert separated(rest, Flags) == (["env"], wanted, [])
