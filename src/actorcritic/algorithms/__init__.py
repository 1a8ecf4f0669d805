"""The algorithms, by the name the command line knows them by."""

from actorcritic.algorithms.policy_gradient import A2C, PPO, Reinforce

ALGORITHMS: dict[str, type] = {cls.name: cls for cls in (Reinforce, A2C, PPO)}

__all__ = ["A2C", "ALGORITHMS", "PPO", "Reinforce"]
