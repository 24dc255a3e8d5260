"""The steps of a run, each done once with its settings: what `ard demo`, `ard run` and `ard table` do."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
