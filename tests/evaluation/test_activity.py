"""The quantile at which concepts are active, against counting by hand, and what it must not depend on."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ard.evaluation.activity import GRID, Graded, count_matches, curve, grade, predict, score_quantiles
from ard.evaluation.matching import MatchReading, match
from ard.evaluation.scores import predicted
from ard.probing import SCORERS, SparseScores

READINGS = (
    MatchReading(gamma=0.3),
    MatchReading(gamma=0.3, strict=True),
    MatchReading(gamma=0.3, threshold="before"),
    MatchReading(gamma=0.3, assignment="greedy"),
    MatchReading(gamma=0.3, average="macro"),
)


def sparse(dense):
    """Scores of clips [clips, features], the same by every scorer."""
    clips, features = dense.nonzero(as_tuple=True)
    values = dense[clips, features][:, None].expand(-1, len(SCORERS)).contiguous()
    return SparseScores(clips.int(), features.int(), values, *dense.shape)


@pytest.mark.parametrize("signed", [False, True])
def test_at_most_the_stated_share_of_clips_is_above_a_quantile_and_none_that_is_silent(signed):
    generator = torch.Generator().manual_seed(int(signed))
    dense = torch.rand(200, 7, generator=generator) - 0.5 * signed
    dense[torch.rand(200, 7, generator=generator) < torch.linspace(0, 1, 7)] = 0
    features = torch.tensor([5, 0, 6, 2])
    thresholds = score_quantiles(sparse(dense), "mean", features)
    of = dense[:, features].numpy()
    assert (thresholds >= 0).all()
    assert (np.diff(thresholds, axis=0) >= 0).all()
    for quantile, row in zip(GRID, thresholds, strict=True):
        most = round((1 - quantile) * 200)
        assert ((of > row).sum(axis=0) == np.minimum((of > 0).sum(axis=0), most)).all()
    graded = grade(sparse(dense), "mean", features, thresholds)
    for index, row in enumerate(thresholds):
        num_matched = np.zeros_like(of, dtype=bool)
        num_matched[tuple(graded.active(index))] = True
        assert (num_matched == (of > row)).all()


def test_of_equal_scores_none_is_above_the_quantile_that_parts_them():
    thresholds = score_quantiles(
        sparse(torch.tensor([[2.0], [1], [1], [1]])), "ard", torch.tensor([0]), (0.0, 0.5, 0.75)
    )
    assert thresholds[:, 0].tolist() == [0, 1, 1]


def drawn(seed, num_clips=30, num_concepts=20, num_names=12, most_labels=6):
    """Concepts that may be active, their names, the clips' labels, and cosines."""
    rng = np.random.default_rng(seed)
    clips, concepts = (rng.random((num_clips, num_concepts)) < 0.3 * rng.random((num_clips, 1))).nonzero()
    graded = Graded(clips, concepts, rng.integers(1, 5, len(clips)), num_clips)
    references = [torch.from_numpy(rng.permutation(8)[: rng.integers(1, most_labels + 1)]) for _ in range(num_clips)]
    return graded, rng.integers(-1, num_names, (num_concepts, 2)), references, rng.uniform(-1, 1, (num_names, 8))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("reading", READINGS)
def test_the_counts_of_all_quantiles_are_those_of_matching_each_clip_alone(seed, reading):
    graded, words, references, similarity = drawn(seed)
    predictions = predict(graded, words, 4)
    num_matched = count_matches(predictions, references, similarity, reading)
    for index in range(4):
        of_clips = predicted(graded.active(index), words, graded.num_clips)
        alone = [similarity[np.ix_(p, r)] for p, r in zip(of_clips, references, strict=True)]
        assert num_matched[index].tolist() == [[match(s, reading).sum(), *s.shape] for s in alone]
    assert (predictions.counts == num_matched[..., 1]).all()
    of_curve = curve([num_matched, num_matched], reading)
    assert of_curve.shape == (4, 3)
    assert all(low >= high for low, high in pairwise(num_matched[..., 1].sum(axis=1)))


def test_without_predictions_every_count_is_that_of_the_labels():
    graded, words, references, similarity = drawn(0)
    for silent, names in ((graded._replace(level=graded.level * 0), words), (graded, np.full_like(words, -1))):
        kept = Graded(*(column[silent.level > 0] for column in silent[:3]), graded.num_clips)
        num_matched = count_matches(predict(kept, names, 4), references, similarity, READINGS[0])
        assert num_matched[..., :2].sum() == 0
        assert num_matched[0, :, 2].tolist() == [len(of_clip) for of_clip in references]
