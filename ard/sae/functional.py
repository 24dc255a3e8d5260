"""The formulas of the TopK-SAE (Eq. 1) and of its training.

Codes stay sparse in both directions: :func:`encode_top_k` and :func:`decode_sparse` define their own gradients, so that
neither a dense z, nor its dense gradient, nor a [tokens * k, d_in] array is ever built. In a training step, only the
encoder's product is dense, unless :mod:`ard.sae.products` knows better. Under autocast to bfloat16, the operands of all
five products of a step are rounded to it; they are added up in float32, and all else stays float32.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from ard.sae import products
from ard.types import Codes

BLOCK_SIZE = 2**22
"""Pre-activations computed at once on the CPU: few enough to be still in its cache when TopK reads them."""


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
    """Compute W_enc x + b_enc, in the lower precision of autocast."""
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
    centre: Float[Tensor, " d_in"] | None = None,
) -> Codes:
    """Compute z = TopK(W_enc (x - centre) + b_enc) as :func:`top_k` does, without keeping the pre-activations.

    It is differentiable once. A pre-activation that is not selected, or not positive, gets no gradient. It is fastest
    when ``w_enc.T`` is contiguous, so that each feature is a row in memory.
    """
    return Codes(*_Encode.apply(x, w_enc, b_enc, centre, k))


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
    centre: Float[Tensor, " d_in"] | None = None,
) -> Codes:
    """BatchTopK: keep what is above one threshold for all tokens. Codes are as wide as the busiest token needs.

    Without a threshold, keep the k * tokens largest of the batch: k per token on average.
    """
    width = min(2 * k, w_enc.shape[1])
    while True:
        codes = encode_top_k(x, w_enc, b_enc, width, centre)
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
    """TopK(W_enc (x - centre) + b_enc), with the gradient of Eq. 1: for W_enc, the sum over tokens of dz_k x.

    The centre's is that of b_enc seen through W_enc, -W_enc db: one product with a vector.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, b_enc: Tensor, centre: Tensor | None, k: int
    ) -> tuple[Tensor, Tensor]:
        dtype, d_sae = x.dtype, weight.shape[1]
        x, w_enc = rounded(x if centre is None else x - centre), rounded(weight)
        blocks = x.split(max(BLOCK_SIZE // d_sae, 1)) if x.device.type == "cpu" else (x,)
        selected = [top_k(affine(block, w_enc, b_enc), k) for block in blocks]
        values = torch.cat([codes.values for codes in selected]).to(dtype)
        indices = torch.cat([codes.indices for codes in selected])
        ctx.way_of_x, ctx.way_of_w = (products.way_of(name, w_enc.T, k, d_sae) for name in ("sum_rows", "sum_tokens"))
        rows = w_enc.T if ctx.needs_input_grad[0] else None
        ctx.save_for_backward(x, rows, weight if ctx.needs_input_grad[3] else None, values, indices)
        ctx.d_sae = d_sae
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_values: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, rows, weight, values, indices = ctx.saved_tensors
        codes = Codes(d_values * (values > 0), indices)
        d_x = products.sum_rows(codes, rows.contiguous(), ctx.way_of_x) if rows is not None else None
        d_w = products.sum_tokens(codes, x, ctx.d_sae, ctx.way_of_w).T if ctx.needs_input_grad[1] else None
        d_b = products.sum_values(codes, ctx.d_sae) if any(ctx.needs_input_grad[2:4]) else None
        d_centre = None if weight is None or d_b is None else -torch.mv(weight, d_b)
        return d_x, d_w, d_b, d_centre, None


class _Decode(torch.autograd.Function):
    """Z W_dec, with its gradients: for z_k it is W_dec[k] dx_hat, for W_dec the sum over tokens of z_k dx_hat."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, w_dec: Tensor) -> Tensor:
        w_dec, shape = rounded(w_dec), (indices.shape[1], len(w_dec))
        ctx.way_of_z, ctx.way_of_w = (products.way_of(name, w_dec, *shape) for name in ("dots", "sum_tokens"))
        ctx.save_for_backward(values, indices, w_dec)
        return products.sum_rows(Codes(values, indices), w_dec, products.way_of("sum_rows", w_dec, *shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_x_hat: Tensor) -> tuple[Tensor | None, ...]:
        values, indices, w_dec = ctx.saved_tensors
        codes, d_x_hat = Codes(values, indices), d_x_hat.contiguous().to(w_dec.dtype)
        d_values = products.dots(d_x_hat, indices, w_dec, ctx.way_of_z) if ctx.needs_input_grad[0] else None
        d_w = products.sum_tokens(codes, d_x_hat, len(w_dec), ctx.way_of_w) if ctx.needs_input_grad[2] else None
        return d_values, None, d_w


def rounded(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return an operand of a product as it is multiplied: in bfloat16 under autocast to that, else as it is."""
    device = tensor.device.type
    if tensor.dtype == torch.float32 and torch.amp.is_autocast_available(device):
        bf16 = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
        return tensor.bfloat16() if bf16 else tensor
    return tensor


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
    centre: Float[Tensor, " d_in"] | None = None,
) -> Float[Tensor, ""]:
    """AuxK (reference [17], A.2): how badly the ``k_aux`` strongest dead features explain the live ones' residual.

    Normalised by the variance of the residual over all ranks, as in openai/sparse_autoencoder and dictionary_learning,
    so that 1 means that they explain nothing. (sparsify divides by the variance of x, SAELens by nothing.) Gradients
    reach the encoder of the dead features, but not the residual. 0 if no feature is dead.
    """
    target = residual.detach()
    if dead.device.type == "cpu":
        features = dead.nonzero().flatten()
        w_enc, w_dec = w_enc.T.index_select(0, features).T, w_dec.index_select(0, features)
        b_enc, k_aux = b_enc.index_select(0, features), min(k_aux, len(features))
        if k_aux == 0:
            return residual.new_zeros(())
    else:  # whose number of dead features would have to be waited for: live ones are kept from being selected
        b_enc, k_aux = b_enc.masked_fill(~dead, -torch.inf), min(k_aux, len(dead))
    codes = encode_top_k(x, w_enc, b_enc, k_aux, centre)
    loss = squared_error(target, decode_sparse(codes, w_dec)) / joint_variance(target)
    return loss.nan_to_num(0.0) * dead.any()


def geometric_median(x: Float[Tensor, "tokens d_in"], num_steps: int = 20) -> Float[Tensor, " d_in"]:
    """Return the point with the smallest sum of distances to the tokens, by Weiszfeld's iteration from their mean."""
    median = x.mean(dim=0)
    for _ in range(num_steps):
        weights = 1 / (x - median).norm(dim=-1).clamp_min(1e-6)
        median = (weights[:, None] * x).sum(dim=0) / weights.sum()
    return median
