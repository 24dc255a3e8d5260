"""Which labels some feature finds in clips that it was not chosen on."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from ard.activations import ProbeBatch
from ard.evaluation.functional import auroc
from ard.evaluation.scores import EVALUATION, PROBING, LabelledScores
from ard.results import Figure, Result, Row
from ard.sae import Encoding


class FindLabels(Callback):
    """Write ``label_auroc.json``: which labels some feature finds, by its representativeness in unseen clips.

    A label's feature is the one of highest AUROC on the probing set; its figure is that feature's AUROC on the
    evaluation set, so that the best of many features is not flattered.

    Args:
        out: folder of this dictionary's results.
        found: least AUROC of a label that counts as found.
        seed: of the bootstrap.
    """

    def __init__(self, out: Path, *, found: float = 0.9, seed: int = 0) -> None:
        self.out, self.found, self.seed = Path(out), found, seed

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start empty."""
        assert isinstance(pl_module, Encoding)
        pl_module.refuse_ranks()
        self._sets = {loader: LabelledScores(pl_module.coder.d_sae) for loader in (PROBING, EVALUATION)}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ProbeBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the scores of both sets."""
        self._sets[dataloader_idx].add(outputs["codes"], batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare every feature with every label, a few hundred features at a time."""
        assert isinstance(pl_module, Encoding)
        probing, evaluation = self._sets[PROBING], self._sets[EVALUATION]
        if not trainer.is_global_zero or not probing.labels or not evaluation.labels:
            return
        started = time.monotonic()
        labels = evaluation.vocabulary
        truth = [np.array([[label in known for label in labels] for known in s.labels]) for s in (probing, evaluation)]
        best, feature, figure = np.full((3, len(labels)), np.nan)
        for features in torch.arange(pl_module.coder.d_sae).split(256):
            chosen = np.nan_to_num(auroc(probing.dense("ard", features).numpy(), truth[0]), nan=-1)
            winner = chosen.argmax(axis=0), np.arange(len(labels))
            measured = auroc(evaluation.dense("ard", features[winner[0]].unique()).numpy(), truth[1])
            column = np.searchsorted(features[winner[0]].unique().numpy(), features.numpy()[winner[0]])
            better = ~(chosen[winner] <= best) & (chosen[winner] >= 0)
            best = np.where(better, chosen[winner], best)
            feature = np.where(better, features.numpy()[winner[0]], feature)
            figure = np.where(better, measured[column, winner[1]], figure)
        known = ~np.isnan(figure)
        figures = {
            "share_found": Figure.estimate(figure[known] >= self.found, np.mean, "share of labels", seed=self.seed),
            "mean_auroc": Figure.estimate(figure[known], np.mean, "AUROC", seed=self.seed),
        }
        per_label = {
            label: {"auroc": figure[i], "feature": int(feature[i])} for i, label in enumerate(labels) if known[i]
        }
        details = {"per_label": per_label, "not_measured": [label for i, label in enumerate(labels) if not known[i]]}
        data = trainer.datamodule  # type: ignore[attr-defined]
        row = Row(pl_module.method, data.layer, pl_module.expansion, figures)
        choices = {
            "score": "representativeness (Eq. 2)",
            "found": self.found,
            "split": "feature chosen on the probing set, measured on the evaluation set",
        }
        seconds = time.monotonic() - started
        Result("label_auroc", (row,), choices, self.seed, seconds, details).save(self.out / "label_auroc.json")
        pl_module.log("label_auroc/share_found", figures["share_found"].value)
