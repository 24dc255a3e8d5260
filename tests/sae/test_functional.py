import math
import subprocess
import sys

import pytest
import torch

from ard.sae import functional
from ard.sae.functional import (
    affine,
    auxiliary_loss,
    decode_sparse,
    encode_above,
    encode_top_k,
    fraction_of_variance_unexplained,
    geometric_median,
    loss_recovered,
    nested_errors,
    squared_error,
    top_k,
)
from ard.sae.products import ALL_PRODUCTS, using
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


def test_the_share_of_the_loss_is_named():
    assert loss_recovered(1.0, 1.0, 3.0) == 1
    assert loss_recovered(1.0, 3.0, 3.0) == 0
    assert math.isnan(loss_recovered(1.0, 2.0, 1.0))


def test_the_loss_sums_over_d_in_and_averages_over_tokens():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert squared_error(x, torch.zeros(2, 2)) == (1 + 4 + 9 + 16) / 2


def test_fvu_is_one_for_the_mean_and_zero_for_a_perfect_guess():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + 7
    assert fraction_of_variance_unexplained(x, x.mean(dim=0).expand_as(x)) == pytest.approx(1)
    assert fraction_of_variance_unexplained(x, x) == 0


def aux(seed=0, tokens=20, d_in=4, features=8):
    """Return a residual, and what AuxK needs to explain it."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(tokens, d_in), (tokens, d_in), (d_in, features), (features,), (features, d_in)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    return tensors, torch.arange(features) % 2 == 0


def test_the_auxiliary_loss_moves_dead_features_alone_and_their_encoder_too():
    (residual, x, w_enc, b_enc, w_dec), dead = aux()
    auxiliary_loss(residual, x, w_enc, b_enc, w_dec, dead, k_aux=2).backward()
    assert residual.grad is None
    for grad in (w_enc.grad.T, b_enc.grad[:, None], w_dec.grad):
        assert grad[dead].any()
        assert not grad[~dead].any()


@pytest.mark.parametrize("seed", range(3))
def test_the_auxiliary_loss_is_that_of_a_dense_top_k_over_the_variance_of_the_residual(seed):
    (residual, x, w_enc, b_enc, w_dec), dead = aux(seed)
    found = auxiliary_loss(residual, x, w_enc, b_enc, w_dec, dead, k_aux=2)
    pre = (x @ w_enc + b_enc).relu().masked_fill(~dead, -1).topk(2)
    error = residual - torch.zeros(20, 8, dtype=torch.float64).scatter(1, pre.indices, pre.values) @ w_dec
    expected = error.pow(2).sum() / (residual - residual.mean(dim=0)).pow(2).sum()
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, [x, w_enc, b_enc, w_dec]),
        torch.autograd.grad(expected, [x, w_enc, b_enc, w_dec]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_the_auxiliary_loss_is_one_where_dead_features_explain_nothing_and_zero_without_any():
    (residual, x, w_enc, b_enc, w_dec), dead = aux()
    residual = residual - residual.mean(dim=0)
    assert auxiliary_loss(residual, x, w_enc, b_enc, 0 * w_dec, dead, 2).item() == pytest.approx(1)
    assert auxiliary_loss(residual, x, w_enc, b_enc, w_dec, torch.zeros_like(dead), 2) == 0


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


def weights(seed, dtype=torch.float64, tokens=None):
    """Return tokens, an encoder and a decoder of random sizes, all of which want gradients, and k."""
    generator = torch.Generator().manual_seed(seed)
    d_in, features = (int(n) for n in torch.randint(2, 20, (2,), generator=generator))
    tokens = tokens or int(torch.randint(1, 12, (1,), generator=generator))
    shapes = [(tokens, d_in), (d_in, features), (features,), (features, d_in)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    tensors[1] = tensors[1].T.contiguous().T if seed % 2 else tensors[1]  # in both layouts
    k = int(torch.randint(1, features + 1, (1,), generator=generator))
    return [tensor.requires_grad_() for tensor in tensors], k


def dense_sae(x, w_enc, b_enc, w_dec, k):
    """The same by autograd over dense arrays: the oracle."""
    pre = x @ w_enc + b_enc
    values, indices = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(1, indices, values.relu()) @ w_dec


def sparse_sae(x, w_enc, b_enc, w_dec, k):
    return decode_sparse(encode_top_k(x, w_enc, b_enc, k), w_dec)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["dense", "gather"])
@pytest.mark.parametrize("seed", range(8))
def test_the_gradients_are_those_of_finite_differences(seed, way):
    tensors, k = weights(seed)
    with using({ALL_PRODUCTS: way}):
        assert torch.autograd.gradcheck(lambda *tensors: sparse_sae(*tensors, k), tensors)


@pytest.mark.parametrize("way", ["dense", "gather"])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_outputs_and_gradients_are_those_of_dense_autograd(monkeypatch, dtype, rounding, way):
    monkeypatch.setattr(functional, "BLOCK_SIZE", 50)  # so that there are several blocks
    for seed in range(40):
        tensors, k = weights(seed, dtype)
        weight = torch.randn(tensors[0].shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
        with using({ALL_PRODUCTS: way}):
            found = sparse_sae(*tensors, k)
        expected = dense_sae(*tensors, k)
        torch.testing.assert_close(found, expected, atol=rounding, rtol=rounding)
        for ours, oracle in zip(
            torch.autograd.grad((found * weight).sum(), tensors),
            torch.autograd.grad((expected * weight).sum(), tensors),
            strict=True,
        ):
            torch.testing.assert_close(ours, oracle, atol=100 * rounding, rtol=rounding)


@pytest.mark.parametrize("way", ["dense", "gather"])
@pytest.mark.parametrize("seed", range(10))
def test_the_centre_gets_the_gradient_that_it_has_where_it_is_subtracted_before(seed, way):
    (x, w_enc, b_enc, w_dec), k = weights(seed)
    centre = torch.randn(
        x.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()
    inputs = [w_enc, b_enc, w_dec, centre]
    with using({ALL_PRODUCTS: way}):
        found = decode_sparse(encode_top_k(x.detach(), w_enc, b_enc, k, centre), w_dec)
    expected = dense_sae(x.detach() - centre, w_enc, b_enc, w_dec, k)
    torch.testing.assert_close(found, expected)
    for ours, oracle in zip(
        torch.autograd.grad(found.pow(3).sum(), inputs),
        torch.autograd.grad(expected.pow(3).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, oracle)


def test_gradients_lie_in_memory_as_the_weights_do():
    (x, w_enc, b_enc, w_dec), _ = weights(1)
    sparse_sae(x, w_enc, b_enc, w_dec, 1).sum().backward()
    assert w_enc.grad.stride() == w_enc.stride() == (1, len(w_enc))  # so that fused Adam takes them


def test_no_tokens_have_no_codes():
    (x, w_enc, b_enc, w_dec), k = weights(0, torch.float32)
    codes = encode_top_k(x[:0].detach(), w_enc, b_enc, k)
    assert codes.indices.shape == (0, k)
    assert decode_sparse(codes, w_dec).shape == (0, w_dec.shape[1])


def test_under_autocast_the_encoders_product_is_in_bf16_and_all_else_is_not():
    tensors, k = weights(3, torch.float32)
    x, w_enc, b_enc, _ = tensors
    with torch.autocast("cpu", torch.bfloat16):
        assert affine(x, w_enc, b_enc).dtype == torch.bfloat16
        x_hat = sparse_sae(*tensors, k)
    assert x_hat.dtype == torch.float32
    torch.testing.assert_close(x_hat, sparse_sae(*tensors, k), atol=0.3, rtol=0.05)
    x_hat.sum().backward()
    assert {tensor.grad.dtype for tensor in tensors} == {torch.float32}


@pytest.mark.parametrize("seed", range(20))
def test_batch_top_k_keeps_the_largest_of_the_whole_batch(seed):
    (x, w_enc, b_enc, _), k = weights(seed)
    x.data[0] *= 20  # one token with far more features than others
    codes = encode_above(x, w_enc, b_enc, k)
    pre = (x @ w_enc + b_enc).relu()
    top = pre.flatten().topk(k * len(x))
    expected = torch.zeros_like(pre).flatten().scatter(0, top.indices, top.values).view_as(pre)
    found = torch.zeros_like(pre).scatter(1, codes.indices, codes.values)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(z.pow(2).sum(), [x, w_enc, b_enc]) for z in (found, expected)]
    for ours, oracle in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, oracle)
    threshold = pre.median() + 1e-9
    codes = encode_above(x, w_enc, b_enc, 1, threshold)
    torch.testing.assert_close(torch.zeros_like(pre).scatter(1, codes.indices, codes.values), pre * (pre > threshold))


def test_matryoshka_sums_up_the_groups():
    (x, w_enc, b_enc, w_dec), _ = weights(4)
    b_dec = torch.randn(w_dec.shape[1], dtype=torch.float64)
    codes = encode_top_k(x, w_enc, b_enc, min(5, len(w_dec)))
    dense = torch.zeros(len(x), len(w_dec), dtype=torch.float64).scatter(1, codes.indices, codes.values)
    errors, x_hat = nested_errors(x, codes, w_dec, b_dec, [0.25, 0.25, 0.5])
    ends = [int(0.25 * len(w_dec)), int(0.5 * len(w_dec)), len(w_dec)]
    expected = [squared_error(x, dense[:, :end] @ w_dec[:end] + b_dec) for end in ends]
    torch.testing.assert_close(errors, torch.stack(expected))
    torch.testing.assert_close(x_hat, dense @ w_dec + b_dec)


COMPILED = """
import torch
from ard.sae import TopKSAE

sae, x = TopKSAE(16, 64, k=4, pre_bias=True, generator=torch.Generator().manual_seed(0)), torch.randn(32, 16)
with torch.no_grad():
    torch.testing.assert_close(torch.compile(sae)(x), sae(x))
gradients = []
for module in (sae, torch.compile(sae, backend="aot_eager")):
    sae.zero_grad()
    module(x).pow(2).sum().backward()
    gradients.append([parameter.grad for parameter in sae.parameters()])
torch.testing.assert_close(*gradients)
"""


@pytest.mark.slow
def test_a_compiled_sae_gives_what_the_eager_one_gives():  # by itself: types that are checked cannot be compiled
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=200)
