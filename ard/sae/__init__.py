"""Stage 4: the TopK sparse autoencoder (Sec. 2.1, Eq. 1), how it is trained and stored; other dictionaries."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
