"""The formulas of timing by hand and against brute force."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ard.evaluation.timing import Entries, auroc_in_time, best_level, heard_tokens, onset_lags, overlap, weighted_median


def event(onset_s, offset_s, label="dog"):
    return {"onset_s": onset_s, "offset_s": offset_s, "label": label}


def entries_of(z):
    tokens, features = np.nonzero(z)
    return Entries(tokens, features, z[tokens, features])


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([event(0.0, 0.8)], [1, 1, 1, 1, 1, 1, 1, 1]),
        ([event(0.1, 0.3)], [0, 1, 1, 0, 0, 0, 0, 0]),
        ([event(0.149, 0.251)], [0, 1, 1, 0, 0, 0, 0, 0]),  # both middles are within
        ([event(0.152, 0.249)], [0, 0, 1, 0, 0, 0, 0, 0]),  # no middle is: the token of its own
        ([event(0.46, 0.47)], [0, 0, 0, 0, 1, 0, 0, 0]),
        ([event(0.1, 0.2), event(0.5, 0.6)], [0, 1, 0, 0, 0, 1, 0, 0]),
        ([event(0.7, 9.0)], [0, 0, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_a_label_is_heard_in_the_tokens_whose_middle_is_within_its_events(events, expected):
    assert heard_tokens(events, 8, 0.1)["dog"].astype(int).tolist() == expected


def test_every_label_has_its_own_tokens():
    heard = heard_tokens([event(0.0, 0.1), event(0.1, 0.2, "cat")], 2, 0.1)
    assert {label: of.tolist() for label, of in heard.items()} == {"dog": [True, False], "cat": [False, True]}


@pytest.mark.parametrize("seed", range(30))
def test_auroc_in_time_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    num_tokens, num_features = int(rng.integers(4, 60)), int(rng.integers(1, 12))
    z = rng.normal(size=(num_tokens, num_features)) * (rng.random((num_tokens, num_features)) < rng.random())
    z = np.abs(z) if seed % 3 == 0 else np.round(z, 1) if seed % 3 == 1 else z  # never negative, with ties, signed
    heard = rng.random((3, num_tokens)) < 0.4
    heard[:, 0], heard[:, 1] = True, False
    present, areas = auroc_in_time(entries_of(z), heard)
    assert present.tolist() == np.flatnonzero((z != 0).any(axis=0)).tolist()
    expected = [[roc_auc_score(of_label, z[:, feature]) for feature in present] for of_label in heard]
    np.testing.assert_allclose(areas, np.array(expected).reshape(3, -1), atol=1e-12)


def test_a_square_wave_that_is_heard_overlaps_in_full_and_without_lag():
    heard = np.array([0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0], dtype=bool)
    (feature,), ((area,),) = auroc_in_time(entries_of(2.0 * heard[:, None]), heard[None])
    ((both,),), ((either,),) = overlap(heard[:, None], heard[None])
    assert (feature, area) == (0, 1.0)
    assert both / either == 1
    assert onset_lags(heard, heard, 3).tolist() == [0, 0]


@pytest.mark.parametrize("by", [-1, 1, 2])
def test_shifted_by_tokens_its_lag_is_these_tokens(by):
    heard = np.array([0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0], dtype=bool)
    fires = np.roll(heard, by)
    assert onset_lags(fires, heard, 3).tolist() == [by, by]
    ((both,),), ((either,),) = overlap(fires[:, None], heard[None])
    assert (both, either) == ((3, 7) if abs(by) == 1 else (1, 9))


def test_an_onset_is_met_by_the_nearest_beginning_within_reach():
    heard = np.array([1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1], dtype=bool)
    fires = np.array([0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 1, 1, 1], dtype=bool)
    np.testing.assert_array_equal(onset_lags(fires, heard, 2), [2, 1, np.nan])
    np.testing.assert_array_equal(onset_lags(fires, heard, 4), [2, 1, -4])
    np.testing.assert_array_equal(onset_lags(np.zeros_like(fires), heard, 4), [np.nan] * 3)
    np.testing.assert_array_equal(onset_lags(np.ones_like(fires), heard, 4), [np.nan] * 3)
    assert len(onset_lags(fires, np.ones_like(heard), 4)) == 0


def test_the_best_level_is_the_one_of_the_largest_overlap():
    rng = np.random.default_rng(0)
    heard, others = rng.integers(0, 9, size=(2, 50, 7))
    for row, level in enumerate(best_level(heard, others)):
        ious = [heard[row, i:].sum() / max(1, heard[row].sum() + others[row, i:].sum()) for i in range(7)]
        assert level == int(np.argmax(ious))
    assert best_level(np.array([[0, 0, 4]]), np.array([[4, 0, 0]])).tolist() == [1]


def test_a_weighted_median_is_that_of_repeated_values():
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 8, 21):
        values, weights = rng.normal(size=size).round(1), rng.integers(0, 4, size=(200, size)).astype(float)
        expected = [np.median(np.repeat(values, own.astype(int))) if own.any() else np.nan for own in weights]
        np.testing.assert_allclose(weighted_median(values, weights), expected)
    assert np.isnan(weighted_median(np.empty(0), np.ones((2, 0)))).tolist() == [True, True]


def test_a_few_features_are_made_dense():
    z = np.array([[0.0, 3.0, -1.0], [2.0, 0.0, 0.0]])
    entries = entries_of(z)
    np.testing.assert_array_equal(entries.dense(np.array([0, 2]), 2), z[:, [0, 2]])
    np.testing.assert_array_equal(entries.dense(np.array([1, 7]), 3), [[3, 0], [0, 0], [0, 0]])
    assert entries.dense(np.empty(0, dtype=int), 2).shape == (2, 0)
    assert entries.among(np.array([False, True, True])).features.tolist() == [1, 2]
