from itertools import combinations

import numpy as np
import pytest
import torch

from ard.monosemanticity import monosemanticity


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("p", [3, 4, 7])
def test_equals_the_equations_pair_by_pair(p, ddof):
    top, bottom = unit(5, p, 8), unit(5, p, 8, seed=1)
    expected = []
    for feature in range(5):
        cosines = [[float(s[feature, i] @ s[feature, j]) for i, j in combinations(range(p), 2)] for s in (top, bottom)]
        pooled = np.sqrt((np.var(cosines[0], ddof=ddof) + np.var(cosines[1], ddof=ddof)) / 2)
        expected.append((np.mean(cosines[0]) - np.mean(cosines[1])) / (pooled + 1e-8))
    torch.testing.assert_close(monosemanticity(top, bottom, ddof=ddof), torch.tensor(expected))


def test_a_coherent_feature_beats_a_random_one_and_swapping_the_sets_changes_the_sign():
    tight = torch.nn.functional.normalize(unit(1, 1, 8) + 0.1 * unit(1, 4, 8, seed=1), dim=-1)
    loose = unit(1, 4, 8, seed=2)
    assert monosemanticity(tight, loose) > 1
    torch.testing.assert_close(monosemanticity(tight, loose), -monosemanticity(loose, tight))


def test_identical_clips_do_not_divide_by_zero():
    same = unit(1, 1, 8).expand(1, 4, 8)
    assert monosemanticity(same, same) == 0


def test_one_clip_is_refused():
    with pytest.raises(ValueError, match="needs p >= 2 clips in each set, got 1"):
        monosemanticity(unit(2, 1, 8), unit(2, 1, 8))
