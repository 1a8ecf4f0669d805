"""Tuned settings for an algorithm on an environment. `benchmarks/learning.py` measures them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actorcritic.algorithms import (
    A2C,
    ALGORITHMS,
    PPO,
    SAC,
    TRPO,
    QActorCritic,
    Reinforce,
    TDActorCritic,
)
from actorcritic.core.types import UserError
from actorcritic.core.words import nearest


@dataclass(frozen=True)
class Preset:
    algorithm: Any
    total_steps: int


# What CleanRL trains MuJoCo's robots with (its ppo_continuous_action.py).
MUJOCO_PPO = PPO(
    num_envs=1,
    num_steps=2048,
    num_epochs=10,
    num_minibatches=32,
    learning_rate=3e-4,
    learning_rate_schedule="linear",
    clip_value=True,
    normalize_observation=True,
    normalize_reward=True,
)

# Much as SB3's zoo trains the lander.
LUNAR_LANDER_PPO = PPO(
    num_envs=16,
    num_steps=1024,
    gae_lambda=0.98,
    gamma=0.999,
    num_epochs=4,
    num_minibatches=256,
    entropy_coefficient=0.01,
    learning_rate=3e-4,
)

# What PureJaxRL trains MinAtar's games with.
MINATAR_PPO = PPO(
    num_envs=64,
    num_minibatches=8,
    learning_rate=5e-3,
    learning_rate_schedule="linear",
    clip_value=True,
    entropy_coefficient=0.01,
    activation="relu",
)

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
    ("ppo", "LunarLander-v3"): Preset(LUNAR_LANDER_PPO, total_steps=1_000_000),
    ("ppo", "LunarLanderContinuous-v3"): Preset(LUNAR_LANDER_PPO, total_steps=1_000_000),
    ("q-actor-critic", "CartPole-v1"): Preset(QActorCritic(), total_steps=500_000),
    ("td-actor-critic", "CartPole-v1"): Preset(TDActorCritic(), total_steps=200_000),
    ("trpo", "CartPole-v1"): Preset(
        TRPO(
            num_envs=8,
            num_steps=128,
            gae_lambda=0.98,
            num_epochs=20,
            num_minibatches=2,
            cg_damping=1e-2,
        ),
        total_steps=100_000,
    ),
    ("a2c", "Acrobot-v1"): Preset(
        A2C(num_envs=16, normalize_observation=True, normalize_reward=True), total_steps=500_000
    ),
    ("ppo", "MountainCar-v0"): Preset(
        PPO(
            num_envs=16,
            num_steps=64,
            gae_lambda=0.98,
            learning_rate=1e-3,
            learning_rate_schedule="linear",
            normalize_observation=True,
            normalize_reward=True,
        ),
        total_steps=1_000_000,
    ),
    ("a2c", "MountainCarContinuous-v0"): Preset(
        A2C(
            num_envs=8,
            num_steps=50,
            gae_lambda=0.98,
            gamma=0.999,
            optimizer="adam",
            learning_rate=3e-3,
            initial_log_std=2.0,
            normalize_observation=True,
            normalize_reward=True,
        ),
        total_steps=100_000,
    ),
    ("a2c", "Pendulum-v1"): Preset(
        A2C(
            num_envs=8,
            num_steps=8,
            gae_lambda=0.9,
            gamma=0.95,
            optimizer="adam",
            learning_rate=1e-3,
            critic_learning_rate=3e-3,
            learning_rate_schedule="linear",
            activation="relu",
            normalize_observation=True,
            normalize_reward=True,
        ),
        total_steps=1_000_000,
    ),
    ("trpo", "Pendulum-v1"): Preset(
        TRPO(num_envs=2, num_steps=1024, gamma=0.9, num_epochs=15), total_steps=100_000
    ),
    ("td-actor-critic", "Acrobot-v1"): Preset(
        TDActorCritic(normalize_observation=True), total_steps=500_000
    ),
    ("reinforce", "Acrobot-v1"): Preset(
        Reinforce(
            num_envs=8, learning_rate=3e-3, normalize_observation=True, normalize_reward=True
        ),
        total_steps=500_000,
    ),
    ("trpo", "Acrobot-v1"): Preset(
        TRPO(
            num_envs=8,
            num_steps=128,
            num_minibatches=8,
            normalize_observation=True,
            normalize_reward=True,
        ),
        total_steps=100_000,
    ),
    ("trpo", "MountainCar-v0"): Preset(
        TRPO(
            num_envs=2,
            num_steps=1024,
            gae_lambda=0.98,
            num_epochs=20,
            normalize_observation=True,
            normalize_reward=True,
        ),
        total_steps=100_000,
    ),
    ("trpo", "MountainCarContinuous-v0"): Preset(
        TRPO(
            num_envs=4,
            num_steps=256,
            num_minibatches=8,
            gae_lambda=0.98,
            gamma=0.999,
            initial_log_std=2.0,
            normalize_observation=True,
            normalize_reward=True,
        ),
        total_steps=50_000,
    ),
    ("ppo", "MountainCarContinuous-v0"): Preset(
        PPO(
            num_envs=8,
            num_steps=64,
            num_epochs=10,
            num_minibatches=8,
            gae_lambda=0.98,
            gamma=0.999,
            learning_rate=1e-3,
            initial_log_std=2.0,
            normalize_observation=True,
            normalize_reward=True,
        ),
        total_steps=50_000,
    ),
    ("sac", "Pendulum-v1"): Preset(
        SAC(
            hidden_sizes=(64, 64),
            learning_rate=1e-3,
            critic_learning_rate=1e-3,
            temperature_learning_rate=1e-3,
            buffer_size=20_000,
        ),
        total_steps=20_000,
    ),
    ("sac", "MountainCarContinuous-v0"): Preset(
        SAC(
            hidden_sizes=(64, 64),
            num_steps=32,
            gradient_steps=32,
            gamma=0.999,
            tau=0.01,
            learning_rate=1e-3,
            critic_learning_rate=1e-3,
            temperature_learning_rate=1e-3,
            learning_starts=10_000,
            buffer_size=50_000,
        ),
        total_steps=50_000,
    ),
    ("sac", "HalfCheetah-v5"): Preset(
        SAC(learning_starts=10_000, buffer_size=100_000), total_steps=100_000
    ),
    ("ppo", "Hopper-v5"): Preset(MUJOCO_PPO, total_steps=1_000_000),
    ("ppo", "InvertedPendulum-v5"): Preset(MUJOCO_PPO, total_steps=1_000_000),
    ("trpo", "Swimmer-v5"): Preset(
        TRPO(
            num_envs=2,
            num_steps=512,
            gae_lambda=0.98,
            max_kl=0.02,
            gamma=0.9999,
            num_epochs=20,
            cg_iterations=25,
            normalize_observation=True,
            normalize_reward=True,
        ),
        total_steps=100_000,
    ),
} | {
    ("ppo", f"gymnax:{game}-MinAtar"): Preset(MINATAR_PPO, total_steps=10_000_000)
    for game in ("Breakout", "SpaceInvaders", "Asterix", "Freeway")
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
