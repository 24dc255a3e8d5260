"""Stage 9b: features against behaviour (Sec. 4, Table 3)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
