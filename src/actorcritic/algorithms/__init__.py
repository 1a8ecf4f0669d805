"""The algorithms, by the name the command line knows them by."""

from actorcritic.algorithms.a2c import A2C
from actorcritic.algorithms.one_step import QActorCritic, TDActorCritic
from actorcritic.algorithms.ppo import PPO
from actorcritic.algorithms.reinforce import Reinforce
from actorcritic.algorithms.sac import SAC
from actorcritic.algorithms.trpo import TRPO

ALGORITHMS: dict[str, type] = {
    cls.name: cls for cls in (Reinforce, QActorCritic, TDActorCritic, A2C, PPO, TRPO, SAC)
}

__all__ = ["A2C", "ALGORITHMS", "PPO", "SAC", "TRPO", "QActorCritic", "Reinforce", "TDActorCritic"]
