"""Stage 1: audio clips, from a corpus, a folder of files or made from a seed, into WebDataset audio shards and back."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
