"""The studies: claims that the field's sources make in passing, each measured by one command.

A study trains what it compares, keeps what its folder holds already, and ends in pictures, numbers
and a few sentences that are computed from what was measured. Each is a file here, with its
`QUESTION` and the function `answer`; it is imported when it is asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
