"""Runs from Python: train, evaluate, plot, stop, resume, open, load."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import host_environments as odd
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import actorcritic as ac
from actorcritic import cli
from actorcritic.algorithms.presets import PRESETS
from actorcritic.core.hyperparameters import hyperparameters
from actorcritic.core.types import EnvSpec, Step
from actorcritic.envs import AsGymnasium, GridWorld, Pendulum
from actorcritic.envs.probes import FiniteReward
from actorcritic.runs import checkpoints
from actorcritic.runs.run import read_run

TINY: dict[str, Any] = {"num_envs": 2, "num_steps": 8, "hidden_sizes": (8,)}
QUICK: dict[str, Any] = {"total_steps": 64, "evaluation_episodes": 0, "quiet": True}


@dataclasses.dataclass(frozen=True)
class OwnNetwork:
    """A network that the library does not know, in the manner of flax.linen's modules."""

    width: int = 8

    def init(self, key: Any, x: Any) -> Any:
        return jax.random.normal(key, (x.shape[-1], self.width))

    def apply(self, params: Any, x: Any) -> Any:
        return jax.numpy.tanh(x @ params)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> ac.Run:
    """A run of three seeds on the disk, with normalised observations."""
    return ac.train(
        ac.PPO(**TINY, normalize_observation=True, num_minibatches=2),
        "CartPole-v1",
        total_steps=256,
        seeds=3,
        seed=4,
        out=tmp_path_factory.mktemp("three") / "run",
        evaluation_episodes=5,
        quiet=True,
    )


def same(one: Any, other: Any) -> bool:
    return checkpoints.hashes(one) == checkpoints.hashes(other)


# ---------------------------------------------------------------------------------- train


def test_in_memory_writes_nothing(here, capsys):
    run = ac.train("ppo", "CartPole-v1", total_steps=512, num_epochs=2, evaluation_episodes=3)
    assert list(here.iterdir()) == []
    assert run.out is None
    assert run.finished
    assert run.final_evaluation.returns.shape == (1, 3)
    assert run.evaluate(episodes=2).returns.shape == (1, 2)
    assert run.policy()(np.zeros(4)) in (0, 1)
    assert list(here.iterdir()) == []
    assert run.steps_per_second > 0
    assert "resume" not in capsys.readouterr().err


def test_a_name_takes_the_tuned_preset_and_overrides():
    run = ac.train(
        "ppo", "CartPole-v1", num_epochs=2, clip_range=0.3, **QUICK | {"total_steps": 512}
    )
    tuned = PRESETS["ppo", "CartPole-v1"].algorithm
    assert run.algorithm == dataclasses.replace(tuned, num_epochs=2, clip_range=0.3)
    assert run.algorithm != ac.PPO(num_epochs=2, clip_range=0.3)


def test_objects_with_overrides():
    run = ac.train(ac.A2C(**TINY, gamma=0.9), "CartPole-v1", gae_lambda=0.5, **QUICK)
    assert run.algorithm == ac.A2C(**TINY, gamma=0.9, gae_lambda=0.5)
    with pytest.raises(ac.UserError, match="Did you mean 'learning_rate'"):
        ac.train(ac.A2C(**TINY), "CartPole-v1", lerning_rate=0.5, **QUICK)


def test_every_finished_episode(three):
    episodes = three.episodes
    assert set(episodes.seed.tolist()) == {4, 5, 6}
    assert (episodes.length == episodes.returns).all()  # CartPole pays 1 a step
    for seed in (4, 5, 6):
        steps = episodes.step[episodes.seed == seed]
        assert (np.diff(steps) >= 0).all()
        assert steps[-1] <= 256
        # All steps but those of the two episodes still open.
        assert episodes.length[episodes.seed == seed].sum() <= 256
    written = ac.open_run(three.out)
    for one, other in zip(written.episodes, episodes, strict=True):
        np.testing.assert_array_equal(one, other)
    assert written.metrics.names == three.metrics.names
    np.testing.assert_array_equal(written.metrics.update, three.metrics.update)


def test_evaluation_is_summed_up(three):
    result = three.evaluate(episodes=6)
    assert result.returns.shape == result.lengths.shape == (3, 6)
    assert result.seeds == (4, 5, 6)
    assert result.mean == pytest.approx(result.returns.mean())
    low, high = result.interval
    assert low <= result.iqm <= high
    np.testing.assert_array_equal(three.evaluate(episodes=6).returns, result.returns)
    assert (three.evaluate(episodes=6, seed=1).returns != result.returns).any()
    assert (three.evaluate(episodes=6, deterministic=False).returns != result.returns).any()


def test_evaluation_leaves_the_statistics_as_they_are(three):
    names = [name for name in checkpoints.hashes(three.learners) if "mean" in name]
    assert names, "this test needs a learner with statistics of observations"
    before = checkpoints.hashes(three.learners)
    three.evaluate(episodes=3, deterministic=False)
    policy = three.policy(4)
    for _ in range(3):
        policy(np.full((5, 4), 100.0, np.float32), deterministic=False)
    assert checkpoints.hashes(three.learners) == before
    assert same(policy.actor, jax.tree.map(lambda x: x[0], three.actors))


def test_plot(three, tmp_path):
    png, svg = three.plot(tmp_path / "curve.png"), three.plot(str(tmp_path / "curve.svg"))
    assert png.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in svg.read_bytes()


# ---------------------------------------------------------------------------------- load


def test_load_takes_the_best_seed_and_says_so(three, capsys):
    assert three.final_evaluation is not None
    best = three.final_evaluation.best_seed
    means = three.final_evaluation.returns.mean(axis=1)
    assert means[(4, 5, 6).index(best)] == means.max()
    policy = ac.load(three.out)
    assert f"Using seed {best}, the best by final evaluation." in capsys.readouterr().err
    actor = jax.tree.map(lambda x: x[(4, 5, 6).index(best)], three.actors)
    assert same(policy.actor, actor)


def test_load_takes_the_seed_asked_for(three, capsys):
    for k, seed in enumerate((4, 5, 6)):
        policy = ac.load(three.out, seed=seed)
        assert same(policy.actor, jax.tree.map(lambda x, k=k: x[k], three.actors))
    assert capsys.readouterr().err == ""
    with pytest.raises(ac.UserError, match=r"no seed 7; it has \[4, 5, 6\]"):
        ac.load(three.out, seed=7)


def test_load_without_an_evaluation_goes_by_the_last_episodes(tmp_path, capsys):
    run = ac.train(ac.A2C(**TINY), "CartPole-v1", seeds=2, out=tmp_path / "run", **QUICK)
    returns = [run.episodes.returns[run.episodes.seed == s].mean() for s in (0, 1)]
    ac.load(tmp_path / "run")
    said = f"Using seed {np.argmax(returns)}, the best by its last 100 training episodes."
    assert said in capsys.readouterr().err


def test_a_policy_takes_one_observation_or_many(three):
    policy = ac.load(three.out, seed=5)
    many = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    actions = policy(many)
    assert isinstance(actions, np.ndarray)
    assert (actions.shape, actions.dtype) == ((64,), np.int64)
    assert set(actions.tolist()) == {0, 1}
    for observation, action in zip(many[:5], actions, strict=False):
        one = policy(observation)
        assert (np.shape(one), one.dtype) == ((), np.int64)
        assert three.spec.action_space.contains(one)
        assert one == action
    np.testing.assert_array_equal(policy(many), actions)
    drawn = [policy(many, deterministic=False) for _ in range(2)]
    assert (drawn[0] != actions).any()
    assert (drawn[0] != drawn[1]).any()
    np.testing.assert_array_equal(policy(many), actions)
    with pytest.raises(ac.UserError, match=r"shape \(4,\).*got \(3,\)"):
        policy(np.zeros(3))


def test_continuous_actions_are_inside_their_bounds(tmp_path):
    algorithm = ac.A2C(**TINY, initial_log_std=2.0)
    ac.train(algorithm, "Pendulum-v1", out=tmp_path / "run", **QUICK)
    policy = ac.load(tmp_path / "run")
    action = policy(np.zeros(3))
    assert (action.shape, action.dtype) == ((1,), np.float32)
    actions = policy(np.zeros((200, 3)), deterministic=False)
    assert actions.shape == (200, 1)
    assert np.abs(actions).max() == 2.0  # with a deviation of e², some are cut off


# ---------------------------------------------------------------------------------- environments


def test_a_factory(tmp_path):
    def walk(drift: float = 0.0) -> gymnasium.Env:
        return odd.Walk(drift)

    out = tmp_path / "run"
    run = ac.train(ac.A2C(**TINY), walk, env_options={"drift": 9.0}, out=out, **QUICK)
    assert (run.episodes.length == 1).all()  # it drifts to the end at once
    with pytest.raises(ac.UserError, match="an environment of your own"):
        ac.open_run(out)
    again = ac.open_run(out, environment=walk)
    assert same(again.learners, run.learners)
    assert ac.load(out)(np.zeros(2)) in (0, 1)  # which needs no environment


OWN = """
import gymnasium, numpy as np

class Steps(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 4
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), float(action), self.left == 0, False, {}
"""


@pytest.fixture
def own(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's file in the current directory, which leaves no module behind."""
    (here / "my_steps.py").write_text(OWN)
    monkeypatch.syspath_prepend(here)
    yield here
    sys.modules.pop("my_steps", None)


def test_an_environment_in_the_users_file(own, capsys):
    run = ac.train(ac.A2C(**TINY), "my_steps:Steps", out="run", **QUICK)
    assert (run.episodes.length == 4).all()
    assert cli.main(["evaluate", "run", "--episodes", "2"]) == 1
    message = capsys.readouterr().err
    assert "--env my_steps:Steps" in message
    assert "never imports code by itself" in message
    assert cli.main(["evaluate", "run", "--episodes", "2", "--env", "my_steps:Steps"]) == 0
    with pytest.raises(ac.UserError, match="environment=…"):
        ac.resume("run", total_steps=128, quiet=True)
    more = ac.resume("run", environment="my_steps:Steps", **QUICK | {"total_steps": 128})
    assert more.metrics.update.max() == 8


def test_a_compiled_environment_with_other_physics(tmp_path):
    out = tmp_path / "run"
    run = ac.train(ac.A2C(**TINY), Pendulum(gravity=0.0), out=out, **QUICK)
    again = ac.open_run(out)
    assert again.environment == run.environment == Pendulum(gravity=0.0)
    assert again.environment != Pendulum()
    by_name = ac.train(ac.A2C(**TINY), "Pendulum-v1", env_options={"gravity": 0.0}, **QUICK)
    assert same(by_name.learners, run.learners)
    assert not same(ac.train(ac.A2C(**TINY), "Pendulum-v1", **QUICK).learners, run.learners)


def test_a_grid_world_with_walls_comes_back(tmp_path):
    world = GridWorld(walls=((1, 1),))
    ac.train(ac.A2C(**TINY), world, out=tmp_path / "run", **QUICK)
    assert ac.open_run(tmp_path / "run").environment == world


def test_the_same_environment_on_the_host(tmp_path):
    out = tmp_path / "run"
    ac.train(ac.A2C(**TINY), "CartPole-v1", host=True, autoreset="same_step", out=out, **QUICK)
    again = ac.open_run(out).environment
    assert (type(again).__name__, again.autoreset) == ("HostEnvironment", "same_step")


def test_a_vector_environment(tmp_path):
    vector = SyncVectorEnv([odd.Walk] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    out = tmp_path / "run"
    run = ac.train(ac.A2C(**TINY), vector, out=out, **QUICK)
    assert run.evaluate(episodes=3).returns.shape == (1, 3)
    with pytest.raises(ac.UserError, match="your own"):
        ac.open_run(out)
    more = ac.resume(out, environment=vector, **QUICK | {"total_steps": 128})
    assert more.metrics.update.tolist() == list(range(1, 9))
    with pytest.raises(ac.UserError, match="VectorEnv of 2 environments, but num_envs is 3"):
        ac.train(ac.A2C(num_envs=3), vector, **QUICK)


# ---------------------------------------------------------------------------------- your own parts


PAIR = ac.Network(OwnNetwork().init, OwnNetwork().apply)


@pytest.mark.parametrize("network", [OwnNetwork(), PAIR], ids=["object", "pair"])
def test_a_network_of_your_own_is_passed_again(network, tmp_path):
    out, algorithm = tmp_path / "run", ac.A2C(**TINY, network=network)
    run = ac.train(algorithm, "CartPole-v1", out=out, **QUICK)
    for opened in (ac.open_run, ac.resume, ac.load):
        with pytest.raises(ac.UserError, match=r"trained with network of your own.*algorithm=…"):
            opened(out)
    assert same(ac.open_run(out, algorithm=algorithm).learners, run.learners)
    assert ac.load(out, algorithm=algorithm)(np.zeros(4)) in (0, 1)
    more = ac.resume(out, algorithm=algorithm, **QUICK | {"total_steps": 128})
    assert more.metrics.update.max() == 8
    # One that does not fit is told by its shapes.
    wide = dataclasses.replace(
        algorithm, network=ac.Network(OwnNetwork(16).init, OwnNetwork(16).apply)
    )
    with pytest.raises(ac.UserError, match="of another architecture"):
        ac.load(out, algorithm=wide)


def test_a_class_of_your_own_is_passed_again(tmp_path):
    @hyperparameters
    class Mine(ac.A2C):
        pass

    algorithm = Mine(**TINY)
    ac.train(algorithm, "CartPole-v1", out=tmp_path / "run", **QUICK)
    with pytest.raises(ac.UserError, match="the class Mine of your own"):
        ac.load(tmp_path / "run")
    ac.load(tmp_path / "run", algorithm=algorithm)


# ---------------------------------------------------------------------------------- resume


@pytest.mark.long
def test_stopped_and_resumed_equals_uninterrupted_for_some_seeds(tmp_path):
    whole = ac.train(ac.A2C(**TINY), "CartPole-v1", seeds=3, **QUICK | {"total_steps": 160})
    out = tmp_path / "run"
    # The total is part of the progress that schedules follow; A2C's are constant.
    ac.train(ac.A2C(**TINY), "CartPole-v1", seeds=3, out=out, **QUICK)
    run = ac.resume(out, **QUICK | {"total_steps": 160})
    assert same(run.learners, whole.learners)
    assert [len(column) for column in run.episodes] == [len(column) for column in whole.episodes]
    for seed in range(3):
        for one, other in zip(run.episodes, whole.episodes, strict=True):
            np.testing.assert_array_equal(
                one[run.episodes.seed == seed], other[whole.episodes.seed == seed]
            )


@pytest.mark.parametrize("left", ["run.json", "checkpoint", "empty tables", "no episodes"])
@pytest.mark.long
def test_stopped_at_the_very_start(left, tmp_path, monkeypatch):
    """What a kill can leave: before anything was saved, or between two files' first lines."""
    whole = ac.train(ac.A2C(**TINY), "CartPole-v1", **QUICK)
    out = tmp_path / "run"

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("actorcritic.runs.trackers.CsvWriter.write", stop)
        with pytest.raises(KeyboardInterrupt):
            ac.train(ac.A2C(**TINY), "CartPole-v1", out=out, **QUICK)
    if left == "run.json":
        shutil.rmtree(out / "checkpoints")
    elif left != "checkpoint":
        (out / "metrics.csv").touch()
    if left == "empty tables":
        (out / "episodes.csv").touch()
    run = ac.resume(out, **QUICK)
    assert run.finished
    assert same(run.learners, whole.learners)
    again = ac.open_run(out)
    for one, other in zip(again.episodes, whole.episodes, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(again.metrics.update, [1, 2, 3, 4])


def test_resuming_to_fewer_steps_than_were_made(tmp_path):
    out = tmp_path / "run"
    ac.train(ac.A2C(**TINY), "CartPole-v1", out=out, **QUICK)
    before = (out / "run.json").read_text()
    with pytest.raises(ac.UserError, match="has made 64 steps already"):
        ac.resume(out, **QUICK | {"total_steps": 32})
    assert (out / "run.json").read_text() == before


def test_host_runs_say_what_resuming_preserves(tmp_path, capsys):
    ac.train(ac.A2C(**TINY), odd.Walk, out=tmp_path / "run", **QUICK | {"quiet": False})
    assert "resum" in capsys.readouterr().err.lower()


# ---------------------------------------------------------------------------------- no code

TRAP = """
from pathlib import Path
Path(__file__).with_name("imported").touch()
import gymnasium, numpy as np

class Trap(gymnasium.Env):
    pass
"""


@pytest.mark.parametrize("host", [True, False])
@pytest.mark.parametrize("field", ["make", "id", "name"])
@pytest.mark.long
def test_a_module_named_in_a_run_is_never_imported(field, host, three, own, capsys):
    (own / "trap.py").write_text(TRAP)
    data = json.loads((three.out / "run.json").read_text())
    where = data["algorithm"] if field == "name" else data["environment"]
    where[field] = "trap:Trap"
    data["environment"]["host"] = host
    run = own / "run"
    (run / "checkpoints").mkdir(parents=True)
    for file in three.out.rglob("*"):
        if file.is_file() and "checkpoints" in file.parts:
            target = run / file.relative_to(three.out)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
    for name in ("metrics.csv", "episodes.csv"):
        (run / name).write_bytes((three.out / name).read_bytes())
    (run / "run.json").write_text(json.dumps(data))

    for words in (["evaluate", "run", "--episodes", "1"], ["resume", "run"], ["play", "run"]):
        code = cli.main(words)
        assert code == (0 if field == "id" else 1) or words[0] != "evaluate"
    for opened in (ac.open_run, ac.load):
        try:
            opened("run")
        except ac.UserError:
            assert field != "id"
    capsys.readouterr()
    assert "trap" not in sys.modules
    assert not (own / "imported").exists()
    # The trap does snap, where its owner names it.
    if field == "make":
        cli.main(["evaluate", "run", "--env", "trap:Trap"])
        assert (own / "imported").exists()
        sys.modules.pop("trap", None)


def test_no_file_of_a_run_is_a_pickle(three):
    files = [path for path in three.out.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".json", ".csv", ".safetensors", ".png"}
    for path in files:
        data = path.read_bytes()
        # Protocols 2 to 5 start so; protocol 0 and zip archives (torch.save, np.savez) so.
        assert not data.startswith((b"\x80", b"PK", b"(dp", b"(lp", b"c__", b"\x93NUMPY"))
    source = Path(ac.__file__).parent
    for path in source.rglob("*.py"):
        text = path.read_text()
        assert "import pickle" not in text, path
        assert "allow_pickle" not in text, path


def test_loading_needs_no_runner_of_environments(three):
    """`load` in a fresh process, and what it says there."""
    script = (
        "import sys, numpy as np, actorcritic as ac\n"
        f"policy = ac.load({str(three.out)!r})\n"
        "print(policy(np.zeros((3, 4))).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "(3,)\n"), done.stderr
    assert "Using seed" in done.stderr


# ------------------------------------------------------------------------------- small updates


def test_tiny_updates_are_reported_once_in_a_while(tmp_path):
    """One row every 8 steps and the first; every episode is kept all the same."""
    run = ac.train(
        ac.TDActorCritic(hidden_sizes=(4,)),
        "CartPole-v1",
        total_steps=200,
        seeds=2,
        out=tmp_path / "run",
        evaluation_episodes=2,
        quiet=True,
    )
    for seed in (0, 1):
        rows = run.metrics.seed == seed
        assert run.metrics.update[rows].tolist() == [1, *range(8, 201, 8)]
        lengths = run.episodes.length[run.episodes.seed == seed]
        assert run.episodes.step[run.episodes.seed == seed].tolist() == np.cumsum(lengths).tolist()
        assert 150 < lengths.sum() <= 200


@pytest.mark.parametrize(
    ("algorithm", "environment", "note"),
    [
        (ac.A2C(whole_episodes=True), "CartPole-v1", "num_steps = 5 steps are cut"),
        (ac.A2C(whole_episodes=True, num_steps=500), "CartPole-v1", None),
        (ac.A2C(), "CartPole-v1", None),
        (ac.PPO(initial_log_std=2.0), ac.envs.Pendulum(), None),
    ],
)
def test_what_is_seldom_meant_is_noted(algorithm, environment, note, capsys):
    ac.train(algorithm, environment, total_steps=4000, evaluation_episodes=0)
    said = " ".join(capsys.readouterr().err.split())
    assert ("Note:" in said) == (note is not None)
    assert note is None or note in said


def box_of(low, high):
    ends = (np.asarray(end, np.float32).reshape(-1) for end in (low, high))
    return EnvSpec("box", gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Box(*ends))


@pytest.mark.parametrize(
    ("low", "high", "options", "note"),
    [
        (-1.0, 1.0, {}, None),
        (0.0, 1.0, {}, None),
        (-2.0, 2.0, {"initial_log_std": 2.0}, None),
        (-10.0, 10.0, {}, None),
        (0.1, 10.0, {}, "of which 46 % falls inside the bounds"),
        (10.0, 20.0, {}, "of which less than 0.1 % falls inside"),
        (-20.0, -10.0, {}, "of which less than 0.1 % falls inside"),
        (-0.01, 0.01, {}, "deviation 1, of which 0.8 % falls inside"),
        ([-1.0, -0.01], [1.0, 0.01], {}, "of which 0.8 % falls inside"),
        (0.0, 0.1, {}, "of which 4 % falls inside"),
        (0.0, 1e4, {}, "are up to 1e+04 deviations away"),
        (-1e4, 1.0, {}, "are up to 1e+04 deviations away"),
        ([-1.0, -100.0], [1.0, 100.0], {}, "are up to 100 deviations away"),
        (-1.0, 1.0, {"initial_log_std": -3.0}, "are up to 20.1 deviations away"),
        # Of a network's own σ, which starts at 1, initial_log_std is no part.
        (-1.0, 1.0, {"initial_log_std": -3.0, "state_dependent_std": True}, None),
    ],
)
def test_bounds_that_a_gaussian_does_not_fit_are_noted(low, high, options, note):
    said = ac.PPO(**options).notes(box_of(low, high))
    assert len(said) == (note is not None)
    for text in said:
        assert note in text
        assert "squash=True" in text
        assert "gymnasium.wrappers.RescaleAction(env, -1, 1)" in text


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e4), (10.0, 20.0), (-0.01, 0.01)])
def test_what_the_note_on_bounds_advises_works(low, high):
    class Named(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (1,))
        action_space = gymnasium.spaces.Box(low, high, (2,))

    wrapped = gymnasium.wrappers.RescaleAction(Named(), -1, 1)
    spec = EnvSpec("wrapped", wrapped.observation_space, wrapped.action_space)
    np.testing.assert_array_equal(wrapped.action_space.high, [1, 1])
    assert ac.PPO().notes(spec) == []


def test_bounds_far_from_where_a_gaussian_starts_are_noted():
    spec = EnvSpec("far", gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Box(10, 20, (1,)))
    (note,) = ac.PPO().notes(spec)
    assert "squash=True" in note
    assert ac.PPO(squash=True).notes(spec) == []
    assert ac.SAC().notes(spec) == []


# ------------------------------------------------------------------------------- whole episodes


def test_minibatches_of_whole_episodes_have_to_divide_the_time_limit():
    """CartPole's is 500 steps, so that a batch of 8 episodes has room for 4000."""
    options = {"whole_episodes": True, "num_envs": 8, "num_steps": 1024, "hidden_sizes": (4,)}
    with pytest.raises(ac.UserError, match=r"the time limit of CartPole-v1 = 8 × 500 = 4000 rows"):
        ac.train(ac.PPO(**options, num_minibatches=64), "CartPole-v1", **QUICK)
    run = ac.train(ac.PPO(**options, num_minibatches=50, num_epochs=1), "CartPole-v1", **QUICK)
    assert run.finished
    assert len(run.episodes.returns) % 8 == 0
    assert np.isfinite(run.metrics.column("value_loss")).all()


@pytest.mark.parametrize("host", [False, True])
def test_whole_episodes_that_are_cut_are_reported(host):
    """Five steps pay 1 each; after three, every episode is cut."""
    probe = FiniteReward(5)
    environment = partial(AsGymnasium, probe) if host else probe
    algorithm = ac.Reinforce(num_envs=2, num_steps=3, hidden_sizes=(4,))
    run = ac.train(algorithm, environment, **QUICK | {"total_steps": 24})
    assert run.episodes.length.tolist() == [3] * 8
    assert run.episodes.returns.tolist() == [3.0] * 8
    assert run.episodes.step.tolist() == [6, 6, 12, 12, 18, 18, 24, 24]
    assert run.metrics.column("length").tolist() == [3.0] * 4


# --------------------------------------------------------------- evaluation without a time limit


@dataclasses.dataclass(frozen=True)
class Coin:
    """Ends at once where the coin shows heads, else never; a step pays 1."""

    heads: float

    @functools.cached_property
    def spec(self) -> EnvSpec:
        return EnvSpec("Coin", gymnasium.spaces.Box(0, 1, (1,)), gymnasium.spaces.Discrete(2))

    def reset(self, key: Any) -> Any:
        coin = (jax.random.uniform(key) < self.heads).astype(float)[None]
        return coin, coin

    def step(self, key: Any, state: Any, action: Any) -> Any:
        one, heads = jax.numpy.ones(()), state[0] > 0
        return state, Step(state, one, heads, jax.numpy.zeros_like(heads))


@pytest.mark.parametrize("host", [False, True])
@pytest.mark.parametrize("heads", [0.0, 0.6, 1.0])
@pytest.mark.long
def test_an_evaluation_says_how_many_episodes_it_cut(heads, host, monkeypatch, tmp_path):
    for module in ("runners.evaluate", "runs.evaluated"):
        monkeypatch.setattr(f"actorcritic.{module}.MAX_STEPS", 40)
    coin = Coin(heads)
    environment = partial(AsGymnasium, coin) if host else coin
    options = QUICK | {"total_steps": 16, "evaluation_episodes": 12}
    run = ac.train(ac.A2C(**TINY), environment, out=tmp_path / "run", **options)
    for result in (run.final_evaluation, run.evaluate(12)):
        cut = int(result.cut.sum())
        assert result.lengths.tolist() == np.where(result.cut, 40, 1).tolist()
        if heads == 0.6:
            assert 1 < cut < 12
            assert result.remark == f"; {cut} episodes were cut after 40 steps"
        elif heads == 0.0:
            assert result.remark == "; every episode was cut after 40 steps"
        else:
            assert result.remark == ""
        assert str(result) == f"{result.summary}{result.remark}"
    again = read_run(run.out).final_evaluation
    assert again.remark == run.final_evaluation.remark
    one = dataclasses.replace(again, cut=np.arange(12)[None] == 5)
    assert one.remark == "; 1 episode was cut after 40 steps"


# ---------------------------------------------------------------------------------- in a group


@pytest.mark.long
def test_a_run_of_a_group_goes_on_alone_as_it_was_begun(tmp_path):
    """Alone, its rows would be spread over the devices, and its numbers would be others."""
    options = {"num_envs": 4, "num_steps": 64, "num_minibatches": 1, "hidden_sizes": (4,)}
    variants = {
        "slow": ac.PPO(**options, learning_rate=1e-3),
        "fast": ac.PPO(**options, learning_rate=3e-3),
    }
    quiet = QUICK | {"seeds": 1}
    whole = ac.compare(variants, "CartPole-v1", **quiet | {"total_steps": 1024})
    half = ac.compare(variants, "CartPole-v1", out=tmp_path / "x", **quiet | {"total_steps": 512})
    for label in variants:
        out = half.runs[label].out
        assert json.loads((out / "run.json").read_text())["spread"] == 1
        resumed = ac.resume(out, **QUICK | {"total_steps": 1024})
        assert resumed.spread == whole.runs[label].spread == 1
        assert json.loads((out / "run.json").read_text())["spread"] == 1
        assert same(resumed.learners, whole.runs[label].learners)
        assert same(ac.open_run(out).learners, whole.runs[label].learners)
    alone = ac.train(variants["slow"], "CartPole-v1", **QUICK | {"total_steps": 1024})
    assert alone.spread == jax.device_count() == 2
    assert not same(alone.learners, whole.runs["slow"].learners)


@pytest.mark.long
def test_a_run_whose_rows_were_spread_goes_on_so(tmp_path):
    """And so it equals the one that was never stopped."""
    options = {"num_envs": 4, "num_steps": 64, "num_minibatches": 1, "hidden_sizes": (4,)}
    whole = ac.train(ac.PPO(**options), "CartPole-v1", **QUICK | {"total_steps": 1024})
    out = tmp_path / "run"
    ac.train(ac.PPO(**options), "CartPole-v1", out=out, **QUICK | {"total_steps": 512})
    assert json.loads((out / "run.json").read_text())["spread"] == 2
    resumed = ac.resume(out, **QUICK | {"total_steps": 1024})
    assert resumed.spread == 2
    assert same(resumed.learners, whole.learners)
