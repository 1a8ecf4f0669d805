from .a2c import A2C as A2C
from .catalogue import ALGORITHMS as ALGORITHMS
from .one_step import QActorCritic as QActorCritic
from .one_step import TDActorCritic as TDActorCritic
from .ppo import PPO as PPO
from .reinforce import Reinforce as Reinforce
from .sac import SAC as SAC
from .trpo import TRPO as TRPO
