"""The scores of labelled clips, kept sparse, and which concepts are active in them."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ard.activations import ProbeBatch
from ard.representatives import SCORERS, clip_scores
from ard.types import Codes

PROBING, EVALUATION = 0, 1  # the loaders of `test`

ActiveBy = Literal["share", "quantile", "top"]
"""When a concept is active in a clip. ``share``: its score is positive and reaches this share of the score of the
weakest clip in H^k. ``quantile``: its score is positive and above this quantile of its scores on all labelled clips.
``top``: its score is positive and among this many of the clip's highest."""


class _Entries(NamedTuple):
    """Scores that are not zero: one entry a clip and feature."""

    clips: Int[Tensor, " entries"]
    features: Int[Tensor, " entries"]
    values: Float[Tensor, "entries scorers"]


class Active(NamedTuple):
    """Which concepts are active in which clips, one entry each."""

    clips: Int[np.ndarray, " entries"]
    concepts: Int[np.ndarray, " entries"]


class LabelledScores:
    """The scores of labelled clips for every feature, kept sparse while they stream by, and the clips' labels."""

    def __init__(self, num_features: int) -> None:
        self.num_features = num_features
        self.labels: list[list[str]] = []
        self._parts: tuple[list[Tensor], ...] = tuple([] for _ in _Entries._fields)

    def add(self, codes: Codes, batch: ProbeBatch) -> None:
        """Score the clips of a batch and keep those that have labels."""
        scores = clip_scores(codes, batch.clip_of_token, len(batch.rows), self.num_features)
        labelled = [index for index, known in enumerate(batch.metadata) if known.get("labels")]
        clips, features = scores.mean[labelled].nonzero(as_tuple=True)
        values = torch.stack([getattr(scores, scorer)[labelled][clips, features] for scorer in SCORERS], dim=1)
        for part, entries in zip(
            self._parts, ((clips + len(self.labels)).int(), features.int(), values.float()), strict=True
        ):
            part.append(entries.cpu())
        self.labels += [batch.metadata[index]["labels"] for index in labelled]

    @property
    def vocabulary(self) -> list[str]:
        """The labels that occur, in alphabetical order."""
        return sorted({label for labels in self.labels for label in labels})

    def of(self, scorer: str, features: Int[Tensor, " chosen"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scores of a few features that are not zero: their clips, which of the features, the scores."""
        for part in self._parts:  # one field after another: never all of them twice in memory
            if len(part) > 1:
                part[:] = [torch.cat(part)]
        entries = _Entries(*(part[0] for part in self._parts))
        columns = torch.full((self.num_features,), -1, dtype=torch.int32)
        columns[features] = torch.arange(len(features), dtype=torch.int32)
        column = columns[entries.features]
        wanted = column >= 0
        return entries.clips[wanted].long(), column[wanted].long(), entries.values[wanted, SCORERS.index(scorer)]

    def dense(self, scorer: str, features: Int[Tensor, " chosen"]) -> Float[Tensor, "clips chosen"]:
        """Return the scores of a few features, dense."""
        clips, columns, values = self.of(scorer, features)
        dense = torch.zeros(len(self.labels), len(features))
        dense[clips, columns] = values
        return dense

    def active(
        self,
        scorer: str,
        features: Int[Tensor, " concepts"],
        weakest: Float[Tensor, " concepts"],
        activity: float,
        by: ActiveBy = "share",
    ) -> Active:
        """Return where the concepts are active, clip by clip.

        Args:
            scorer: of their scores.
            features: the concepts.
            weakest: their scores on the weakest clip in H^k.
            activity: the share, quantile or number.
            by: the rule.
        """
        clips, concepts, values = (found.numpy() for found in self.of(scorer, features))
        if by == "share":
            enough = values >= activity * weakest.numpy()[concepts]
        elif by == "quantile":
            above = round((1 - activity) * len(self.labels), 6)  # (1 - .95) * 400 is a little more than 20
            enough = _places(concepts, values) < above
        else:
            enough = _places(clips, values) < activity
        kept = (values > 0) & enough
        order = np.lexsort((concepts[kept], clips[kept]))
        return Active(clips[kept][order], concepts[kept][order])


def predicted(active: Active, words: Int[np.ndarray, " concepts"], num_clips: int) -> list[Int[Tensor, " _"]]:
    """Return for each clip the distinct words of its active concepts; a word of -1 is none."""
    of_entries = words[active.concepts]
    size = int(words.max(initial=0)) + 1
    pairs = np.unique((active.clips * size + of_entries)[of_entries >= 0])
    per_clip = np.bincount(pairs // size, minlength=num_clips)
    return list(torch.from_numpy(pairs % size).split(per_clip.tolist()))


def _places(groups: Int[np.ndarray, " entries"], values: Float[np.ndarray, " entries"]) -> Int[np.ndarray, " entries"]:
    """Return each entry's place within its group, the highest value first, equal ones in their order."""
    order = np.lexsort((-values, groups))
    starts = np.searchsorted(groups[order], groups[order])
    places = np.empty(len(groups), dtype=np.int64)
    places[order] = np.arange(len(groups)) - starts
    return places
