"""Algorithms and compiled environments of a user's own, by module:Name in every command."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import command, final_hashes

import actorcritic as ac
from actorcritic import cli
from actorcritic.algorithms.presets import preset
from actorcritic.core import importing
from actorcritic.experiments.variants import Task, variant
from actorcritic.runs.settings import ExperimentSettings

MINE = '''
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

import actorcritic as ac

with Path(__file__).with_name("imported").open("a") as file:
    file.write("x")


class State(NamedTuple):
    place: jax.Array


@dataclass(frozen=True)
class Walk:
    """A walk to the right; the wrong action costs one step."""

    length: int = 3

    @property
    def spec(self):
        box = gymnasium.spaces.Box(0, 1, (1,), np.float32)
        return ac.EnvSpec("Walk-v0", box, gymnasium.spaces.Discrete(2), 20)

    def reset(self, key):
        state = State(jnp.zeros((), jnp.int32))
        return state, self.seen(state)

    def seen(self, state):
        return (state.place.astype(jnp.float32) / self.length).reshape(1)

    def step(self, key, state, action):
        state = State(jnp.maximum(state.place + 2 * action.astype(jnp.int32) - 1, 0))
        end = state.place >= self.length
        reward = jnp.where(end, 1.0, -0.1)
        return state, ac.Step(self.seen(state), reward, end, jnp.zeros_like(end))

    def render(self, state):
        return np.full((16, 16, 3), 40 * int(state.place), np.uint8)


@ac.hyperparameters
class Cautious(ac.PPO):
    name: ClassVar[str] = "cautious"
    num_epochs: int = ac.hyperparameter(2, "passes over each batch", "[1, 1e6]")
    penalty: float = ac.hyperparameter(0.01, "weight of the squared log-ratio", "[0, 10]")
    plain: float = 1.0

    def policy_loss(self, log_prob, rows, progress):
        drift = log_prob - rows.old_log_prob
        return super().policy_loss(log_prob, rows, progress) + self.penalty * drift**2


narrow = Cautious(network=ac.MLP((8,)))
number = 3


class Undecorated(ac.PPO):
    pass


@dataclass(frozen=True)
class Other(Walk):
    pass


def make():
    return Walk()


class Hosted(gymnasium.Env):
    """Of Gymnasium's kind, with an option."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length=3):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.place += 1
        end = self.place >= self.length
        return np.ones(1, np.float32), 1.0, end, False, {}
'''
SMALL = ("--num-envs", "2", "--num-steps", "16", "--num-minibatches", "2", "--hidden-sizes", "8")
# A linear one depends on where the training is to end, and that is changed here.
SMALL += ("--learning-rate-schedule", "constant")
QUICK = ("--quiet", "--episodes", "2")
AGAIN = ("--algorithm", "mine:Cautious", "--env", "mine:Walk")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with mine.py in it, where a run of its classes was trained."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(MINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        words = ("train", "mine:Cautious", "mine:Walk", *SMALL, *QUICK, "--penalty", "0.5")
        more = ("--env-option", "length=4", "--total-steps", "64", "--out", "run")
        assert cli.main([*words, *more]) == 0
    sys.modules.pop("mine", None)
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    (place / "imported").unlink(missing_ok=True)
    yield place
    sys.modules.pop("mine", None)


def said(capsys: pytest.CaptureFixture, *words: Any) -> str:
    capsys.readouterr()
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert (code == 0) == (not err.startswith("actorcritic: ")), err
    return out + err


def test_run_json_says_what_the_users_own_was_like(here):
    data = json.loads((here / "run" / "run.json").read_text())
    assert data["algorithm"]["class"] == "mine:Cautious"
    assert data["algorithm"]["hyperparameters"]["penalty"] == 0.5
    assert data["environment"]["class"] == "mine:Walk"
    assert data["environment"]["options"] == {"length": 4}


@pytest.mark.parametrize("words", [("evaluate", "run"), ("resume", "run"), ("play", "run")])
def test_what_to_type_is_said_and_nothing_is_imported(words, here, capsys):
    text = said(capsys, *words)
    assert "never imports" in text
    assert " ".join(AGAIN) in text
    assert "mine" not in sys.modules
    assert not (here / "imported").exists()
    assert "--env mine:Walk" in said(capsys, *words, *AGAIN[:2])


def test_evaluate_and_play_restore_what_the_run_had(here, capsys):
    assert "seed 0: mean return" in said(capsys, "evaluate", "run", *AGAIN, "--episodes", "2")
    run = ac.open_run("run", algorithm="mine:Cautious", environment="mine:Walk")
    assert run.algorithm.penalty == 0.5
    assert run.environment.length == 4
    mine = sys.modules["mine"]
    run = ac.open_run("run", algorithm=mine.Cautious, environment=mine.Walk)
    assert (run.algorithm.penalty, run.environment.length) == (0.5, 4)
    run = ac.open_run("run", algorithm=mine.Cautious(), environment=mine.Other)
    assert (run.algorithm.penalty, run.environment.length) == (0.01, 3)  # as they are
    assert ac.load("run", algorithm="mine:Cautious")([0.0]) in (0, 1)
    assert "Wrote clip.gif" in said(capsys, "play", "run", *AGAIN, "--out", "clip.gif")
    assert "Wrote page.html" in said(capsys, "report", "run", "--out", "page.html")


def test_a_run_is_resumed_as_if_it_had_not_been_stopped(here, capsys):
    shutil.copytree("run", "half")
    text = said(capsys, "resume", "half", *AGAIN, *QUICK, "--total-steps", "128")
    assert "actorcritic play half --algorithm mine:Cautious --env mine:Walk" in text
    # Defaults depend on the number of steps, too: these are those of the run.
    words = ("train", "mine:Cautious", "mine:Walk", "--like", "run", *QUICK)
    said(capsys, *words, "--total-steps", "128", "--out", "whole")
    assert final_hashes(Path("half")) == final_hashes(Path("whole"))


def test_another_run_is_trained_like_it(here, capsys):
    asked = "actorcritic train mine:Cautious mine:Walk --like run"
    assert asked in said(capsys, "train", "--like", "run")
    assert "mine" not in sys.modules
    words = ("mine:Cautious", "mine:Walk", "--like", "run", "--gamma", "0.5", *QUICK)
    said(capsys, "train", *words, "--out", "alike")
    before, after = (json.loads(Path(f"{name}/run.json").read_text()) for name in ("run", "alike"))
    assert after["environment"]["options"] == {"length": 4}
    assert after["total_steps"] == before["total_steps"]
    changed = before["algorithm"]["hyperparameters"] | {"gamma": 0.5}
    assert after["algorithm"]["hyperparameters"] == changed


@pytest.mark.long
def test_another_run_begins_where_one_of_the_users_own_ended(here, capsys):
    words = ("train", "mine:Cautious", "mine:Walk", *SMALL, *QUICK, "--total-steps", "64")
    said(capsys, *words, "--start-from", "run", "--out", "begun")
    assert json.loads(Path("begun/run.json").read_text())["origin"]["run"] == "run"


@pytest.mark.long
def test_an_environment_of_gymnasiums_kind_gets_its_options_again(here, capsys):
    said(capsys, "train", "ppo", "mine:Hosted", *SMALL, *QUICK, "--total-steps", "64",
         "--env-option", "length=5", "--out", "hosted")  # fmt: skip
    assert "--env mine:Hosted" in said(capsys, "evaluate", "hosted")
    text = said(capsys, "evaluate", "hosted", "--env", "mine:Hosted", "--episodes", "2")
    assert "mean return 5.00" in text
    hosted = sys.modules["mine"].Hosted
    assert ac.open_run("hosted", environment=hosted).evaluate(1).mean == 5
    assert ac.open_run("hosted", environment=lambda: hosted(2)).evaluate(1).mean == 2
    ac.train("ppo", hosted, total_steps=1024, out="by-class", evaluation_episodes=0, quiet=True)
    assert "--env mine:Hosted" in said(capsys, "evaluate", "by-class")


def test_an_object_brings_its_network(here, capsys):
    said(capsys, "train", "mine:narrow", "mine:Walk", *SMALL, *QUICK, "--total-steps", "64",
         "--gamma", "0.5", "--out", "narrow")  # fmt: skip
    assert "network of your own" in said(capsys, "evaluate", "narrow", "--env", "mine:Walk")
    again = ("--algorithm", "mine:narrow", "--env", "mine:Walk", "--episodes", "2")
    assert "cautious on Walk-v0" in said(capsys, "evaluate", "narrow", *again)
    run = ac.open_run("narrow", algorithm="mine:narrow", environment="mine:Walk")
    assert run.algorithm.network == ac.MLP((8,))
    assert run.algorithm.gamma == 0.5


@pytest.mark.long
def test_experiments(here, capsys):
    quick = (*QUICK, "--total-steps", "64", "--seeds", "2")
    small = "num_envs=2,num_steps=16,num_minibatches=2"
    variants = (f"ppo:{small}", f"mine:Cautious:{small},penalty=1")
    text = said(capsys, "compare", *variants, "--env", "mine:Walk", *quick, "--out", "compared")
    assert "Cautious num_envs=2" in text
    assert "penalty=1" in text
    again = said(capsys, "compare", *variants, "--env", "mine:Walk", *quick, "--out", "compared")
    assert again == text
    assert "Wrote page.html" in said(capsys, "report", "compared", "--out", "page.html")
    vary = ("--vary", "penalty=0,1")
    text = said(capsys, "ablate", f"mine:Cautious:{small}", "mine:Walk", *vary, *quick,
                "--out", "ablated")  # fmt: skip
    assert "penalty=1" in text
    space = ("--space", "penalty=uniform:0:1", "--trials", "2", "--confirm-seeds", "2")
    text = said(capsys, "sweep", f"mine:Cautious:{small}", "mine:Walk", *space, *quick,
                "--out", "swept")  # fmt: skip
    assert "penalty" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mine:Cautius", "CartPole-v1"), "has no 'Cautius'. Did you mean 'Cautious'?"),
        (("mine:number", "CartPole-v1"), "int is not an algorithm: it lacks name"),
        (("mine:Undecorated", "CartPole-v1"), "put @hyperparameters (of actorcritic) above"),
        (("mine:Walk", "CartPole-v1"), "Walk is not an algorithm: it lacks"),
        (("nowhere:Cautious", "CartPole-v1"), "There is no module 'nowhere'"),
        (("./mine.py:Cautius", "CartPole-v1"), "Did you mean 'Cautious'?"),
        (("../mine.py:Cautious", "CartPole-v1"), "is not in the current folder"),
        (("ppo", "mine:Walks"), "Did you mean 'Walk'?"),
        (("ppo", "mine:make"), "is a compiled environment"),
        (("ppo", "mine:Walk", "--host"), "leave `host` out"),
        (
            ("ppo", "mine:Walk", "--env-option", "lenth=2"),
            "Did you mean 'length'?",
        ),
        (("ppo", "mine:Walk", "--env-option", "length=up"), "Walk: length must be a whole number"),
        (("ppo:gamma=1", "CartPole-v1"), "name the algorithm alone"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)
def test_names_that_lead_nowhere(words, message, here, capsys):
    assert message in said(capsys, "train", *words, "--out", "none", "--quiet")
    assert not (here / "none").exists()


def test_own_hyperparameters_are_options(here):
    with pytest.raises(SystemExit):
        cli.main(["train", "mine:Cautious", "--help"])
    done = command("train", "mine:Cautious", "--help", cwd=here)
    assert done.returncode == 0
    for word in ("--penalty FLOAT", "--plain FLOAT", "weight of the squared log-ratio"):
        assert word in done.stdout


def test_a_class_has_the_preset_of_the_one_it_inherits_from(here):
    cartpole = Task.of("CartPole-v1", ExperimentSettings())
    ours, mine = preset("ppo", cartpole.spec), preset("mine:Cautious", cartpole.spec)
    assert mine.total_steps == ours.total_steps
    assert mine.hyperparameters == {
        name: value for name, value in ours.hyperparameters.items() if name != "num_epochs"
    }
    assert mine.algorithm.num_epochs == 2  # what it sets by itself
    elsewhere = preset("mine:Cautious", replace(cartpole.spec, id="Nowhere-v0"))
    assert elsewhere.hyperparameters["normalize_reward"]  # of the defaults
    assert "num_epochs" not in elsewhere.hyperparameters
    label, algorithm, *_ = variant("mine:Cautious:penalty=2,gamma=0.5", cartpole)
    assert label == "Cautious penalty=2 gamma=0.5"
    assert (algorithm.penalty, algorithm.gamma, algorithm.gae_lambda) == (2.0, 0.5, 0.8)
    assert variant("PPO:gamma=0.5", cartpole)[1].gamma == 0.5
    assert variant("./mine.py:Cautious", cartpole)[0] == "Cautious"


@pytest.mark.parametrize("place_in_run", ["mine:Walk; rm -rf x", "a b:C", "x:", 3, None])
def test_a_strangers_name_is_no_command(place_in_run, here, capsys):
    shutil.copytree("run", "strange", dirs_exist_ok=True)
    data = json.loads(Path("strange/run.json").read_text())
    data["algorithm"]["class"] = data["environment"]["class"] = place_in_run
    Path("strange/run.json").write_text(json.dumps(data))
    text = said(capsys, "evaluate", "strange")
    assert "--algorithm module:Name --env module:Name" in text
    assert not (here / "imported").exists()


def test_addresses():
    assert importing.address(ac.PPO) == "actorcritic.algorithms.ppo:PPO"
    assert importing.named("actorcritic.algorithms.ppo:PPO") is ac.PPO

    class Local:
        pass

    assert importing.address(Local) is None
    assert importing.address(3) is None
