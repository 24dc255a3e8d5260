"""Extraction as a LightningModule: `Trainer.predict` runs it, `ActivationWriter` stores the results."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from lightning import LightningModule
from torch import Tensor

from ard.audiollm import EMBEDDED, AudioLLM, AudioPrompts, Tokens, load_audiollm
from ard.hub import commit_of
from ard.types import Failure

TOKEN_RULES: Mapping[Tokens, str] = {
    "audio": "audio placeholders only; of an encoder the frames of sound",
    "text": "text only: all tokens but audio placeholders, those of the chat template among them",
    "all": "audio placeholders, and text with the tokens of the chat template, in the order of the prompt",
}
"""What manifests say of which tokens of a prompt are stored."""


class ClipBatch(NamedTuple):
    """Clips of one audio shard as input for the AudioLLM, with their metadata."""

    prompts: AudioPrompts | None  # None if no clip of the batch could be read
    metadata: list[dict[str, Any]]
    places: list[int]  # place of each clip in its shard
    failures: list[Failure]  # clips that could not be read
    shard: int
    last: bool  # whether this is the last batch of the shard


class Extracted(NamedTuple):
    """The results for one batch: the activations of its clips, and why clips must be left out."""

    activations: list[dict[int, Tensor]]  # for each clip, layer to [tokens, d_in] on the CPU
    reasons: list[str | None]  # for each clip, why it must be left out; None if it need not be


class Extraction(LightningModule):
    """Capture the residual stream of an AudioLLM at the audio tokens (Sec. 2.1: x, the output of layer l).

    Text tokens can be captured too. They have no place in time, so that shards with text state no seconds a token. The
    question of a clip is empty, so its text is the model's chat template, the same for every clip: what comes before
    the audio never differs, and what comes after has read it.

    Args:
        layers: layers, 0-based; all are captured in one pass, which stops after the deepest.
        model: an AudioLLM or an audio encoder: ``embedded``, a local folder, or a hub id.
        dtype: precision of the weights; ``auto`` is the checkpoint's, or on a CPU float32 if that fits into memory.
        store_dtype: precision in the shards, ``bfloat16`` or ``float32``.
        tokens: which tokens of a prompt to capture: ``audio``, ``text``, or ``all``.
        layers_path: module path of the layers, if not the default ones; see :func:`~ard.audiollm.load_audiollm`.
        attention: ``sdpa``, or ``flash_attention_2`` where that package is installed.
        window: ``clip`` leaves out the padding that an encoder would compute; this is another model, by whose name
            shards say so; see :func:`~ard.audiollm.load_audiollm`.
    """

    def __init__(
        self,
        layers: list[int],
        model: str = EMBEDDED,
        *,
        dtype: str = "auto",
        store_dtype: str = "bfloat16",
        tokens: Tokens = "audio",
        layers_path: str | None = None,
        attention: str = "sdpa",
        window: str | None = None,
    ) -> None:
        super().__init__()
        self.layers = sorted(layers)
        self.model = model
        self.dtype_name = dtype
        self.store_dtype = store_dtype
        self.tokens: Tokens = tokens
        self.layers_path = layers_path
        self.attention = attention
        self.window = window
        # A list hides it from Lightning: as a submodule, its weights would be moved, counted and saved.
        self._audiollm: list[AudioLLM] = []

    def setup(self, stage: str) -> None:
        """Load the model, once the Trainer knows the device."""
        self.load(str(self.device))

    def load(self, device: str) -> None:
        """Load the model to a device; ``meta`` loads shapes without weights.

        Raises:
            UserError: if it cannot be loaded, or lacks one of the layers or the tokens.
        """
        loaded = load_audiollm(
            self.model,
            device=device,
            dtype=self.dtype_name,
            layers_path=self.layers_path,
            attention=self.attention,
            window=self.window,
        )
        self._audiollm = [loaded]
        self.audiollm.check_layers(self.layers)
        self.audiollm.check_tokens(self.tokens)

    @property
    def audiollm(self) -> AudioLLM:
        """The loaded model."""
        return self._audiollm[0]

    @property
    def about(self) -> dict[str, Any]:
        """What determines the activations of a clip: shards made with other values are not mixed with these."""
        network = self.audiollm.model
        has_weights = network.device.type != "meta"  # without weights, the precision is unknown
        return {
            "model": self.model if self.window is None else f"{self.model}, window {self.window}",
            "revision": commit_of(self.model),
            "layers": self.layers,
            "layers_path": self.layers_path,
            **({"computed_in": str(network.dtype).removeprefix("torch.")} if has_weights else {}),
            "dtype": self.store_dtype,
            "prompt": "chat template with the audio and an empty user text" if self.audiollm.answers else None,
            "tokens": TOKEN_RULES[self.tokens],
        }

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> Extracted:
        """Return the activations of a batch of clips, on the CPU, and why clips must be left out."""
        captured = self._capture(batch.prompts) if batch.prompts else []
        return Extracted(captured, [unusable(activations) for activations in captured])

    def _capture(self, prompts: AudioPrompts) -> list[dict[int, Tensor]]:
        """Capture a batch, halved until its parts fit into memory; a lone clip that does not fit gives nothing."""
        num_clips = len(prompts.audio)
        captured = self._capture_whole(prompts)
        if captured is not None:
            return captured
        if num_clips == 1:
            return [{}]
        halves = [slice(0, num_clips // 2), slice(num_clips // 2, num_clips)]
        return [clip for half in halves for clip in self._capture(prompts.part(half))]

    def _capture_whole(self, prompts: AudioPrompts) -> list[dict[int, Tensor]] | None:
        """Capture a batch in one pass; None if it does not fit into memory.

        The error holds the tensors of the pass, so it must be gone before the next try.
        """
        try:
            captured = self.audiollm.capture(prompts, self.layers, self.tokens)
            lengths = [len(x) for x in captured[self.layers[0]]]
            stored = {
                layer: torch.cat(xs).to("cpu", getattr(torch, self.store_dtype)).split(lengths)
                for layer, xs in captured.items()
            }
        except torch.OutOfMemoryError:
            return None
        return [{layer: xs[clip] for layer, xs in stored.items()} for clip in range(len(lengths))]

    def configure_optimizers(self) -> Any:
        """Nothing is trained here."""
        return None


def unusable(activations: Mapping[int, Tensor]) -> str | None:
    """Say why the activations of a clip cannot be kept; None if they can."""
    if not activations:
        return "out of memory, even alone: use a machine with more, or cut the clip"
    if any(len(x) == 0 for x in activations.values()):
        return "no audio tokens: the clip is too short"
    if not all(torch.stack(x.aminmax()).isfinite().all() for x in activations.values()):  # NaN is both of them
        return "the forward pass gave NaN or infinity"
    return None
