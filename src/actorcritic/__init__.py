"""Actor-critic reinforcement learning: train, compare, ablate and audit agents.

What the package offers is listed in `__init__.pyi`, and imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
