"""Extraction as a LightningModule: `Trainer.predict` over clips gives the residual stream after the wanted layers."""

from typing import Any, NamedTuple

import torch
from lightning import LightningModule
from torch import Tensor

from ard.activations.datamodule import ClipBatch
from ard.audiollm import EMBEDDED, AudioLLM, load_audiollm


class Extracted(NamedTuple):
    """The activations of a batch of clips: layer to one tensor [tokens, d_in] a clip, on the CPU."""

    activations: dict[int, list[Tensor]]


class Extraction(LightningModule):
    """Capture the residual stream of an AudioLLM at the audio tokens (Sec. 2.1: x, the output of layer l).

    Args:
        layers: decoder layers, 0-based; all come from one pass, which stops after the deepest.
        model: ``embedded``, a local folder, or a hub id.
        dtype: the model's weights; ``auto`` is what its checkpoint says.
        store_dtype: what the shards hold, ``bfloat16`` or ``float32``.
    """

    def __init__(
        self, layers: list[int], model: str = EMBEDDED, *, dtype: str = "auto", store_dtype: str = "bfloat16"
    ) -> None:
        super().__init__()
        self.layers = sorted(layers)
        self.model = model
        self.dtype_name = dtype
        self.store_dtype = getattr(torch, store_dtype)
        self._audiollm: list[AudioLLM] = []

    def setup(self, stage: str) -> None:
        """Load the model, once the Trainer knows the device."""
        self._audiollm = [load_audiollm(self.model, device=str(self.device), dtype=self.dtype_name)]

    @property
    def audiollm(self) -> AudioLLM:
        """The loaded model."""
        return self._audiollm[0]

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> Extracted:
        """Return the activations of a batch of clips."""
        captured = self.audiollm.capture(batch.prompts, self.layers)
        return Extracted({layer: [x.to("cpu", self.store_dtype) for x in xs] for layer, xs in captured.items()})

    def configure_optimizers(self) -> Any:
        """Nothing is trained here."""
        return None
