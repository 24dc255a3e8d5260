"""Stage 6: clips and texts in one embedding space, by CLAP."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
