import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ard.evaluation import auroc, label_text, paired_auroc, shared_label, stated_labels


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
