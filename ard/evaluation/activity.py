"""Choose when concepts are active: one quantile of their own scores a row, the same rule for every row (Sec. 4).

A quantile depends on ranks alone, so that nothing changes where scores are replaced by a monotone transform of them.
Counts of all quantiles of the grid are made together: a clip's predictions at a higher quantile are some of those at a
lower one, and of them only a few closest to a label can be matched to it.
"""

from collections.abc import Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from ard.evaluation.matching import MatchReading, eligible_and_worth, match, precision_recall_f1
from ard.evaluation.scores import Active, places
from ard.probing import SparseScores

GRID = (0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)
"""The quantiles that are tried; 0 takes every clip with a positive score."""

MOST_TRIED = 4  # labels of a clip for which all assignments are tried

Clips = Sequence[Int[Tensor, " _"]]


class Graded(NamedTuple):
    """The clips where concepts may be active, one entry each: ``level`` is the number of quantiles it is above.

    At the quantile of index i those entries are active whose level exceeds i.
    """

    clips: Int[np.ndarray, " entries"]
    concepts: Int[np.ndarray, " entries"]
    level: Int[np.ndarray, " entries"]
    num_clips: int

    def active(self, index: int) -> Active:
        """Return which concepts are active at a quantile, clip by clip."""
        kept = self.level > index
        order = np.lexsort((self.concepts[kept], self.clips[kept]))
        return Active(self.clips[kept][order], self.concepts[kept][order])


def score_quantiles(
    scores: SparseScores, scorer: str, features: Int[Tensor, " concepts"], grid: Sequence[float] = GRID
) -> Float[np.ndarray, "quantiles concepts"]:
    """Return the score that a concept's score must exceed at each quantile: of n clips, at most (1 - q) n do.

    It is one of the concept's own scores, never between two, and 0 where it would be negative: a clip in which the
    feature is silent is never active.
    """
    _, concepts, values = (column.numpy() for column in scores.of(scorer, features))
    place, counts = places(concepts, values), np.bincount(concepts, minlength=len(features))
    thresholds = np.zeros((len(grid), len(features)), dtype=values.dtype)
    for row, quantile in zip(thresholds, grid, strict=True):
        most = int(round((1 - quantile) * scores.num_clips, 6))  # (1 - .95) * 400 is a little more than 20
        at = (place == most) & (most < counts[concepts])
        row[concepts[at]] = values[at]
    return thresholds.clip(min=0)


def grade(
    scores: SparseScores,
    scorer: str,
    features: Int[Tensor, " concepts"],
    thresholds: Float[np.ndarray, "quantiles concepts"],
) -> Graded:
    """Return where the concepts' scores are above their thresholds, which may be those of other clips."""
    clips, concepts, values = (column.numpy() for column in scores.of(scorer, features))
    level = np.zeros(len(values), dtype=np.int64)
    for row in thresholds:
        level += values > row[concepts]
    kept = level > 0
    return Graded(clips[kept], concepts[kept], level[kept], scores.num_clips)


class Predicted(NamedTuple):
    """The distinct words that active concepts of every clip say, in order of the clips, and the level of each."""

    clips: Int[np.ndarray, " entries"]
    words: Int[np.ndarray, " entries"]
    level: Int[np.ndarray, " entries"]
    num_clips: int
    num_levels: int

    @property
    def counts(self) -> Float[np.ndarray, "quantiles clips"]:
        """The number of words of every clip, at each quantile."""
        size = self.num_levels + 1
        at = np.bincount(self.clips * size + self.level, minlength=self.num_clips * size).reshape(-1, size)
        return at[:, ::-1].cumsum(axis=1)[:, -2::-1].T.astype(float)


def predict(graded: Graded, words: Int[np.ndarray, "concepts most"], num_levels: int) -> Predicted:
    """Return what each clip's active concepts say: each concept its words, of which -1 is none."""
    of_entries = words[graded.concepts]
    named = of_entries >= 0
    width, size = int(words.max(initial=0)) + 1, num_levels + 1
    of_clips, level = graded.clips[:, None], graded.level[:, None]
    keys = np.sort(((of_clips * width + of_entries) * size + level)[named])  # faster than by columns
    pairs = keys // size
    last = np.flatnonzero(np.append(np.diff(pairs) != 0, len(pairs) > 0))
    pairs, level = pairs[last], keys[last] % size
    return Predicted(pairs // width, pairs % width, level, graded.num_clips, num_levels)


def count_matches(
    predictions: Predicted, references: Clips, similarity: Float[np.ndarray, "names labels"], reading: MatchReading
) -> Float[np.ndarray, "quantiles clips 3"]:
    """Return every clip's numbers of matches, predictions and references, at each quantile.

    They are those of :func:`~ard.evaluation.matching.match` on all predictions. A label of a clip with k labels is
    matched to one of the k predictions closest to it, if to any.

    Args:
        predictions: the predictions, as rows of ``similarity``.
        references: the labels of every clip, as columns of ``similarity``.
        similarity: cosine of every name with every label.
        reading: how Sec. 4 is read.
    """
    num_labels = np.array([len(of_clip) for of_clip in references])
    counts = np.zeros((predictions.num_levels, predictions.num_clips, 3))
    counts[..., 1], counts[..., 2] = predictions.counts, num_labels
    if not len(predictions.clips):
        return counts
    nearest = np.argsort(-similarity, axis=0, kind="stable")
    rank = np.empty(similarity.shape, dtype=np.int64)  # of a name among all, for a label
    np.put_along_axis(rank, nearest, np.arange(len(similarity))[:, None], axis=0)
    levels = np.unique(np.append(predictions.level, predictions.num_levels))  # up to each of them, the same predictions
    which = np.searchsorted(levels, np.arange(predictions.num_levels), side="right")
    for size in np.unique(num_labels[num_labels > 0]).tolist():
        members = np.flatnonzero(num_labels == size)
        labels = np.stack([references[clip].numpy() for clip in members])
        closest = _closest(predictions, members, labels, rank, nearest, levels)
        flat = closest.reshape(-1, size, size), np.tile(labels, (len(levels), 1))
        few = reading.assignment == "hungarian" and size <= MOST_TRIED
        num_matches = (_try_all if few else _match_each)(*flat, similarity, reading)
        counts[:, members, 0] = num_matches.reshape(len(levels), len(members))[which]
    return counts


def _closest(
    predictions: Predicted,
    members: Int[np.ndarray, " clips"],
    labels: Int[np.ndarray, "clips size"],
    rank: Int[np.ndarray, "names labels"],
    nearest: Int[np.ndarray, "names labels"],
    levels: Int[np.ndarray, " levels"],
) -> Int[np.ndarray, "levels clips size size"]:
    """Return for each label of a clip as many of its words as the clip has labels, the closest first.

    At each level there are the words that have at least this level. Where a clip has fewer, -1 - i stands in their
    places, i being the place of the label.
    """
    (num_clips, size), (num_names, _) = labels.shape, rank.shape
    number = np.full(predictions.num_clips, -1)
    number[members] = np.arange(num_clips)
    clips = number[predictions.clips]
    clips, words, level = clips[clips >= 0], predictions.words[clips >= 0], predictions.level[clips >= 0]
    top = np.empty((len(levels), num_clips, size, size), dtype=np.int64)
    top[:] = -1 - np.arange(size)[:, None]
    width = predictions.num_levels + 1
    for column in range(size):
        keys = np.sort((clips * num_names + rank[words, labels[clips, column]]) * width + level)
        places = keys // width
        own, of_clip = keys - places * width, places // num_names
        for index, least in enumerate(levels):
            kept = own >= least
            own, of_clip, places = own[kept], of_clip[kept], places[kept]
            place = np.arange(len(places)) - np.searchsorted(of_clip, np.arange(num_clips))[of_clip]
            first = np.flatnonzero(place < size)
            clip = of_clip[first]
            top[index, clip, column, place[first]] = nearest[places[first] % num_names, labels[clip, column]]
    return top


def _try_all(
    closest: Int[np.ndarray, "rows size size"],
    labels: Int[np.ndarray, "rows size"],
    similarity: Float[np.ndarray, "names labels"],
    reading: MatchReading,
) -> Int[np.ndarray, " rows"]:
    """Return the number of matches of the best assignment of each row, by trying all, of all rows at once."""
    size = labels.shape[1]
    cosine = similarity[closest.clip(min=0), labels[:, :, None]]
    eligible, worth = eligible_and_worth(cosine, reading)
    eligible &= closest >= 0
    worth = np.where(closest >= 0, worth, -10.0)  # as few labels as possible stay without a word
    best, num_matches = np.full(len(labels), -np.inf), np.zeros(len(labels), dtype=np.int64)
    every = np.arange(size)
    for chosen in product(range(size), repeat=size):
        total = worth[:, every, chosen].sum(axis=1)
        for one, other in combinations(range(size), 2):
            total[closest[:, one, chosen[one]] == closest[:, other, chosen[other]]] = -np.inf
        better = total > best
        best[better], num_matches[better] = total[better], eligible[:, every, chosen].sum(axis=1)[better]
    return num_matches


def _match_each(
    closest: Int[np.ndarray, "rows size size"],
    labels: Int[np.ndarray, "rows size"],
    similarity: Float[np.ndarray, "names labels"],
    reading: MatchReading,
) -> Int[np.ndarray, " rows"]:
    """Return the number of matches of each row, equal rows being matched once."""
    flat = np.sort(closest.reshape(len(closest), -1), axis=1)
    distinct, which = np.unique(np.concatenate([flat, labels], axis=1), axis=0, return_inverse=True)
    words, of_row = distinct[:, : flat.shape[1]], distinct[:, flat.shape[1] :]
    kept = (words >= 0) & (np.diff(words, axis=1, prepend=-1) != 0)
    num_matches = [match(similarity[w[k]][:, of], reading).sum() for w, k, of in zip(words, kept, of_row, strict=True)]
    return np.array(num_matches, dtype=np.int64)[which]


def curve(
    counts: Sequence[Float[np.ndarray, "quantiles clips 3"]], reading: MatchReading
) -> Float[np.ndarray, "quantiles 3"]:
    """Return precision, recall and F1 at each quantile; over several draws, their means."""
    ones = np.ones((1, counts[0].shape[1]))
    of_draws = [[precision_recall_f1(level, ones, reading.average)[0] for level in draw] for draw in counts]
    return np.mean(of_draws, axis=0)
