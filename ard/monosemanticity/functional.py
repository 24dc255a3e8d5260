"""The monosemanticity score (Sec. 2.3, Eq. 3 and 4)."""

import torch
from jaxtyping import Float
from torch import Tensor


def pairwise_cosines(embeddings: Float[Tensor, "features p d"]) -> Float[Tensor, "features pairs"]:
    """Return the cosines of the p (p - 1) / 2 unordered pairs i < j of unit vectors, which is Eq. 3's B."""
    i, j = torch.triu_indices(embeddings.shape[1], embeddings.shape[1], offset=1)
    return (embeddings @ embeddings.mT)[:, i, j]


def monosemanticity(
    top: Float[Tensor, "features p d"], bottom: Float[Tensor, "features p d"], *, eps: float = 1e-8, ddof: int = 0
) -> Float[Tensor, " features"]:
    """Score features: m = (E_H - E_L) / (sigma_pooled + eps), with E the mean pairwise cosine (Eq. 3 and 4).

    sigma is the standard deviation of the pairwise cosines of each set (the only reading under which the paper's values
    are natural), and sigma_pooled = sqrt((sigma_H^2 + sigma_L^2) / 2). Not bounded; higher is more monosemantic; NaN
    where an embedding is NaN.

    Args:
        top: unit embeddings of H^k.
        bottom: unit embeddings of L^k.
        eps: keeps identical clips from dividing by zero.
        ddof: 0 is the population's standard deviation.

    Raises:
        ValueError: if there are fewer than two clips in a set, so that there is no pair.
    """
    if top.shape[1] < 2:
        raise ValueError(f"monosemanticity needs p >= 2 clips in each set, got {top.shape[1]}")
    of_top, of_bottom = pairwise_cosines(top.double()), pairwise_cosines(bottom.double())
    pooled = ((of_top.var(dim=1, correction=ddof) + of_bottom.var(dim=1, correction=ddof)) / 2).sqrt()
    return (of_top.mean(dim=1) - of_bottom.mean(dim=1)) / (pooled + eps)
