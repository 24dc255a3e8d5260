"""Formulas over names against plain loops and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import normalize

from ard.naming import functional
from ard.naming.functional import name_evidence, near_duplicates


def unit(*shape, seed):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("seed", range(8))
def test_near_duplicates_repeat_the_closest_earlier_name_that_repeats_none(seed, monkeypatch):
    monkeypatch.setattr(functional, "BLOCK", 7)
    names, threshold = unit(3 * seed, 3, seed=seed), 0.8
    expected, firsts = [], []
    for row, name in enumerate(names):
        closest = max(firsts, key=lambda other: float(names[other] @ name), default=None)
        if closest is not None and names[closest] @ name >= threshold:
            expected.append(closest)
        else:
            expected.append(-1)
            firsts.append(row)
    assert near_duplicates(names, threshold).tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_the_percentile_is_the_auroc_of_the_clips_against_random_ones(seed):
    names, clips, others = unit(5, 4, seed=seed), unit(5, 3, 4, seed=seed + 50), unit(20, 4, seed=seed + 90)
    clips[0, 0] = others[0]  # a tie
    found = name_evidence(names, clips, others)
    for row in range(5):
        own, chance = (clips[row] @ names[row]).numpy(), (others @ names[row]).numpy()
        assert float(found.clap[row]) == pytest.approx(own.mean(), abs=1e-6)
        assert float(found.clap_random[row]) == pytest.approx(chance.mean(), abs=1e-6)
        area = roc_auc_score([1] * 3 + [0] * 20, np.round(np.concatenate([own, chance]), 6))
        assert float(found.clap_percentile[row]) == pytest.approx(area, abs=1e-3 if row else 0.02)


def test_names_that_fit_their_clips_only_surpass_all_random_clips():
    names = torch.eye(3)[:2]
    found = name_evidence(names, names[:, None].expand(2, 4, 3), torch.eye(3)[2:].expand(6, 3))
    assert found.clap.tolist() == found.clap_percentile.tolist() == [1, 1]
    assert found.clap_random.tolist() == [0, 0]
