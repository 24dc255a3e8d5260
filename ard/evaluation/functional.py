"""How well a feature's score separates a label's clips from others, and which labels a concept's clips share."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata


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


def stated_labels(names: Sequence[str | None], heard: Sequence[Sequence[Sequence[str]]]) -> list[list[str]]:
    """Return for each concept the labels that its name states and that are true of it.

    A name states a label if it contains the label's words in sequence. A label is true of a concept if more than half
    of its clips have it.

    Args:
        names: the concepts' names.
        heard: the labels of each clip, for each concept.

    Example:
        >>> from ard.evaluation import stated_labels
        >>> stated_labels(["a dog in the rain"], [[["dog"], ["dog", "rain"], ["wind"]]])
        [['dog']]
    """
    stated = []
    for name, clips in zip(names, heard, strict=True):
        counts = Counter(label for labels in clips for label in set(labels))
        words = f" {' '.join(_words(name or ''))} "
        true = [label for label, count in counts.items() if 2 * count > len(clips)]
        stated.append(sorted(label for label in true if f" {' '.join(_words(label))} " in words))
    return stated


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
