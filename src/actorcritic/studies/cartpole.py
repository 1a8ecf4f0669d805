"""What the studies on CartPole-v1 share: learners, how long they train, which returns count."""

from __future__ import annotations

from actorcritic.algorithms import A2C, Reinforce
from actorcritic.studies.bench import Bench

CARTPOLE_THRESHOLDS = (195.0, 475.0)  # where CartPole-v0 and CartPole-v1 count as solved

# For 100,000 steps, chosen on seeds 100 to 104 (docs/studies.md says among what): a REINFORCE that
# is slower than it has to be would be no comparison.
REINFORCE = Reinforce(num_envs=1, baseline=False, learning_rate=6e-3)
A2C_GAE = A2C(num_envs=4, num_steps=16, gae_lambda=0.95, optimizer="adam", learning_rate=3e-3)


def steps_and_thresholds(bench: Bench) -> tuple[int, tuple[float, ...]]:
    """Environment steps, and the returns to reach."""
    return (10_000, (50.0, 100.0)) if bench.quick else (100_000, CARTPOLE_THRESHOLDS)
