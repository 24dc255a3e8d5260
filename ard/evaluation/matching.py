"""Match names to labels; precision, recall, F1 and mAP of the matches (Sec. 4, Table 1), in every reading.

Counts are kept per clip and summed with weights, so that one product gives a figure and its bootstrap over clips: a row
of ``weights`` says how often each clip was drawn, and a row of ones gives the figure itself.
"""

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.special import digamma

from ard.types import UserError

AveragePrecisionKind = Literal["ranks", "references", "matches", "pooled", "classes"]


@dataclass(frozen=True)
class MatchReading:
    """How Sec. 4 is read where it leaves a choice; the reading that was taken is written below Table 1.

    Args:
        scope: what one matching covers. ``clip``: the distinct names of the concepts active in a clip against the
            clip's labels. ``vocabulary``: all names, one per concept, against all labels at once; ``distinct``: the
            same without duplicates. The last two give a single matching, hence no interval, and their precision cannot
            exceed the number of labels divided by the number of names.
        average: ``micro`` sums matches, predictions and references over clips; ``macro`` averages the clips' figures,
            where a clip without predictions has precision 0.
        gamma: least cosine of a match (the paper's 0.7).
        strict: whether a match must exceed gamma rather than reach it.
        assignment: ``hungarian``, the one-to-one assignment with the highest total cosine, or ``greedy``, the most
            similar pair first.
        threshold: when gamma applies: ``after`` the assignment, or ``before`` it, where pairs below gamma count as 0.
        average_precision: how mAP is computed. All pairs of a clip's predictions and references are ranked by cosine,
            and the precision at a rank is the share of matches up to it. ``ranks`` averages it over all ranks, as the
            paper words it. ``references`` sums it at the matches and divides by the number of references, as in object
            detection; ``matches`` divides by the number of matches. ``pooled`` is ``references`` with all clips in one
            ranking. ``classes`` is the usual multi-label mAP: every label ranks the clips by the highest cosine among
            their names, and the result is averaged over labels.

    Raises:
        UserError: if gamma is not a cosine, or the reading needs several clips and the scope has one matching.
    """

    scope: Literal["clip", "vocabulary", "distinct"] = "clip"
    average: Literal["micro", "macro"] = "micro"
    gamma: float = 0.7
    strict: bool = False
    assignment: Literal["hungarian", "greedy"] = "hungarian"
    threshold: Literal["after", "before"] = "after"
    average_precision: AveragePrecisionKind = "ranks"

    def __post_init__(self) -> None:
        """Refuse values that no reading has."""
        for field in fields(self):
            choices = get_args(field.type)
            if choices and getattr(self, field.name) not in choices:
                raise UserError(
                    f"reading {field.name} {getattr(self, field.name)!r} does not exist: choose one of {choices}"
                )
        if not -1 <= self.gamma <= 1:
            raise UserError(f"gamma {self.gamma} is not a cosine: give a number from -1 to 1")
        if self.scope != "clip" and self.average_precision == "classes":
            raise UserError(f"average_precision 'classes' ranks clips: it needs scope 'clip', not {self.scope!r}")


DEFAULT = MatchReading()


def match(
    similarity: Float[np.ndarray, "predictions references"], reading: MatchReading = DEFAULT
) -> Bool[np.ndarray, "predictions references"]:
    """Match every prediction to at most one reference and every reference to at most one prediction.

    True marks a match; if either side is empty there is none.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation.matching import match
        >>> match(np.array([[0.9, 0.8], [0.75, 0.1]]))
        array([[False,  True],
               [ True, False]])
    """
    eligible, worth = eligible_and_worth(similarity, reading)
    matched = np.zeros(similarity.shape, dtype=bool)
    if reading.assignment == "hungarian":
        matched[linear_sum_assignment(worth, maximize=True)] = True
    else:
        left = worth.copy()
        for _ in range(min(left.shape)):
            row, column = np.unravel_index(left.argmax(), left.shape)
            matched[row, column] = True
            left[row], left[:, column] = -np.inf, -np.inf
    return matched & eligible


def eligible_and_worth(
    similarity: Float[np.ndarray, "..."], reading: MatchReading
) -> tuple[Bool[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Return which pairs may match, and what the assignment adds up: their cosines, or 0 below an early threshold."""
    eligible = similarity > reading.gamma if reading.strict else similarity >= reading.gamma
    return eligible, np.where(eligible, similarity, 0.0) if reading.threshold == "before" else similarity


class AveragePrecision(NamedTuple):
    """The average precision of one clip's ranking, in each of the readings that need no other clip."""

    ranks: float
    references: float
    matches: float


def average_precision(
    similarity: Float[np.ndarray, "predictions references"], matched: Bool[np.ndarray, "predictions references"]
) -> AveragePrecision:
    """Rank all pairs of a clip by cosine, highest first and ties in order, and average the precision.

    0 without a match; NaN without references.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation.matching import average_precision, match
        >>> similarity = np.array([[0.9, 0.8], [0.75, 0.1]])
        >>> [round(float(x), 4) for x in average_precision(similarity, match(similarity))]
        [0.4167, 0.5833, 0.5833]
    """
    num_references = similarity.shape[1]
    if num_references == 0:
        return AveragePrecision(np.nan, np.nan, np.nan)
    places, flat = np.flatnonzero(matched), similarity.reshape(-1)
    if len(places) == 0:
        return AveragePrecision(0.0, 0.0, 0.0)
    own = flat[places, None]
    ahead = (flat > own) | ((flat == own) & (np.arange(len(flat)) < places[:, None]))
    ranks = np.sort(ahead.sum(axis=1)) + 1
    at_matches = float((np.arange(1, len(ranks) + 1) / ranks).sum())
    # A match at rank r is among the first q for every q >= r: summed over all ranks it adds 1/r + 1/(r+1) + ... + 1/n.
    over_ranks = float((digamma(len(flat) + 1) - digamma(ranks)).sum() / len(flat))
    return AveragePrecision(over_ranks, at_matches / num_references, at_matches / len(ranks))


@lru_cache(maxsize=1)  # metrics of the same clips share the weights
def resampled(
    num_clips: int, num_resamples: int, seed: int, groups: tuple[str, ...] | None = None
) -> Float[np.ndarray, "resamples clips"]:
    """Return the weights of the clips: ones in the first row, then the counts of each bootstrap resample.

    With a group of each clip, such as its speaker, whole groups are drawn.
    """
    rng = np.random.default_rng(seed)
    of_clip = np.arange(num_clips) if groups is None else np.unique(groups, return_inverse=True)[1]
    num = int(of_clip.max(initial=-1)) + 1
    drawn = [np.bincount(rng.integers(num, size=num), minlength=num)[of_clip] for _ in range(num_resamples)]
    weights = np.stack([np.ones(num_clips), *drawn])
    weights.flags.writeable = False
    return weights


def precision_recall_f1(
    counts: Float[np.ndarray, "clips 3"],
    weights: Float[np.ndarray, "resamples clips"],
    average: Literal["micro", "macro"] = "micro",
) -> Float[np.ndarray, "resamples 3"]:
    """Return precision, recall and F1 from each clip's numbers of matches, predictions and references.

    Precision is 0 without predictions, and F1 is 0 without matches. Recall is NaN without references, and so is F1 if
    there are no predictions either.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation.matching import precision_recall_f1
        >>> counts = np.array([[2.0, 2.0, 4.0], [1.0, 2.0, 2.0]])  # of two clips
        >>> precision_recall_f1(counts, np.ones((1, 2))).tolist()
        [[0.75, 0.5, 0.6]]
    """
    if average == "micro":
        return _precision_recall_f1(weights @ counts)
    of_clips = _precision_recall_f1(counts)
    defined = ~np.isnan(of_clips)
    return _ratio(weights @ np.where(defined, of_clips, 0), weights @ defined.astype(float), np.nan)


def _precision_recall_f1(counts: Float[np.ndarray, "rows 3"]) -> Float[np.ndarray, "rows 3"]:
    matches, predictions, references = counts.T
    precision, recall = _ratio(matches, predictions, 0.0), _ratio(matches, references, np.nan)
    return np.stack([precision, recall, _ratio(2 * matches, predictions + references, np.nan)], axis=1)


def mean_average_precision(
    of_clips: Float[np.ndarray, " clips"], weights: Float[np.ndarray, "resamples clips"]
) -> Float[np.ndarray, " resamples"]:
    """Return the mean of the clips' average precisions, leaving out clips without references (NaN)."""
    defined = ~np.isnan(of_clips)
    return _ratio(weights @ np.where(defined, of_clips, 0), weights @ defined.astype(float), np.nan)


def pooled_average_precision(
    similarity: Float[np.ndarray, " pairs"],
    matched: Bool[np.ndarray, " pairs"],
    clips: Int[np.ndarray, " pairs"],
    num_references: Float[np.ndarray, " clips"],
    weights: Float[np.ndarray, "resamples clips"],
) -> Float[np.ndarray, " resamples"]:
    """Return the average precision of all clips' pairs in one ranking, summed at the matches, over all references.

    A name and a label are equally similar in every clip, so equal pairs share one rank. Pairs less similar than the
    last match change nothing and may be left out. NaN without references.
    """
    order = np.argsort(-similarity, kind="stable")
    matched, clips, last = matched[order], clips[order], _last_of_equals(similarity[order])
    summed = np.empty(len(weights))
    for row, of_clips in enumerate(weights):
        drawn = of_clips[clips]
        hits = np.cumsum(drawn * matched)[last]
        summed[row] = (_ratio(hits, np.cumsum(drawn)[last], 0.0) * np.diff(hits, prepend=0)).sum()
    return _ratio(summed, weights @ num_references, np.nan)


def class_average_precision(
    scores: Float[np.ndarray, "clips labels"],
    relevant: Bool[np.ndarray, "clips labels"],
    weights: Float[np.ndarray, "resamples clips"],
) -> Float[np.ndarray, " resamples"]:
    """Return the mean over labels of the average precision with which a label's scores rank the clips.

    Clips of equal score share one rank. A label that no drawn clip has is left out; NaN if all are.
    """
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for column in range(scores.shape[1]):
        order = np.argsort(-scores[:, column], kind="stable")
        last = _last_of_equals(scores[order, column])
        drawn = weights[:, order]
        hits = np.cumsum(drawn * relevant[order, column], axis=1)[:, last]
        precision = _ratio(hits, np.cumsum(drawn, axis=1)[:, last], 0.0)
        positives = hits[:, -1]
        total += _ratio((precision * np.diff(hits, axis=1, prepend=0)).sum(axis=1), positives, 0.0)
        count += positives > 0
    return _ratio(total, count, np.nan)


def _last_of_equals(ordered: Float[np.ndarray, " n"]) -> Int[np.ndarray, " groups"]:
    """Return the index of the last element of each run of ties in a sorted array."""
    return np.flatnonzero(np.append(np.diff(ordered) != 0, len(ordered) > 0))


def _ratio(over: np.ndarray, under: np.ndarray, otherwise: float) -> np.ndarray:
    """Divide element by element, with ``otherwise`` where the divisor is not positive."""
    return np.divide(over, under, out=np.full(np.broadcast(over, under).shape, otherwise), where=under > 0)
