"""The scores of many clips for every feature, kept sparse."""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ard.probing.functional import SCORERS, ClipScores
from ard.run import Cell


class SparseScores:
    """The scores that are not zero, one entry per clip and feature, sorted by clip.

    Args:
        clips: the clip of each entry.
        features: the feature of each entry.
        values: the score of each entry by each scorer.
        num_clips: number of clips scored.
        num_features: width of the dictionary.
    """

    def __init__(
        self,
        clips: Int[Tensor, " entries"],
        features: Int[Tensor, " entries"],
        values: Float[Tensor, "entries scorers"],
        num_clips: int,
        num_features: int,
    ) -> None:
        self.clips, self.features, self.values = clips, features, values
        self.num_clips, self.num_features = num_clips, num_features

    def among(self, clips: Int[Tensor, " chosen"]) -> "SparseScores":
        """Return the scores of some clips, given in ascending order, and renumber these from 0."""
        number = torch.full((self.num_clips,), -1, dtype=torch.int32)
        number[clips] = torch.arange(len(clips), dtype=torch.int32)
        of_entries = number[self.clips]
        kept = of_entries >= 0
        return SparseScores(of_entries[kept], self.features[kept], self.values[kept], len(clips), self.num_features)

    def of(self, scorer: str, features: Int[Tensor, " chosen"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return a few features' scores that are not zero: their clips, their positions in ``features``, the scores.

        They are sorted by clip. The first call sorts all entries by feature; no call scans them all again.
        """
        order, starts = self._by_feature
        of_features = [order[starts[feature] : starts[feature + 1]] for feature in features.tolist()]
        entries = np.concatenate([order[:0], *of_features])
        positions = np.repeat(np.arange(len(of_features)), [len(of_feature) for of_feature in of_features])
        by_clip = entries.argsort(kind="stable")
        chosen = torch.from_numpy(entries[by_clip].astype(np.int64))
        values = self.values[chosen, SCORERS.index(scorer)]
        return self.clips[chosen].long(), torch.from_numpy(positions[by_clip]), values

    @cached_property
    def _by_feature(self) -> tuple[Int[np.ndarray, " entries"], Int[np.ndarray, " starts"]]:
        """The entries by feature, those of a feature in order, and where each feature's begin and the last's end."""
        features = self.features.numpy()
        order = features.astype(np.min_scalar_type(self.num_features)).argsort(kind="stable")  # linear up to 16 bits
        starts = np.concatenate([[0], np.bincount(features, minlength=self.num_features).cumsum()])
        return order.astype(np.min_scalar_type(-len(order) - 1)), starts

    def dense(self, scorer: str, features: Int[Tensor, " chosen"]) -> Float[Tensor, "clips chosen"]:
        """Return the scores of a few features as a dense matrix."""
        clips, columns, values = self.of(scorer, features)
        dense = torch.zeros(self.num_clips, len(features))
        dense[clips, columns] = values
        return dense


class CollectScores(Metric):
    """Collect the scores of clips as they stream by; ``compute`` returns them over all ranks, sorted by row.

    It takes 20 bytes of memory for every clip and feature active in it.
    """

    full_state_update = False
    rows: list[Tensor]
    features: list[Tensor]
    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("rows", "features", "values"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, scores: ClipScores, rows: Int[Tensor, " clips"], kept: Bool[Tensor, " clips"]) -> None:
        """Add the scores of those clips of a batch that are to be kept."""
        clips, features = scores.mean[kept].nonzero(as_tuple=True)
        self.rows.append(rows[kept][clips].int())
        self.features.append(features.int())
        values = torch.stack([getattr(scores, scorer)[kept][clips, features] for scorer in SCORERS], dim=1)
        self.values.append(values.float())

    def compute(self) -> dict[str, Tensor]:
        """Return rows, features and values, aligned entry by entry."""
        if not len(self.rows):
            none = torch.empty(0, dtype=torch.int32)
            return {"rows": none, "features": none, "values": torch.empty(0, len(SCORERS))}
        rows = dim_zero_cat(self.rows)
        order = rows.argsort(stable=True)
        entries = {"rows": rows, "features": dim_zero_cat(self.features), "values": dim_zero_cat(self.values)}
        return {name: entry[order] for name, entry in entries.items()}


def read_scores(cell: Cell, split: str) -> SparseScores | None:
    """Read the scores of the clips of a split, sorted by row; None if none were kept.

    Raises:
        UserError: if the clips of this dictionary were never scored.
    """
    stored = cell.tensors("scores")
    if f"{split}/rows" not in stored:
        return None
    rows, features, values = (stored[f"{split}/{name}"] for name in ("rows", "features", "values"))
    return SparseScores(rows, features, values, int(stored[f"{split}/num_clips"]), int(stored["num_features"]))
