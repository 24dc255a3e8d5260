from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from ard.monosemanticity import Reading, monosemanticity, score_lists
from ard.monosemanticity.functional import chance_scores, draw_clips, num_shared, p_values, q_values


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


@pytest.mark.filterwarnings("ignore:var\\(\\). degrees of freedom")  # of the one pair of p = 2
@pytest.mark.parametrize("reading", READINGS, ids=str)
@pytest.mark.parametrize("p", [2, 4, 7])
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


def test_one_clip_is_refused():
    with pytest.raises(ValueError, match="needs p >= 2 clips in each set, got 1"):
        monosemanticity(unit(2, 1, 8), unit(2, 1, 8))


def test_draws_are_without_replacement_and_every_arrangement_is_as_likely():
    drawn = draw_clips(4, 3, 24_000, torch.Generator().manual_seed(0))
    counts = dict.fromkeys(permutations(range(4), 3), 0)
    for row in drawn.tolist():
        counts[tuple(row)] += 1  # KeyError for a clip that comes twice
    assert chisquare(list(counts.values())).pvalue > 0.01


@pytest.mark.parametrize("shared", [0, 1, 4])
def test_chance_is_the_formula_on_permuted_clips(shared):
    """The pooled draws have the law of one feature's m under permutations of the clips' identities."""
    embeddings, p = unit(30, 6), 4
    top, bottom = torch.arange(p), torch.arange(p - shared, 2 * p - shared)
    assert num_shared(top[None], bottom[None]) == shared
    chance = chance_scores(embeddings, p, shared, num_draws=4000, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    permuted = [torch.randperm(30, generator=generator) for _ in range(2000)]
    m = score_lists(embeddings, torch.stack([x[top] for x in permuted]), torch.stack([x[bottom] for x in permuted]))
    assert (chance.diff() >= 0).all()
    if shared == p:
        assert (chance == 0).all()
        assert (m == 0).all()
    else:
        assert kstest(chance.numpy(), m.numpy()).pvalue > 0.01


def test_p_values_count_draws_and_are_never_0():
    m = torch.tensor([0.5, 9.0, torch.nan, 1.0, 0.5], dtype=torch.float64)
    shared = torch.tensor([0, 0, 0, 0, 2])
    draws = torch.arange(10, dtype=torch.float64) / 5
    found = p_values(m, shared, {0: draws, 2: torch.zeros(3, dtype=torch.float64)})
    expected = [(1 + sum(float(x) >= float(y) for x in draws)) / 11 for y in m]
    assert found[[0, 1, 3]].tolist() == [expected[0], 1 / 11, expected[3]]
    assert found[2].isnan()
    assert found[4] == 1 / 4


def test_p_values_of_features_without_meaning_are_uniform_and_few_pass():
    embeddings = unit(200, 8)
    generator = torch.Generator().manual_seed(0)
    top, bottom = (draw_clips(200, 8, 1000, generator)[:, side] for side in (slice(0, 4), slice(4, 8)))
    chance = chance_scores(embeddings, 4, 0, num_draws=5000, generator=generator)
    p = p_values(score_lists(embeddings, top, bottom), num_shared(top, bottom) * 0, {0: chance})
    assert kstest(p.numpy(), "uniform").pvalue > 0.001
    assert (q_values(p) <= 0.05).sum() <= 1


def test_q_values_by_the_step_up_rule():
    p = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    p[7] = torch.nan
    for rate in (0.01, 0.05, 0.2, 0.5):
        known = sorted(p[~p.isnan()].tolist())
        passing = max((i + 1 for i, x in enumerate(known) if x <= rate * (i + 1) / len(known)), default=0)
        assert int((q_values(p) <= rate).sum()) == passing
    assert q_values(p)[7].isnan()
    assert q_values(p[7:8]).isnan().all()
