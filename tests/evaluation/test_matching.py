"""The formulas of Table 1 against brute force, scikit-learn, and what can be worked out by hand."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from ard.evaluation.matching import (
    DEFAULT,
    MatchReading,
    average_precision,
    class_average_precision,
    match,
    mean_average_precision,
    pooled_average_precision,
    precision_recall_f1,
    resampled,
)
from ard.types import UserError

PLAIN = np.ones((1, 4))


def best_assignment(worth):
    """The highest sum over all one-to-one assignments, by trying them all."""
    rows, columns = worth.shape
    if rows > columns:
        return best_assignment(worth.T)
    return max(sum(worth[i, j] for i, j in enumerate(order)) for order in permutations(range(columns), rows))


def brute_average_precision(similarity, matched):
    """Precision at every rank of all pairs, and which of the ranks are matches."""
    true = matched.reshape(-1)[np.argsort(-similarity, axis=None, kind="stable")]
    return np.cumsum(true) / np.arange(1, len(true) + 1), true


def drawn(rng, most=6, decimals=1):
    """Cosines with many equal ones."""
    return rng.uniform(-1, 1, rng.integers(1, most, size=2)).round(decimals)


@pytest.mark.parametrize("seed", range(20))
def test_the_hungarian_assignment_is_the_best_of_all(seed):
    similarity = drawn(np.random.default_rng(seed), decimals=9)
    matched = match(similarity, MatchReading(gamma=-1.0))
    assert matched.sum() == min(similarity.shape)
    assert matched.sum(axis=0).max() == matched.sum(axis=1).max() == 1
    assert similarity[matched].sum() == pytest.approx(best_assignment(similarity))


@pytest.mark.parametrize("seed", range(20))
def test_with_the_threshold_before_it_pairs_below_gamma_are_worth_nothing(seed):
    similarity = drawn(np.random.default_rng(seed))
    matched = match(similarity, MatchReading(gamma=0.3, threshold="before"))
    assert (similarity[matched] >= 0.3).all()
    assert similarity[matched].sum() == pytest.approx(best_assignment(np.where(similarity >= 0.3, similarity, 0)))


def test_the_threshold_after_the_assignment_may_lose_a_match_that_the_one_before_keeps():
    similarity = np.array([[0.75, 0.69], [0.69, 0.0]])  # the sum is highest on the two pairs of .69
    assert match(similarity).sum() == 0
    assert match(similarity, MatchReading(threshold="before")).tolist() == [[True, False], [False, False]]


def test_gamma_itself_is_a_match_unless_the_reading_is_strict():
    similarity = np.array([[0.9, 0.8], [0.7, 0.1]])
    assert match(similarity).tolist() == [[False, True], [True, False]]
    assert match(similarity, MatchReading(strict=True)).tolist() == [[False, True], [False, False]]
    assert match(similarity, MatchReading(gamma=0.75)).tolist() == [[False, True], [False, False]]


def test_the_greedy_assignment_takes_the_most_similar_pair_first():
    similarity = np.array([[0.9, 0.8], [0.85, 0.1]])  # .9 and then .1, where .8 and .85 are more
    assert match(similarity, MatchReading(assignment="greedy")).tolist() == [[True, False], [False, False]]
    assert match(similarity).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_an_empty_side_gives_no_match(shape):
    for reading in (DEFAULT, MatchReading(assignment="greedy"), MatchReading(threshold="before")):
        assert match(np.zeros(shape), reading).sum() == 0


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_equals_the_precision_at_every_rank(seed):
    similarity = drawn(np.random.default_rng(seed))
    matched = match(similarity, MatchReading(gamma=0.0))
    precision, true = brute_average_precision(similarity, matched)
    found = average_precision(similarity, matched)
    assert found.ranks == pytest.approx(precision.mean())
    assert found.references == pytest.approx(precision[true].sum() / similarity.shape[1])
    assert found.matches == pytest.approx(precision[true].mean() if true.any() else 0)


@pytest.mark.parametrize("seed", range(20))
def test_the_reading_over_matches_is_scikit_learns_average_precision(seed):
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(-1, 1, (5, 4))  # scikit-learn puts equal scores at one rank, we keep their order
    matched = match(similarity, MatchReading(gamma=0.0))
    expected = average_precision_score(matched.reshape(-1), similarity.reshape(-1))
    assert average_precision(similarity, matched).matches == pytest.approx(expected)


def test_average_precision_by_hand():
    similarity = np.array([[0.9, 0.2], [0.8, 0.1], [0.3, 0.75]])
    found = average_precision(similarity, match(similarity))  # (0, 0) and (2, 1): ranks 1 and 3 of six pairs
    assert found.ranks == pytest.approx((1 / 1 + 1 / 2 + 2 / 3 + 2 / 4 + 2 / 5 + 2 / 6) / 6)
    assert found.references == found.matches == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(similarity[:0], match(similarity[:0])) == (0, 0, 0)
    assert np.isnan(average_precision(similarity[:, :0], match(similarity[:, :0]))).all()


def test_relevance_by_the_cosine_alone_would_be_perfect_and_says_nothing():
    similarity = np.array([[0.95, 0.9], [0.8, 0.2], [0.1, 0.0]])
    relevant = similarity >= 0.7  # the ranking would be its own judge
    assert average_precision_score(relevant.reshape(-1), similarity.reshape(-1)) == 1
    assert average_precision(similarity, match(similarity)).matches < 1


def test_more_wrong_predictions_lower_the_average_over_ranks_and_not_that_over_references():
    few, many = np.array([[1.0], [0.1]]), np.array([[1.0]] + [[0.1]] * 20)
    of_few, of_many = (average_precision(s, match(s)) for s in (few, many))
    assert of_many.ranks < of_few.ranks / 2
    assert of_many.references == of_few.references == 1


def test_predictions_over_references_is_recall_over_precision():
    counts = np.array([[2.0, 5, 3], [1, 4, 2], [0, 0, 4]])
    ((precision, recall, f1),) = precision_recall_f1(counts, np.ones((1, 3)))
    assert (precision, recall) == (3 / 9, 3 / 9)
    assert recall / precision == pytest.approx(counts[:, 1].sum() / counts[:, 2].sum())
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_the_whole_vocabulary_against_200_classes_cannot_reach_the_papers_precision():
    rng = np.random.default_rng(0)
    matched = match(rng.uniform(0.7, 1, (5000, 200)))  # every name is close enough to every class
    counts = np.array([[matched.sum(), *matched.shape]], dtype=float)
    ((precision, recall, _),) = precision_recall_f1(counts, np.ones((1, 1)))
    assert recall == 1
    assert precision == 200 / 5000 == 0.04 < 0.55


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_with_labels_as_predictions_the_figures_are_scikit_learns(average):
    rng = np.random.default_rng(0)
    truth, said = rng.random((2, 30, 6)) < 0.4
    counts = np.stack([(truth & said).sum(axis=1), said.sum(axis=1), truth.sum(axis=1)], axis=1).astype(float)
    kept = counts[:, 2] > 0
    (found,) = precision_recall_f1(counts[kept], np.ones((1, kept.sum())), average)
    of = {"micro": "micro", "macro": "samples"}[average]
    expected = precision_recall_fscore_support(truth[kept], said[kept], average=of, zero_division=0)[:3]
    np.testing.assert_allclose(found, expected)


def test_no_predictions_and_no_references_are_defined():
    assert precision_recall_f1(np.array([[0.0, 0, 3]]), np.ones((1, 1))).tolist() == [[0, 0, 0]]
    for average in ("micro", "macro"):
        ((precision, recall, f1),) = precision_recall_f1(np.array([[0.0, 2, 0]]), np.ones((1, 1)), average)
        assert precision == f1 == 0
        assert np.isnan(recall)
    assert np.isnan(precision_recall_f1(np.zeros((1, 3)), np.ones((1, 1)))[0, 1:]).all()
    assert np.isnan(mean_average_precision(np.array([np.nan]), np.ones((1, 1)))).all()
    assert mean_average_precision(np.array([np.nan, 0.5]), np.ones((1, 2))).tolist() == [0.5]


@pytest.mark.parametrize("seed", range(5))
def test_a_row_of_weights_is_the_figure_of_the_clips_it_drew(seed):
    rng = np.random.default_rng(seed)
    counts = np.sort(rng.integers(0, 5, (12, 3)), axis=1).astype(float)
    of_clips = rng.random(12)
    weights = resampled(12, 7, seed)
    assert weights[0].tolist() == [1] * 12
    assert (weights.sum(axis=1) == 12).all()
    assert len({tuple(row) for row in weights}) == 8
    for row in weights:
        clips = np.arange(12).repeat(row.astype(int))
        for average in ("micro", "macro"):
            again = precision_recall_f1(counts[clips], np.ones((1, 12)), average)
            np.testing.assert_allclose(precision_recall_f1(counts, row[None], average), again)
        np.testing.assert_allclose(mean_average_precision(of_clips, row[None]), of_clips[clips].mean())


def test_groups_are_drawn_whole():
    groups = ("b", "a", "b", "c", "a")
    weights = resampled(5, 50, 0, groups)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert len({tuple(row) for row in weights}) > 5


@pytest.mark.parametrize("seed", range(10))
def test_pooled_is_one_ranking_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    similarities = [rng.uniform(-1, 1, rng.integers(1, 5, size=2)) for _ in range(4)]
    reading = MatchReading(gamma=0.2)
    matches = [match(s, reading) for s in similarities]
    flat, true = np.concatenate([s.ravel() for s in similarities]), np.concatenate([m.ravel() for m in matches])
    clips = np.arange(4).repeat([s.size for s in similarities])
    references = np.array([s.shape[1] for s in similarities], dtype=float)
    expected = average_precision_score(true, flat) * true.sum() / references.sum() if true.any() else 0
    found = pooled_average_precision(flat, true, clips, references, PLAIN)
    assert found[0] == pytest.approx(expected)
    counted = flat >= reading.gamma
    fewer = pooled_average_precision(flat[counted], true[counted], clips[counted], references, PLAIN)
    np.testing.assert_allclose(fewer, found)


@pytest.mark.parametrize("seed", range(10))
def test_classes_is_scikit_learns_macro_average_also_of_resampled_clips(seed):
    rng = np.random.default_rng(seed)
    scores, relevant = rng.integers(0, 5, (20, 6)) / 5, rng.random((20, 6)) < 0.3
    weights = resampled(20, 4, seed)
    for row, found in zip(weights, class_average_precision(scores, relevant, weights), strict=True):
        clips = np.arange(20).repeat(row.astype(int))
        has = relevant[clips].any(axis=0)
        assert found == pytest.approx(average_precision_score(relevant[clips][:, has], scores[clips][:, has]))
    assert np.isnan(class_average_precision(scores, np.zeros_like(relevant), weights)).all()


def test_readings_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"gamma 7.0 is not a cosine: give a number from -1 to 1"):
        replace(DEFAULT, gamma=7.0)
    with pytest.raises(UserError, match=r"'classes' ranks clips: it needs scope 'clip', not 'vocabulary'"):
        MatchReading(scope="vocabulary", average_precision="classes")
