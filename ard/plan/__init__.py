"""What a preset will cost before it runs: clips, tokens, bytes, FLOPs, hours on a GPU, and whether it fits the disk."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
