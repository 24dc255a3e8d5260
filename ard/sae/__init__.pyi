from .callback import (
    PLACEHOLDER,
    AnnealK,
    InputNorms,
    LogQuality,
    SaveSAE,
    WarmUpAndDecay,
)
from .checkpoint import SaveWhenStopped, WholeCheckpoints, check_checkpoint, is_whole
from .formats import Format, convert
from .metric import NormByPosition, Quality
from .module import Encoding, SAETraining
from .topk import PolyFeatures, Reconstruction, SparseCoder, TopKSAE, load_sparse_coder

__all__ = [
    "PLACEHOLDER",
    "AnnealK",
    "Encoding",
    "Format",
    "InputNorms",
    "LogQuality",
    "NormByPosition",
    "PolyFeatures",
    "Quality",
    "Reconstruction",
    "SAETraining",
    "SaveSAE",
    "SaveWhenStopped",
    "SparseCoder",
    "TopKSAE",
    "WarmUpAndDecay",
    "WholeCheckpoints",
    "check_checkpoint",
    "convert",
    "is_whole",
    "load_sparse_coder",
]
