from .callback import LogCells, LogTraining
from .cells import log_cell, log_results
from .dashboard import build_dashboard, save_dashboard, write_dashboard
from .logger import WandbLogger

__all__ = [
    "LogCells",
    "LogTraining",
    "WandbLogger",
    "build_dashboard",
    "log_cell",
    "log_results",
    "save_dashboard",
    "write_dashboard",
]
