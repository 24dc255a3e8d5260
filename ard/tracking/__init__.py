"""What trainings and evaluations leave in an experiment tracker: W&B, or what another logger of Lightning can show.

Nothing is logged that is not also in the run's files: a cell's figures, tables and plots are made from its results.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
