"""Pairs of features against brute force, and directions that are alike without being learned."""

from itertools import permutations

import numpy as np
import pytest
import torch

from ard.evaluation.alignment import assigned, cosines, drawn_tokens, like_tokens, rotated, shuffled_coordinates


def gaussian(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_cosines_are_numpys_correlations_of_centred_vectors():
    x, y = gaussian(7, 30), gaussian(2000, 30, seed=1)
    centred = (of - of.mean(dim=1, keepdim=True) for of in (x, y))
    np.testing.assert_allclose(cosines(*centred), np.corrcoef(x, y)[:7, 7:], atol=1e-6)
    assert not cosines(torch.zeros(2, 3), gaussian(4, 3)).any()


@pytest.mark.parametrize("seed", range(5))
def test_pairs_have_the_highest_sum_of_all(seed):
    similarity = gaussian(4, 6, seed=seed).numpy()
    pairs = assigned(similarity)
    best = max(sum(similarity[i, j] for i, j in enumerate(order)) for order in permutations(range(6), 4))
    assert pairs.cosines.sum() == pytest.approx(best)
    assert len(set(pairs.partners)) == 4
    left_over = assigned(similarity.T)
    assert sorted(left_over.partners)[:3] == [-1, -1, 0]
    assert not left_over.cosines[left_over.partners < 0].any()


def test_a_rotation_keeps_the_angles_and_moves_the_directions():
    directions, generator = gaussian(40, 32), torch.Generator().manual_seed(1)
    turned = rotated(directions, generator)
    np.testing.assert_allclose(cosines(turned, turned), cosines(directions, directions), atol=1e-5)
    assert abs(cosines(turned, directions).diagonal().mean()) < 0.1
    shuffled = shuffled_coordinates(directions, generator)
    assert torch.equal(shuffled.sort(dim=1).values, directions.sort(dim=1).values)


def test_gaussian_directions_have_the_covariance_of_the_tokens():
    x = gaussian(3000, 4) @ torch.tensor([[3.0, 0, 0, 0], [0, 1, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 0.1]]) + 5
    drawn = like_tokens(x, 50_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.T.cov(), x.T.cov(), atol=0.1, rtol=0.05)
    assert drawn.mean(dim=0).abs().max() < 0.1


@pytest.mark.parametrize("count", [5, 30])
def test_drawn_tokens_are_tokens(count):
    x = gaussian(10, 3) + 2
    drawn = drawn_tokens(x, count, torch.Generator().manual_seed(0)) + x.mean(dim=0)
    assert torch.cdist(drawn, x).min(dim=1).values.max() < 0.01  # cdist rounds
    assert len(drawn) == count
    assert count > 10 or len(drawn.unique(dim=0)) == count
