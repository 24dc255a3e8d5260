"""Stage 4: the TopK sparse autoencoder (Sec. 2.1, Eq. 1), its training, and the folder that it is kept in."""

from ard.sae.callback import (
    PLACEHOLDER,
    AnnealK,
    LogQuality,
    SaveSAE,
    WarmUpAndDecay,
)
from ard.sae.checkpoint import SaveWhenStopped, WholeCheckpoints, check_checkpoint, is_whole
from ard.sae.formats import Format, convert
from ard.sae.metric import NormByPosition, Quality
from ard.sae.module import SAETraining
from ard.sae.topk import POLY, PolyFeatures, Reconstruction, SparseCoder, TopKSAE, load_sparse_coder

__all__ = [
    "PLACEHOLDER",
    "POLY",
    "AnnealK",
    "Format",
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
