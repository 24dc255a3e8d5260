"""Stage 4: the TopK sparse autoencoder (Sec. 2.1, Eq. 1), its training and its folder; other dictionaries."""

from ard.sae.callback import (
    PLACEHOLDER,
    AnnealK,
    LogQuality,
    SaveSAE,
    WarmUpAndDecay,
)
from ard.sae.checkpoint import SaveWhenStopped, WholeCheckpoints, check_checkpoint, is_whole
from ard.sae.dictionary import Dictionary
from ard.sae.formats import Format, convert
from ard.sae.jumprelu import JumpReLUSAE
from ard.sae.loading import POLY, load_dictionary
from ard.sae.metric import NormByPosition, Quality
from ard.sae.module import SAETraining
from ard.sae.poly import PolyFeatures
from ard.sae.topk import Reconstruction, TopKSAE

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
