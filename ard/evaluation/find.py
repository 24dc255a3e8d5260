"""Which labels single features detect, in clips that they were not chosen on."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from ard.evaluation.functional import auroc
from ard.evaluation.probes import is_general, strata
from ard.evaluation.scores import ActiveBy, Labelled, active_features, read_labelled
from ard.probing import Evaluator
from ard.results import Figure, Result
from ard.run import Cell


class FindLabels(Evaluator):
    """Write ``label_auroc.json``: which labels some feature detects, by its representativeness in unseen clips.

    A label's feature is the one with the highest AUROC on the probing set. The label's figure is that feature's AUROC
    on the evaluation set, so that choosing the best of many features does not flatter it. It can still find labels by
    the number of its candidates: compare it with a dictionary of as many features that was never trained, label by
    label.

    AUROC ranks: a feature can be active for one kind of a label's clips, and have scores just above 0 on the rest. So
    ``share_general`` is the share of labels whose feature is *general*, among those with two strata or more, and
    ``recall`` is the mean recall at the threshold by which concepts are active everywhere else. ``details.per_label``
    has for each label its ``feature``, ``auroc``, ``num_clips``, ``recall``, whether it is ``general``, and the recall
    in every *stratum* (:class:`~ard.evaluation.ProbeLabels` says what these are).

    Args:
        found: least AUROC at which a label counts as found.
        activity: the number that the rule ``active_by`` takes.
        active_by: when a feature is active in a clip, see :data:`~ard.evaluation.scores.ActiveBy`.
        least_recall: recall in every stratum from which a feature counts as general.
        least_clips: fewest clips of a stratum.
        seed: seed of the bootstrap.
    """

    needs = ("representatives", "scores")
    results = ("label_auroc",)

    def __init__(
        self,
        *,
        found: float = 0.9,
        activity: float = 0.0,
        active_by: ActiveBy = "share",
        least_recall: float = 0.5,
        least_clips: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(seed=seed)
        self.found = found
        self.activity, self.active_by = activity, active_by
        self.least_recall, self.least_clips = least_recall, least_clips

    def evaluate(self, cell: Cell) -> Result | None:
        """Compare every feature with every label, a few hundred features at a time."""
        probing, evaluation = read_labelled(cell, "probe"), read_labelled(cell, "eval")
        if probing is None or evaluation is None:
            return None
        labels = evaluation.vocabulary
        truth = probing.have(labels), evaluation.have(labels)
        best, feature, figure = np.full((3, len(labels)), np.nan)
        for features in torch.arange(probing.scores.num_features).split(256):
            chosen = np.nan_to_num(auroc(probing.scores.dense("ard", features).numpy(), truth[0]), nan=-1)
            winner = chosen.argmax(axis=0), np.arange(len(labels))
            winners = features[winner[0]].unique()
            measured = auroc(evaluation.scores.dense("ard", winners).numpy(), truth[1])
            column = np.searchsorted(winners.numpy(), features.numpy()[winner[0]])
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
            label: {"auroc": figure[i], "feature": int(feature[i])}
            | self._recall(cell, evaluation, truth[1], i, int(feature[i]))
            for i, label in enumerate(labels)
            if measurable[i]
        }
        for name, key, unit in (
            ("recall", "recall", "recall"),
            ("share_general", "general", "share of the labels with two strata or more"),
        ):
            samples = np.array([of[key] for of in per_label.values() if of[key] is not None], dtype=float)
            figures[name] = Figure.estimate(samples, np.mean, unit, over="labels", seed=self.seed)
        details = {
            "per_label": per_label,
            "not_measured": [label for i, label in enumerate(labels) if not measurable[i]],
        }
        choices = {
            "score": "representativeness (Eq. 2)",
            "found": self.found,
            "activity": self.activity,
            "active_by": self.active_by,
            "least_recall": self.least_recall,
            "least_clips": self.least_clips,
            "split": "feature chosen on the probing set, measured on the evaluation set",
        }
        return Result("label_auroc", (cell.row(figures),), choices, details)

    def _recall(
        self, cell: Cell, evaluation: Labelled, truth: Bool[np.ndarray, "clips labels"], label: int, feature: int
    ) -> dict[str, Any]:
        """Return in how many of the label's clips its feature is active, in all and by stratum."""
        has = truth[:, label]
        (active,) = active_features(cell, evaluation.scores, np.array([feature]), self.activity, self.active_by).T
        parts = strata(truth, evaluation.vocabulary, label, active, self.least_clips)
        return {
            "num_clips": int(has.sum()),
            "recall": float(active[has].mean()),
            "general": is_general(parts, self.least_recall),
            "strata": {part.name: {"num_clips": len(part.clips), "recall": part.recall} for part in parts},
        }
