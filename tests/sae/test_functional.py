import pytest
import torch

from ard.sae.functional import (
    auxiliary_loss,
    decode_sparse,
    fraction_of_variance_unexplained,
    geometric_median,
    squared_error,
    top_k,
)
from ard.types import Codes


@pytest.mark.parametrize("seed", range(5))
def test_codes_decode_to_what_a_dense_top_k_gives(seed):
    generator = torch.Generator().manual_seed(seed)
    tokens, d_in, features = (int(n) for n in torch.randint(2, 40, (3,), generator=generator))
    k = int(torch.randint(1, features + 1, (1,), generator=generator))
    pre = torch.randn(tokens, features, generator=generator, dtype=torch.float64)
    w_dec = torch.randn(features, d_in, generator=generator, dtype=torch.float64, requires_grad=True)
    threshold = pre.sort(dim=1, descending=True).values[:, k - 1 : k]
    dense = torch.where((pre >= threshold) & (pre > 0), pre, 0)
    codes = top_k(pre, k)
    assert codes.indices.shape == (tokens, k)
    torch.testing.assert_close(decode_sparse(codes, w_dec), dense @ w_dec)


def test_the_loss_sums_over_d_in_and_averages_over_tokens():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert squared_error(x, torch.zeros(2, 2)) == (1 + 4 + 9 + 16) / 2


def test_fvu_is_one_for_the_mean_and_zero_for_a_perfect_guess():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + 7
    assert fraction_of_variance_unexplained(x, x.mean(dim=0).expand_as(x)) == pytest.approx(1)
    assert fraction_of_variance_unexplained(x, x) == 0


def test_the_auxiliary_loss_moves_dead_features_alone():
    generator = torch.Generator().manual_seed(0)
    pre = torch.randn(20, 8, generator=generator).abs().requires_grad_()
    w_dec = torch.randn(8, 4, generator=generator, requires_grad=True)
    dead = torch.tensor([True, False] * 4)
    residual = torch.randn(20, 4, generator=generator, requires_grad=True)
    auxiliary_loss(residual, pre, dead, w_dec, k_aux=2).backward()
    assert residual.grad is None
    assert pre.grad[:, dead].abs().sum() > 0
    assert w_dec.grad[dead].abs().sum() > 0
    assert not pre.grad[:, ~dead].any()
    assert not w_dec.grad[~dead].any()


def test_the_auxiliary_loss_is_one_where_dead_features_explain_nothing_and_zero_without_any():
    residual = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    residual = residual - residual.mean(dim=0)
    nothing, pre, dead = torch.zeros(6, 4), torch.ones(30, 6), torch.ones(6, dtype=torch.bool)
    assert auxiliary_loss(residual, pre, dead, nothing, 2) == pytest.approx(1)
    assert auxiliary_loss(residual, pre, ~dead, nothing, 2) == 0


def test_the_geometric_median_beats_every_neighbour():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    median = geometric_median(x, num_steps=200)

    def distance(point):
        return (x - point).norm(dim=1).sum()

    for step in torch.cat([torch.eye(3), -torch.eye(3)]).double() * 0.01:
        assert distance(median) <= distance(median + step)


def test_codes_keep_their_place():
    codes = top_k(torch.tensor([[0.5, -1.0, 2.0]]), 3)
    assert isinstance(codes, Codes)
    assert dict(zip(codes.indices[0].tolist(), codes.values[0].tolist(), strict=True)) == {0: 0.5, 1: 0.0, 2: 2.0}
