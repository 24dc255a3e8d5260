"""The formulas of the TopK-SAE (Eq. 1) and of its training."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from ard.types import Codes


def top_k(pre_activations: Float[Tensor, "tokens features"], k: int) -> Codes:
    """Keep the k largest pre-activations of every token, and of these what is positive: TopK, then ReLU.

    The ReLU is reference [17]'s; it changes nothing while the k-th largest pre-activation is positive.
    """
    values, indices = pre_activations.topk(k, dim=-1, sorted=False)
    return Codes(values.relu(), indices)


def decode_sparse(codes: Codes, w_dec: Float[Tensor, "features d_in"]) -> Float[Tensor, "tokens d_in"]:
    """Compute z W_dec from the k rows that each token selects, without a dense z."""
    return embedding_bag(codes.indices, w_dec, per_sample_weights=codes.values, mode="sum")


def squared_error(x: Float[Tensor, "tokens d_in"], x_hat: Float[Tensor, "tokens d_in"]) -> Float[Tensor, ""]:
    """Return the L2 reconstruction loss of Sec. 2.1: summed over d_in, averaged over tokens."""
    return (x - x_hat).pow(2).sum(dim=-1).mean()


def fraction_of_variance_unexplained(
    x: Float[Tensor, "tokens d_in"], x_hat: Float[Tensor, "tokens d_in"]
) -> Float[Tensor, ""]:
    """Return FVU, the squared error over the variance about the batch's mean: 0 is perfect, 1 is the mean's guess."""
    return (x - x_hat).pow(2).sum() / (x - x.mean(dim=0)).pow(2).sum()


def auxiliary_loss(
    residual: Float[Tensor, "tokens d_in"],
    pre_activations: Float[Tensor, "tokens features"],
    dead: Bool[Tensor, " features"],
    w_dec: Float[Tensor, "features d_in"],
    k_aux: int,
) -> Float[Tensor, ""]:
    """AuxK (reference [17], A.2): how badly the ``k_aux`` strongest dead features explain what the live ones left over.

    Normalised by the variance of the residual, as in openai/sparse_autoencoder and dictionary_learning, so that 1 means
    that they explain nothing; the residual gets no gradient. 0 where no feature is dead.
    """
    num_dead = int(dead.sum())
    if num_dead == 0:
        return residual.new_zeros(())
    target = residual.detach()
    codes = top_k(pre_activations.masked_fill(~dead, -torch.inf), min(k_aux, num_dead))
    error = (target - decode_sparse(codes, w_dec)).pow(2).sum(dim=-1).mean()
    return (error / (target - target.mean(dim=0)).pow(2).sum(dim=-1).mean()).nan_to_num(0.0)


def geometric_median(x: Float[Tensor, "tokens d_in"], num_steps: int = 20) -> Float[Tensor, " d_in"]:
    """Return the point with the least sum of distances to the tokens, by Weiszfeld's iteration from their mean."""
    median = x.mean(dim=0)
    for _ in range(num_steps):
        weights = 1 / (x - median).norm(dim=-1).clamp_min(1e-6)
        median = (weights[:, None] * x).sum(dim=0) / weights.sum()
    return median
