"""Stage 1: audio clips from a corpus, a folder or a seed, written to WebDataset audio shards and read back."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
