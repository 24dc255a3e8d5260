"""Matching predicted names to reference labels (Sec. 4), and how well a feature's score tells a label's clips."""

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


def average_precision(
    similarity: Float[np.ndarray, "predictions references"], matched: Bool[np.ndarray, "predictions references"]
) -> float:
    """Rank all prediction-reference pairs by similarity and average the precision at each match over the references.

    A pair is true if it is a match; references without one count as 0, as in object detection. NaN without references.
    """
    if similarity.shape[1] == 0:
        return float("nan")
    order = np.argsort(-similarity, axis=None, kind="stable")
    true = matched.reshape(-1)[order]
    precision = np.cumsum(true) / np.arange(1, len(true) + 1)
    return float(precision[true].sum() / similarity.shape[1])


def precision_recall_f1_map(counts: Float[np.ndarray, "clips 4"]) -> Float[np.ndarray, " 4"]:
    """Return micro-averaged precision, recall and F1, and the mean over clips of the average precision.

    Each row of ``counts`` is a clip: matches, predictions, references, average precision. Precision without a
    prediction and F1 without a match are 0; recall and mAP without a reference are NaN.
    """
    matches, predictions, references = counts[:, :3].sum(axis=0)
    precision = matches / predictions if predictions else 0.0
    recall = matches / references if references else np.nan
    f1 = 2 * matches / (predictions + references) if predictions + references else np.nan
    known = counts[~np.isnan(counts[:, 3]), 3]
    return np.array([precision, recall, f1, known.mean() if len(known) else np.nan])


def auroc(
    scores: Float[np.ndarray, "clips features"], labels: Bool[np.ndarray, "clips labels"]
) -> Float[np.ndarray, "features labels"]:
    """Return the area under the ROC curve of every feature's score for every label; ties count half.

    NaN for a label that all clips have, or none.
    """
    positives = labels.sum(axis=0)
    negatives = len(labels) - positives
    rank_sums = rankdata(scores, axis=0).T @ labels
    with np.errstate(invalid="ignore", divide="ignore"):
        return (rank_sums - positives * (positives + 1) / 2) / (positives * negatives)
