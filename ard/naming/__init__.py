"""Stage 8: captions of a feature's most representative clips, and the concept's name from them (Sec. 2.3)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
