from .callback import (
    PLACEHOLDER,
    AnnealK,
    LogQuality,
    SaveSAE,
    WarmUpAndDecay,
)
from .checkpoint import SaveWhenStopped, WholeCheckpoints, check_checkpoint, is_whole
from .controls import make_control
from .dictionary import Dictionary
from .formats import Format, convert
from .jumprelu import JumpReLUSAE
from .loading import RAW, load_dictionary
from .metric import NormByPosition, Quality
from .module import SAETraining
from .poly import HalfWaves, PolyFeatures
from .topk import Reconstruction, TopKSAE

__all__ = [
    "PLACEHOLDER",
    "RAW",
    "AnnealK",
    "Dictionary",
    "Format",
    "HalfWaves",
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
    "make_control",
]
