"""The one pass over clips: codes and clip scores once, handed to all evaluators; and what every evaluator is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
