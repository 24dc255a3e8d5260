"""The index of hearing and reading: by hand, by brute force, and where it cannot be told."""

import numpy as np
import pytest

from ard.evaluation.hearing import CONDITIONS, audio_wins, hearing_index, over_pairs


def activity(**conditions):
    """The activity in pairs, one list a condition."""
    return np.array([conditions[name] for name in CONDITIONS], dtype=float).T


def test_audio_alone_gives_1_words_alone_0_and_both_one_half():
    audio, text, neither = np.array([7.0, 2, 4, 6]), np.array([2.0, 9, 4, 3]), np.array([2.0, 2, 1, 2])
    assert hearing_index(audio, text, neither).tolist() == [1, 0, 0.5, 0.8]  # the last: 4 of 4 + 1


def test_what_neither_raises_has_no_index_and_what_one_lowers_counts_as_nothing():
    index = hearing_index(np.array([3.0, 1, 5]), np.array([3.0, 2, 1]), np.array([3.0, 4, 3]))
    np.testing.assert_array_equal(index, [np.nan, np.nan, 1])


def test_a_conflict_is_won_by_what_activity_follows():
    both, neither = np.array([5.0, 5, 5, 5, 1]), np.ones(5)
    np.testing.assert_array_equal(audio_wins(both, neither, np.array([5.0, 1, 2, 9, 3])), [1, 0, 0.25, 1, np.nan])
    assert audio_wins(both[:1], neither[:1], np.zeros(1)).tolist() == [0]  # less than without audio


def test_means_over_pairs_come_first():
    found = over_pairs(
        activity(audio=[9, 1], text=[1, 3], both=[9, 3], neither=[1, 1], conflict=[9, 1], other_words=[1, 1]), 0
    )
    assert found["hearing"].value == 0.8  # (5 - 1) of (5 - 1) + (2 - 1), and not the mean of 1 and 0
    assert found["hearing_shuffled"] == (1, 1, 1)  # resamples of the second pair alone have none
    assert found["audio_wins"].value == 0.8
    assert (found["hearing"].low, found["hearing"].high) == (0, 1)


def test_intervals_are_those_of_resampling_pair_by_pair():
    rng = np.random.default_rng(0)
    of_pairs = rng.random((7, len(CONDITIONS))) + np.array([2, 1, 3, 0, 1, 1])
    found = over_pairs(of_pairs, seed=3, num_resamples=20_000)["hearing"]
    audio, text, neither = (of_pairs[:, CONDITIONS.index(name)] for name in ("audio", "text", "neither"))
    drawn = []
    for _ in range(20_000):
        rows = rng.integers(7, size=7)
        hears, reads = (max(x[rows].mean() - neither[rows].mean(), 0) for x in (audio, text))
        drawn.append(hears / (hears + reads))
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01)
    assert found.low < found.value < found.high


def test_one_pair_has_no_interval_and_a_silent_feature_no_figure():
    alone = over_pairs(activity(audio=[3], text=[0], both=[3], neither=[0], conflict=[3], other_words=[0]), 0)
    np.testing.assert_array_equal(alone["hearing"], [1, np.nan, np.nan])
    for figure in over_pairs(np.zeros((4, len(CONDITIONS))), 0).values():
        np.testing.assert_array_equal(figure, [np.nan] * 3)


def test_without_words_that_contradict_only_the_index_is_known():
    of_pairs = activity(audio=[2, 4], text=[1, 1], both=[2, 4], neither=[0, 0], conflict=[0, 0], other_words=[0, 0])
    of_pairs[:, -2:] = np.nan
    found = over_pairs(of_pairs, 0)
    assert found["hearing"].value == 0.75
    assert np.isnan([found["hearing_shuffled"].value, found["audio_wins"].value]).all()
