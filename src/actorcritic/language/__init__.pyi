from .model import Model as Model
from .sft import SFTSettings as SFTSettings
from .sft import sft as sft
from .training import Trained as Trained
