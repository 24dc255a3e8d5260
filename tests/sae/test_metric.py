import math

import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import r2_score

from ard.sae import NormByPosition, Quality
from ard.types import Codes
from tests.launch import on_ranks

TOKENS, D_IN, D_SAE = 90, 5, 30


def world():
    """Tokens off their origin, reconstructions, codes with zeros among them; features from 25 on are never selected."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, D_IN, generator=generator) + 3
    x_hat = x + 0.3 * torch.randn(TOKENS, D_IN, generator=generator)
    indices = torch.rand(TOKENS, 25, generator=generator).argsort(dim=1)[:, :4]
    return x, x_hat, Codes(torch.randn(TOKENS, 4, generator=generator).relu(), indices)


def run(tokens, batch):
    metric, (x, x_hat, codes) = Quality(D_IN, D_SAE, rare_below=0.07), world()
    for rows in tokens.split(batch):
        metric.update(x[rows], x_hat[rows], Codes(codes.values[rows], codes.indices[rows]))
    return metric


def check(metric):
    x, x_hat, codes = world()
    dense = torch.zeros(TOKENS, D_SAE).scatter(1, codes.indices, codes.values)
    activity = (dense > 0).float().mean(dim=0)
    explained = r2_score(x, x_hat, multioutput="variance_weighted")
    expected = {
        "fvu": 1 - explained,
        "explained_variance": explained,
        "normalised_mse": (x - x_hat).pow(2).sum() / x.pow(2).sum(),
        "cosine": torch.nn.functional.cosine_similarity(x, x_hat).mean(),
        "l0": (dense > 0).sum() / TOKENS,
        "not_positive_share": (codes.values == 0).float().mean(),
        "dead_share": (activity == 0).float().mean(),
        "rare_share": (activity < 0.07).float().mean(),
    }
    assert 5 / 30 <= expected["dead_share"] < expected["rare_share"] < 1
    found = metric.compute()
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-5
    )


@pytest.mark.parametrize("batch", [1, 7, TOKENS])
@pytest.mark.parametrize("shuffled", [False, True])
def test_quality_is_that_of_all_tokens_at_once(batch, shuffled):
    check(run(torch.randperm(TOKENS) if shuffled else torch.arange(TOKENS), batch))


def test_without_tokens_there_is_no_quality():
    found = Quality(D_IN, D_SAE).compute()
    assert math.isnan(found["fvu"])
    assert math.isnan(found["l0"])


def norms(rows):
    """Feed clips of 5, 2 and 9 tokens whose norms are 10 * clip + position."""
    metric = NormByPosition(4)
    for clips in rows:
        values = [
            (10.0 * clip + place, number) for number, clip in enumerate(clips) for place in range([5, 2, 9][clip])
        ]
        x = torch.tensor([[0.0, norm] for norm, _ in values]).reshape(-1, 2)
        metric.update(x, torch.tensor([number for _, number in values], dtype=torch.int64))
    return metric


@pytest.mark.parametrize("rows", [[[0, 1, 2]], [[2, 0], [1]], [[1], [0], [], [2]]])
def test_norms_are_told_by_the_position_in_the_clip(rows):
    found = norms(rows).compute()
    later = [4.0] + [20.0 + place for place in range(4, 9)]
    assert found["mean"].tolist() == pytest.approx([10.0, 11.0, 12.0, 13.0, sum(later) / len(later)])
    assert found["largest"].tolist() == [20.0, 21.0, 22.0, 23.0, 28.0]


def _rank(rank, world_size, path):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world_size)
    check(run(torch.arange(rank, TOKENS, world_size), 7))
    assert norms([[clip] for clip in range(rank, 3, world_size)]).compute()["largest"].tolist()[-1] == 28.0
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_agree_with_a_single_process(world_size, tmp_path):
    on_ranks(_rank, world_size, tmp_path / "rendezvous")
