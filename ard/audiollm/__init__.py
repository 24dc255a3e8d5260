"""Stage 2: an AudioLLM: load it, find its layers, capture several of them in one pass, intervene, generate."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
