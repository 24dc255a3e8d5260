"""What the tests of names cost: the axes of many concepts by labels, and intruder tests by embeddings.

Scores, labels and embeddings are drawn at random, at a size between the demo's and the paper's.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from ard.evaluation.measured import Concepts, measure
from ard.evaluation.odd_one_out import draw_trials, right_by_embeddings
from ard.evaluation.truth import Clips, shared_words, truth_by_clap, truth_by_labels
from experiments.bench.report import Line, median_seconds

TITLE = "Tests of names: 2,000 concepts, 5,000 unseen clips, 1,000 made, 200 labels"


class Size(NamedTuple):
    """How much is tested."""

    concepts: int = 2000
    clips: int = 5000
    made: int = 1000
    labels: int = 200
    dimensions: int = 512
    trials: int = 20


def main(size: Size = Size()) -> list[Line]:  # noqa: B008
    """Time where names are true, the axes of all names beside others, and the odd ones out."""
    rng = np.random.default_rng(0)
    names = [f"sound {number}" for number in range(size.labels)]

    def described(count: int) -> list[dict[str, object]]:
        heard = rng.integers(size.labels, size=(count, 3))
        return [{"id": str(n), "labels": [names[label] for label in of]} for n, of in enumerate(heard)]

    def embedded(count: int) -> np.ndarray:
        vectors = rng.normal(size=(count, size.dimensions)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    clips = Clips(described(size.clips), described(size.made), embedded(size.clips), embedded(size.made))
    columns = rng.integers(size.labels, size=size.concepts)
    scores = rng.random((size.clips, size.concepts), dtype=np.float32)
    scores[rng.random(scores.shape, dtype=np.float32) > 0.05] = 0
    fires_made = rng.random((size.made, size.concepts)) < 0.02
    concepts = Concepts(np.arange(size.concepts), [names[of] for of in columns], scores, scores > 0.5, fires_made)
    alike = shared_words(names)
    truth = truth_by_labels(names, clips, alike)
    texts = embedded(size.labels)

    def odd_ones_out() -> None:
        assert clips.embedded is not None
        for of_concept, is_near in zip(scores.T, truth.near[:, columns].T, strict=True):
            trials = draw_trials(of_concept > 0.5, of_concept, is_near, size.trials, rng)
            if trials is not None:
                right_by_embeddings(trials, clips.embedded)

    return [
        Line(
            "where names are true, by labels", median_seconds(partial(truth_by_labels, names, clips, alike), 1), "s", ""
        ),
        Line(
            "the same, by CLAP",
            median_seconds(partial(truth_by_clap, texts, clips, alike), 1),
            "s",
            "embeddings are there",
        ),
        Line(
            "all axes of all names, beside all other names",
            median_seconds(partial(measure, concepts, truth, columns, np.arange(size.labels), 3), 1),
            "s",
            "by one kind of truth",
        ),
        Line("the odd ones out", median_seconds(odd_ones_out, 1), "s", f"{size.trials} trials a feature"),
    ]
