"""What the plan takes from an audio encoder: its tokens and its work, from its classes without any weights."""

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ard.audiollm import load_audiollm, stop_after
from ard.hub import offline_if_cached
from ard.plan.cost import PerClip
from ard.types import Clip

SHARES = np.array([0.1, 0.5, 1.0])  # of the window, at which work is counted: it grows with a clip's square at most


class EncoderModel:
    """An audio encoder to plan with.

    Args:
        name: local folder or hub id.
        layers_path: see :func:`~ard.audiollm.load_audiollm`.
        window: likewise.

    Raises:
        UserError: if it cannot be loaded, or has no such layers or window.
    """

    def __init__(self, name: str, layers_path: str | None = None, window: str | None = None) -> None:
        with offline_if_cached(name, weights=False):
            self._model = load_audiollm(name, device="meta", layers_path=layers_path, window=window)
        self._model.model.requires_grad_(False)  # the counter fails at a weight norm otherwise
        self.d_in, self.num_layers = self._model.d_in, len(self._model.layers)
        self.num_weights = sum(weight.numel() for weight in self._model.model.parameters())
        self.dtype = str(self._model.model.config.dtype or torch.float32).removeprefix("torch.")
        self.rate_hz, self.window_s = self._model.prompter.sample_rate_hz, self._model.prompter.window_s

    def num_tokens(self, num_samples: PerClip) -> PerClip:
        """Return the tokens of clips of so many samples at ``rate_hz``."""
        encoder = self._model.prompter.encoder
        assert encoder is not None
        used = np.minimum(num_samples, int(self.window_s * self.rate_hz))
        moments = encoder.num_moments(torch.from_numpy(used)).clamp(min=1).numpy()
        bands = int((encoder.moments(self._features(self.window_s)) == 0).sum())
        return moments * bands

    def flops(self, num_samples: PerClip, deepest: int) -> int:
        """Return the FLOPs of capturing layers up to ``deepest`` of clips, each on its own."""
        counted = [self._counted(share * self.window_s, deepest) for share in SHARES]
        work = np.polynomial.Polynomial.fit(SHARES, np.array(counted, dtype=float), 2)
        return int(work(np.minimum(num_samples / self.rate_hz / self.window_s, 1)).sum())

    def _features(self, length_s: float) -> dict[str, torch.Tensor]:
        """Return the network's input for a clip without sound; alone, it needs no mask."""
        silence = np.zeros(round(length_s * self.rate_hz), dtype=np.float32)
        features = self._model.prompter([Clip("silence", silence, self.rate_hz, "measure")]).features
        return {name: x.to("meta") for name, x in features.items() if name != "attention_mask"}

    def _counted(self, length_s: float, deepest: int) -> int:
        encoder, features = self._model.prompter.encoder, self._features(length_s)
        assert encoder is not None
        with (
            sdpa_kernel(SDPBackend.MATH),  # whose products the counter knows
            FlopCounterMode(display=False) as counter,
            encoder.fitted(self._model.model, features),
            stop_after(self._model.layers, (deepest,)),
        ):
            self._model.model(**features)
        return int(counter.get_total_flops())
