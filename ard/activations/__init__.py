"""Stage 3: activations of many clips, several layers in one pass, into shards with a manifest, and back as a stream."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
