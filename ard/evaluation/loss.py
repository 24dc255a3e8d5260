"""How well the AudioLLM still predicts captions when it hears through an SAE's reconstruction."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ard.audio import read_clips
from ard.audiollm import EMBEDDED, AudioLLM, Positions, load_audiollm
from ard.results import write_json
from ard.sae import Encoding
from ard.sae.functional import loss_recovered
from ard.types import Clip, UserError


class LossRecovered(Callback):
    """Write how well the AudioLLM still predicts captions when its layer's output is replaced by the reconstruction.

    It is replaced at audio tokens, by the reconstruction and, to compare with, by zeros; the loss is the mean cross
    entropy over the tokens of the clips' own captions, after the empty prompt.

    Args:
        out: a JSON file.
        audio: folder of audio shards; only clips with captions count.
        layer: the layer that the SAE was trained on.
        model: ``embedded``, a local folder, or a hub id.
        num_clips: captions at most.
        clips_per_batch: clips in a pass.
    """

    def __init__(
        self,
        out: Path,
        *,
        audio: Path,
        layer: int,
        model: str = EMBEDDED,
        num_clips: int = 256,
        clips_per_batch: int = 8,
    ) -> None:
        self.out, self.audio, self.layer, self.model = Path(out), Path(audio), layer, model
        self.num_clips, self.clips_per_batch = num_clips, clips_per_batch

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and write it, once."""
        assert isinstance(pl_module, Encoding)
        if not trainer.is_global_zero:
            return
        clips = list(islice((clip for clip in read_clips(self.audio) if clip.caption), self.num_clips))
        if not clips:
            raise UserError(f"{str(self.audio)!r} holds no clip with a caption: loss recovered is measured on captions")
        model, coder = load_audiollm(self.model, device=str(pl_module.device)), pl_module.coder

        def reconstructed(x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
            return coder.decode(coder.encode(x.float())).to(x.dtype)

        ways = {"original": None, "replaced": reconstructed, "zeroed": torch.zeros_like}
        batches = [clips[start : start + self.clips_per_batch] for start in range(0, len(clips), self.clips_per_batch)]
        losses = {}
        for name, change in ways.items():
            each = torch.cat([caption_losses(model, batch, self.layer, change) for batch in batches])
            losses[name] = float(each.double().mean())
        found = {"loss_recovered": loss_recovered(**losses), **losses, "num_tokens": len(each), "num_clips": len(clips)}
        write_json(self.out, {"unit": "nats a caption token; loss_recovered: 1 is best", **found})


def caption_losses(
    model: AudioLLM,
    clips: Sequence[Clip],
    layer: int,
    change: Callable[[Float[Tensor, "tokens d_in"]], Float[Tensor, "tokens d_in"]] | None = None,
) -> Float[Tensor, " tokens"]:
    """Return the cross entropy of every token of the clips' captions, with the output changed at audio tokens."""

    def changed(x: Float[Tensor, "clips positions d_in"], where: Positions) -> Float[Tensor, "clips positions d_in"]:
        assert change is not None
        x = x.clone()
        x[where.audio] = change(x[where.audio])
        return x

    with nullcontext() if change is None else model.intervene(layer, changed):
        of_captions = model.log_likelihood(model.prompter(clips), [str(clip.caption) for clip in clips])
    return -torch.cat(of_captions)
