"""Which labels single features detect, in clips that they were not chosen on."""

import numpy as np
import torch

from ard.evaluation.functional import auroc
from ard.evaluation.scores import read_labelled
from ard.probing import Evaluator
from ard.results import Figure, Result
from ard.run import Cell


class FindLabels(Evaluator):
    """Write ``label_auroc.json``: which labels some feature detects, by its representativeness in unseen clips.

    A label's feature is the one with the highest AUROC on the probing set. The label's figure is that feature's AUROC
    on the evaluation set, so that choosing the best of many features does not flatter it.

    Args:
        found: least AUROC at which a label counts as found.
        seed: seed of the bootstrap.
    """

    needs = ("scores",)
    results = ("label_auroc",)

    def __init__(self, *, found: float = 0.9, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.found = found

    def evaluate(self, cell: Cell) -> Result | None:
        """Compare every feature with every label, a few hundred features at a time."""
        probing, evaluation = read_labelled(cell, "probe"), read_labelled(cell, "eval")
        if probing is None or evaluation is None:
            return None
        labels = evaluation.vocabulary
        truth = [
            np.array([[label in of_clip for label in labels] for of_clip in s.labels]) for s in (probing, evaluation)
        ]
        best, feature, figure = np.full((3, len(labels)), np.nan)
        for features in torch.arange(probing.scores.num_features).split(256):
            chosen = np.nan_to_num(auroc(probing.scores.dense("ard", features).numpy(), truth[0]), nan=-1)
            winner = chosen.argmax(axis=0), np.arange(len(labels))
            measured = auroc(evaluation.scores.dense("ard", features[winner[0]].unique()).numpy(), truth[1])
            column = np.searchsorted(features[winner[0]].unique().numpy(), features.numpy()[winner[0]])
            better = ~(chosen[winner] <= best) & (chosen[winner] >= 0)
            best = np.where(better, chosen[winner], best)
            feature = np.where(better, features.numpy()[winner[0]], feature)
            figure = np.where(better, measured[column, winner[1]], figure)
        measurable = ~np.isnan(figure)
        areas = figure[measurable]
        figures = {
            "share_found": Figure.estimate(
                areas >= self.found, np.mean, "share of labels", over="labels", seed=self.seed
            ),
            "mean_auroc": Figure.estimate(areas, np.mean, "AUROC", over="labels", seed=self.seed),
        }
        per_label = {
            label: {"auroc": figure[i], "feature": int(feature[i])} for i, label in enumerate(labels) if measurable[i]
        }
        details = {
            "per_label": per_label,
            "not_measured": [label for i, label in enumerate(labels) if not measurable[i]],
        }
        choices = {
            "score": "representativeness (Eq. 2)",
            "found": self.found,
            "split": "feature chosen on the probing set, measured on the evaluation set",
        }
        return Result("label_auroc", (cell.row(figures),), choices, details)
