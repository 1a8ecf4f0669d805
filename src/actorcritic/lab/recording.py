"""Episodes of a finite process as a data set, of which everything is known exactly."""

from __future__ import annotations

import gymnasium
import numpy as np
from jaxtyping import Float

from actorcritic.data.dataset import Dataset
from actorcritic.lab.process import MDP, checked_policy
from actorcritic.lab.sampling import sample


def record(
    mdp: MDP, policy: Float[np.ndarray, "S A"], episodes: int, steps: int, rng: np.random.Generator
) -> Dataset:
    """So many episodes of a policy, each of at most `steps` steps: what is longer is truncated.

    Observations and actions are Discrete, and the log-probabilities of the actions are recorded.
    """
    policy = checked_policy(mdp, policy)
    found = sample(mdp, policy, rng, steps=steps, batch=episodes, restart=False)
    with np.errstate(divide="ignore"):
        log_prob = np.log(policy)[found.states, found.actions]
    recorded = []
    for b in range(episodes):
        length = int(found.valid[:, b].sum())
        rows = slice(0, length)
        states = np.append(found.states[rows, b], found.next_states[length - 1, b])
        recorded.append(
            {
                "observation": states,
                "action": found.actions[rows, b],
                "reward": found.rewards[rows, b],
                "terminated": found.terminated[rows, b],
                "truncated": found.truncated[rows, b],
                "log_prob": log_prob[rows, b],
            }
        )
    return Dataset.from_episodes(
        recorded,
        gymnasium.spaces.Discrete(mdp.states),
        gymnasium.spaces.Discrete(mdp.actions),
        id="lab process",
    )
