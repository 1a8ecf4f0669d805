"""Language models: a decoder that opens the ecosystem's folders, its generation and its training.

What the package offers is listed in `__init__.pyi`, and imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
