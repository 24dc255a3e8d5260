"""How well the AudioLLM still predicts captions when an SAE's reconstruction replaces a layer's output."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from ard.audio import read_clips
from ard.audiollm import EMBEDDED, AudioLLM, Positions, load_audiollm
from ard.probing import Evaluator
from ard.results import Result
from ard.run import Cell
from ard.sae.functional import loss_recovered
from ard.types import Clip, UserError


class LossRecovered(Evaluator):
    """Write ``loss_recovered.json``: how well the AudioLLM predicts captions from the reconstruction.

    The layer's output is replaced at audio tokens: by the reconstruction and, for comparison, by zeros. The loss is the
    mean cross entropy over the tokens of the clips' own captions, after the empty prompt.

    Args:
        model: ``embedded``, a local folder, or a hub id.
        layers_path: module path of its layers, as in extraction.
        num_clips: largest number of captions.
        clips_per_batch: clips per forward pass.
    """

    results = ("loss_recovered",)

    def __init__(
        self,
        *,
        model: str = EMBEDDED,
        layers_path: str | None = None,
        num_clips: int = 256,
        clips_per_batch: int = 8,
    ) -> None:
        super().__init__()
        self.model, self.layers_path = model, layers_path
        self.num_clips, self.clips_per_batch = num_clips, clips_per_batch

    def evaluate(self, cell: Cell) -> Result | None:
        """Measure the losses on the clips of the probing set that have captions."""
        audio = cell.run.audio("probe")
        clips = list(islice((clip for clip in read_clips(audio) if clip.caption), self.num_clips))
        if not clips:
            raise UserError(f"{str(audio)!r} holds no clip with a caption: loss recovered is measured on captions")
        model = load_audiollm(self.model, device=self.device, layers_path=self.layers_path)
        dictionary = self.dictionary(cell)

        @torch.no_grad()
        def reconstructed(x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
            return dictionary.decode(dictionary.encode(x.float())).to(x.dtype)

        ways = {"original": None, "replaced": reconstructed, "zeroed": torch.zeros_like}
        batches = [clips[start : start + self.clips_per_batch] for start in range(0, len(clips), self.clips_per_batch)]
        losses = {}
        for name, change in ways.items():
            each = torch.cat([caption_losses(model, batch, cell.layer, change) for batch in batches])
            losses[name] = float(each.double().mean())
        details = {"loss_recovered": loss_recovered(**losses), **losses}
        details |= {"num_tokens": len(each), "num_clips": len(clips)}
        choices = {"unit": "nats a caption token; loss_recovered: 1 is best", "model": self.model}
        return Result("loss_recovered", (), choices, details)


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
