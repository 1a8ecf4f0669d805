"""Tuned settings for an algorithm on an environment. `benchmarks/learning.py` measures them.

Where there are none, `defaults.py` says what is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actorcritic.algorithms.catalogue import ALGORITHMS, find

if TYPE_CHECKING:
    from actorcritic.core.types import EnvSpec


@dataclass(frozen=True)
class Preset:
    """An algorithm by its name, its hyperparameters, and how long to train it."""

    name: str
    total_steps: int
    hyperparameters: dict[str, Any]
    why: str  # these, in one sentence

    @property
    def algorithm(self) -> Any:
        from actorcritic.core.hyperparameters import replace  # which needs JAX; a list does not

        return replace(find(self.name), **self.hyperparameters)


def tuned(total_steps: int, **hyperparameters: Any) -> tuple[int, dict[str, Any]]:
    """A row of the table below."""
    return total_steps, hyperparameters


# What CleanRL trains MuJoCo's robots with (its ppo_continuous_action.py).
MUJOCO_PPO = tuned(
    1_000_000,
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
LUNAR_LANDER_PPO = tuned(
    1_000_000,
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
MINATAR_PPO = tuned(
    10_000_000,
    num_envs=64,
    num_minibatches=8,
    learning_rate=5e-3,
    learning_rate_schedule="linear",
    clip_value=True,
    entropy_coefficient=0.01,
    activation="relu",
)

# Much as Yu et al. 2022 train the particle world, with smaller batches and a shorter horizon.
PARTICLES: dict[str, Any] = {
    "num_envs": 32,
    "num_steps": 25,
    "num_epochs": 5,
    "num_minibatches": 4,
    "gamma": 0.95,
    "learning_rate": 2e-3,
    "learning_rate_schedule": "linear",
    "entropy_coefficient": 0.01,
    "normalize_value": True,
    "huber_delta": 10.0,
    "clip_value": True,
    "value_coefficient": 1.0,
    "max_grad_norm": 10.0,
}

TUNED = {
    ("ppo", "CartPole-v1"): tuned(
        100_000,
        num_envs=8,
        num_steps=32,
        num_epochs=20,
        num_minibatches=1,
        gamma=0.98,
        gae_lambda=0.8,
        learning_rate=0.001,
        learning_rate_schedule="linear",
        clip_range_schedule="linear",
    ),
    ("a2c", "CartPole-v1"): tuned(
        500_000,
    ),
    ("a3c", "CartPole-v1"): tuned(
        500_000,
    ),
    ("impala", "CartPole-v1"): tuned(
        500_000,
    ),
    ("reinforce", "CartPole-v1"): tuned(
        200_000,
        num_envs=8,
        learning_rate=0.003,
    ),
    ("ppo", "Acrobot-v1"): tuned(
        500_000,
        num_envs=16,
        num_steps=128,
        gae_lambda=0.94,
        num_epochs=4,
        learning_rate=0.0007,
        learning_rate_schedule="linear",
        normalize_observation=True,
    ),
    ("ppo", "Pendulum-v1"): tuned(
        100_000,
        num_envs=4,
        num_steps=512,
        num_epochs=10,
        num_minibatches=32,
        learning_rate=0.001,
        learning_rate_schedule="linear",
        gamma=0.95,
        normalize_reward=True,
    ),
    ("ppo", "LunarLander-v3"): LUNAR_LANDER_PPO,
    ("ppo", "LunarLanderContinuous-v3"): LUNAR_LANDER_PPO,
    ("q-actor-critic", "CartPole-v1"): tuned(
        500_000,
    ),
    ("td-actor-critic", "CartPole-v1"): tuned(
        200_000,
    ),
    ("trpo", "CartPole-v1"): tuned(
        100_000,
        num_envs=8,
        num_steps=128,
        gae_lambda=0.98,
        num_epochs=20,
        num_minibatches=2,
        cg_damping=0.01,
    ),
    ("a2c", "Acrobot-v1"): tuned(
        500_000,
        num_envs=16,
        normalize_observation=True,
        normalize_reward=True,
    ),
    ("ppo", "MountainCar-v0"): tuned(
        1_000_000,
        num_envs=16,
        num_steps=64,
        gae_lambda=0.98,
        learning_rate=0.001,
        learning_rate_schedule="linear",
        normalize_observation=True,
        normalize_reward=True,
    ),
    ("a2c", "MountainCarContinuous-v0"): tuned(
        100_000,
        num_envs=8,
        num_steps=50,
        gae_lambda=0.98,
        gamma=0.999,
        optimizer="adam",
        learning_rate=0.003,
        initial_log_std=2.0,
        normalize_observation=True,
        normalize_reward=True,
    ),
    ("a2c", "Pendulum-v1"): tuned(
        1_000_000,
        num_envs=8,
        num_steps=8,
        gae_lambda=0.9,
        gamma=0.95,
        optimizer="adam",
        learning_rate=0.001,
        critic_learning_rate=0.003,
        learning_rate_schedule="linear",
        activation="relu",
        normalize_observation=True,
        normalize_reward=True,
    ),
    ("trpo", "Pendulum-v1"): tuned(
        100_000,
        num_envs=2,
        num_steps=1024,
        gamma=0.9,
        num_epochs=15,
    ),
    ("td-actor-critic", "Acrobot-v1"): tuned(
        500_000,
        normalize_observation=True,
    ),
    ("reinforce", "Acrobot-v1"): tuned(
        500_000,
        num_envs=8,
        learning_rate=0.003,
        normalize_observation=True,
        normalize_reward=True,
    ),
    ("trpo", "Acrobot-v1"): tuned(
        100_000,
        num_envs=8,
        num_steps=128,
        num_minibatches=8,
        normalize_observation=True,
        normalize_reward=True,
    ),
    ("trpo", "MountainCar-v0"): tuned(
        100_000,
        num_envs=2,
        num_steps=1024,
        gae_lambda=0.98,
        num_epochs=20,
        normalize_observation=True,
        normalize_reward=True,
    ),
    ("trpo", "MountainCarContinuous-v0"): tuned(
        50_000,
        num_envs=4,
        num_steps=256,
        num_minibatches=8,
        gae_lambda=0.98,
        gamma=0.999,
        initial_log_std=2.0,
        normalize_observation=True,
        normalize_reward=True,
    ),
    ("ppo", "MountainCarContinuous-v0"): tuned(
        50_000,
        num_envs=8,
        num_steps=64,
        num_epochs=10,
        num_minibatches=8,
        gae_lambda=0.98,
        gamma=0.999,
        learning_rate=0.001,
        initial_log_std=2.0,
        normalize_observation=True,
        normalize_reward=True,
    ),
    ("ppo", "routing"): tuned(
        200_000,
        num_envs=64,
        num_steps=32,
        num_epochs=4,
        num_minibatches=8,
        gamma=1.0,
        learning_rate=0.003,
        learning_rate_schedule="linear",
        entropy_coefficient=0.02,
    ),
    ("sac", "Pendulum-v1"): tuned(
        20_000,
        hidden_sizes=(64, 64),
        learning_rate=0.001,
        critic_learning_rate=0.001,
        temperature_learning_rate=0.001,
        buffer_size=20_000,
    ),
    ("sac", "MountainCarContinuous-v0"): tuned(
        50_000,
        hidden_sizes=(64, 64),
        num_steps=32,
        gradient_steps=32,
        gamma=0.999,
        tau=0.01,
        learning_rate=0.001,
        critic_learning_rate=0.001,
        temperature_learning_rate=0.001,
        learning_starts=10_000,
        buffer_size=50_000,
    ),
    ("sac", "HalfCheetah-v5"): tuned(
        100_000,
        learning_starts=10_000,
        buffer_size=100_000,
    ),
    ("bc", "Pendulum-v1"): tuned(
        10_000,
        hidden_sizes=(64, 64),
        learning_rate=0.001,
    ),
    ("iql", "Pendulum-v1"): tuned(
        10_000,
        hidden_sizes=(64, 64),
        learning_rate=0.001,
        gamma=0.95,
        expectile=0.8,
        inverse_temperature=1.0,
    ),
    ("cql", "Pendulum-v1"): tuned(
        5_000,
        hidden_sizes=(64, 64),
        batch_size=128,
        learning_rate=0.001,
        policy_learning_rate=0.0003,
        gamma=0.95,
        proposals=4,
    ),
    ("bc", "CartPole-v1"): tuned(
        10_000,
        hidden_sizes=(64, 64),
        learning_rate=0.001,
    ),
    ("iql", "CartPole-v1"): tuned(
        10_000,
        hidden_sizes=(64, 64),
        learning_rate=0.001,
        expectile=0.8,
    ),
    ("cql", "CartPole-v1"): tuned(
        10_000,
        hidden_sizes=(64, 64),
        learning_rate=0.001,
    ),
    ("ppo", "Hopper-v5"): MUJOCO_PPO,
    ("ppo", "InvertedPendulum-v5"): MUJOCO_PPO,
    ("trpo", "Swimmer-v5"): tuned(
        100_000,
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
} | {
    ("ppo", f"gymnax:{game}-MinAtar"): MINATAR_PPO
    for game in ("Breakout", "SpaceInvaders", "Asterix", "Freeway")
}
TUNED |= {
    (name, world): (3_000_000, PARTICLES)
    for name in ("mappo", "ippo")
    for world in ("simple-spread", "simple-speaker-listener", "simple-tag")
}
PRESETS = {
    (name, id): Preset(name, *row, f"The tuned preset of {name} for {id}.")
    for (name, id), row in TUNED.items()
}

DEFAULT_STEPS = 100_000


def preset(
    name: str,
    spec: EnvSpec,
    total_steps: int | None = None,
    given: Mapping[str, Any] | None = None,
) -> Preset:
    """The tuned preset, or defaults for such an environment where there is none.

    Where module:Class inherits from an algorithm of ours, it has the preset or the defaults of that
    one, less what it sets by itself. `given` are hyperparameters that are set on top of it: the
    defaults fit them. Raises UserError where there is no algorithm of that name.
    """
    if ":" not in name:
        return _of_ours(ALGORITHMS.known(name), spec, total_steps, given or {})
    algorithm = find(name)
    ours = {cls: known for known, cls in ALGORITHMS.items()}
    base = next((cls for cls in type(algorithm).__mro__ if cls in ours), None)
    if base is None:
        return Preset(
            name, DEFAULT_STEPS, {}, f"{name} as it is: it has no preset and no defaults."
        )
    plain = base()
    known = {key: value for key, value in (given or {}).items() if hasattr(plain, key)}
    found = _of_ours(ours[base], spec, total_steps, known)
    inherited = {
        setting: value
        for setting, value in found.hyperparameters.items()
        if getattr(algorithm, setting) == getattr(plain, setting)
    }
    return Preset(name, found.total_steps, inherited, found.why)


def _of_ours(name: str, spec: EnvSpec, total_steps: int | None, given: Mapping[str, Any]) -> Preset:
    tuned = PRESETS.get((name, spec.id))
    if tuned is not None:
        return tuned
    from actorcritic.algorithms.defaults import defaults  # needs JAX, which a list does not

    found, why = defaults(name, spec, total_steps or DEFAULT_STEPS, given)
    return Preset(name, DEFAULT_STEPS, found, why)
