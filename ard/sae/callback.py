"""Callbacks for SAE training: save the SAEs, measure them, and schedule k and the learning rate."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ard.activations import ActivationDataModule
from ard.files import refuse_foreign
from ard.sae.metric import Quality
from ard.sae.module import SAETraining
from ard.types import UserError

PLACEHOLDER = "{expansion}"


class SaveSAE(Callback):
    """Write the SAE in SAELens' layout when training ends, with its training data and its metrics.

    Args:
        out: the folder; ``{expansion}`` in it stands for each SAE's expansion when several are trained side by side.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.ended = Path(out), False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to save several SAEs into one folder, before anything is trained."""
        assert isinstance(pl_module, SAETraining)
        if len(pl_module.expansions) > 1 and PLACEHOLDER not in str(self.out):
            raise UserError(
                f"expansions {pl_module.expansions} cannot all be saved to {str(self.out)!r}: put {PLACEHOLDER} into it"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that Lightning has called ``on_train_end``."""
        self.ended = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the SAEs, from one rank only."""
        assert isinstance(pl_module, SAETraining)
        if not self.ended:  # Lightning skips it when resuming from a checkpoint of the last step
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                callback.on_train_end(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        metadata = data.about() if isinstance(data, ActivationDataModule) else {}
        metadata["precision"] = pl_module.precision()
        for expansion, sae in pl_module.trained().items():
            prefix = prefix_of(expansion, pl_module)
            measured = {
                name.removeprefix(prefix): float(value)
                for name, value in trainer.callback_metrics.items()
                if name.startswith(prefix) and value.isfinite()
            }
            sae.metadata |= {**metadata, "metrics": measured}
            sae.save_pretrained(self.folder(expansion))

    def folder(self, expansion: int) -> Path:
        """Return the folder of an SAE. Only the last placeholder is filled in; others are part of the user's path."""
        before, placeholder, after = str(self.out).rpartition(PLACEHOLDER)
        return Path(f"{before}{expansion}{after}") if placeholder else self.out

    def refuse(self, folder: Path) -> None:
        """Refuse a folder that contains files not written by training."""
        refuse_foreign(folder)


class LogQuality(Callback):
    """Log the reconstruction quality over all held-out tokens: ``val/fvu``, ``val/l0`` and so on.

    Args:
        rare_below: a feature is rare if it is active on a smaller share of tokens than this.
    """

    def __init__(self, rare_below: float = 1e-4) -> None:
        self.rare_below = rare_below
        self.metrics: dict[str, Quality] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with fresh metrics."""
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
        """Log the metrics over all batches and ranks."""
        for expansion, metric in self.metrics.items():
            prefix = prefix_of(int(expansion), pl_module)
            for name, value in metric.compute().items():
                pl_module.log(f"{prefix}{name}", value, prog_bar=name == "fvu", rank_zero_only=True)


def prefix_of(expansion: int, training: LightningModule) -> str:
    """Return the prefix of the names under which an SAE's metrics are logged."""
    assert isinstance(training, SAETraining)
    return "val/" if len(training.expansions) == 1 else f"val/e{expansion}/"


class AnnealK(Callback):
    """Start with more features per token and reduce them to k in even steps, so that fewer features die.

    Args:
        start: the k of the first step.
        steps: training steps until the SAE's own k is reached.
    """

    def __init__(self, start: int, steps: int) -> None:
        self.start, self.steps, self.end = start, steps, start

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the SAE's own k."""
        assert isinstance(pl_module, SAETraining)
        self.end = pl_module.sae.k

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the k of this step."""
        assert isinstance(pl_module, SAETraining)
        done = min(trainer.global_step / self.steps, 1.0)
        for sae in pl_module.by_expansion.values():
            sae.k = round(self.start + (self.end - self.start) * done)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the SAE's own k, however short the training was."""
        assert isinstance(pl_module, SAETraining)
        for sae in pl_module.by_expansion.values():
            sae.k = self.end


class WarmUpAndDecay(Callback):
    """Raise the learning rate linearly from 0 to its value, and lower it linearly to 0 at the end of training.

    Args:
        warm_up_steps: steps until the learning rate reaches its value.
        decay_steps: the last steps of ``max_steps``, during which it falls.
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
