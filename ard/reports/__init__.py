"""Stage 10: result files of a run -> tables (JSON, Markdown, LaTeX, terminal, logger) and the HTML concept report.

Reads only files, so a report can be made long after the run, on a machine without the model.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
