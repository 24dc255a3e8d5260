"""What all CLAP models share: audio and text in one space, and embedding clips longer than a model's window."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ard.audio import resample
from ard.types import Clip

TEXTS_PER_BATCH = 256
Waveform = Float[np.ndarray, " _"]


class Clap(ABC):
    """Embed audio and text; the cosines are the similarities of Eq. 3 and of the matching in Sec. 4.

    Deterministic. Texts are embedded as they are, without a template, on both sides of every comparison.

    Attributes:
        name: the name given to :func:`~ard.embedding.load_clap`.
        d: dimension of the space.
    """

    name: str
    d: int

    def __init__(self) -> None:
        self._texts: dict[str, Tensor] = {}

    @abstractmethod
    def audio(self, clips: Sequence[Clip]) -> Float[Tensor, "clips d"]:
        """Return one unit vector for each clip."""

    @abstractmethod
    def _read(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        """Embed at least one text."""

    @torch.inference_mode()
    def text(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        """Return one unit vector for each text; this object computes every text only once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:
            self._texts.update(zip(new, normalize(self._read(new).float().cpu(), dim=-1), strict=True))
        return torch.stack([self._texts[text] for text in texts]) if texts else torch.empty(0, self.d)


@torch.inference_mode()
def mean_of_windows(
    hear: Callable[[list[Waveform]], Float[Tensor, "windows d"]],
    clips: Sequence[Clip],
    sample_rate_hz: int,
    window_s: float,
) -> Float[Tensor, "clips d"]:
    """Embed clips of any length with a model that takes one window at a time: one unit vector for each clip.

    A clip longer than a window is cut into equal windows and their embeddings are averaged; the implementations
    themselves would crop at random.
    """
    longest = int(window_s * sample_rate_hz)
    windows, clip_of_window = [], []
    for index, clip in enumerate(clips):
        waveform = resample(clip.waveform, clip.sample_rate_hz, sample_rate_hz)
        pieces = np.array_split(waveform, max(1, -(-len(waveform) // longest)))
        windows += pieces
        clip_of_window += [index] * len(pieces)
    embedded = hear(windows).float().cpu()
    total = embedded.new_zeros(len(clips), embedded.shape[1]).index_add_(0, torch.tensor(clip_of_window), embedded)
    return normalize(total, dim=-1)
