"""Stage 9a: named concepts against the labels of clips that nothing was trained on (Sec. 4, Table 1)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
