from .callback import (
    PLACEHOLDER,
    AnnealK,
    LogQuality,
    SaveSAE,
    WarmUpAndDecay,
)
from .checkpoint import SaveWhenStopped, WholeCheckpoints, check_checkpoint, is_whole
from .dictionary import Dictionary
from .formats import Format, convert
from .jumprelu import JumpReLUSAE
from .loading import POLY, load_dictionary
from .metric import NormByPosition, Quality
from .module import SAETraining
from .poly import PolyFeatures
from .topk import Reconstruction, TopKSAE

__all__ = [
    "PLACEHOLDER",
    "POLY",
    "AnnealK",
    "Dictionary",
    "Format",
    "JumpReLUSAE",
    "LogQuality",
    "NormByPosition",
    "PolyFeatures",
    "Quality",
    "Reconstruction",
    "SAETraining",
    "SaveSAE",
    "SaveWhenStopped",
    "TopKSAE",
    "WarmUpAndDecay",
    "WholeCheckpoints",
    "check_checkpoint",
    "convert",
    "is_whole",
    "load_dictionary",
]
