"""CLAP by LAION's own package, for checkpoints that exist only in its format (the extra ``laion-clap``)."""

import importlib.util
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ard.embedding.base import TEXTS_PER_BATCH, Clap, Preparer, Windows, mean_of_windows
from ard.hub import TOKENIZERS, ensure_file, ensure_models, offline_if_cached
from ard.types import UserError

HUB = "lukewys/laion_clap"  # the repository that LAION's package itself downloads from
TEXT_MODEL = "roberta-base"  # that its text encoder begins with
UNUSED = ("bert-base-uncased", "facebook/bart-base")  # whose tokenizers it loads too when it is imported
HARMLESS: list[Any] = [np.dtype, np.dtypes.Float64DType, np.float64(0).__reduce__()[0]]  # numpy numbers


class LaionClap(Clap):
    """LAION's ``CLAP_Module``: 48 kHz, windows of 10 s, samples rounded to 16 bits as in its training."""

    def __init__(self, module: Any, name: str) -> None:
        super().__init__()
        self.module = module.eval()
        self.name = name
        self.d = module.model.joint_embed_shape
        self.prepare = Preparer(48_000, 10.0, list)

    @torch.inference_mode()
    def hear(self, prepared: Windows) -> Float[Tensor, "clips d"]:
        """Return one unit vector for each clip that was prepared."""
        embedded = torch.from_numpy(self.module.get_audio_embedding_from_data(prepared.inputs))
        return mean_of_windows(embedded, prepared.clip_of_window)

    def _read(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        batches = [texts[start : start + TEXTS_PER_BATCH] for start in range(0, len(texts), TEXTS_PER_BATCH)]
        return torch.cat([self.module.get_text_embedding(list(batch), use_tensor=True) for batch in batches])


def load_laion_clap(checkpoint: str, name: str, device: str) -> LaionClap:
    """Load one of LAION's checkpoints, a file or a name on the hub; anything pickled beyond tensors is refused.

    The weights tell the size of the audio encoder. Fusion checkpoints, made for clips longer than a window, are left to
    transformers, which has them too.

    Raises:
        UserError: if LAION's package is not installed, or this is not one of its checkpoints.
    """
    if importlib.util.find_spec("laion_clap") is None:
        raise UserError(f"CLAP model {name!r} needs LAION's package: pip install 'ard-audio[laion-clap]'")
    otherwise = "give another --clap"
    path = Path(checkpoint) if Path(checkpoint).is_file() else ensure_file(HUB, checkpoint, otherwise=otherwise)
    ensure_models(UNUSED, weights=False, beside=TOKENIZERS, otherwise=otherwise)
    ensure_models([TEXT_MODEL], beside=TOKENIZERS, otherwise=otherwise)
    try:
        with offline_if_cached(TEXT_MODEL, beside=TOKENIZERS):
            from laion_clap import CLAP_Module  # heavy, and loads three tokenizers when imported
        with torch.serialization.safe_globals(HARMLESS):
            saved = torch.load(path, map_location="cpu", weights_only=True)
        weights = {key.removeprefix("module."): value for key, value in saved.get("state_dict", saved).items()}
        weights.pop("text_branch.embeddings.position_ids", None)  # a buffer that transformers no longer has
        if any("mel_conv2d" in key for key in weights):
            raise UserError(
                f"CLAP model {name!r} is a fusion checkpoint: give laion/clap-htsat-fused, for transformers"
            )
        width = weights["audio_branch.patch_embed.proj.weight"].shape[0]
        with offline_if_cached(TEXT_MODEL, beside=TOKENIZERS):
            module = CLAP_Module(device=device, amodel="HTSAT-tiny" if width == 96 else "HTSAT-base")
        module.model.load_state_dict(weights)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"CLAP model {name!r} cannot be loaded ({reason}): give one of LAION's checkpoints, "
            "a file or a name such as laion:630k-audioset-best.pt"
        ) from error
    return LaionClap(module, name)
