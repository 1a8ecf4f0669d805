"""Actor-critic reinforcement learning: train, compare, ablate and audit agents."""

from actorcritic import envs
from actorcritic.algorithms import A2C, PPO, Reinforce
from actorcritic.networks import MLP, Network
from actorcritic.runners.evaluate import Policy
from actorcritic.runs import Evaluated, Run, load, open_run, resume, train
from actorcritic.types import (
    Algorithm,
    Environment,
    EnvSpec,
    Step,
    Transition,
    UserError,
)

__version__ = "0.1.0"

__all__ = [
    "A2C",
    "MLP",
    "PPO",
    "Algorithm",
    "EnvSpec",
    "Environment",
    "Evaluated",
    "Network",
    "Policy",
    "Reinforce",
    "Run",
    "Step",
    "Transition",
    "UserError",
    "envs",
    "load",
    "open_run",
    "resume",
    "train",
]
