"""The single pass over the clips, which computes codes and clip scores once for all evaluators; their base class."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
