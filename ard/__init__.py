"""ard: find, name and test the concepts inside audio language models (AR&D, ICASSP 2026)."""

from importlib.metadata import version

import lazy_loader

__version__ = version("ard-audio")

# Names are imported when they are first asked for, here and in the packages below; the stub beside each says which.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
