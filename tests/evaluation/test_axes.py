"""The axes of a name against figures computed by hand, and at chance where there is nothing to tell."""

import numpy as np
import pytest

from ard.evaluation import axes

SCORES = np.array([[0.8, 0.0], [0.6, 0.1], [0.4, 0.0], [0.2, 0.0], [0.0, 0.0], [0.0, 0.7]])
TRUE = np.array([[1, 0], [1, 0], [0, 0], [1, 0], [0, 1], [0, 1]], dtype=bool)


def test_a_planted_feature_has_every_axis_at_1():
    true = np.arange(12)[:, None] < np.array([4, 8])
    scores = true * np.linspace(1, 0.5, 12)[:, None]
    assert axes.responsiveness(scores, true).figures.diagonal().tolist() == [1, 1]
    assert axes.purity(axes.depths(scores), true)[:, [0, 1], [0, 1]].tolist() == [[1, 1]] * 4
    assert axes.sensitivity(scores > 0, true).figures.diagonal().tolist() == [1, 1]
    assert axes.intruder(scores, true, ~true).figures.diagonal().tolist() == [1, 1]


def test_the_axes_are_those_computed_by_hand():
    of_names = axes.responsiveness(SCORES, TRUE).figures
    assert of_names[0, 0] == pytest.approx(8 / 9), "of 9 pairs only the third clip is before the fourth"
    assert of_names[1, 0] == 0
    assert axes.depths(SCORES, 2)[:, 0].tolist() == [0, 0, 1, 1, -1, -1]
    at_depths = axes.purity(axes.depths(SCORES, 2), TRUE, 2)
    assert at_depths[:, 0, 0].tolist() == [1, 0.5]
    assert at_depths[:, 1, 1].tolist() == [1, 0]
    assert axes.sensitivity(SCORES > 0.3, TRUE).figures[0, 0] == pytest.approx(2 / 3)
    near = np.array([[0, 1], [0, 1], [1, 0], [0, 1], [0, 0], [0, 0]], dtype=bool)
    of_near = axes.intruder(SCORES, TRUE, near).figures
    assert of_near[0, 0] == pytest.approx(2 / 3), "two of its three clips beat the third"
    assert axes.average_precisions(SCORES, TRUE)[0] == pytest.approx((1 + 1 + 3 / 4) / 3)


def test_ties_count_half():
    assert axes.responsiveness(np.zeros((4, 1)), np.array([[1], [0], [0], [0]], dtype=bool)).figures == 0.5


def test_a_feature_that_fires_in_fewer_clips_than_there_are_depths_has_none_at_the_others():
    depth = axes.depths(np.array([[0.5], [0.0], [0.0]]))
    assert np.isnan(axes.purity(depth, np.ones((3, 1), dtype=bool))[:, 0, 0]).tolist() == [False, True, True, True]
    assert np.isnan(axes.purity(axes.depths(np.zeros((3, 1))), np.ones((3, 1), dtype=bool))).all()


def test_one_clip_alone_is_at_chance():
    true, scores = np.ones((1, 1), dtype=bool), np.ones((1, 1))
    depths = axes.depths(scores)
    of_name = axes.mean_purity(depths, axes.purity(depths, true), np.ones((1, 1)))
    assert (of_name.figures.item(), of_name.deviations.item()) == (1, 0)


def test_what_cannot_be_told_is_nan():
    none = np.zeros((6, 1), dtype=bool)
    assert np.isnan(axes.responsiveness(SCORES, none).figures).all()
    assert np.isnan(axes.sensitivity(SCORES > 0, none).figures).all()
    assert np.isnan(axes.intruder(SCORES, TRUE, np.zeros_like(TRUE)).figures).all()
    assert np.isnan(axes.average_precisions(SCORES[:, :1], none)).all()


def test_random_features_are_at_chance_within_their_interval():
    rng = np.random.default_rng(0)
    scores, true = rng.random((400, 200)), rng.random((400, 1)) < 0.2
    areas, pure = axes.responsiveness(scores, true).figures[0], axes.purity(axes.depths(scores), true).mean(axis=0)[0]
    for values, chance in ((areas, 0.5), (pure, true.mean())):
        assert abs(values.mean() - chance) < 3 * values.std() / np.sqrt(len(values)) + 1e-9
    p = axes.above_others(scores[0], scores[1:].ravel(), 0.05)
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.05)


def test_p_values_count_the_name_itself_and_leave_out_what_is_nan():
    others = np.array([0.9, np.nan, 0.4, 0.2])
    assert axes.above_others(np.array([0.9, 0.5, 1.0]), others, 0.5).tolist() == [0.5, 0.5, 0.25]
    assert np.isnan(axes.above_others(np.array([np.nan]), others, 0.5)).all()


def test_too_few_other_names_tell_nothing():
    assert np.isnan(axes.above_others(np.array([0.9]), np.full(18, 0.1), 0.05)).all()
    assert axes.above_others(np.array([0.9]), np.full(19, 0.1), 0.05).tolist() == [0.05]


def test_q_values_are_of_those_that_were_measured():
    q = axes.q_values(np.array([0.01, np.nan, 0.02]))
    assert q[[0, 2]].tolist() == [0.02, 0.02]
    assert np.isnan(q[1])


@pytest.mark.parametrize(
    ("own", "expected"), [([1, 1], 1), ([1, 0.75], 2 / 3), ([1, 0.4], 0), ([1, np.nan], 1), ([np.nan, np.nan], np.nan)]
)
def test_the_score_is_the_harmonic_mean_of_the_axes_above_chance(own, expected):
    score = axes.name_scores(np.array(own, dtype=float)[:, None], np.array([[0.5], [0.5]]))
    assert score[0] == pytest.approx(expected, nan_ok=True)


def test_a_name_that_does_as_well_as_others_counts_all_of_them_whatever_their_last_digits():
    own = np.sqrt(np.random.default_rng(0).random(50)) * 7
    others = np.tile(own.astype(np.float32), (19, 1))
    p = [axes.above_others(own[[one]], others[:, one], 0.05)[0] for one in range(50)]
    assert p == [1.0] * 50
    assert (axes.above_others(own * 1.001, others[:, 0] * 0, 0.05) == 0.05).all()
