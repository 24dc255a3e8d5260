"""What is chosen on one half of the clips is tested on the other."""

import pytest
import torch
from scipy.stats import kstest
from torch.nn.functional import cosine_similarity, normalize

from ard.monosemanticity import score_lists
from ard.monosemanticity.functional import q_values
from ard.monosemanticity.halves import compare_halves
from ard.representatives.functional import half_of
from tests.monosemanticity.worlds import P, retrieve, sparse_scores, unit

CLIPS, FEATURES = 200, 300


def compare(embeddings, stored, num_selected=FEATURES):
    return compare_halves(embeddings, stored, num_selected, 2000, generator=torch.Generator().manual_seed(0))


def test_the_lists_of_a_half_are_those_of_its_clips_alone():
    generator = torch.Generator().manual_seed(0)
    scores, embeddings = sparse_scores(CLIPS, FEATURES, generator), unit(CLIPS, 6, generator=generator)
    stored = retrieve(scores, num_clips_at_once=32)
    found = compare(embeddings, stored)
    half, centres = half_of(torch.arange(CLIPS), 0), []
    for number in (0, 1):
        rows = (half == number).nonzero()[:, 0]
        alone = retrieve(scores[rows])
        m = score_lists(embeddings[rows], alone["ard/top_ids"], alone["ard/bottom_ids"])
        m = m.masked_fill(alone["n_active"] == 0, torch.nan)
        torch.testing.assert_close(found.m[number], m, equal_nan=True)
        centres.append(embeddings[rows][alone["ard/top_ids"]].mean(dim=1))
    both = ~(found.m[0].isnan() | found.m[1].isnan())
    assert torch.equal(both, ~found.cosine.isnan())
    assert not both.all()
    torch.testing.assert_close(found.cosine[both], cosine_similarity(*centres, dim=1)[both])
    assert torch.equal(found.m[0][found.features], found.m[0][~found.m[0].isnan()].sort(descending=True).values)


def test_chosen_for_chance_on_one_half_they_have_uniform_p_values_on_the_other():
    """All clips are alike in law, so whatever is chosen is chosen for nothing."""
    generator = torch.Generator().manual_seed(2)
    stored = retrieve(sparse_scores(2000, 300, generator))
    found = compare(unit(2000, 8, generator=generator), stored, 100)
    active = stored["half1/n_active"][found.features] >= P
    assert (found.p_value[~active] > 0.05).all()
    assert kstest(found.p_value[active].numpy(), "uniform").pvalue > 0.01
    assert (q_values(found.p_value) <= 0.05).sum() <= 1


def test_features_of_a_concept_are_above_chance_on_the_other_half_and_agree():
    generator = torch.Generator().manual_seed(0)
    scores, embeddings = sparse_scores(CLIPS, FEATURES, generator), unit(CLIPS, 8, generator=generator)
    for feature, centre in enumerate(unit(10, 8, generator=generator)):
        clips = feature + 10 * torch.arange(16)
        scores[:, feature] = 0
        scores[clips, feature] = 1 + torch.rand(16, generator=generator).double()
        embeddings[clips] = normalize(centre + 0.2 * embeddings[clips], dim=1)
    found = compare(embeddings, retrieve(scores), 10)
    assert len(set(found.features.tolist()) & set(range(10))) >= 7
    assert (q_values(found.p_value)[found.features < 10] <= 0.05).all()
    assert found.cosine[:10].min() > 0.9


def test_a_feature_that_is_silent_on_the_other_half_is_not_above_chance():
    generator = torch.Generator().manual_seed(0)
    scores, embeddings = sparse_scores(CLIPS, 5, generator), unit(CLIPS, 6, generator=generator)
    scores[:, 2] *= half_of(torch.arange(CLIPS), 0) == 0
    scores[:, 3] *= half_of(torch.arange(CLIPS), 0) == 1
    scores[:, 4] = 0
    scores[half_of(torch.arange(CLIPS), 0).argmin(), 2] = 1.0
    found = compare(embeddings, retrieve(scores))
    assert set(found.features.tolist()) == {0, 1, 2}
    assert float(found.p_value[found.features == 2]) == 1


@pytest.mark.parametrize("num_clips", [4, 7])
def test_halves_of_too_few_clips_are_left_out(num_clips):
    generator = torch.Generator().manual_seed(0)
    stored = retrieve(sparse_scores(num_clips, 5, generator))
    assert "half0/top_ids" not in stored
    assert compare(unit(num_clips, 6, generator=generator), stored) is None
