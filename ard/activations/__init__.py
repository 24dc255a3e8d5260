"""Stage 3: activations of several layers from one pass over many clips, stored as shards and read back as streams."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
