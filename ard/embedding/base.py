"""What all CLAP models share: audio and text in one space, and embedding clips longer than a model's window.

A clip is prepared and then heard. Preparing needs a CPU and none of the model, so that other processes can do it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
        prepare: turns clips into what :meth:`hear` takes, on the CPU; it can be sent to another process.
    """

    name: str
    d: int
    prepare: Callable[[Sequence[Clip]], Any]

    def __init__(self) -> None:
        self._texts: dict[str, Tensor] = {}

    def audio(self, clips: Sequence[Clip]) -> Float[Tensor, "clips d"]:
        """Return one unit vector for each clip."""
        return self.hear(self.prepare(clips))

    @abstractmethod
    def hear(self, prepared: Any) -> Float[Tensor, "clips d"]:
        """Return one unit vector for each clip that was prepared."""

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


class Windows(NamedTuple):
    """Clips ready for a model that takes one window at a time."""

    inputs: Any  # what the model takes, for all windows
    clip_of_window: list[int]


@dataclass(frozen=True)
class Preparer:
    """Cut clips of any length into windows for a model that takes one window at a time.

    A clip longer than a window is cut into equal windows, whose embeddings :func:`mean_of_windows` averages; the
    implementations themselves would crop at random.

    Args:
        sample_rate_hz: the model's.
        window_s: its longest window.
        transform: turns the windows into what the model takes.
    """

    sample_rate_hz: int
    window_s: float
    transform: Callable[[list[Waveform]], Any]

    def __call__(self, clips: Sequence[Clip]) -> Windows:
        """Return the windows of clips."""
        longest = int(self.window_s * self.sample_rate_hz)
        windows, clip_of_window = [], []
        for index, clip in enumerate(clips):
            waveform = resample(clip.waveform, clip.sample_rate_hz, self.sample_rate_hz)
            pieces = np.array_split(waveform, max(1, -(-len(waveform) // longest)))
            windows += pieces
            clip_of_window += [index] * len(pieces)
        return Windows(self.transform(windows), clip_of_window)


def mean_of_windows(embedded: Float[Tensor, "windows d"], clip_of_window: Sequence[int]) -> Float[Tensor, "clips d"]:
    """Return one unit vector for each clip: the mean of those of its windows."""
    total = torch.zeros(clip_of_window[-1] + 1, embedded.shape[1])
    return normalize(total.index_add_(0, torch.tensor(clip_of_window), embedded.float().cpu()), dim=-1)
