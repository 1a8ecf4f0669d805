"""Actor-critic reinforcement learning: train, compare, ablate and audit agents."""

from actorcritic import envs
from actorcritic.algorithms import (
    A2C,
    PPO,
    SAC,
    TRPO,
    QActorCritic,
    Reinforce,
    TDActorCritic,
)
from actorcritic.comparison import Comparison
from actorcritic.experiments import Sweep, ablate, compare, report, sweep
from actorcritic.networks import CNN, MLP, Network
from actorcritic.runners.evaluate import Policy
from actorcritic.runs import Evaluated, Run, load, open_run
from actorcritic.studies import STUDIES, study
from actorcritic.training import resume, train
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
    "CNN",
    "MLP",
    "PPO",
    "SAC",
    "STUDIES",
    "TRPO",
    "Algorithm",
    "Comparison",
    "EnvSpec",
    "Environment",
    "Evaluated",
    "Network",
    "Policy",
    "QActorCritic",
    "Reinforce",
    "Run",
    "Step",
    "Sweep",
    "TDActorCritic",
    "Transition",
    "UserError",
    "ablate",
    "compare",
    "envs",
    "load",
    "open_run",
    "report",
    "resume",
    "study",
    "sweep",
    "train",
]
