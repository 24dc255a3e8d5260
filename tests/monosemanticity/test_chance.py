"""p-values given each L^k, and scores whose L is random."""

from itertools import combinations, permutations

import pytest
import torch
from scipy.stats import chisquare, kstest

from ard.monosemanticity import Reading, score_lists
from ard.monosemanticity.chance import (
    MOST_SHARING_DRAWS,
    compare_with_chance,
    draw_clips,
    mean_over_random_lowest,
    random_lists,
)
from ard.monosemanticity.functional import list_moments, q_values
from tests.monosemanticity.worlds import P, retrieve, sparse_scores, unit

TIES = ("stable", "seeded_random", "shared_random", "preact")


def p_values(embeddings, top, bottom, num_draws=5000, seed=0, reading=Reading()):  # noqa: B008
    generator = torch.Generator().manual_seed(seed)
    drawn = random_lists(embeddings, top.shape[1], num_draws, reading, generator=generator)
    m = score_lists(embeddings, top, bottom, reading)
    return compare_with_chance(m, top, bottom, embeddings, drawn, reading, generator=generator).p_value


def test_draws_are_without_replacement_and_every_arrangement_is_as_likely():
    drawn = draw_clips(4, 3, 24_000, torch.Generator().manual_seed(0))
    counts = dict.fromkeys(permutations(range(4), 3), 0)
    for row in drawn.tolist():
        counts[tuple(row)] += 1  # KeyError for a clip that comes twice
    assert chisquare(list(counts.values())).pvalue > 0.01


@pytest.mark.parametrize("reading", [Reading(), Reading(pairs="ordered", sigma="trace", ddof=1)], ids=str)
@pytest.mark.parametrize("shared", [0, 1, 2, 3])
def test_p_is_the_share_of_all_sets_that_reach_m(shared, reading):
    """Against every set of clips there is: those in both lists are kept, the others come from outside L^k."""
    generator = torch.Generator().manual_seed(shared)
    embeddings = unit(13, 6, generator=generator)
    for _ in range(3):
        clips = torch.randperm(13, generator=generator)
        top, bottom = clips[:3], clips[3 - shared : 6 - shared]
        outside = [clip for clip in range(13) if clip not in bottom.tolist()]
        sets = [[*top.tolist()[3 - shared :], *others] for others in combinations(outside, 3 - shared)]
        chance = score_lists(embeddings, torch.tensor(sets), bottom.expand(len(sets), -1), reading)
        m = score_lists(embeddings, top[None], bottom[None], reading)
        exact = float((chance >= m - 1e-6).double().mean())
        found = float(p_values(embeddings, top[None], bottom[None], 40_000, reading=reading)[0])
        num_draws = MOST_SHARING_DRAWS if shared else 40_000 * 0.4
        assert found == pytest.approx(exact, abs=4 * (exact * (1 - exact) / num_draws) ** 0.5 + 2 / num_draws)


@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize("ties", TIES)
def test_random_representatives_have_uniform_p_values_under_every_rule_of_ties_and_order(ties, order):
    """The paper's `Rand. Rep.`: H is drawn from all clips, also those of L^k, which is as retrieved."""
    generator = torch.Generator().manual_seed(10 + order)
    embeddings = unit(150, 8, generator=generator)
    stored = retrieve(sparse_scores(150, 600, generator), ties)
    top, bottom = draw_clips(150, P, 600, generator), stored["ard/bottom_ids"]
    p = p_values(embeddings, top, bottom, seed=order)
    assert kstest(p.numpy(), "uniform").pvalue > 0.01
    assert (q_values(p) <= 0.05).sum() <= 1


def test_features_that_share_an_lowest_list_have_the_p_values_they_have_alone():
    generator = torch.Generator().manual_seed(0)
    embeddings, top = unit(60, 6, generator=generator), draw_clips(60, P, 40, generator)
    bottom = draw_clips(60, P, 5, generator).repeat(8, 1)
    together = p_values(embeddings, top, bottom)
    apart = ~(top[:, :, None] == bottom[:, None, :]).any(dim=(1, 2))
    for feature in apart.nonzero()[:, 0].tolist():
        alone = p_values(embeddings, top[feature : feature + 1], bottom[feature : feature + 1].flip(1))
        assert float(together[feature]) == pytest.approx(float(alone[0]), abs=1e-12)
    assert apart.sum() > 20


def test_p_is_never_0_is_1_where_the_lists_are_the_same_and_nan_where_m_is():
    generator = torch.Generator().manual_seed(0)
    embeddings = unit(30, 6, generator=generator)
    embeddings[1] = embeddings[2] = embeddings[3] = embeddings[0]
    embeddings[29] = torch.nan
    bottom = torch.arange(8, 12).expand(3, -1)
    top = torch.stack([torch.arange(4), torch.arange(8, 12), torch.tensor([5, 6, 7, 29])])
    p = p_values(embeddings, top, bottom, num_draws=500)
    assert 1 / 501 <= p[0] <= 3 / 300
    assert p[1] == 1
    assert p[2].isnan()
    assert p_values(embeddings, top[2:], bottom[2:], num_draws=10).isnan().all()


def test_both_signs_of_a_coordinate_that_is_coherent_at_both_ends_are_above_chance():
    """Its m by Eq. 4 is about 0, for H^k and L^k are equally coherent; given L^k, a random H has far less."""
    generator = torch.Generator().manual_seed(0)
    embeddings = unit(100, 16, generator=generator)
    ends = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]])  # clips where x is highest, and lowest
    for end, centre in zip(ends, unit(2, 16, generator=generator), strict=True):
        embeddings[end] = torch.nn.functional.normalize(centre + 0.05 * embeddings[end], dim=1)
    m = score_lists(embeddings, ends, ends.flip(0))  # of x, and of -x
    assert m.abs().max() < 1
    assert p_values(embeddings, ends, ends.flip(0)).max() < 0.01
    drawn = random_lists(embeddings, 4, 2000, generator=generator)
    assert mean_over_random_lowest(list_moments(embeddings, ends), drawn, generator=generator).min() > 4


def test_m_over_random_lowest_is_the_mean_of_m_over_draws_of_it():
    generator = torch.Generator().manual_seed(0)
    embeddings = unit(80, 12, generator=generator)
    top = draw_clips(80, P, 300, generator)
    drawn = random_lists(embeddings, P, 5000, generator=generator)
    found = mean_over_random_lowest(list_moments(embeddings, top), drawn, num_draws=400, generator=generator)
    for feature in range(0, 300, 60):
        fresh = draw_clips(80, P, 4000, generator)
        m = score_lists(embeddings, top[feature].expand(4000, -1), fresh)
        assert float(found[feature]) == pytest.approx(float(m.mean()), abs=5 * float(m.std()) / 400**0.5)


def test_m_by_chance_is_distributed_like_m_of_random_clips_and_not_like_m_of_clips_that_are_alike():
    generator = torch.Generator().manual_seed(0)
    embeddings = unit(60, 8, generator=generator)
    drawn = random_lists(embeddings, P, 5000, generator=generator)
    top = draw_clips(60, P, 400, generator)
    bottom = torch.stack([torch.randperm(60, generator=generator)[:P] for _ in range(4)]).repeat(100, 1)
    apart = ~(top[:, :, None] == bottom[:, None, :]).any(dim=(1, 2))
    m = score_lists(embeddings, top[apart], bottom[apart])
    chance = compare_with_chance(m, top[apart], bottom[apart], embeddings, drawn, generator=generator)
    assert kstest(chance.m.numpy(), m.numpy()).pvalue > 0.01
    assert len(chance.m.unique()) == len(m)
    alike = (embeddings @ embeddings.T).topk(P, dim=1).indices
    m = score_lists(embeddings, alike, bottom[:60])
    chance = compare_with_chance(m, alike, bottom[:60], embeddings, drawn, generator=generator)
    assert kstest(chance.m.numpy(), m.numpy()).pvalue < 1e-6
