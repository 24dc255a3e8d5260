"""Precision, recall, F1 and mAP of named concepts against labels, streaming over clips and merging over ranks."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ard.evaluation.functional import average_precision, hungarian


class ConceptMatching(Metric):
    """Match the names that a clip's active concepts predict to its labels (Sec. 4).

    ``compute`` returns one row a clip: matches, predictions, references, both average precisions; what
    :func:`~ard.evaluation.functional.precision_recall_f1_map` makes of them, a bootstrap can make of any resample.

    Args:
        similarity: cosine of every name of the vocabulary with every label.
        gamma: least cosine of a match (the paper's 0.7).
        kwargs: passed to :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    counts: list[Tensor]

    def __init__(self, similarity: Float[Tensor, "names labels"], gamma: float = 0.7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.similarity = similarity.double().numpy()
        self.gamma = gamma
        self.add_state("counts", [], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[Int[Tensor, " _"]], references: Sequence[Sequence[int]]) -> None:
        """Fold in clips: for each the indices of its predicted names, without doubles, and those of its labels."""
        for predicted, labels in zip(predictions, references, strict=True):
            similarity = self.similarity[predicted.numpy()][:, list(labels)]
            matched = hungarian(similarity, self.gamma)
            counts = [matched.sum(), len(predicted), len(labels), *average_precision(similarity, matched)]
            self.counts.append(torch.tensor([counts], dtype=torch.float64))

    def compute(self) -> Float[Tensor, "clips 5"]:
        """Return the counts of every clip, over all ranks."""
        return dim_zero_cat(self.counts) if self.counts else torch.empty(0, 5, dtype=torch.float64)
