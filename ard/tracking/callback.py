"""Callbacks that log: how a training goes, and what was measured on cells."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ard.activations import ActivationDataModule
from ard.probing import Encoding
from ard.sae import SAETraining, SaveSAE
from ard.sae.module import is_time_to_log
from ard.tracking.artifacts import log_training_artifacts
from ard.tracking.cells import log_cell
from ard.tracking.logger import WandbLogger
from ard.tracking.show import show_histogram


class LogTraining(Callback):
    """Log how a training of SAEs goes beyond its loss, as often as the Trainer logs.

    Of each SAE ``train/gradient_norm`` (before clipping), ``train/encoder_norm`` and ``train/decoder_norm`` (means over
    features), ``train/rare_share``; of the training ``train/learning_rate``, ``train/tokens``, ``train/tokens_per_s``
    and ``train/waited_s``, the seconds since the last time that steps waited for their batch. Histograms of
    ``train/firing_frequency`` (share of the tokens since the last one on which a feature is active) and
    ``train/decoder_norms`` go to loggers that can show them. SAEs side by side have ``e<e>/`` in their names.

    Args:
        histograms_every: steps between histograms.
        rare_below: a feature is rare if it is active on a smaller share of tokens than this.
    """

    def __init__(self, histograms_every: int = 1000, rare_below: float = 1e-4) -> None:
        self.histograms_every, self.rare_below = histograms_every, rare_below
        self._gradient_norms: dict[int, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to count."""
        assert isinstance(pl_module, SAETraining)
        self._ended = self._logged_at = time.monotonic()
        self._waited_s, self._last_step = 0.0, trainer.global_step
        pl_module.forget_firing()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Add up the time for which this step waited."""
        self._waited_s += time.monotonic() - self._ended

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure the gradients, if this step is logged."""
        assert isinstance(pl_module, SAETraining)
        if is_time_to_log(trainer, trainer.global_step + 1):
            self._gradient_norms = {
                e: torch.nn.utils.get_total_norm([p.grad for p in sae.parameters() if p.grad is not None])
                for e, sae in pl_module.by_expansion.items()
            }

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log, if it is time to."""
        assert isinstance(pl_module, SAETraining)
        step = trainer.global_step
        if is_time_to_log(trainer, step) and step > self._last_step:
            self._log(trainer, pl_module, step)
        self._ended = time.monotonic()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the SAEs, and what they were trained on, as artifacts in W&B."""
        assert isinstance(pl_module, SAETraining)
        logger, data = trainer.logger, trainer.datamodule  # type: ignore[attr-defined]
        if not (trainer.is_global_zero and isinstance(logger, WandbLogger) and isinstance(data, ActivationDataModule)):
            return
        if logger.experiment.disabled:
            return
        savers = [callback for callback in trainer.callbacks if isinstance(callback, SaveSAE)]  # type: ignore[attr-defined]
        folders = {saver.folder(expansion) for saver in savers for expansion in pl_module.expansions}
        log_training_artifacts(logger, data, sorted(folders))

    def _log(self, trainer: Trainer, module: SAETraining, step: int) -> None:
        data, now = trainer.datamodule, time.monotonic()  # type: ignore[attr-defined]
        figures: dict[str, float | Tensor] = {
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "waited_s": self._waited_s,
        }
        if isinstance(data, ActivationDataModule):
            figures["tokens"] = float(step * data.batch_tokens - data.num_skipped)
            figures["tokens_per_s"] = (step - self._last_step) * data.batch_tokens / (now - self._logged_at)
        is_shown = step % self.histograms_every == 0 or step == trainer.max_steps
        for e, frequency in _firing_frequencies(trainer, module).items():
            sae, prefix = module.by_expansion[e], "" if len(module.expansions) == 1 else f"e{e}/"
            norms = sae.W_dec.detach().norm(dim=1)
            figures |= {
                f"{prefix}gradient_norm": self._gradient_norms[e],
                f"{prefix}encoder_norm": sae.W_enc.detach().norm(dim=0).mean(),
                f"{prefix}decoder_norm": norms.mean(),
                f"{prefix}rare_share": (frequency < self.rare_below).float().mean(),
            }
            for logger in trainer.loggers if is_shown and trainer.is_global_zero else ():
                show_histogram(logger, f"train/{prefix}firing_frequency", frequency, step)
                show_histogram(logger, f"train/{prefix}decoder_norms", norms, step)
        module.log_dict({f"train/{name}": value for name, value in figures.items()}, rank_zero_only=True)
        if is_shown:
            module.forget_firing()
        self._logged_at, self._last_step, self._waited_s = now, step, 0.0


def _firing_frequencies(trainer: Trainer, module: SAETraining) -> dict[int, Tensor]:
    """Return on which share of the tokens each feature has been active lately, over all ranks, by expansion."""
    num_tokens = torch.tensor(module.num_firing_tokens, device=module.device)
    if trainer.world_size > 1:
        counts, num_tokens = (
            trainer.strategy.reduce(number, reduce_op="sum") for number in (module.num_firing, num_tokens)
        )
    else:
        counts = module.num_firing
    shares = (counts / num_tokens).split([sae.d_sae for sae in module.by_expansion.values()])
    return dict(zip(module.expansions, shares, strict=True))


class LogCells(Callback):
    """Log what was measured on the cells of a `test`, when all evaluators have written it.

    A :class:`WandbLogger` gets a W&B run for each cell; any other logger gets every figure, with the label of the cell
    before its name where there are several.

    Args:
        settings: the settings of each evaluator, for W&B.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log it."""
        if isinstance(pl_module, Encoding) and trainer.is_global_zero:
            for cell in pl_module.cells:
                for logger in trainer.loggers:
                    log_cell(logger, cell, self.settings, prefix=f"{cell.label}/" if len(pl_module.cells) > 1 else "")
