from .model import Model as Model
from .supervised import SFTSettings as SFTSettings
from .supervised import sft as sft
from .training import Trained as Trained
