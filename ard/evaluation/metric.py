"""Table 1's figures for named concepts against labels, accumulated over clips and merged over ranks."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ard.evaluation.matching import (
    DEFAULT,
    AveragePrecision,
    AveragePrecisionKind,
    MatchReading,
    average_precision,
    class_average_precision,
    match,
    mean_average_precision,
    pooled_average_precision,
    precision_recall_f1,
    resampled,
)

Clips = Sequence[Int[Tensor, " _"]]


def _pairs(
    similarity: Float[np.ndarray, "names labels"], predictions: Clips, references: Clips
) -> Iterator[Float[np.ndarray, "predictions references"]]:
    """Yield the cosines of each clip's predictions with its references."""
    for predicted, labels in zip(predictions, references, strict=True):
        yield similarity.take(predicted.numpy()[:, None] * similarity.shape[1] + labels.numpy())  # four times as fast


class ConceptMatching(Metric):
    """Precision, recall and F1 of the names that clips' concepts predict, matched to the clips' labels (Sec. 4).

    ``compute`` returns [1 + num_resamples, 3]: a row of figures, then one for each bootstrap resample of the clips; NaN
    without clips.

    Args:
        similarity: cosine of every name in the vocabulary with every label.
        reading: how Sec. 4 is read.
        num_resamples: number of bootstrap resamples of the clips.
        seed: seed of the bootstrap; metrics with the same seed and number of clips draw the same clips.
        groups: the group of every clip, in the order in which the clips are added; whole groups are then drawn.
        kwargs: passed to :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    higher_is_better = True
    counts: list[Tensor]

    def __init__(
        self,
        similarity: Float[Tensor, "names labels"],
        reading: MatchReading = DEFAULT,
        *,
        num_resamples: int = 1000,
        seed: int = 0,
        groups: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.groups = None if groups is None else tuple(groups)
        self.similarity, self.reading = similarity.double().numpy(), reading
        self.num_resamples, self.seed = num_resamples, seed
        self.add_state("counts", [], dist_reduce_fx="cat")

    def update(self, predictions: Clips, references: Clips) -> None:
        """Add clips, each given by the indices of its predicted names and of its labels."""
        counts = [[match(of, self.reading).sum(), *of.shape] for of in _pairs(self.similarity, predictions, references)]
        self.counts.append(torch.tensor(counts, dtype=torch.float64).reshape(-1, 3))

    def compute(self) -> Float[Tensor, "resamples 3"]:
        """Return precision, recall and F1, over all ranks."""
        counts = dim_zero_cat(self.counts).numpy() if len(self.counts) else np.empty((0, 3))
        if not len(counts):
            return torch.full((1 + self.num_resamples, 3), torch.nan, dtype=torch.float64)
        weights = resampled(len(counts), self.num_resamples, self.seed, self.groups)
        return torch.from_numpy(precision_recall_f1(counts, weights, self.reading.average))


class ConceptAveragePrecision(Metric):
    """mAP of the names that clips' concepts predict (Sec. 4).

    ``compute`` returns [1 + num_resamples, kinds]: a row of figures, then one for each bootstrap resample of the clips;
    NaN without clips.

    Args:
        similarity: cosine of every name in the vocabulary with every label.
        reading: how Sec. 4 is read.
        kinds: kinds of average precision to compute, instead of the reading's own.
        num_resamples: number of bootstrap resamples of the clips.
        seed: seed of the bootstrap; metrics with the same seed and number of clips draw the same clips.
        groups: the group of every clip, in the order in which the clips are added; whole groups are then drawn.
        kwargs: passed to :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    higher_is_better = True
    of_clips: list[Tensor]
    ranked_labels: list[Tensor]
    num_pairs: list[Tensor]
    pairs: list[Tensor]

    def __init__(
        self,
        similarity: Float[Tensor, "names labels"],
        reading: MatchReading = DEFAULT,
        *,
        kinds: Sequence[AveragePrecisionKind] = (),
        num_resamples: int = 1000,
        seed: int = 0,
        groups: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.groups = None if groups is None else tuple(groups)
        self.similarity, self.reading = similarity.double().numpy(), reading
        self.kinds = tuple(kinds) or (reading.average_precision,)
        self.num_resamples, self.seed = num_resamples, seed
        for state in ("of_clips", "ranked_labels", "num_pairs", "pairs"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, predictions: Clips, references: Clips) -> None:
        """Add clips, each given by the indices of its predicted names and of its labels."""
        for similarity in _pairs(self.similarity, predictions, references):
            matched = match(similarity, self.reading)
            values = [*average_precision(similarity, matched), similarity.shape[1]]
            self.of_clips.append(torch.tensor([values], dtype=torch.float64))
            if "pooled" in self.kinds:
                counted = similarity >= self.reading.gamma  # no match lies below
                self.pairs.append(torch.from_numpy(np.stack([similarity[counted], matched[counted]], axis=1)))
                self.num_pairs.append(torch.tensor([int(counted.sum())]))
        if "classes" in self.kinds:
            for predicted, labels in zip(predictions, references, strict=True):
                ranked = np.full((1, self.similarity.shape[1], 2), -1.0)  # the cosine where a clip has no names
                if len(predicted):
                    ranked[0, :, 0] = self.similarity[predicted.numpy()].max(axis=0)
                ranked[0, labels.numpy(), 1] = 1
                self.ranked_labels.append(torch.from_numpy(ranked))

    def compute(self) -> Float[Tensor, "resamples kinds"]:
        """Return mAP, over all ranks."""
        if not len(self.of_clips):
            return torch.full((1 + self.num_resamples, len(self.kinds)), torch.nan, dtype=torch.float64)
        of_clips = dim_zero_cat(self.of_clips).numpy()
        weights = resampled(len(of_clips), self.num_resamples, self.seed, self.groups)
        columns = []
        for kind in self.kinds:
            if kind == "classes":
                ranked = dim_zero_cat(self.ranked_labels).numpy()
                columns.append(class_average_precision(ranked[..., 0], ranked[..., 1] > 0, weights))
            elif kind == "pooled":
                pairs, num_pairs = dim_zero_cat(self.pairs).numpy(), dim_zero_cat(self.num_pairs).numpy()
                clips = np.arange(len(num_pairs)).repeat(num_pairs)
                pooled = pooled_average_precision(pairs[:, 0], pairs[:, 1] > 0, clips, of_clips[:, -1], weights)
                columns.append(pooled)
            else:
                columns.append(mean_average_precision(of_clips[:, AveragePrecision._fields.index(kind)], weights))
        return torch.from_numpy(np.stack(columns, axis=1))
