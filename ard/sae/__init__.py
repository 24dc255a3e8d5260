"""Stage 4: the TopK sparse autoencoder (Sec. 2.1, Eq. 1), its training, and the folder that it is kept in."""

from ard.sae.callback import SaveSAE
from ard.sae.module import Encoding, SAETraining
from ard.sae.topk import PolyFeatures, SparseCoder, TopKSAE, load_sparse_coder

__all__ = ["Encoding", "PolyFeatures", "SAETraining", "SaveSAE", "SparseCoder", "TopKSAE", "load_sparse_coder"]
