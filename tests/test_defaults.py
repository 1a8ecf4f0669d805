"""Defaults where there is no preset: from spaces, time limit, steps and what is given."""

import hashlib
import json

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple

import actorcritic as ac
from actorcritic import cli
from actorcritic.algorithms.catalogue import ALGORITHMS
from actorcritic.algorithms.presets import PRESETS, preset
from actorcritic.core import hyperparameters
from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec
from actorcritic.experiments.variants import Task, variant
from actorcritic.runs.settings import ExperimentSettings

VECTOR = Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = Box(0, 255, (36, 36, 1), np.uint8)
TORQUE = Box(-1.0, 1.0, (2,), np.float32)
SPACES = {
    "vector": VECTOR,
    "one-hot": Tuple([Discrete(5), Discrete(2)]),
    "image": IMAGE,
    "image and vector": Dict(camera=IMAGE, speed=VECTOR),
}
GRID = ("GridWorld-v0", "--total-steps", 50_000, "--episodes", 0)  # it has no preset


def spec(observations="vector", actions=None, limit=200):
    return EnvSpec("Mine-v0", SPACES[observations], actions or Discrete(3), limit)


def chosen(name, of, total_steps=100_000, **given):
    """The algorithm as it is trained, what is given on top."""
    found = preset(name, of, total_steps, given)
    assert not set(given) & set(found.hyperparameters)
    return hyperparameters.replace(found.algorithm, **given)


def test_presets_stay_as_they_were_measured():
    rows = [[*key, p.total_steps, p.hyperparameters] for key, p in sorted(PRESETS.items())]
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    # A change is deliberate: measure the preset (benchmarks/learning.py), then write this anew.
    assert digest == "d8c14142c4c7fbc67ecc9cbb61e0b8a9e6484fcc02de05999e2f984221ea0fda"


def test_where_there_is_a_preset_it_is_taken_whatever_the_spaces():
    cartpole = EnvSpec("CartPole-v1", IMAGE, TORQUE, None)
    assert preset("PPO", cartpole, 10, {"num_envs": 2}) is PRESETS["ppo", "CartPole-v1"]


@pytest.mark.parametrize("limit", [8, 1600, None])
@pytest.mark.parametrize("actions", [Discrete(3), TORQUE], ids=["discrete", "continuous"])
@pytest.mark.parametrize("observations", SPACES)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_they_fit_every_environment_and_number_of_steps(name, observations, actions, limit):
    of = spec(observations, actions, limit)
    if not isinstance(actions, ALGORITHMS[name].action_spaces):
        return
    for total_steps in (1_000, 50_000, 1_000_000):
        algorithm = chosen(name, of, total_steps)
        hyperparameters.check(algorithm)
        algorithm.check(of)
        collects = algorithm.collects
        if collects is None:  # it learns from data
            continue
        steps = 1 if collects.whole_episodes else collects.num_steps
        assert collects.num_envs * steps <= total_steps


def test_numbers_of_unknown_scale_are_normalised_and_nothing_else():
    for name in set(ALGORITHMS) - {"sac"}:
        normalised = {kind: chosen(name, spec(kind)).normalize_observation for kind in SPACES}
        assert normalised == {kind: kind == "vector" for kind in SPACES}


def test_batches_grow_with_the_training_and_minibatches_stay():
    sizes = []
    for total_steps in (1_000, 100_000, 200_000, 10_000_000):
        ppo = chosen("ppo", spec(), total_steps)
        sizes.append(ppo.num_envs * ppo.num_steps)
        assert sizes[-1] / ppo.num_minibatches == 64
    assert sizes == [256, 512, 1024, 2048]


def test_long_episodes_are_seen_in_longer_rollouts():
    long, short, unknown = (chosen("ppo", spec(limit=limit)) for limit in (1000, 999, None))
    assert (long.num_envs, long.num_steps) == (2, 256)
    assert (short.num_envs, short.num_steps) == (unknown.num_envs, unknown.num_steps) == (8, 64)


def test_long_trainings_take_smaller_steps():
    for kind in SPACES:
        rates = [chosen("ppo", spec(kind), steps).learning_rate for steps in (262_143, 262_144)]
        assert rates[0] > rates[1] == 3e-4


@pytest.mark.parametrize(
    "given",
    [
        {"num_envs": 1},
        {"num_envs": 3},
        {"num_steps": 100},
        {"num_envs": 5, "num_steps": 7},
        {"num_minibatches": 2},
        {"whole_episodes": True},
        {"whole_episodes": True, "num_steps": 50, "num_envs": 3},
        {"whole_episodes": True, "num_steps": 1999, "num_envs": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["ppo", "trpo"])
def test_the_rest_fits_what_is_given(name, given):
    endless = spec(limit=None)
    chosen(name, endless, **given).check(endless)
    algorithm = chosen(name, spec(), **given)
    algorithm.check(spec())
    assert all(getattr(algorithm, key) == value for key, value in given.items())
    if given == {"num_envs": 1}:
        assert algorithm.num_steps == 512
    if given == {"whole_episodes": True}:
        assert algorithm.collects.longest(spec()) == 200  # no episode is cut


def test_reinforce_cuts_no_episode_and_makes_enough_updates():
    assert chosen("reinforce", spec(limit=1600)).num_steps == 1600
    long, short = (chosen("reinforce", spec(limit=limit)).num_envs for limit in (1600, 20))
    assert long < short


@pytest.mark.parametrize("given", [{"num_envs": "4"}, {"num_envs": 0}, {"lernrate": 1}], ids=str)
def test_a_mistake_is_told_as_everywhere(given):
    with pytest.raises(UserError, match=r"num_envs must |no hyperparameter 'lernrate'"):
        ac.train("ppo", "GridWorld-v0", total_steps=1_000, **given)


# ---------------------------------------------------------------------- where they are asked for


def test_a_variant_takes_them_and_fits_them_to_its_settings():
    task = Task.of("GridWorld-v0", ExperimentSettings(total_steps=50_000))
    algorithm = variant("ppo:num_envs=2", task).algorithm
    assert algorithm == chosen("ppo", task.spec, 50_000, num_envs=2)
    assert algorithm != ac.PPO(num_envs=2)


def test_the_first_line_says_which_and_why(capsys, monkeypatch, tmp_path):
    begun = []
    monkeypatch.setattr("actorcritic.runs.train.Training.go", lambda self, *_: begun.append(self))
    for name in ("GridWorld-v0", "CartPole-v1"):
        ac.train("a2c", name, total_steps=50_000, num_envs=2)
        # The very first names the run.
        first = capsys.readouterr().err.splitlines()[1]
        if name == "GridWorld-v0":
            assert first.startswith("a2c has no preset for GridWorld-v0; its defaults for one-hot ")
            assert "normalize_reward=True" in first
            assert "num_envs" not in first  # it is given
        else:
            assert first == "The tuned preset of a2c for CartPole-v1."
    assert len(begun) == 2


@pytest.mark.parametrize("options", [(), ("--num-envs", 2), ("--num-steps", 128)], ids=str)
def test_the_command_line_trains_what_python_trains(options, monkeypatch, tmp_path):
    begun = []
    monkeypatch.setattr(
        "actorcritic.runs.train._alone", lambda run, *_: begun.append(run) or stop()
    )

    def stop():
        raise KeyboardInterrupt

    words = ["train", "ppo", *GRID, *options, "--out", tmp_path / "run", "--quiet"]
    assert cli.main([str(word) for word in words]) == 130
    given = {options[0][2:].replace("-", "_"): options[1]} if options else {}
    assert begun[0].algorithm == chosen("ppo", begun[0].spec, 50_000, **given)


def test_help_shows_them(capsys):
    shown = {}
    for name in ("GridWorld-v0", "ENV"):
        words = ["train", "trpo", name, "--help"] if name != "ENV" else ["train", "trpo", "--help"]
        with pytest.raises(SystemExit):
            cli.main(words)
        text = capsys.readouterr().out.partition("--normalize-reward")[2]
        shown[name] = text.partition("(default:")[2].split(")")[0].strip()
    assert shown == {"GridWorld-v0": "True", "ENV": "False"}
