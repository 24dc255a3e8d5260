"""Stage 5: the clips that represent a feature most and least (Sec. 2.2, Eq. 2)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
