"""Stage 7: how monosemantic each feature is (Sec. 2.3, Eq. 3 and 4), and the top-C."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
