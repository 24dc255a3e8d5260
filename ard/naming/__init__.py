"""Stage 8: captions for a feature's most representative clips, and a concept name made from them (Sec. 2.3)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
