from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ard.evaluation import (
    ConceptMatching,
    auroc,
    average_precision,
    hungarian,
    paired_auroc,
    precision_recall_f1_map,
    shared_label,
    stated_labels,
)


def best_assignment(similarity):
    """The highest sum over all one-to-one assignments, by trying them all."""
    rows, columns = similarity.shape
    if rows > columns:
        return best_assignment(similarity.T)
    return max(sum(similarity[i, j] for i, j in enumerate(order)) for order in permutations(range(columns), rows))


@pytest.mark.parametrize("seed", range(20))
def test_the_hungarian_assignment_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(-1, 1, rng.integers(1, 6, size=2))
    matched = hungarian(similarity, gamma=-1.0)
    assert matched.sum() == min(similarity.shape)
    assert matched.sum(axis=0).max() == matched.sum(axis=1).max() == 1
    assert similarity[matched].sum() == pytest.approx(best_assignment(similarity))


def test_the_threshold_comes_after_the_assignment_and_includes_gamma():
    similarity = np.array([[0.9, 0.8], [0.7, 0.1]])
    assert hungarian(similarity, 0.7).tolist() == [[False, True], [True, False]]
    assert hungarian(similarity, 0.75).tolist() == [[False, True], [False, False]]


def test_average_precision_by_hand():
    similarity = np.array([[0.9, 0.2], [0.8, 0.1], [0.3, 0.75]])
    matched = hungarian(similarity, 0.7)  # (0, 0) and (2, 1): ranks 1 and 3 of six pairs
    over_ranks, at_matches = average_precision(similarity, matched)
    assert over_ranks == pytest.approx((1 / 1 + 1 / 2 + 2 / 3 + 2 / 4 + 2 / 5 + 2 / 6) / 6)
    assert at_matches == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(similarity[:0], matched[:0]) == (0, 0)
    assert np.isnan(average_precision(similarity[:, :0], matched[:, :0])).all()


def test_more_wrong_predictions_lower_the_average_over_ranks_and_not_that_at_matches():
    few, many = np.array([[1.0], [0.1]]), np.array([[1.0]] + [[0.1]] * 20)
    (few_ranks, few_matches), (many_ranks, many_matches) = (
        average_precision(s, hungarian(s, 0.7)) for s in (few, many)
    )
    assert many_ranks < few_ranks / 2
    assert many_matches == few_matches == 1


def test_predictions_over_references_is_recall_over_precision():
    counts = np.array([[2.0, 5, 3, 0.5, 0.6], [1, 4, 2, 0.2, 0.4], [0, 0, 4, 0, 0]])
    precision, recall, f1, over_ranks, at_matches = precision_recall_f1_map(counts)
    assert (precision, recall) == (3 / 9, 3 / 9)
    assert recall / precision == pytest.approx(counts[:, 1].sum() / counts[:, 2].sum())
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall))
    assert (over_ranks, at_matches) == (pytest.approx(0.7 / 3), pytest.approx(1 / 3))


def test_no_predictions_and_no_references_are_defined():
    assert precision_recall_f1_map(np.array([[0.0, 0, 3, 0, 0]])).tolist() == [0, 0, 0, 0, 0]
    precision, recall, _, *mean_ap = precision_recall_f1_map(np.array([[0.0, 2, 0, np.nan, np.nan]]))
    assert precision == 0
    assert np.isnan([recall, *mean_ap]).all()


@pytest.mark.parametrize("seed", range(3))
def test_auroc_equals_scikit_learns_with_ties(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 4, (40, 5)).astype(float), rng.random((40, 3)) < 0.4
    expected = [[roc_auc_score(labels[:, j], scores[:, i]) for j in range(3)] for i in range(5)]
    np.testing.assert_allclose(auroc(scores, labels), expected)


@pytest.mark.parametrize("count", [0, 3, 300])
def test_paired_auroc_is_that_of_each_concept_alone(count):
    rng = np.random.default_rng(count)
    scores, fires = rng.integers(0, 6, (30, count)).astype(float), rng.random((30, count)) < 0.5
    expected = [roc_auc_score(fires[:, i], scores[:, i]) for i in range(count)]
    np.testing.assert_allclose(paired_auroc(scores, fires), expected)
    assert np.isnan(paired_auroc(scores, np.ones_like(fires))).all()
    assert np.isnan(paired_auroc(scores[:0], fires[:0])).all()


def test_a_label_that_all_clips_have_gives_nan():
    assert np.isnan(auroc(np.arange(4.0)[:, None], np.ones((4, 1), dtype=bool))).all()


def test_the_metric_merges_and_names_its_counts():
    similarity = torch.eye(4)[:, :3]  # four names, three labels; the fourth name means none of them
    clips = [([0, 3], [0, 1]), ([], [2]), ([1, 2], [1, 2]), ([3], [])]
    parts = []
    for half in (clips[:2], clips[2:]):
        metric = ConceptMatching(similarity)
        metric.update([torch.tensor(p, dtype=torch.int64) for p, _ in half], [r for _, r in half])
        parts.append(metric)
    parts[0].merge_state(parts[1])
    counts = sorted(parts[0].compute().nan_to_num(-1).tolist())  # a merge does not say whose clips come first
    assert [row[:3] for row in counts] == [[0, 0, 1], [0, 1, 0], [1, 2, 2], [2, 2, 2]]
    assert [row[4] for row in counts] == [0, -1, 0.5, 1]
    assert counts[2][3] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert ConceptMatching(similarity).compute().shape == (0, 5)


def test_a_shared_label_is_that_of_more_than_half_and_the_rarest_of_several():
    frequency = {"dog": 9, "rain": 3, "bell": 3}
    assert shared_label([["dog"], ["dog", "rain"], ["rain"], []], frequency) is None
    assert shared_label([["dog"], ["dog"], ["dog", "rain"], ["rain"]], frequency) == "dog"
    assert shared_label([["dog", "rain"], ["dog", "rain"]], frequency) == "rain"
    assert shared_label([["bell", "rain"]], frequency) == "bell"
    assert shared_label([], frequency) is None


def test_a_name_states_the_labels_whose_words_it_has_and_that_most_clips_have():
    heard = [["Dog, barking", "rain"], ["Dog, barking"], ["Dog, barking", "rain"], []]
    names = ["a dog barking in the rain", "barking dog", "Dog Barking!", "dog", None, "hotdog barking"]
    stated = stated_labels(names, [heard] * len(names))
    assert stated == [["Dog, barking"], [], ["Dog, barking"], [], [], []]
    assert stated_labels(["rain and dog barking"], [heard[:3]]) == [["Dog, barking", "rain"]]
    assert stated_labels(["rain"], [[]]) == [[]]
