"""The guides: their code runs, their commands are right up to the first step, TD3 is TD3."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actorcritic as ac
from actorcritic import cli
from actorcritic.algorithms import ALGORITHMS
from actorcritic.core import hyperparameters
from actorcritic.envs import AsGymnasium
from actorcritic.envs.probes import ContinuousTarget
from actorcritic.experiments.variants import Task, variants_of
from actorcritic.runs import checkpoints, configuration
from actorcritic.runs.settings import (
    ExperimentSettings,
    ResumeSettings,
    SweepSettings,
    TrainSettings,
)

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
GUIDES = [
    "own-algorithm",
    "own-environment",
    "deploying",
    "gpu",
    "wrappers-and-rewards",
    "from-stable-baselines3",
]
QUICK: dict[str, Any] = {"evaluation_episodes": 1, "quiet": True}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, where the repository's root and the folder itself can be imported from."""
    monkeypatch.chdir(tmp_path)
    for folder in (ROOT, tmp_path):
        monkeypatch.syspath_prepend(str(folder))
    (tmp_path / "docs").symlink_to(DOCS)
    yield tmp_path
    for name in ("mine", "corridor", "docs", "docs.examples", "docs.examples.td3"):
        sys.modules.pop(name, None)


def blocks(guide: str, language: str) -> list[str]:
    text = (DOCS / f"{guide}.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for kind, block in found if kind == language]


def write_files(guide: str) -> None:
    """A block that begins with the name of a file is that file."""
    for block in blocks(guide, "python"):
        named = re.match(r"# (\w+\.py)\n", block)
        if named:
            Path(named[1]).write_text(block)


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.long
def test_code_runs(guide, here, monkeypatch):
    real = ac.train

    def short(*given: Any, **options: Any) -> ac.Run:
        return real(*given, **options | {"total_steps": 4_096, "seeds": 1} | QUICK)

    monkeypatch.setattr(ac, "train", short)
    monkeypatch.setattr(ac.Policy, "export", exported)
    write_files(guide)
    known: dict[str, Any] = {}
    for block in blocks(guide, "python"):
        if "onnxruntime" not in block:  # see test_export.py
            exec(compile(block, f"{guide}.md", "exec", dont_inherit=True), known)
    assert known or guide == "gpu"


def exported(policy: ac.Policy, path: str) -> None:
    """ONNX needs an extra."""
    from actorcritic.runners import export

    if not path.endswith(".onnx"):
        export.export(policy, path)


def test_numpy_decides_as_the_policy_does(here, monkeypatch):
    files = [block for block in blocks("deploying", "python") if "load_file" in block]
    assert len(files) == 1
    lines = files[0].partition("\n\nfor ")[2].splitlines()
    assert len(lines) == 4
    run = ac.train("ppo", "CartPole-v1", total_steps=4_096, learning_rate=0.01, **QUICK)
    run.policy().export("policy.safetensors")
    for observation in np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32):
        known: dict[str, Any] = {}
        exec(
            re.sub(r"x = np.array.*", "x = given", files[0]), known | {"given": observation}, known
        )
        assert known["action"] == run.policy()(observation)


class Right(Exception):
    """Everything was right up to the first step."""


def only_checked(kind: str, *given: Any, **options: Any) -> None:
    """In the place of a function of the library: all that it checks, and no training."""
    if kind in ("open_run", "resume"):
        raise Right
    settings_of = {"train": TrainSettings, "sweep": SweepSettings}
    *words, settings = given
    assert isinstance(settings, settings_of.get(kind, ExperimentSettings))
    world = configuration.resolve_environment(words[1], settings)
    named = words[0] if isinstance(words[0], list) else [words[0]]
    for one in variants_of(named, Task(world, (0,), ResumeSettings())).values():
        algorithm = one.algorithm
        if kind == "train":
            algorithm = hyperparameters.replace(algorithm, **options)
        for name in [*options.get("vary", ()), *options.get("space", ())]:
            hyperparameters.check_known(type(algorithm), name)
        configuration.check(algorithm, world, 1_000_000)
    raise Right


@pytest.mark.parametrize("guide", GUIDES)
def test_commands_are_right_up_to_the_first_step(guide, here, monkeypatch):
    write_files(guide)
    for kind, place in (
        ("train", "runs.train"),
        ("resume", "runs.train"),
        ("compare", "experiments.compare"),
        ("ablate", "experiments.compare"),
        ("sweep", "experiments.sweep"),
    ):
        monkeypatch.setattr(f"actorcritic.{place}.{kind}", partial(only_checked, kind))
    monkeypatch.setattr(ac, "open_run", partial(only_checked, "open_run"))
    commands = "".join(blocks(guide, "")).splitlines()
    for command in commands:
        program, *words = shlex.split(command, comments=True)
        if program == "python" and words[0].endswith(".py"):
            assert (ROOT / words[0]).is_file()
        elif program == "actorcritic" and words[0] == "audit-env":
            assert cli.main(words) == 0
        elif program == "actorcritic":
            with pytest.raises(Right):
                cli.main(words)
        else:
            assert program in ("pip", "python")
    assert commands or guide in ("deploying", "from-stable-baselines3")


def test_every_setting_in_the_table_of_names_exists():
    table = (DOCS / "from-stable-baselines3.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*? \| (.*) \|$", table, re.MULTILINE)
    assert len(rows) > 25
    known = {"out", "network", "deterministic", "which"}
    for cls in (*ALGORITHMS.values(), TrainSettings):
        known |= {field.name for field in dataclasses.fields(cls)}
    used = {name for row in rows for name in re.findall(r"(\w+)=", row)}
    assert len(used) > 20
    assert used <= known
    of_sac = next(row for row in rows if "learning_starts" in row)
    defaults = dict(re.findall(r"`(\w+)=([\w.]+)`", of_sac))
    assert len(defaults) == 4
    for name, value in defaults.items():
        assert getattr(ac.SAC(), name) == ast.literal_eval(value)


# ------------------------------------------------------------------------------------------- TD3


@pytest.fixture(scope="module")
def td3() -> Any:
    spec = importlib.util.spec_from_file_location("td3", DOCS / "examples" / "td3.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["td3"] = module
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("td3")


SMALL: dict[str, Any] = {
    "hidden_sizes": (16,),
    "batch_size": 32,
    "learning_starts": 64,
    "buffer_size": 2_000,
}


def test_td3_finds_the_target_in_the_program_and_on_the_host(td3):
    for place in (ContinuousTarget(), partial(AsGymnasium, ContinuousTarget())):
        run = ac.train(td3.TD3(**SMALL, learning_rate=3e-3), place, total_steps=1_500, **QUICK)
        assert run.evaluate(5).mean > -0.01


@pytest.mark.long
def test_td3_is_resumed_bit_for_bit(td3, tmp_path):
    algorithm, options = td3.TD3(**SMALL), {"seeds": 2, **QUICK}
    whole = ac.train(algorithm, "Pendulum-v1", total_steps=400, **options)
    ac.train(algorithm, "Pendulum-v1", total_steps=200, out=tmp_path / "run", **options)
    half = ac.resume(tmp_path / "run", algorithm=td3.TD3, total_steps=400, **QUICK)
    assert checkpoints.hashes(half.learners.networks) == checkpoints.hashes(whole.learners.networks)


def test_td3s_target_by_hand(td3):
    """The smaller critic at the target actor's action, with clipped noise; nothing after an end."""
    algorithm = td3.TD3(**SMALL, target_noise=5.0, target_noise_clip=0.3, gamma=0.9)
    spec = ac.envs.Pendulum().spec
    targets = algorithm.init(jax.random.key(0), spec).targets
    after = jax.random.normal(jax.random.key(1), (6, 3))
    ended = jnp.arange(6) % 2 == 0
    rows = td3.Buffer.empty(spec.observation_space, 1, 8, 1).at(jnp.zeros(6, jnp.int32))
    rows = rows._replace(reward=jnp.arange(6.0), terminated=ended)
    found = algorithm._target(targets, rows, after, jax.random.key(2))
    ended = np.asarray(ended)
    np.testing.assert_allclose(found[ended], rows.reward[ended])
    # The target's noise has a deviation of 5, and so nearly always is at its clip of ±0.3.
    action = algorithm._policy(targets.actor, after)
    gaps = []
    for noise in (-0.3, 0.3):
        moved = jnp.clip(action + noise, -1.0, 1.0)
        least = jnp.minimum(*(algorithm._q(critic, after, moved) for critic in targets.critics))
        gaps.append(np.abs(found - (rows.reward + 0.9 * least)))
    assert (np.min(gaps, axis=0)[~ended] < 0.02).all()
    assert (np.max(gaps, axis=0)[~ended] > 0.02).any()


def test_td3s_actor_moves_once_for_two_steps_of_the_critics(td3):
    algorithm = td3.TD3(**SMALL, num_steps=1, tau=0.5)
    learner = algorithm.init(jax.random.key(0), ac.envs.Pendulum().spec)
    batch = jax.tree.map(
        lambda x: x[None, None],
        ac.Transition(
            jnp.ones(3), jnp.ones(1), jnp.ones(()), jnp.zeros((), bool), jnp.zeros((), bool),
            jnp.zeros(3),
        ),
    )  # fmt: skip
    early, metrics = algorithm.update(learner, batch, jax.random.key(1), jnp.zeros(()))
    assert checkpoints.hashes(early.networks) == checkpoints.hashes(learner.networks)
    assert metrics["q_value"] == 0
    begun = dataclasses.replace(algorithm, learning_starts=1)
    later, metrics = begun.update(learner, batch, jax.random.key(1), jnp.zeros(()))
    assert later.optimizers.actor.count == 1
    assert later.optimizers.critics.count == 2
    assert metrics["q_value"] != 0
    for target, old, new in zip(
        *map(jax.tree.leaves, (later.targets, learner.targets, later.networks)), strict=True
    ):
        np.testing.assert_allclose(target, (old + new) / 2, rtol=1e-5, atol=1e-7)
    with pytest.raises(ac.UserError, match="gradient_steps = 3 must be a multiple of policy_del"):
        td3.TD3(gradient_steps=3).check(ac.envs.Pendulum().spec)


def test_td3_keeps_to_bounds_that_are_not_about_zero(td3):
    box = gymnasium.spaces.Box(np.float32([1.0, -4.0]), np.float32([3.0, 8.0]))
    spec = ac.EnvSpec("Box-v0", gymnasium.spaces.Box(-1, 1, (2,)), box)
    algorithm = td3.TD3(**SMALL, exploration_noise=9.0)
    actor = algorithm.actor(algorithm.init(jax.random.key(0), spec))
    for random in (True, False):
        acting = dataclasses.replace(actor, random=jnp.asarray(random))
        key = jax.random.key(1)
        actions = np.asarray(algorithm.act(acting, jnp.zeros((500, 2)), key).action)
        assert (actions >= box.low).all()
        assert (actions <= box.high).all()
        assert (np.ptp(actions, axis=0) > 0.9 * (box.high - box.low)).all()


@pytest.mark.learning
@pytest.mark.long
def test_td3_learns_pendulum(td3):
    """Ten seeds reached -149 (docs/own-algorithm.md), the worst of them -160."""
    run = ac.train(td3.TD3(hidden_sizes=(64, 64)), "Pendulum-v1", total_steps=20_000, quiet=True)
    assert run.final_evaluation.mean > -200
