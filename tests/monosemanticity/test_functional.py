import math
from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from ard.monosemanticity import Reading, monosemanticity, score_lists
from ard.monosemanticity.functional import SHARES, list_moments, q_values, share_curve, top_share_mean


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )


def brute(e, reading):
    """E and sigma of one set, pair by pair; B is the number of pairs that count, regardless of their order."""
    kept = [(i, j) for i, j in combinations(range(len(e)), 2) if not (reading.skip_identical and (e[i] == e[j]).all())]
    ordered = [(i, j) for i, j in permutations(range(len(e)), 2) if (min(i, j), max(i, j)) in kept]
    cosines = [float(e[i] @ e[j]) for i, j in kept]
    summed = sum(float(e[i] @ e[j]) for i, j in (ordered if reading.pairs == "ordered" else kept))
    if not kept or (reading.sigma == "cosines" and len(kept) <= reading.ddof):
        return np.nan, np.nan
    if reading.sigma == "cosines":
        sigma = np.std(cosines, ddof=reading.ddof)
    elif reading.sigma == "dimensions":
        sigma = np.mean([np.std(e[:, d].numpy(), ddof=reading.ddof) for d in range(e.shape[1])])
    else:
        sigma = np.sqrt(np.trace(np.cov(e.T.numpy(), ddof=reading.ddof)))
    return summed / len(kept), sigma


READINGS = [
    Reading(pairs, skip, sigma, ddof, eps)
    for pairs in ("unordered", "ordered")
    for skip in (False, True)
    for sigma in ("cosines", "dimensions", "trace")
    for ddof, eps in ((0, 1e-8), (1, 1e-2))
]


@pytest.mark.parametrize("reading", READINGS, ids=str)
@pytest.mark.parametrize("p", [3, 4, 7])
def test_every_reading_equals_the_equations_pair_by_pair(p, reading):
    top, bottom = unit(6, p, 8), unit(6, p, 8, seed=1)
    top[1, 1] = top[1, 0]  # doubles
    bottom[2] = bottom[2, :1]  # nothing but doubles
    expected = []
    for h, low in zip(top, bottom, strict=True):
        (mean_h, sigma_h), (mean_l, sigma_l) = brute(h, reading), brute(low, reading)
        expected.append((mean_h - mean_l) / (np.sqrt((sigma_h**2 + sigma_l**2) / 2) + reading.eps))
    found = monosemanticity(top, bottom, reading)
    finite = torch.tensor(np.abs(expected) < 1e5)  # where all cosines are equal, m is rounding over eps
    torch.testing.assert_close(found[finite], torch.tensor(expected)[finite])
    assert torch.equal(found.isnan(), torch.tensor(expected).isnan())
    assert reading.sigma == "cosines" or reading.skip_identical or finite.all()


def test_scores_of_lists_are_those_of_their_embeddings():
    embeddings = unit(50, 8).float()
    top, bottom = torch.randint(50, (2, 200, 4), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        score_lists(embeddings, top, bottom), monosemanticity(embeddings[top], embeddings[bottom]), rtol=1e-9, atol=0
    )


def test_a_coherent_feature_beats_a_random_one_and_swapping_the_sets_changes_the_sign():
    tight = torch.nn.functional.normalize(unit(1, 1, 8) + 0.1 * unit(1, 4, 8, seed=1), dim=-1)
    loose = unit(1, 4, 8, seed=2)
    assert monosemanticity(tight, loose) > 1
    torch.testing.assert_close(monosemanticity(tight, loose), -monosemanticity(loose, tight))


def test_identical_clips_do_not_divide_by_zero():
    same = unit(1, 1, 8).expand(1, 4, 8)
    assert monosemanticity(same, same) == 0


@pytest.mark.parametrize("p", [1, 2])
def test_lists_without_spread_are_refused(p):
    for score in (
        lambda: monosemanticity(unit(2, p, 8), unit(2, p, 8)),
        lambda: list_moments(unit(9, 8), torch.arange(2 * p).view(2, p)),
    ):
        with pytest.raises(ValueError, match=rf"needs p >= 3 clips in each set, got {p}: fewer have no spread"):
            score()


def test_identical_clips_have_an_m_that_is_up_to_the_lowest_alone():
    """As the docstring says: whatever the clip is, m is that of its L^k, so features of one L^k share the limit."""
    lowest = unit(1, 4, 8, seed=2)
    mean, sigma = brute(lowest[0], Reading())
    for seed in range(3):
        same = unit(1, 1, 8, seed=seed).expand(1, 4, 8)
        assert float(monosemanticity(same, lowest)) == pytest.approx(math.sqrt(2) * (1 - mean) / sigma, rel=1e-6)


@pytest.mark.parametrize("num_features", [1, 2, 7, 30, 101])
def test_shares_do_not_rise_with_copies_of_a_dictionary_but_a_fixed_number_does(num_features):
    m = np.random.default_rng(num_features).standard_normal(num_features)
    twice = np.concatenate([m, m])
    for share in (0.01, 0.2, 0.5, 1.0):
        exact = np.quantile(np.repeat(m, 1000), 1 - np.arange(0.5 / 5000, 1, 1 / 5000) * share, method="inverted_cdf")
        assert top_share_mean(m, share) == pytest.approx(exact.mean(), abs=1e-3)
        assert top_share_mean(twice, share) == pytest.approx(top_share_mean(m, share))
    assert share_curve(twice) == share_curve(m)
    if num_features > 20:
        assert np.sort(twice)[-20:].mean() > np.sort(m)[-20:].mean()


def test_the_curve_says_what_m_a_share_of_the_features_reaches():
    m = np.array([3.0, 1.0, 2.0, 0.0, np.pi])
    curve = share_curve(m)
    assert [share for share, _ in curve] == list(SHARES) == [0, 0.01, 0.02, 0.05, *(i / 10 for i in range(1, 11))]
    for share, score in curve:
        assert score in m
        assert (m >= score).mean() >= share
        assert (m > score).mean() < share or share == 0
    assert (curve[0][1], curve[-1][1]) == (np.pi, 0)
    assert share_curve(m[:0]) == []


def test_q_values_by_the_step_up_rule():
    p = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    p[7] = torch.nan
    for rate in (0.01, 0.05, 0.2, 0.5):
        known = sorted(p[~p.isnan()].tolist())
        passing = max((i + 1 for i, x in enumerate(known) if x <= rate * (i + 1) / len(known)), default=0)
        assert int((q_values(p) <= rate).sum()) == passing
    assert q_values(p)[7].isnan()
    assert q_values(p[7:8]).isnan().all()
