"""Tuned settings for an algorithm on an environment. `benchmarks/learning.py` measures them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actorcritic.algorithms import A2C, ALGORITHMS, PPO, Reinforce
from actorcritic.hyperparameters import nearest
from actorcritic.types import UserError


@dataclass(frozen=True)
class Preset:
    algorithm: Any
    total_steps: int


PRESETS: dict[tuple[str, str], Preset] = {
    ("ppo", "CartPole-v1"): Preset(
        PPO(
            num_envs=8,
            num_steps=32,
            num_epochs=20,
            num_minibatches=1,
            gamma=0.98,
            gae_lambda=0.8,
            learning_rate=1e-3,
            learning_rate_schedule="linear",
            clip_range_schedule="linear",
        ),
        total_steps=100_000,
    ),
    ("a2c", "CartPole-v1"): Preset(A2C(), total_steps=500_000),
    ("reinforce", "CartPole-v1"): Preset(
        Reinforce(num_envs=8, learning_rate=3e-3), total_steps=200_000
    ),
    ("ppo", "Acrobot-v1"): Preset(
        PPO(
            num_envs=16,
            num_steps=128,
            gae_lambda=0.94,
            num_epochs=4,
            learning_rate=7e-4,
            learning_rate_schedule="linear",
            normalize_observation=True,
        ),
        total_steps=500_000,
    ),
    ("ppo", "Pendulum-v1"): Preset(
        PPO(
            num_envs=4,
            num_steps=512,
            num_epochs=10,
            num_minibatches=32,
            learning_rate=1e-3,
            learning_rate_schedule="linear",
            gamma=0.95,
            normalize_reward=True,
        ),
        total_steps=100_000,
    ),
    ("ppo", "LunarLander-v3"): Preset(
        PPO(
            num_envs=16,
            num_steps=1024,
            gae_lambda=0.98,
            gamma=0.999,
            num_epochs=4,
            num_minibatches=256,
            entropy_coefficient=0.01,
            learning_rate=3e-4,
        ),
        total_steps=1_000_000,
    ),
}

DEFAULT_STEPS = 100_000


def algorithm_named(name: str) -> type:
    """The algorithm's class, or UserError with the nearest name."""
    if name not in ALGORITHMS:
        raise UserError(
            f"There is no algorithm '{name}'.{nearest(name, ALGORITHMS)} "
            f"Known: {', '.join(ALGORITHMS)}."
        )
    return ALGORITHMS[name]


def preset(name: str, environment_id: str) -> Preset:
    """The tuned preset, or the algorithm's defaults where there is none."""
    cls = algorithm_named(name)
    return PRESETS.get((name, environment_id)) or Preset(cls(), DEFAULT_STEPS)
