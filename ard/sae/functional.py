"""The formulas of the TopK-SAE (Eq. 1) and of its training.

Codes stay sparse in both directions: :func:`encode_top_k` and :func:`decode_sparse` define their own gradients, so that
neither a dense z, nor its dense gradient, nor a [tokens * k, d_in] array is ever built. In a training step, only the
encoder's product is dense.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, linear

from ard.types import Codes

BLOCK_SIZE = 2**22
"""Pre-activations computed at once on the CPU: few enough to be still in its cache when TopK reads them."""

DENSE_SHARE = 0.25
"""If a token keeps at least this share of the features, dense products are faster than sparse ones (docs/bench.md)."""


def top_k(pre_activations: Float[Tensor, "tokens features"], k: int) -> Codes:
    """Keep the k largest pre-activations of every token, with negative ones set to 0: TopK, then ReLU.

    The ReLU is reference [17]'s; it changes nothing while the k-th largest pre-activation is positive.

    Example:
        >>> import torch
        >>> from ard.sae.functional import top_k
        >>> top_k(torch.tensor([[3.0, -1.0, 2.0]]), k=1)
        Codes(values=tensor([[3.]]), indices=tensor([[0]]))
    """
    values, indices = pre_activations.topk(k, dim=-1, sorted=False)
    return Codes(values.relu(), indices)


def keep_positive(activations: Float[Tensor, "tokens features"]) -> Codes:
    """Keep everything positive. Codes are as wide as the busiest token needs; other tokens are padded with 0."""
    widest = int((activations > 0).sum(dim=-1).amax()) if len(activations) else 0
    return top_k(activations, max(widest, 1))


def affine(
    x: Float[Tensor, "tokens d_in"], w_enc: Float[Tensor, "d_in features"], b_enc: Float[Tensor, " features"]
) -> Float[Tensor, "tokens features"]:
    """Compute W_enc x + b_enc. Under autocast, this is the SAE's only product in lower precision."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, w_enc, b_enc = x.to(dtype), w_enc.to(dtype), b_enc.to(dtype)
    differentiable = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, w_enc, b_enc))
    eager = not (differentiable or torch.compiler.is_compiling())
    if device == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available() and eager:
        # What torch.compile turns `linear` into on a CPU: the product by oneDNN, up to twice as fast as by MKL.
        return torch.ops.mkldnn._linear_pointwise(x, w_enc.T, b_enc, "none", [], "")
    return linear(x, w_enc.T, b_enc)


def encode_top_k(
    x: Float[Tensor, "tokens d_in"],
    w_enc: Float[Tensor, "d_in features"],
    b_enc: Float[Tensor, " features"],
    k: int,
) -> Codes:
    """Compute z = TopK(W_enc x + b_enc) as :func:`top_k` does, without keeping the pre-activations.

    It is differentiable once. A pre-activation that is not selected, or not positive, gets no gradient. It is fastest
    when ``w_enc.T`` is contiguous, so that each feature is a row in memory.
    """
    return Codes(*_Encode.apply(x, w_enc, b_enc, k))


def decode_sparse(codes: Codes, w_dec: Float[Tensor, "features d_in"]) -> Float[Tensor, "tokens d_in"]:
    """Compute z W_dec from the k rows that each token selects, without building a dense z. It is differentiable once.

    Example:
        >>> import torch
        >>> from ard.sae.functional import decode_sparse, top_k
        >>> decode_sparse(top_k(torch.tensor([[3.0, -1.0, 2.0]]), k=2), torch.eye(3))
        tensor([[3., 0., 2.]])
    """
    return _Decode.apply(codes.values, codes.indices, w_dec)


def encode_above(
    x: Float[Tensor, "tokens d_in"],
    w_enc: Float[Tensor, "d_in features"],
    b_enc: Float[Tensor, " features"],
    k: int,
    threshold: Tensor | None = None,
) -> Codes:
    """BatchTopK: keep what is above one threshold for all tokens. Codes are as wide as the busiest token needs.

    Without a threshold, keep the k * tokens largest of the batch: k per token on average.
    """
    width = min(2 * k, w_enc.shape[1])
    while True:
        codes = encode_top_k(x, w_enc, b_enc, width)
        values = codes.values.detach()
        keep = values > threshold if threshold is not None else values >= values.flatten().topk(k * len(x)).values[-1]
        if width == w_enc.shape[1] or not (keep & (values > 0)).all(dim=1).any():
            return Codes(codes.values * keep, codes.indices)
        width = min(2 * width, w_enc.shape[1])


def top_k_clamped(codes: Codes, clamp: Mapping[int, float], k: int) -> Codes:
    """Select the k largest after setting features to values, as TopK of the changed pre-activations would.

    The features that are not set but selected are among the ``k + len(clamp)`` largest, so codes of that width (or of
    all features) are enough. No feature is selected twice.
    """
    indices = codes.indices
    features = torch.tensor(list(clamp), dtype=indices.dtype, device=indices.device).expand(len(indices), len(clamp))
    values = torch.tensor(list(clamp.values())).to(codes.values).expand(features.shape)
    others = codes.values.masked_fill(torch.isin(indices, features[:1]), -1.0)  # removed by ReLU
    selected = torch.cat([others, values], dim=1).topk(k, dim=-1, sorted=False)
    return Codes(selected.values.relu(), torch.cat([indices, features], dim=1).gather(1, selected.indices))


class _Encode(torch.autograd.Function):
    """TopK(W_enc x + b_enc), with the gradient of Eq. 1: for W_enc, the sum over tokens of dz_k x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_enc: Tensor, b_enc: Tensor, k: int) -> tuple[Tensor, Tensor]:
        blocks = x.split(max(BLOCK_SIZE // w_enc.shape[1], 1)) if x.device.type == "cpu" else (x,)
        selected = [top_k(affine(block, w_enc, b_enc), k) for block in blocks]
        values = torch.cat([codes.values for codes in selected]).to(x.dtype)
        indices = torch.cat([codes.indices for codes in selected])
        ctx.save_for_backward(x, w_enc, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_values: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, w_enc, values, indices = ctx.saved_tensors
        codes = Codes(d_values * (values > 0), indices)
        d_x = _rows_of(codes, w_enc.T.contiguous()) if ctx.needs_input_grad[0] else None
        d_w = _sum_by_feature(codes, x, w_enc.shape[1]).T if ctx.needs_input_grad[1] else None
        d_b = x.new_zeros(w_enc.shape[1]).index_add_(0, indices.flatten(), codes.values.flatten())
        return d_x, d_w, d_b, None


class _Decode(torch.autograd.Function):
    """Z W_dec, with its gradients: for z_k it is W_dec[k] dx_hat, for W_dec the sum over tokens of z_k dx_hat."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, w_dec: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, w_dec)
        return _rows_of(Codes(values, indices), w_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_x_hat: Tensor) -> tuple[Tensor | None, ...]:
        values, indices, w_dec = ctx.saved_tensors
        d_x_hat = d_x_hat.contiguous()
        d_values = _dot_with_rows(d_x_hat, indices, w_dec) if ctx.needs_input_grad[0] else None
        d_w = _sum_by_feature(Codes(values, indices), d_x_hat, len(w_dec)) if ctx.needs_input_grad[2] else None
        return d_values, None, d_w


def _rows_of(codes: Codes, rows: Float[Tensor, "features d_in"]) -> Float[Tensor, "tokens d_in"]:
    """Compute Z rows: for every token, the weighted sum of the rows that it selects."""
    if _dense_is_faster(codes.indices, len(rows)):
        return _product(_dense(codes, len(rows)), rows)
    return embedding_bag(codes.indices, rows, per_sample_weights=codes.values, mode="sum")


def _sum_by_feature(codes: Codes, x: Float[Tensor, "tokens d_in"], d_sae: int) -> Float[Tensor, "features d_in"]:
    """Compute Z^T x: for every feature, the weighted sum of the tokens that select it."""
    if _dense_is_faster(codes.indices, d_sae):
        return _product(_dense(codes, d_sae).T, x)
    features, order = codes.indices.flatten().to(torch.int32).sort(stable=True)  # by feature, then by token
    starts = torch.searchsorted(features, torch.arange(d_sae, device=x.device, dtype=torch.int32))
    tokens, weights = order // codes.indices.shape[1], codes.values.flatten()[order]
    return embedding_bag(tokens, x, starts, per_sample_weights=weights, mode="sum")


def _dot_with_rows(
    x: Float[Tensor, "tokens d_in"], indices: Int[Tensor, "tokens k"], rows: Float[Tensor, "features d_in"]
) -> Float[Tensor, "tokens k"]:
    """Compute only the selected entries of x rows^T."""
    num_tokens, k = indices.shape
    if _dense_is_faster(indices, len(rows)):
        return _product(x, rows.T).gather(1, indices)
    tokens = torch.arange(num_tokens, device=x.device)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        x, rows, indices.flatten(), tokens * k, tokens.repeat_interleave(k), 0
    ).view(num_tokens, k)


def _dense_is_faster(indices: Int[Tensor, "tokens k"], d_sae: int) -> bool:
    return indices.shape[1] >= DENSE_SHARE * d_sae


def _product(a: Float[Tensor, "m n"], b: Float[Tensor, "n l"]) -> Float[Tensor, "m l"]:
    return torch.mm(a, b, out=a.new_empty(a.shape[0], b.shape[1]))  # with `out`, autocast keeps its precision


def _dense(codes: Codes, d_sae: int) -> Float[Tensor, "tokens features"]:
    return codes.values.new_zeros(len(codes.values), d_sae).scatter(1, codes.indices, codes.values)


def squared_error(x: Float[Tensor, "tokens d_in"], x_hat: Float[Tensor, "tokens d_in"]) -> Float[Tensor, ""]:
    """Return the L2 reconstruction loss of Sec. 2.1: summed over d_in, averaged over tokens.

    Example:
        >>> import torch
        >>> from ard.sae.functional import squared_error
        >>> squared_error(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.zeros(2, 2))
        tensor(3.)
    """
    return (x - x_hat).pow(2).sum(dim=-1).mean()


def variance(x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, ""]:
    """Return the squared distance of a token to the tokens' mean, averaged over tokens."""
    return x.var(dim=0, correction=0).sum()


def joint_variance(x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, ""]:
    """Return the :func:`variance` over the tokens of all ranks: within the ranks, plus between their means."""
    if not (dist.is_available() and dist.is_initialized()):
        return variance(x)
    mine = torch.cat([x.new_tensor([len(x)]), variance(x)[None], x.mean(dim=0)])
    ranks = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(ranks, mine)
    num_tokens, within, means = torch.stack(ranks).split([1, 1, x.shape[1]], dim=1)
    share = num_tokens / num_tokens.sum()
    between = (means - (share * means).sum(dim=0)).pow(2).sum(dim=1, keepdim=True)
    return (share * (within + between)).sum()


def fraction_of_variance_unexplained(
    x: Float[Tensor, "tokens d_in"], x_hat: Float[Tensor, "tokens d_in"]
) -> Float[Tensor, ""]:
    """Return FVU, the squared error over the variance about the batch's mean: 0 is perfect, 1 is guessing the mean.

    Example:
        >>> import torch
        >>> from ard.sae.functional import fraction_of_variance_unexplained
        >>> fraction_of_variance_unexplained(torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [3.0]]))
        tensor(0.2500)
    """
    return squared_error(x, x_hat) / variance(x)


def loss_recovered(original: float, replaced: float, zeroed: float) -> float:
    """Return how much of a language model's loss a layer's reconstruction recovers, as defined by SAEBench and others.

    1 if replacing the layer's output by the reconstruction keeps the ``original`` loss, 0 if it is no better than
    replacing it by zeros. NaN if zeros change nothing.

    Example:
        >>> from ard.sae.functional import loss_recovered
        >>> loss_recovered(original=1.0, replaced=1.5, zeroed=3.0)
        0.75
    """
    return (zeroed - replaced) / (zeroed - original) if zeroed != original else math.nan


def nested_errors(
    x: Float[Tensor, "tokens d_in"],
    codes: Codes,
    w_dec: Float[Tensor, "features d_in"],
    b_dec: Float[Tensor, " d_in"],
    shares: Sequence[float],
) -> tuple[Float[Tensor, " groups"], Float[Tensor, "tokens d_in"]]:
    """Matryoshka: the squared errors with the first group of features, the first two, and so on; and x_hat.

    ``shares`` are the groups' shares of the features; the last group also takes what rounding leaves over.
    """
    starts = [int(sum(shares[:group]) * len(w_dec)) for group in range(len(shares))]
    errors, x_hat = [], b_dec.expand_as(x)
    for start, end in zip(starts, [*starts[1:], len(w_dec)], strict=True):
        inside = (codes.indices >= start) & (codes.indices < end)
        x_hat = x_hat + decode_sparse(Codes(codes.values * inside, codes.indices), w_dec)
        errors.append(squared_error(x, x_hat))
    return torch.stack(errors), x_hat


def auxiliary_loss(
    residual: Float[Tensor, "tokens d_in"],
    x: Float[Tensor, "tokens d_in"],
    w_enc: Float[Tensor, "d_in features"],
    b_enc: Float[Tensor, " features"],
    w_dec: Float[Tensor, "features d_in"],
    dead: Bool[Tensor, " features"],
    k_aux: int,
) -> Float[Tensor, ""]:
    """AuxK (reference [17], A.2): how badly the ``k_aux`` strongest dead features explain the live ones' residual.

    Normalised by the variance of the residual over all ranks, as in openai/sparse_autoencoder and dictionary_learning,
    so that 1 means that they explain nothing. (sparsify divides by the variance of x, SAELens by nothing.) Gradients
    reach the encoder of the dead features, but not the residual. 0 if no feature is dead.
    """
    features = dead.nonzero().flatten()
    if len(features) == 0:
        return residual.new_zeros(())
    target = residual.detach()
    w_enc, w_dec = w_enc.T.index_select(0, features).T, w_dec.index_select(0, features)
    codes = encode_top_k(x, w_enc, b_enc.index_select(0, features), min(k_aux, len(features)))
    return (squared_error(target, decode_sparse(codes, w_dec)) / joint_variance(target)).nan_to_num(0.0)


def geometric_median(x: Float[Tensor, "tokens d_in"], num_steps: int = 20) -> Float[Tensor, " d_in"]:
    """Return the point with the smallest sum of distances to the tokens, by Weiszfeld's iteration from their mean."""
    median = x.mean(dim=0)
    for _ in range(num_steps):
        weights = 1 / (x - median).norm(dim=-1).clamp_min(1e-6)
        median = (weights[:, None] * x).sum(dim=0) / weights.sum()
    return median
