"""What is done around the training of SAEs: keep them, measure them, change k or the learning rate on the way."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature

from ard.activations import ActivationDataModule, ProbeBatch
from ard.audio import read_clips
from ard.audiollm import EMBEDDED, AudioLLM, Positions, load_audiollm
from ard.files import refuse_foreign
from ard.results import write_json
from ard.sae.functional import loss_recovered
from ard.sae.metric import NormByPosition, Quality
from ard.sae.module import Encoding, SAETraining
from ard.types import Clip, UserError

PLACEHOLDER = "{expansion}"


class SaveSAE(Callback):
    """Write the SAE in SAELens' layout when training ends, with what it was trained on and how good it came out.

    Args:
        out: the folder; ``{expansion}`` in it stands for each SAE's own, where several are trained side by side.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.ended = Path(out), False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse one folder for several SAEs, before anything is trained."""
        assert isinstance(pl_module, SAETraining)
        if len(pl_module.expansions) > 1 and PLACEHOLDER not in str(self.out):
            raise UserError(
                f"expansions {pl_module.expansions} cannot all be saved to {str(self.out)!r}: put {PLACEHOLDER} into it"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the other callbacks had their say."""
        self.ended = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, once."""
        assert isinstance(pl_module, SAETraining)
        if not self.ended:  # Lightning leaves it out where a checkpoint is that of the last step
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                callback.on_train_end(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        about = data.about() if isinstance(data, ActivationDataModule) else {}
        for expansion, sae in pl_module.trained().items():
            prefix = prefix_of(expansion, pl_module)
            measured = {
                name.removeprefix(prefix): float(value)
                for name, value in trainer.callback_metrics.items()
                if name.startswith(prefix) and value.isfinite()
            }
            sae.metadata |= {**about, "metrics": measured}
            sae.save_pretrained(self.folder(expansion))

    def folder(self, expansion: int) -> Path:
        """Return the folder of an SAE; a placeholder that is not the last belongs to the user's name of a folder."""
        before, placeholder, after = str(self.out).rpartition(PLACEHOLDER)
        return Path(f"{before}{expansion}{after}") if placeholder else self.out

    def refuse(self, folder: Path) -> None:
        """Refuse a folder with files that training did not write."""
        refuse_foreign(folder)


class LogQuality(Callback):
    """Log how well held-out tokens are reconstructed, over all of them: ``val/fvu``, ``val/l0`` and so on.

    Args:
        rare_below: a feature that is active on a smaller share of tokens is rare.
    """

    def __init__(self, rare_below: float = 1e-4) -> None:
        self.rare_below = rare_below
        self.metrics: dict[str, Quality] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew."""
        assert isinstance(pl_module, SAETraining)
        d_in = pl_module.sae.d_in
        self.metrics = {
            str(e): Quality(d_in, e * d_in, rare_below=self.rare_below).to(pl_module.device)
            for e in pl_module.expansions
        }

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Tensor,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch."""
        for expansion, (x_hat, codes) in outputs.items():
            self.metrics[expansion].update(batch, x_hat, codes)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what all batches of all ranks give."""
        for expansion, metric in self.metrics.items():
            prefix = prefix_of(int(expansion), pl_module)
            for name, value in metric.compute().items():
                pl_module.log(f"{prefix}{name}", value, prog_bar=name == "fvu", rank_zero_only=True)


def prefix_of(expansion: int, training: LightningModule) -> str:
    """Return what the names begin with under which an SAE's metrics are logged."""
    assert isinstance(training, SAETraining)
    return "val/" if len(training.expansions) == 1 else f"val/e{expansion}/"


class AnnealK(Callback):
    """Start with more features a token, and go down to k in even steps: fewer features die.

    Args:
        start: the k of the first step.
        steps: steps until the SAE's own k is reached.
    """

    def __init__(self, start: int, steps: int) -> None:
        self.start, self.steps, self.end = start, steps, start

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where to go."""
        assert isinstance(pl_module, SAETraining)
        self.end = pl_module.sae.k

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the k of this step."""
        assert isinstance(pl_module, SAETraining)
        done = min(trainer.global_step / self.steps, 1.0)
        for sae in pl_module.by_expansion.values():
            sae.k = round(self.start + (self.end - self.start) * done)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the SAE with its own k, however short the training was."""
        assert isinstance(pl_module, SAETraining)
        for sae in pl_module.by_expansion.values():
            sae.k = self.end


class WarmUpAndDecay(Callback):
    """Let the learning rate rise from 0 to its value, and fall to 0 before training ends, both evenly.

    Args:
        warm_up_steps: steps until it is reached.
        decay_steps: of ``max_steps`` the last ones, in which it falls.
    """

    def __init__(self, warm_up_steps: int = 0, decay_steps: int = 0) -> None:
        self.warm_up_steps, self.decay_steps = warm_up_steps, decay_steps

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of this step."""
        assert isinstance(pl_module, SAETraining)
        step = trainer.global_step
        factor = min(step / self.warm_up_steps, 1.0) if self.warm_up_steps else 1.0
        if self.decay_steps:
            factor = min(factor, (trainer.max_steps - step) / self.decay_steps)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = pl_module.lr * factor


class InputNorms(Callback):
    """Write mean and largest norm of x by its position in the clip, over the probing set: outliers are seen at once.

    Args:
        out: a JSON file.
        num_positions: positions that are kept apart; all later ones are one.
    """

    def __init__(self, out: Path, num_positions: int = 16) -> None:
        self.out, self.metric = Path(out), NormByPosition(num_positions)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew."""
        self.metric.reset()
        self.metric.to(pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ProbeBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the clips of a probing batch."""
        if dataloader_idx == 0:
            self.metric.update(batch.x, batch.clip_of_token)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what all ranks saw."""
        found = {name: values.tolist() for name, values in self.metric.compute().items()}
        if trainer.is_global_zero:
            write_json(self.out, {"unit": "norm of x; the last entry is all later positions", **found})


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


@torch.inference_mode()
def caption_losses(
    model: AudioLLM,
    clips: Sequence[Clip],
    layer: int,
    change: Callable[[Float[Tensor, "tokens d_in"]], Float[Tensor, "tokens d_in"]] | None = None,
) -> Float[Tensor, " tokens"]:
    """Return the cross entropy of every token of the clips' captions, with the output changed at audio tokens."""
    prompts = model.prompter(clips)
    tokenizer = model.prompter.processor.tokenizer
    captions = [tokenizer(clip.caption, add_special_tokens=False, return_tensors="pt").input_ids[0] for clip in clips]
    said = pad_sequence(captions, batch_first=True)
    is_said = pad_sequence([torch.ones_like(caption) for caption in captions], batch_first=True)
    features = {
        **prompts.features,
        "input_ids": torch.cat([prompts.features["input_ids"], said], dim=1),
        "attention_mask": torch.cat([prompts.features["attention_mask"], is_said], dim=1),
    }

    def changed(x: Float[Tensor, "clips positions d_in"], where: Positions) -> Float[Tensor, "clips positions d_in"]:
        assert change is not None
        x = x.clone()
        x[where.audio] = change(x[where.audio])
        return x

    with nullcontext() if change is None else model.intervene(layer, changed):
        logits = model.model(**BatchFeature(features).to(model.device, model.model.dtype)).logits
    mask = is_said.bool()
    return cross_entropy(logits[:, -said.shape[1] - 1 : -1].cpu().float()[mask], said[mask], reduction="none")
