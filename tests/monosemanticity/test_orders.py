"""The highest m over orders of the data set, against lists retrieved from the clips in that order."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from ard.monosemanticity import score_lists
from ard.monosemanticity.metric import SilentFeatures
from ard.monosemanticity.orders import draw_orders, highest_over_orders
from tests.monosemanticity.worlds import retrieve, sparse_scores, unit

CLIPS = 150


def over_orders(scores, embeddings, stored, *, each=False, seed=0):
    orders = draw_orders(len(scores), torch.Generator().manual_seed(seed))
    noted = SilentFeatures(scores.shape[1], orders)
    for rows in torch.arange(len(scores)).split(40):
        noted.update(scores[rows] == 0, rows)
    generator = torch.Generator().manual_seed(seed)
    return highest_over_orders(embeddings, stored, noted.compute(), orders, each=each, generator=generator).numpy()


def highest(scores, embeddings, ties="stable"):
    stored = retrieve(scores, ties)
    m = score_lists(embeddings, stored["ard/top_ids"], stored["ard/bottom_ids"])
    return float(m[stored["n_active"] > 0].max())


@pytest.mark.parametrize("ties", ["stable", "shared_random", "seeded_random"])
def test_the_highest_m_of_permuted_clips_is_within_the_range_in_95_of_100(ties):
    generator = torch.Generator().manual_seed(0)
    scores, embeddings = sparse_scores(CLIPS, 40, generator), unit(CLIPS, 6, generator=generator)
    found = over_orders(scores, embeddings, retrieve(scores, ties), each=ties == "seeded_random")
    assert len(found) == 200
    orders = [torch.randperm(CLIPS, generator=generator) for _ in range(200)]
    permuted = [highest(scores[order], embeddings[order], ties) for order in orders]
    assert np.mean([found[0] - 1e-9 <= m <= found[-1] + 1e-9 for m in permuted]) >= 0.95
    assert kstest(found, permuted).pvalue > 0.01


def test_features_that_are_hardly_ever_active_fill_up_from_the_same_order():
    """Of a feature active in one clip, three clips of H^k are silent ones: the first of the order, as in L^k."""
    generator = torch.Generator().manual_seed(0)
    embeddings = unit(CLIPS, 6, generator=generator)
    scores = torch.zeros(CLIPS, 12).double()
    scores[torch.arange(12) * 7, torch.arange(12)] = 1.0
    found = over_orders(scores, embeddings, retrieve(scores))
    orders = [torch.randperm(CLIPS, generator=generator) for _ in range(200)]
    assert kstest(found, [highest(scores[order], embeddings[order]) for order in orders]).pvalue > 0.01


def test_lists_without_ties_do_not_change_with_the_order():
    generator = torch.Generator().manual_seed(0)
    scores, embeddings = torch.randn(CLIPS, 9, generator=generator).double(), unit(CLIPS, 6, generator=generator)
    found = over_orders(scores, embeddings, retrieve(scores))
    assert found == pytest.approx(highest(scores, embeddings))


def test_longer_lists_than_what_was_noted_of_an_order_give_none():
    generator = torch.Generator().manual_seed(0)
    scores, embeddings = sparse_scores(CLIPS, 9, generator), unit(CLIPS, 6, generator=generator)
    noted = SilentFeatures(9, torch.arange(2)).compute()
    found = highest_over_orders(
        embeddings, retrieve(scores), noted, torch.arange(2)[None], each=False, generator=generator
    )
    assert len(found) == 0
