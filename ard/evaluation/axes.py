"""How well names say when features fire: four axes, each for every feature and every name (in the manner of FADE).

FADE (Puri et al. 2025, arXiv 2502.16994) asks of a text feature's name for clarity, responsiveness, purity and
faithfulness. Here a clip is in the place of a token, so that *clarity* is asked of clips made for the name
(``sensitivity``), and whether a name is told apart from its nearest others stands beside it (``intruder``).

An axis has one figure for each name and feature: that of a feature's own name, and those of other names, which are what
a name says of a feature by chance.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control, rankdata
from sklearn.metrics import average_precision_score

AXES = ("responsiveness", "purity", "sensitivity", "intruder")
"""The axes of a name, each from 0 to 1."""

NUM_DEPTHS = 4
SAME = 1e-6

Figures = Float[np.ndarray, "names features"]


class Axis(NamedTuple):
    """An axis of names: its figures, and by how many standard deviations each is above independence.

    Independence is the name being true of as many clips drawn at random. Features that fire in few clips vary less in
    AUROC, since most clips are tied, and more in purity; so no feature has a better chance than another.
    """

    figures: Figures
    deviations: Figures

    @classmethod
    def of(cls, figures: Figures, chance: Float[np.ndarray, "#names #features"] | float, variance: Figures) -> "Axis":
        """Return the axis of a chance and a variance; what cannot vary is at chance."""
        return cls(figures, (figures - chance) / np.sqrt(np.maximum(variance, 1e-9)))


def responsiveness(scores: Float[np.ndarray, "clips features"], true: Bool[np.ndarray, "clips names"]) -> Axis:
    """Return the AUROC of every feature's score for the clips in which every name is true; ties count half.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation.axes import responsiveness
        >>> responsiveness(np.array([[0.9], [0.4], [0.0]]), np.array([[True], [False], [False]])).figures.tolist()
        [[1.0]]
    """
    ranks, num_true = rankdata(scores, axis=0), true.sum(axis=0)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        num_pairs = num_true * (len(true) - num_true)
        areas = (true.T @ ranks - num_true * (num_true + 1) / 2) / num_pairs
        return Axis.of(areas, 0.5, ranks.var(axis=0) / (len(true) - 1) / num_pairs)


def average_precisions(
    scores: Float[np.ndarray, "clips features"], true: Bool[np.ndarray, "clips features"]
) -> Float[np.ndarray, " features"]:
    """Return the average precision of every feature's score for the clips in which its own name is true.

    A feature whose score is the same everywhere has the share of those clips. NaN where there are none.
    """
    return np.array(
        [
            average_precision_score(is_true, score) if is_true.any() else np.nan
            for is_true, score in zip(true.T, scores.T, strict=True)
        ]
    )


def depths(
    scores: Float[np.ndarray, "clips features"], num_depths: int = NUM_DEPTHS
) -> Int[np.ndarray, "clips features"]:
    """Return how deep in a feature's histogram each clip is: 0 for its strongest clips; -1 where it does not fire.

    The clips in which a feature fires are cut into ``num_depths`` equal parts by its score.
    """
    ranks = (rankdata(-scores, axis=0, method="ordinal") - 1).astype(np.int64)
    num_firing = (scores > 0).sum(axis=0)
    return np.where(scores > 0, ranks * num_depths // np.maximum(num_firing, 1), -1)


def purity(
    depth: Int[np.ndarray, "clips features"], true: Bool[np.ndarray, "clips names"], num_depths: int = NUM_DEPTHS
) -> Float[np.ndarray, "depths names features"]:
    """Return in what share of the clips at each depth of a feature's histogram every name is true.

    NaN at a depth without clips, as where a feature fires in fewer clips than there are depths.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation.axes import depths, purity
        >>> scores, true = np.array([[0.9], [0.5], [0.0]]), np.array([[True], [False], [False]])
        >>> purity(depths(scores, 2), true, 2)[:, 0, 0].tolist()
        [1.0, 0.0]
    """
    at = np.stack([depth == level for level in range(num_depths)])
    with np.errstate(invalid="ignore"):
        return (true.T.astype(float) @ at) / at.sum(axis=1)[:, None]


def mean_purity(
    depth: Int[np.ndarray, "clips features"],
    at_depths: Float[np.ndarray, "depths names features"],
    rate: Float[np.ndarray, "names 1"],
) -> Axis:
    """Return the mean purity over the depths that have clips.

    Args:
        depth: how deep each clip is.
        at_depths: the purity there.
        rate: the share of all clips in which each name is true.
    """
    num_clips = np.stack([(depth == level).sum(axis=0) for level in range(len(at_depths))])
    with np.errstate(divide="ignore", invalid="ignore"):
        of_weights = np.where(num_clips > 0, 1 / num_clips, 0).sum(axis=0) / (num_clips > 0).sum(axis=0) ** 2
        variance = rate * (1 - rate) * (len(depth) * of_weights - 1) / max(len(depth) - 1, 1)
    return Axis.of(mean_of_told(at_depths, axis=0), rate, variance)


def sensitivity(fires: Bool[np.ndarray, "clips features"], true: Bool[np.ndarray, "clips names"]) -> Axis:
    """Return in what share of the clips that were made for every name each feature fires; NaN if none were made."""
    num_true = true.sum(axis=0)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = fires.sum(axis=0, keepdims=True) / len(fires)
        variance = rate * (1 - rate) / num_true * (len(fires) - num_true) / (len(fires) - 1)
        return Axis.of((true.T.astype(float) @ fires) / num_true, rate, variance)


def intruder(
    scores: Float[np.ndarray, "clips features"],
    true: Bool[np.ndarray, "clips names"],
    near: Bool[np.ndarray, "clips names"],
) -> Axis:
    """Return the AUROC of every feature's score for a name's clips among these and those of its nearest other names.

    Args:
        scores: the features' scores.
        true: the clips in which each name is true.
        near: its hard negatives: clips in which one of the nearest other names is true, and it is not.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation.axes import intruder
        >>> scores, true = np.array([[0.9], [0.0], [0.3]]), np.array([[True], [True], [False]])
        >>> intruder(scores, true, ~true).figures.tolist()
        [[0.5]]
    """
    axis = Axis(*np.full((2, true.shape[1], scores.shape[1]), np.nan))
    for name, (is_true, is_near) in enumerate(zip(true.T, near.T, strict=True)):
        among = is_true | is_near
        if is_true.any() and is_near.any():
            of_name = responsiveness(scores[among], is_true[among][:, None])
            axis.figures[name], axis.deviations[name] = of_name.figures[0], of_name.deviations[0]
    return axis


def mean_of_told(figures: Float[np.ndarray, "..."], axis: int) -> Float[np.ndarray, "..."]:
    """Return the mean of what is not NaN along an axis; NaN where all is."""
    told = ~np.isnan(figures)
    with np.errstate(invalid="ignore"):
        return np.nansum(figures, axis=axis) / told.sum(axis=axis)


def above_others(
    own: Float[np.ndarray, " features"], others: Float[np.ndarray, " pairs"], rate: float
) -> Float[np.ndarray, " features"]:
    """Return the share of all pairs of a feature and a name not its own that do as well as each feature's own name.

    It is a p-value, with a null that all features share, as in significance analysis of microarrays (Tusher et al.
    2001): each feature alone has too few other names. The own name counts as one more of the pairs. Figures that differ
    by less than rounding to float32 can make are equal. NaN for all where there are too few pairs for any p-value to
    reach ``rate``.

    Args:
        own: the figure of each feature's own name.
        others: the figures of other names; NaN for those that are left out.
        rate: the highest p-value of interest.
    """
    null = np.sort(others[~np.isnan(others)])
    at_least = len(null) - np.searchsorted(null, own - SAME * np.maximum(np.abs(own), 1))
    p = (1 + at_least) / (1 + len(null))
    return np.where(np.isnan(own) | (1 / (1 + len(null)) > rate), np.nan, p)


def q_values(p_values: Float[np.ndarray, " features"]) -> Float[np.ndarray, " features"]:
    """Return Benjamini and Hochberg's q-values; NaN stays, and does not count."""
    q = np.full(len(p_values), np.nan)
    measured = ~np.isnan(p_values)
    if measured.any():
        q[measured] = false_discovery_control(p_values[measured])
    return q


def name_scores(
    own: Float[np.ndarray, "axes features"], chance: Float[np.ndarray, "axes features"]
) -> Float[np.ndarray, " features"]:
    """Return one figure for each name: the harmonic mean of its axes, each from chance (0) to certainty (1).

    An axis a with chance c counts max(0, (a - c) / (1 - c)), so that a name which is at chance on one axis scores 0.
    Axes that could not be measured do not count; NaN where none could.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation.axes import name_scores
        >>> name_scores(np.array([[1.0], [0.75]]), np.array([[0.5], [0.5]])).round(3).tolist()
        [0.667]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.clip((own - chance) / (1 - chance), 0, 1)
        count = np.sum(~np.isnan(share), axis=0)
        return np.where(count > 0, count / np.nansum(1 / share, axis=0), np.nan)
