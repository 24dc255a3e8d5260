"""Scores of labelled clips, and which concepts are active in them."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ard.activations import read_clips_metadata
from ard.probing import SparseScores, read_scores
from ard.run import Cell

ActiveBy = Literal["chosen", "share", "quantile", "top"]
"""When a concept is active in a clip. ``chosen``: its score is positive and above a quantile of its own scores on the
probing clips, which is chosen there for each row of the table (:mod:`ard.evaluation.activity`). ``share``: its score is
positive and reaches this share of its score on the weakest clip in H^k. ``quantile``: its score is positive and above
this quantile of its scores on all labelled clips. ``top``: its score is positive and among this many highest scores of
the clip."""


class Active(NamedTuple):
    """Which concepts are active in which clips, one entry each."""

    clips: Int[np.ndarray, " entries"]
    concepts: Int[np.ndarray, " entries"]


class Labelled(NamedTuple):
    """The labelled clips of a split: their scores for every feature, their labels, and what else is known of them."""

    scores: SparseScores
    labels: list[list[str]]
    clip_ids: Sequence[str] = ()
    groups: Sequence[str] | None = None  # such as the speaker's, if any clip has one; a clip without is its own
    share: float = 1.0  # of the split's clips that are labelled

    @property
    def vocabulary(self) -> list[str]:
        """The labels that occur, in alphabetical order."""
        return sorted({label for labels in self.labels for label in labels})

    def have(self, labels: Sequence[str]) -> Bool[np.ndarray, "clips labels"]:
        """Return which clips have which of the labels."""
        of_clips = [set(of_clip) for of_clip in self.labels]
        return np.array([[label in of_clip for label in labels] for of_clip in of_clips], bool).reshape(-1, len(labels))


def read_labelled(cell: Cell, split: str) -> Labelled | None:
    """Read the labelled clips of a split; None where it has none."""
    scores = read_scores(cell, split) if split in cell.splits else None
    if scores is None:
        return None
    clips = read_clips_metadata(cell.splits[split])
    rows = [row for row, clip in enumerate(clips) if clip.get("labels")]
    if not rows:
        return None
    labelled = [clips[row] for row in rows]
    labels, clip_ids = [clip["labels"] for clip in labelled], [clip["id"] for clip in labelled]
    has_groups = any("group" in clip for clip in labelled)
    groups = [str(clip.get("group", clip["id"])) for clip in labelled] if has_groups else None
    return Labelled(scores.among(torch.tensor(rows)), labels, clip_ids, groups, len(rows) / len(clips))


def read_unseen(cell: Cell, top_ids: Int[Tensor, "concepts p"]) -> Int[Tensor, " clips"]:
    """Return the rows of the clips that naming never saw: the evaluation set, or the probing clips in no H^k.

    Args:
        cell: the cell.
        top_ids: H^k of all concepts, as rows of the probing set.
    """
    scores = read_scores(cell, cell.unseen)
    assert scores is not None
    seen = set() if cell.evaluation else set(top_ids.flatten().tolist())
    return torch.tensor([row for row in range(scores.num_clips) if row not in seen], dtype=torch.int64)


def active_concepts(
    scores: SparseScores,
    scorer: str,
    features: Int[Tensor, " concepts"],
    weakest: Float[Tensor, " concepts"],
    activity: float,
    by: ActiveBy = "share",
) -> Active:
    """Return where the concepts are active, clip by clip, by a rule that takes a number.

    Args:
        scores: scores of the clips.
        scorer: the scorer to read the scores of.
        features: the concepts' features.
        weakest: the concepts' scores on the weakest clip in H^k.
        activity: the share, quantile or number of the rule.
        by: the rule.
    """
    clips, concepts, values = (column.numpy() for column in scores.of(scorer, features))
    if by == "share":
        enough = values >= activity * weakest.numpy()[concepts]
    elif by == "quantile":
        above = round((1 - activity) * scores.num_clips, 6)  # (1 - .95) * 400 is a little more than 20
        enough = places(concepts, values) < above
    else:
        enough = places(clips, values) < activity
    kept = (values > 0) & enough
    order = np.lexsort((concepts[kept], clips[kept]))
    return Active(clips[kept][order], concepts[kept][order])


def active_features(
    cell: Cell, scores: SparseScores, features: Int[np.ndarray, " some"], activity: float, by: ActiveBy
) -> Bool[np.ndarray, "clips some"]:
    """Return in which clips each of the features is active, by the rule of :func:`active_concepts`."""
    unique, place = np.unique(features, return_inverse=True)
    chosen = torch.from_numpy(unique)
    weakest = cell.tensors("representatives")["ard/top_scores"][chosen, -1]
    clips, columns = active_concepts(scores, "ard", chosen, weakest, activity, by)
    active = np.zeros((scores.num_clips, len(unique)), dtype=bool)
    active[clips, columns] = True
    return active[:, place]


def predicted(active: Active, words: Int[np.ndarray, "concepts most"], num_clips: int) -> list[Int[Tensor, " _"]]:
    """Return for each clip the distinct words of its active concepts; -1 stands for no word."""
    of_entries = words[active.concepts]
    size = int(words.max(initial=0)) + 1
    pairs = np.unique((active.clips[:, None] * size + of_entries)[of_entries >= 0])
    per_clip = np.bincount(pairs // size, minlength=num_clips)
    return list(torch.from_numpy(pairs % size).split(per_clip.tolist()))


def places(groups: Int[np.ndarray, " entries"], values: Float[np.ndarray, " entries"]) -> Int[np.ndarray, " entries"]:
    """Return each entry's rank within its group from 0, the highest value first and ties in order."""
    order = np.lexsort((-values, groups))
    starts = np.searchsorted(groups[order], groups[order])
    places = np.empty(len(groups), dtype=np.int64)
    places[order] = np.arange(len(groups)) - starts
    return places
