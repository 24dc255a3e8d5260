"""The monosemanticity score (Sec. 2.3, Eq. 3 and 4) under any reading, and what sums it up over a dictionary."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control
from torch import Tensor

from ard.representatives.functional import LEAST_P

CHUNK = 256
"""Features scored at once: few enough for a CPU's cache, enough to share among its threads."""

TOP_SHARE = 0.2
"""The share of the live features that stands for the best of a dictionary, whatever its width."""

SHARES = (0.0, 0.01, 0.02, 0.05, *(round(0.1 * tenth, 1) for tenth in range(1, 11)))


@dataclass(frozen=True)
class Reading:
    """What Eq. 3 and 4 leave open. With the defaults, the paper's values come out naturally.

    Attributes:
        pairs: sum over ``unordered`` pairs, so that E is a mean; or over ``ordered`` ones with the same B, which
            doubles E.
        skip_identical: read e_i != e_j as unequal embeddings, so that pairs of identical clips do not count.
        sigma: the standard deviation of the pairs' ``cosines``; the mean of that of the embeddings' ``dimensions``; or
            the square root of the ``trace`` of the embeddings' covariance.
        ddof: 0 for the population's standard deviation, 1 for the sample's.
        eps: avoids division by zero when all clips are identical.
    """

    pairs: Literal["unordered", "ordered"] = "unordered"
    skip_identical: bool = False
    sigma: Literal["cosines", "dimensions", "trace"] = "cosines"
    ddof: int = 0
    eps: float = 1e-8


DEFAULT = Reading()


class Moments(NamedTuple):
    """What m takes from a set of clips: the mean of its pairs' cosines (Eq. 3), and their spread (Eq. 4)."""

    mean: Float[Tensor, " sets"]  # E
    variance: Float[Tensor, " sets"]  # sigma^2


def monosemanticity(
    top: Float[Tensor, "features p d"], bottom: Float[Tensor, "features p d"], reading: Reading = DEFAULT
) -> Float[Tensor, " features"]:
    """Score features: m = (E_H - E_L) / (sigma_pooled + eps), with E the mean pairwise cosine (Eq. 3 and 4).

    sigma_pooled = sqrt((sigma_H^2 + sigma_L^2) / 2). The score is unbounded; higher is more monosemantic. It is NaN if
    an embedding is NaN, or if no pair of a set counts.

    m saturates: if the clips of H^k are identical, E_H = 1 and sigma_H = 0, so that m = sqrt(2) (1 - E_L) / sigma_L,
    which is up to L^k alone. Features that share an L^k, as most of an SAE's do (see ``Ties``), share that limit, and
    the highest m of a dictionary is mostly a property of the luckiest L^k. m is made for activations that are never
    negative: a signed coordinate that is coherent at both ends has E_H = E_L and m = 0, and its negative's m is 0 too.

    Args:
        top: unit embeddings of H^k.
        bottom: unit embeddings of L^k.
        reading: how to read the equations.

    Raises:
        ValueError: if a set has fewer than three clips: two have a single pair, hence sigma = 0, and m would be the
            difference over eps.

    Example:
        >>> import torch
        >>> from ard.monosemanticity import monosemanticity
        >>> top = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.8, 0.6]]])  # of one feature: its clips are alike
        >>> bottom = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
        >>> monosemanticity(top, bottom)
        tensor([3.5301], dtype=torch.float64)
    """
    return contrast(moments(top, reading), moments(bottom, reading), reading)


def contrast(top: Moments, bottom: Moments, reading: Reading = DEFAULT) -> Float[Tensor, "*sets"]:
    """Return m from the moments of H^k and L^k (Eq. 4), which are broadcast."""
    return (top.mean - bottom.mean) / (((top.variance + bottom.variance) / 2).sqrt() + reading.eps)


def moments(embeddings: Float[Tensor, "features p d"], reading: Reading = DEFAULT) -> Moments:
    """Return E (Eq. 3) and sigma^2 of each feature's set.

    Raises:
        ValueError: if a set has fewer than three clips.
    """
    p = embeddings.shape[1]
    if p < LEAST_P:
        raise ValueError(f"monosemanticity needs p >= {LEAST_P} clips in each set, got {p}: fewer have no spread")
    embeddings = embeddings.double()
    i, j = torch.triu_indices(p, p, offset=1)
    cosines = (embeddings @ embeddings.mT)[:, i, j]
    if reading.skip_identical:
        mean, variance = _moments(cosines, (embeddings[:, i] != embeddings[:, j]).any(dim=-1), reading.ddof)
    else:
        mean, variance = cosines.mean(dim=1), cosines.var(dim=1, correction=reading.ddof)
    if reading.sigma == "dimensions":
        variance = embeddings.std(dim=1, correction=reading.ddof).mean(dim=-1).square()
    elif reading.sigma == "trace":
        variance = embeddings.var(dim=1, correction=reading.ddof).sum(dim=-1)
    return Moments(mean * 2 if reading.pairs == "ordered" else mean, variance)


def _moments(
    cosines: Float[Tensor, "features pairs"], counts: Bool[Tensor, "features pairs"], ddof: int
) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"]]:
    """Return mean and variance over the pairs that count; NaN if there are too few."""
    number = counts.sum(dim=1)
    mean = (cosines * counts).sum(dim=1) / number
    squares = ((cosines - mean[:, None]).square() * counts).sum(dim=1)
    return mean, squares / (number - ddof).clamp_min(0)


def score_lists(
    embeddings: Float[Tensor, "clips d"],
    top_ids: Int[Tensor, "features p"],
    bottom_ids: Int[Tensor, "features p"],
    reading: Reading = DEFAULT,
) -> Float[Tensor, " features"]:
    """Score features from their lists, in chunks, so that memory does not grow with their number."""
    return contrast(list_moments(embeddings, top_ids, reading), list_moments(embeddings, bottom_ids, reading), reading)


def list_moments(
    embeddings: Float[Tensor, "clips d"], ids: Int[Tensor, "features p"], reading: Reading = DEFAULT
) -> Moments:
    """Return the moments of lists of clips, in chunks."""
    parts = [moments(embeddings[part], reading) for part in ids.split(CHUNK)]
    return Moments(*(torch.cat(field) for field in zip(*parts, strict=True)))


def top_share_mean(m: Float[np.ndarray, " features"], share: float = TOP_SHARE) -> float:
    """Return the mean of the highest m of a share of the features.

    The last feature counts by the part that the share takes of it, so that the figure is the same for a dictionary and
    for two copies of it. A mean over a fixed number of features is not: it rises with the width of a dictionary.

    Example:
        >>> import numpy as np
        >>> from ard.monosemanticity.functional import top_share_mean
        >>> top_share_mean(np.array([1.0, 4.0, 2.0]), 0.5)  # of one feature and a half
        3.3333333333333335
    """
    weights = np.clip(share * len(m) - np.arange(len(m)), 0, 1)
    return float(np.sort(m)[::-1] @ weights / weights.sum())


def share_curve(m: Float[np.ndarray, " features"], shares: Sequence[float] = SHARES) -> list[list[float]]:
    """Return [share, m] pairs: that share of the features have this m or a higher one. At 0 it is the highest."""
    ranked = np.sort(m)[::-1]
    return [[share, float(ranked[max(math.ceil(share * len(m) - 1e-9) - 1, 0)])] for share in shares if len(m)]


def q_values(p: Float[Tensor, " features"]) -> Float[Tensor, " features"]:
    """Return the lowest false-discovery rate at which each feature passes (Benjamini and Hochberg); NaN where p is NaN.

    Example:
        >>> import torch
        >>> from ard.monosemanticity.functional import q_values
        >>> q_values(torch.tensor([0.01, 0.04, 0.03]))
        tensor([0.0300, 0.0400, 0.0400])
    """
    valid = ~p.isnan()
    q = torch.full_like(p, torch.nan)
    if valid.any():
        q[valid] = torch.from_numpy(np.asarray(false_discovery_control(p[valid].numpy())))
    return q
