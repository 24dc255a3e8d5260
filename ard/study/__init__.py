"""The rating study (Sec. 4, Table 2): concepts drawn, labelled and rated by people, and what these say."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
