import math

import numpy as np
import pytest

from ard.study import agreement


def by_definition(ratings):
    """Krippendorff's alpha with the ordinal metric, by its definition over coincidences."""
    units = [unit[np.isfinite(unit)].astype(int) for unit in ratings]
    units = [unit for unit in units if len(unit) > 1]
    coincidences = np.zeros((6, 6))
    for unit in units:
        for i, a in enumerate(unit):
            for j, b in enumerate(unit):
                if i != j:
                    coincidences[a, b] += 1 / (len(unit) - 1)
    counts = coincidences.sum(axis=0)
    distance = np.zeros((6, 6))
    for a in range(6):
        for b in range(6):
            between = counts[min(a, b) : max(a, b) + 1].sum() - (counts[a] + counts[b]) / 2
            distance[a, b] = 0 if a == b else between**2
    expected = np.outer(counts, counts) * distance
    return 1 - (counts.sum() - 1) * (coincidences * distance).sum() / expected.sum()


@pytest.mark.parametrize("seed", range(20))
def test_alpha_is_that_of_its_definition(seed):
    rng = np.random.default_rng(seed)
    ratings = rng.integers(0, 6, (rng.integers(4, 30), rng.integers(2, 6))).astype(float)
    ratings[rng.random(ratings.shape) < 0.3] = np.nan
    assert agreement(ratings) == pytest.approx(by_definition(ratings))


def test_alpha_of_krippendorffs_own_example():
    nan = np.nan  # four observers, twelve units (Computing Krippendorff's Alpha-Reliability, section D): ordinal 0.815
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ]
    assert agreement(np.array(rows).T) == pytest.approx(0.815, abs=5e-4)


@pytest.mark.parametrize(
    "ratings",
    [np.empty((0, 0)), np.array([[3.0], [4.0]]), np.array([[3.0, np.nan], [np.nan, 4]]), np.full((5, 3), 4.0)],
)
def test_alpha_is_undefined_for_one_rater_for_none_and_for_ratings_that_are_all_equal(ratings):
    assert math.isnan(agreement(ratings))


def test_perfect_agreement_is_one():
    assert agreement(np.array([[0.0, 0], [5, 5], [3, 3]])) == 1
