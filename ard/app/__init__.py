"""Stage 11: a run in the browser: its report, own clips listened to, answers steered, the rating study."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
