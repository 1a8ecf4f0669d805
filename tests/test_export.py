"""Policies as files that need no JAX, held against the policy itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from safetensors.numpy import load_file

import actorcritic as ac

QUICK: dict[str, Any] = {"total_steps": 64, "evaluation_episodes": 0, "quiet": True}
PPO: dict[str, Any] = {"num_envs": 2, "num_steps": 16, "num_minibatches": 2}


class Rooms(gymnasium.Env):
    """An image, numbers, a choice, and a mask of actions."""

    observation_space = spaces.Dict(
        {
            "action_mask": spaces.MultiBinary(3),
            "camera": spaces.Box(0, 255, (12, 12, 3), np.uint8),
            "level": spaces.Discrete(4, start=1),
            "speed": spaces.Box(-1, 1, (2,), np.float32),
        }
    )
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return allowed(self.observation_space.sample()), {}

    def step(self, action: Any) -> Any:
        observation = allowed(self.observation_space.sample())
        return observation, 0.0, bool(self.np_random.random() < 0.1), False, {}


class Parts(Rooms):
    observation_space = spaces.Tuple(  # type: ignore[assignment]
        (spaces.MultiDiscrete([3, 4]), spaces.Box(-1, 1, (2, 2), np.float32))
    )
    action_space = spaces.MultiDiscrete([3, 4], start=[1, 0])  # type: ignore[assignment]


def allowed(observation: Any) -> Any:
    if isinstance(observation, dict):
        observation["action_mask"][0] = 1
    return observation


def test_what_cannot_be_exported_is_told(tmp_path, monkeypatch):
    policy = ac.train(ac.PPO(**PPO), "CartPole-v1", **QUICK).policy()
    with pytest.raises(ac.UserError, match=r"as \.onnx \(a graph\) or \.safetensors.*policy.pt"):
        policy.export(tmp_path / "policy.pt")
    with pytest.raises(ac.UserError, match="Could not write"):
        policy.export(tmp_path / "missing" / "policy.safetensors")
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ac.UserError, match=r'pip install "actorcritic\[onnx\]"'):
        policy.export(tmp_path / "policy.onnx")
    assert list(tmp_path.iterdir()) == []


def test_arrays_are_those_of_the_actor(tmp_path):
    algorithm = ac.PPO(**PPO, normalize_observation=True)
    policy = ac.train(algorithm, "CartPole-v1", **QUICK).policy()
    assert policy.export(tmp_path / "policy.safetensors") == tmp_path / "policy.safetensors"
    arrays = load_file(tmp_path / "policy.safetensors")
    assert arrays["params.policy_trunk.0.weight"].shape == (4, 64)
    np.testing.assert_array_equal(arrays["observations.mean"], policy.actor.observations.mean)
    assert not any("value" in name for name in arrays)  # nothing of the critic
    assert len(arrays) == len(jax.tree.leaves(policy.actor))


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "normalised": (ac.PPO(**PPO, normalize_observation=True), "CartPole-v1", {}),
    "gaussian": (ac.PPO(**PPO), "Pendulum-v1", {}),
    "squashed": (ac.A2C(num_envs=2, num_steps=16, squash=True), "Pendulum-v1", {}),
    "sac": (ac.SAC(hidden_sizes=(16,), buffer_size=500), "Pendulum-v1", {}),
    "gelu": (ac.PPO(**PPO, activation="gelu"), "CartPole-v1", {}),
    "rooms": (ac.PPO(**PPO), Rooms, {}),
    "parts": (ac.A2C(num_envs=2, num_steps=16), Parts, {}),
}


@pytest.mark.extras
@pytest.mark.parametrize("case", CASES)
def test_a_graph_decides_as_the_policy_does(case, tmp_path):
    pytest.importorskip("jax2onnx")
    from onnx import load
    from onnx.reference import ReferenceEvaluator

    algorithm, environment, options = CASES[case]
    policy = ac.train(algorithm, environment, **QUICK | options).policy()
    with jax.numpy_dtype_promotion("standard"):  # as users have it
        file = policy.export(tmp_path / "policy.onnx")
    graph = ReferenceEvaluator(load(file))
    space = policy.spec.observation_space
    space.seed(0)
    for count in (1, 7):
        drawn = [allowed(space.sample()) for _ in range(count)]
        batch = jax.tree.map(lambda *x: np.stack(x), *drawn)
        parts = as_parts(batch)
        assert set(graph.input_names) == set(parts)
        kept = {name: narrow(part) for name, part in parts.items()}
        (action,) = graph.run(["action"], kept)
        expected = policy(batch)
        assert action.shape == expected.shape
        np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-5)


def as_parts(observation: Any, name: str = "observation") -> dict[str, np.ndarray]:
    if isinstance(observation, dict):
        pairs: Any = observation.items()
    elif isinstance(observation, tuple):
        pairs = enumerate(observation)
    else:
        return {name: observation}
    return {k: v for key, part in pairs for k, v in as_parts(part, f"{name}.{key}").items()}


def narrow(x: np.ndarray) -> np.ndarray:
    """JAX, and so the graph, has no 64 bits."""
    return x.astype(np.int32) if x.dtype == np.int64 else x


@pytest.mark.extras
def test_the_guides_lines_run_the_graph(tmp_path, monkeypatch):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    page = Path(__file__).parent.parent / "docs" / "deploying.md"
    blocks = re.findall(
        r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    (lines,) = (block for block in blocks if "onnxruntime" in block)
    monkeypatch.chdir(tmp_path)
    policy = ac.train(ac.PPO(**PPO), "CartPole-v1", **QUICK).policy()
    with jax.numpy_dtype_promotion("standard"):  # as users have it
        policy.export("policy.onnx")
    known: dict[str, Any] = {}
    exec(compile(lines, "deploying.md", "exec", dont_inherit=True), known)
    assert known["action"] == policy(np.zeros((1, 4), np.float32))


@pytest.mark.extras
def test_what_cannot_become_a_graph_is_told(tmp_path):
    pytest.importorskip("jax2onnx")

    def apply(params: Any, x: Any) -> Any:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(np.asarray, shape, x, vmap_method="sequential")

    network = ac.Network(lambda key, x: {}, apply)
    policy = ac.train(ac.PPO(**PPO, network=network), "CartPole-v1", **QUICK).policy()
    with pytest.raises(ac.UserError, match=r"could not be written as ONNX: .*its arrays instead"):
        policy.export(tmp_path / "policy.onnx")
    assert list(tmp_path.iterdir()) == []
