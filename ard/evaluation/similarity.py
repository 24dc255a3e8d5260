"""How close names are to labels (Table 2), whether people, a language model or the corpus gave the labels."""

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from ard.embedding import Clap
from ard.evaluation.bertscore import BERTScore
from ard.results import Figure


def compare_texts(
    names: Sequence[str],
    labels: Sequence[str],
    concepts: Sequence[Hashable],
    clap: Clap,
    bertscore: BERTScore | None,
    *,
    seed: int,
) -> dict[str, Figure]:
    """Return ``clap_cosine`` and, with a model for it, ``bertscore`` of names and labels, as :func:`mean_of_concepts`.

    Args:
        names: one for each label.
        labels: what raters wrote, or the corpus says.
        concepts: the concept of each pair; several raters may label one.
        clap: the CLAP model.
        bertscore: the scorer of BERTScore; None leaves it out.
        seed: seed of the bootstrap.
    """
    cosine = (clap.text(list(names)) * clap.text(list(labels))).sum(dim=1).numpy() if names else np.empty(0)
    figures = {"clap_cosine": mean_of_concepts(cosine, concepts, "cosine", seed=seed)}
    if bertscore:
        figures["bertscore"] = mean_of_concepts(bertscore(names, labels), concepts, "F1", seed=seed)
    return figures


def mean_of_concepts(
    values: Float[np.ndarray, " values"], concepts: Sequence[Hashable], unit: str, *, seed: int
) -> Figure:
    """Return the mean over concepts of each concept's mean, its interval by a bootstrap over concepts, and the spread.

    Raters of one concept hear the same clips, so the bootstrap resamples concepts, not values. The spread is the
    standard deviation (n - 1) of the values themselves; None for fewer than two.
    """
    of_concept: dict[Hashable, list[float]] = {}
    for concept, value in zip(concepts, values.tolist(), strict=True):
        of_concept.setdefault(concept, []).append(value)
    means = np.array([np.mean(of_one) for of_one in of_concept.values()])
    spread = float(values.std(ddof=1)) if len(values) > 1 else None
    return replace(Figure.estimate(means, np.mean, unit, over="concepts", seed=seed), spread=spread)
