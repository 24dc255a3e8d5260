"""Retrieve the representative clips of every feature while `test` streams the probing set."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import save_file

from ard.activations import ProbeBatch
from ard.representatives.metric import RepresentativeClips
from ard.sae import Encoding

FILE = "representatives.safetensors"


class RetrieveRepresentatives(Callback):
    """Write ``representatives.safetensors``: for every scorer the p most and least representative clips (Eq. 2).

    Args:
        out: folder of this dictionary's results.
        p: clips in each list (the paper's 4).
        tie_seed: see :class:`~ard.representatives.RepresentativeClips`.
    """

    def __init__(self, out: Path, p: int = 4, tie_seed: int | None = None) -> None:
        self.out, self.p, self.tie_seed = Path(out), p, tie_seed

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start empty lists."""
        assert isinstance(pl_module, Encoding)
        self._metric = RepresentativeClips(pl_module.coder.d_sae, self.p, self.tie_seed).to(pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ProbeBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Fold in a batch of the probing set."""
        if dataloader_idx == 0:
            self._metric.update(outputs["codes"], batch.clip_of_token, batch.rows)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the lists."""
        found_lists = self._metric.compute()
        tensors = {"n_active": self._metric.n_active, "max_activation": self._metric.max_activation}
        for scorer, found in found_lists.items():
            tensors |= {f"{scorer}/{name}": tensor.contiguous() for name, tensor in found._asdict().items()}
        if trainer.is_global_zero:
            self.out.mkdir(parents=True, exist_ok=True)
            save_file({name: t.cpu() for name, t in tensors.items()}, self.out / f"{FILE}.partial")
            os.replace(self.out / f"{FILE}.partial", self.out / FILE)
        trainer.strategy.barrier()
        self._metric.reset()
        dead = (tensors["n_active"] == 0).double().mean()
        pl_module.log("representatives/dead_share", dead.to(torch.float32))
