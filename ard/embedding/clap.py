"""CLAP through transformers: audio and text into one space, on the unit sphere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from transformers import ClapModel, ClapProcessor

from ard.audio import resample
from ard.types import Clip, UserError

EMBEDDED = "embedded"  # the small model that is shipped with the package


class Clap:
    """Embed audio and text; cosines of what comes out are the similarities of Eq. 3 and of the matching in Sec. 4.

    Deterministic: a clip longer than the model's window is cut into equal windows and the embeddings of these are
    averaged, where transformers' own feature extractor would crop at random. Texts go in as they are, without a
    template, on both sides of every comparison.
    """

    def __init__(self, model: ClapModel, processor: ClapProcessor, name: str) -> None:
        self.model: Any = model.eval()
        self.processor: Any = processor
        self.name = name
        self._texts: dict[str, Tensor] = {}

    @property
    def sample_rate_hz(self) -> int:
        """The rate at which the model hears."""
        return self.processor.feature_extractor.sampling_rate

    @torch.inference_mode()
    def audio(self, clips: Sequence[Clip]) -> Float[Tensor, "clips d"]:
        """Return one unit vector a clip."""
        window = self.processor.feature_extractor.max_length_s * self.sample_rate_hz
        windows, clip_of_window = [], []
        for index, clip in enumerate(clips):
            waveform = resample(clip.waveform, clip.sample_rate_hz, self.sample_rate_hz)
            pieces = np.array_split(waveform, max(1, -(-len(waveform) // window)))
            windows += pieces
            clip_of_window += [index] * len(pieces)
        features = self.processor(audio=windows, sampling_rate=self.sample_rate_hz, return_tensors="pt")
        if "is_longer" in features:  # a "fusion" model's feature extractor marks one at random where none is
            features["is_longer"] = torch.zeros_like(features["is_longer"])
        embedded = self.model.get_audio_features(**features.to(self.model.device)).pooler_output.float().cpu()
        total = torch.zeros(len(clips), embedded.shape[1]).index_add_(0, torch.tensor(clip_of_window), embedded)
        return normalize(total, dim=-1)

    @torch.inference_mode()
    def text(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        """Return one unit vector a text; every text is computed once in the life of this object."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for start in range(0, len(new), 256):
            batch = new[start : start + 256]
            tokens = self.processor(text=batch, padding=True, truncation=True, return_tensors="pt").to(
                self.model.device
            )
            embedded = normalize(self.model.get_text_features(**tokens).pooler_output.float().cpu(), dim=-1)
            self._texts.update(zip(batch, embedded, strict=True))
        if not texts:
            return torch.empty(0, self.model.config.projection_dim)
        return torch.stack([self._texts[text] for text in texts])


def load_clap(model: str = EMBEDDED, *, device: str = "cpu") -> Clap:
    """Load a CLAP model from a local folder or by its hub id; ``embedded`` is the small one shipped with the package.

    Raises:
        UserError: if the folder or id cannot be loaded as a CLAP model.
    """
    source = str(Path(__file__).parent / "embedded") if model == EMBEDDED else model
    try:
        weights: Any = ClapModel.from_pretrained(source, use_safetensors=True)
        processor = ClapProcessor.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"CLAP model {model!r} cannot be loaded ({reason}): give a local folder or a hub id") from error
    return Clap(weights.to(device), processor, model)
