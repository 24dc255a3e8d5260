"""The rating study (Sec. 4, Table 2): draw concepts, have people label and rate them, score the answers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
