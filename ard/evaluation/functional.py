"""How well a feature's score separates a label's clips from others, and which labels a concept's clips share."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from ard.naming.functional import labels_in
from ard.results import Figure


def auroc(
    scores: Float[np.ndarray, "clips features"], labels: Bool[np.ndarray, "clips labels"]
) -> Float[np.ndarray, "features labels"]:
    """Return the area under the ROC curve of every feature's score for every label; ties count half.

    NaN for a label that all clips have, or none.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation import auroc
        >>> auroc(np.array([[0.1], [0.4], [0.8]]), np.array([[False], [True], [True]])).tolist()
        [[1.0]]
    """
    return _area(rankdata(scores, axis=0).T @ labels, labels)


def paired_auroc(
    scores: Float[np.ndarray, "clips concepts"], fires: Bool[np.ndarray, "clips concepts"]
) -> Float[np.ndarray, " concepts"]:
    """Return the area under the ROC curve of every concept's score for whether it fires; ties count half.

    NaN for a concept that fires in all clips, or in none. Ranks are computed for a few hundred concepts at a time.
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


class Difference(NamedTuple):
    """A figure of one row minus that of another, and the two-sided p-value of the bootstrap that they are equal."""

    figure: Figure
    p: float


def over_draws(
    values: Float[np.ndarray, "draws resamples"], rng: np.random.Generator
) -> Float[np.ndarray, " resamples"]:
    """Return the mean over draws: of all in the first column, which is the figure, and of as many drawn in the others.

    Columns are resamples of the clips, so that the others vary as clips and draws do. A single draw stays as it is.
    """
    num_draws, num_columns = values.shape
    drawn = rng.integers(num_draws, size=(num_draws, num_columns))
    drawn[:, 0] = np.arange(num_draws)
    return np.take_along_axis(values, drawn, axis=0).mean(axis=0)


def paired_difference(
    own: Float[np.ndarray, "draws resamples"],
    other: Float[np.ndarray, "others resamples"],
    *,
    n: int,
    over: str = "clips",
    unit: str = "share",
    seed: int = 0,
) -> Difference:
    """Return one row's figure minus another's, with the interval and p-value of their paired bootstrap.

    The resamples must be of the same clips: then what makes a clip hard for both rows cancels out, and the interval is
    narrower than those of the rows suggest. With several draws of a row, each resample draws among these as well. The
    p-value is twice the share of resamples on the lesser side of 0, each side counted with the figure itself, and at
    most 1. With a single clip there is nothing to resample, and interval and p-value are NaN.

    Args:
        own: the figure of a row in its first column, then that of every resample of the clips; one line a draw.
        other: likewise of the row that it is compared with.
        n: number of clips.
        over: what was resampled, in the plural.
        unit: the figures' unit.
        seed: seed of the resamples of the draws.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation import paired_difference
        >>> clips = np.random.default_rng(0).normal(size=(1, 1001))
        >>> paired_difference(clips + 0.5, clips, n=100).figure.low > 0.49
        True
    """
    first, second = (np.random.default_rng([seed, row]) for row in range(2))
    difference = over_draws(own, first) - over_draws(other, second)
    several = " and draws" * (len(own) > 1 or len(other) > 1)
    figure = Figure.resampled(difference, n, unit, over=over + several).of_control()
    sides = [1 + np.sum(difference[1:] <= 0), 1 + np.sum(difference[1:] >= 0)]
    p = min(1.0, 2 * float(min(sides)) / len(difference)) if n > 1 else float("nan")
    return Difference(figure, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: below alpha, they keep the chance of any false claim there below alpha.

    Example:
        >>> from ard.evaluation.functional import holm
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def shared_label(labels: Sequence[Sequence[str]], frequency: Mapping[str, int]) -> str | None:
    """Return the label that most clips of a concept have, if more than half of them have it; else None.

    Ties go to the label that is rarest in the whole set, which says most, then to the first in alphabetical order.

    Example:
        >>> from ard.evaluation import shared_label
        >>> shared_label([["dog", "rain"], ["dog"], ["wind"]], {"dog": 20, "rain": 9, "wind": 5})
        'dog'
    """
    count = Counter(label for of_clip in labels for label in set(of_clip))
    shared = [label for label, clips in count.items() if 2 * clips > len(labels)]
    return min(shared, key=lambda label: (-count[label], frequency[label], label), default=None)


LabelText = Literal["space", "audioset", "as_is"]


def label_text(label: str, style: LabelText = "space") -> str:
    """Spell a label as a text for CLAP.

    ``space`` replaces every underscore by a space; ``audioset`` also turns FSD50K's ``_and_`` back into the comma of
    AudioSet (``Chink_and_clink`` becomes ``Chink, clink``); ``as_is`` leaves the label alone.

    Example:
        >>> from ard.evaluation import label_text
        >>> label_text("Wild_animals")
        'Wild animals'
    """
    if style == "as_is":
        return label
    return (label.replace("_and_", ", ") if style == "audioset" else label).replace("_", " ")


def stated_labels(names: Sequence[str | None], labels_of_clips: Sequence[Sequence[Sequence[str]]]) -> list[list[str]]:
    """Return for each concept the labels that its name states and that are true of it.

    A name states a label if it contains the label's words in sequence. A label is true of a concept if more than half
    of its clips have it.

    Args:
        names: the concepts' names.
        labels_of_clips: the labels of each clip, for each concept.

    Example:
        >>> from ard.evaluation import stated_labels
        >>> stated_labels(["a dog in the rain"], [[["dog"], ["dog", "rain"], ["wind"]]])
        [['dog']]
    """
    stated = []
    for name, clips in zip(names, labels_of_clips, strict=True):
        counts = Counter(label for labels in clips for label in set(labels))
        stated.append(labels_in(name, [label for label, count in counts.items() if 2 * count > len(clips)]))
    return stated


def unseen_support(
    stated: Sequence[Sequence[str]],
    fires: Bool[np.ndarray, "clips concepts"],
    has_label: Mapping[str, Bool[np.ndarray, " clips"]],
) -> tuple[Float[np.ndarray, " concepts"], Float[np.ndarray, " concepts"]]:
    """Return precision and recall of all that each concept's name states, on clips that naming never saw.

    A name is right in a clip that has all labels that it states. Precision is the share of clips where the feature
    fires in which its name is right, and 0 if it fires nowhere; recall is the share of clips in which the name would be
    right where the feature fires, and NaN if there are none.

    Args:
        stated: the labels that each concept's name states, at least one.
        fires: where each concept's feature fires.
        has_label: the clips that have each label; a label that is not there is in no clip.
    """
    precision, recall = np.zeros(len(stated)), np.full(len(stated), np.nan)
    for concept, labels in enumerate(stated):
        right = np.ones(len(fires), dtype=bool)
        for label in labels:
            right &= has_label.get(label, np.zeros_like(right))
        both = int((right & fires[:, concept]).sum())
        precision[concept] = both / max(int(fires[:, concept].sum()), 1)
        if right.any():
            recall[concept] = both / int(right.sum())
    return precision, recall
