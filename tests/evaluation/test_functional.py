import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ard.evaluation import (
    auroc,
    label_text,
    over_draws,
    paired_auroc,
    paired_difference,
    shared_label,
    stated_labels,
    unseen_support,
)
from ard.results import Figure


@pytest.mark.parametrize("seed", range(3))
def test_auroc_equals_scikit_learns_with_ties(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 4, (40, 5)).astype(float), rng.random((40, 3)) < 0.4
    expected = [[roc_auc_score(labels[:, j], scores[:, i]) for j in range(3)] for i in range(5)]
    np.testing.assert_allclose(auroc(scores, labels), expected)


@pytest.mark.slow
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


def test_labels_are_spelled_for_clap():
    assert label_text("Fixed-wing_aircraft_and_airplane") == "Fixed-wing aircraft and airplane"
    assert label_text("Fixed-wing_aircraft_and_airplane", "audioset") == "Fixed-wing aircraft, airplane"
    assert label_text("Bathtub_(filling_or_washing)", "audioset") == "Bathtub (filling or washing)"
    assert label_text("Tick-tock", "as_is") == "Tick-tock"
    assert label_text("Wild_animals", "as_is") == "Wild_animals"


def two_rows(correlation, difference, num_clips=400, seed=0):
    """Resampled means of two rows of clips, one line of 1 + 1000 each."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0.5, 0.25, num_clips)
    noise = rng.normal(0, 0.25, num_clips)
    other = 0.5 + correlation * (own - 0.5) + np.sqrt(1 - correlation**2) * noise
    other += own.mean() - difference - other.mean()
    drawn = np.stack([np.arange(num_clips), *rng.integers(num_clips, size=(1000, num_clips))])
    return own[drawn].mean(axis=1), other[drawn].mean(axis=1)


def test_rows_of_correlation_95_and_difference_02_are_told_apart_though_their_intervals_overlap():
    own, other = two_rows(0.95, 0.02)
    high, low = (Figure.resampled(row, 400, "share", over="clips") for row in (own, other))
    assert high.low < low.high
    figure, p = paired_difference(own[None], other[None], n=400)
    assert figure.value == pytest.approx(0.02)
    assert 0 < figure.low < figure.high
    assert p < 0.05
    assert (figure.n, figure.over, figure.better) == (400, "clips", "neither")
    back = paired_difference(other[None], own[None], n=400)
    assert (back.figure.value, back.figure.low, back.p) == (-figure.value, -figure.high, p)
    unrelated, chance = paired_difference(*(row[None] for row in two_rows(0.0, 0.02)), n=400)
    assert unrelated.low < 0 < unrelated.high
    assert chance > 0.05


def test_equal_rows_differ_by_nothing_and_a_single_clip_says_nothing():
    own, _ = two_rows(0.5, 0.0)
    figure, p = paired_difference(own[None], own[None], n=400)
    assert (figure.value, figure.low, figure.high, p) == (0, 0, 0, 1)
    alone, p = paired_difference(own[None], own[None] - 1, n=1)
    assert alone.value == 1
    assert np.isnan([alone.low, alone.high, p]).all()


def test_draws_are_resampled_with_the_clips():
    own, other = two_rows(0.95, 0.02)
    draws = other + np.linspace(-0.2, 0.2, 5)[:, None]
    mean = over_draws(draws, np.random.default_rng(0))
    assert mean[0] == pytest.approx(other[0])
    assert mean[1:].std() > 2 * other[1:].std()
    figure, p = paired_difference(own[None], draws, n=400)
    assert figure.value == pytest.approx(0.02)
    assert figure.low < 0 < figure.high
    assert p > 0.3
    assert figure.over == "clips and draws"
    assert (over_draws(other[None], np.random.default_rng(0)) == other).all()


def test_a_name_is_held_to_all_that_it_states_on_unseen_clips():
    has = {"man": np.array([1, 1, 0, 0], dtype=bool), "sad": np.array([1, 0, 1, 0], dtype=bool)}
    stated = [["man"], ["man", "sad"], ["sad"], ["owl"], ["man"]]
    fires = np.array([[1, 1, 0, 1, 0], [1, 1, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 1]], dtype=bool)
    precision, recall = unseen_support(stated, fires, has)
    assert precision.tolist() == pytest.approx([1, 1 / 3, 0, 0, 0])  # the third fires nowhere, the last where no man is
    np.testing.assert_allclose(recall, [1, 1, 0, np.nan, 0])
