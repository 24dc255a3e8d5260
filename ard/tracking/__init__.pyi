from .callback import LogCells, LogTraining
from .cells import log_cell, log_results
from .logger import WandbLogger

__all__ = ["LogCells", "LogTraining", "WandbLogger", "log_cell", "log_results"]
