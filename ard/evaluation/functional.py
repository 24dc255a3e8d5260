"""Matching predicted names to reference labels (Sec. 4), and how well a feature's score tells a label's clips."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata


def hungarian(
    similarity: Float[np.ndarray, "predictions references"], gamma: float
) -> Bool[np.ndarray, "predictions references"]:
    """Match every prediction to at most one reference so that the summed similarity is highest; keep pairs >= gamma.

    The threshold comes after the assignment. True marks a match; an empty side gives no match.
    """
    matched = np.zeros(similarity.shape, dtype=bool)
    matched[linear_sum_assignment(similarity, maximize=True)] = True
    return matched & (similarity >= gamma)


class AveragePrecision(NamedTuple):
    """Two readings of "ranking all prediction-reference pairs by similarity and integrating precision" (Sec. 4)."""

    over_ranks: float  # mean precision over all ranks: the paper's words, and its mAP column follows its precision
    at_matches: float  # precision at each match, summed over the references: object detection's, which follows recall


def average_precision(
    similarity: Float[np.ndarray, "predictions references"], matched: Bool[np.ndarray, "predictions references"]
) -> AveragePrecision:
    """Rank all prediction-reference pairs of a clip by similarity, most similar first, and average the precision.

    The precision at a rank is the share of matches among the pairs up to it. 0 without predictions; NaN without
    references.
    """
    if similarity.shape[1] == 0:
        return AveragePrecision(np.nan, np.nan)
    if similarity.shape[0] == 0:
        return AveragePrecision(0.0, 0.0)
    true = matched.reshape(-1)[np.argsort(-similarity, axis=None, kind="stable")]
    precision = np.cumsum(true) / np.arange(1, len(true) + 1)
    return AveragePrecision(float(precision.mean()), float(precision[true].sum() / similarity.shape[1]))


def precision_recall_f1_map(counts: Float[np.ndarray, "clips 5"]) -> Float[np.ndarray, " 5"]:
    """Return micro-averaged precision, recall and F1, and the mean over clips of both average precisions.

    Each row of ``counts`` is a clip: matches, predictions, references, and the average precisions. Precision without a
    prediction and F1 without a match are 0; recall and mAP without a reference are NaN.
    """
    matches, predictions, references = counts[:, :3].sum(axis=0)
    precision = matches / predictions if predictions else 0.0
    recall = matches / references if references else np.nan
    f1 = 2 * matches / (predictions + references) if predictions + references else np.nan
    known = counts[~np.isnan(counts[:, 3]), 3:]
    mean_ap = known.mean(axis=0) if len(known) else [np.nan, np.nan]
    return np.array([precision, recall, f1, *mean_ap])


def auroc(
    scores: Float[np.ndarray, "clips features"], labels: Bool[np.ndarray, "clips labels"]
) -> Float[np.ndarray, "features labels"]:
    """Return the area under the ROC curve of every feature's score for every label; ties count half.

    NaN for a label that all clips have, or none.
    """
    return _area(rankdata(scores, axis=0).T @ labels, labels)


def paired_auroc(
    scores: Float[np.ndarray, "clips concepts"], fires: Bool[np.ndarray, "clips concepts"]
) -> Float[np.ndarray, " concepts"]:
    """Return the area under the ROC curve of every concept's score for whether it fires; ties count half.

    NaN for a concept that fires in all clips, or in none. Ranks are taken of a few hundred concepts at a time.
    """
    areas = np.empty(scores.shape[1])
    for start in range(0, scores.shape[1], 256):
        part = slice(start, start + 256)
        areas[part] = _area((rankdata(scores[:, part], axis=0) * fires[:, part]).sum(axis=0), fires[:, part])
    return areas


def _area(rank_sums: Float[np.ndarray, "*rows labels"], labels: Bool[np.ndarray, "clips labels"]) -> np.ndarray:
    """Return AUROC from the summed ranks of the clips that have a label (Mann and Whitney's U)."""
    positives = labels.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (rank_sums - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))


def shared_label(labels: Sequence[Sequence[str]], frequency: Mapping[str, int]) -> str | None:
    """Return the label that most of a concept's clips have, which must be more than half of them; None without one.

    Of several, the rarest in the whole set, which says most; of equally rare ones the first by alphabet.
    """
    count = Counter(label for of_clip in labels for label in set(of_clip))
    shared = [label for label, clips in count.items() if 2 * clips > len(labels)]
    return min(shared, key=lambda label: (-count[label], frequency[label], label), default=None)


def stated_labels(names: Sequence[str | None], heard: Sequence[Sequence[Sequence[str]]]) -> list[list[str]]:
    """Return for each concept the labels that its name states and that are true of it.

    A name states a label by containing its words, one after another; it is true of a concept where more than half of
    its clips have it.

    Args:
        names: of the concepts.
        heard: the labels of each of a concept's clips.
    """
    found = []
    for name, clips in zip(names, heard, strict=True):
        counts = Counter(label for labels in clips for label in set(labels))
        said = f" {' '.join(_words(name or ''))} "
        true = [label for label, count in counts.items() if 2 * count > len(clips)]
        found.append(sorted(label for label in true if f" {' '.join(_words(label))} " in said))
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
