"""The monosemanticity score (Sec. 2.3, Eq. 3 and 4) under any reading, and its comparison with chance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control
from torch import Tensor

CHUNK = 256
"""Features scored at once: few enough for a CPU's cache, enough to share among its threads."""


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


def monosemanticity(
    top: Float[Tensor, "features p d"], bottom: Float[Tensor, "features p d"], reading: Reading = DEFAULT
) -> Float[Tensor, " features"]:
    """Score features: m = (E_H - E_L) / (sigma_pooled + eps), with E the mean pairwise cosine (Eq. 3 and 4).

    sigma_pooled = sqrt((sigma_H^2 + sigma_L^2) / 2). The score is unbounded; higher is more monosemantic. It is NaN if
    an embedding is NaN, or if no pair of a set counts.

    Args:
        top: unit embeddings of H^k.
        bottom: unit embeddings of L^k.
        reading: how to read the equations.

    Raises:
        ValueError: if a set has fewer than two clips, hence no pair.

    Example:
        >>> import torch
        >>> from ard.monosemanticity import monosemanticity
        >>> top = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.8, 0.6]]])  # of one feature: its clips are alike
        >>> bottom = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
        >>> monosemanticity(top, bottom)
        tensor([3.5301], dtype=torch.float64)
    """
    if top.shape[1] < 2:
        raise ValueError(f"monosemanticity needs p >= 2 clips in each set, got {top.shape[1]}")
    (mean_top, var_top), (mean_bottom, var_bottom) = (_spread(e.double(), reading) for e in (top, bottom))
    return (mean_top - mean_bottom) / (((var_top + var_bottom) / 2).sqrt() + reading.eps)


def _spread(
    embeddings: Float[Tensor, "features p d"], reading: Reading
) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"]]:
    """Return E (Eq. 3) and sigma^2 of each feature's set."""
    i, j = torch.triu_indices(embeddings.shape[1], embeddings.shape[1], offset=1)
    cosines = (embeddings @ embeddings.mT)[:, i, j]
    if reading.skip_identical:
        mean, variance = _moments(cosines, (embeddings[:, i] != embeddings[:, j]).any(dim=-1), reading.ddof)
    else:
        mean, variance = cosines.mean(dim=1), cosines.var(dim=1, correction=reading.ddof)
    if reading.sigma == "dimensions":
        variance = embeddings.std(dim=1, correction=reading.ddof).mean(dim=-1).square()
    elif reading.sigma == "trace":
        variance = embeddings.var(dim=1, correction=reading.ddof).sum(dim=-1)
    return mean * 2 if reading.pairs == "ordered" else mean, variance


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
    m = embeddings.new_empty(len(top_ids), dtype=torch.float64)
    for part, top, bottom in zip(m.split(CHUNK), top_ids.split(CHUNK), bottom_ids.split(CHUNK), strict=True):
        part.copy_(monosemanticity(embeddings[top], embeddings[bottom], reading))
    return m


def num_shared(top_ids: Int[Tensor, "features p"], bottom_ids: Int[Tensor, "features p"]) -> Int[Tensor, " features"]:
    """Count the clips in both lists of a feature; there can be some if it is active on fewer than p clips."""
    return (top_ids[:, :, None] == bottom_ids[:, None, :]).any(dim=2).sum(dim=1)


def chance_scores(
    embeddings: Float[Tensor, "clips d"],
    p: int,
    shared: int,
    reading: Reading = DEFAULT,
    *,
    num_draws: int,
    generator: torch.Generator,
) -> Float[Tensor, " draws"]:
    """Return m by the same formula on shuffled clips, in ascending order: the distribution under chance.

    Shuffling turns H^k and L^k into clips drawn without replacement, with as many shared by both lists as before. The
    distribution depends only on the number shared, so one set of draws serves all features with that number.
    """
    rows = draw_clips(len(embeddings), 2 * p - shared, num_draws, generator)
    m = score_lists(embeddings, rows[:, :p], rows[:, -p:], reading)
    return m[~m.isnan()].sort().values


def p_values(
    m: Float[Tensor, " features"], shared: Int[Tensor, " features"], chance: Mapping[int, Float[Tensor, " draws"]]
) -> Float[Tensor, " features"]:
    """Return p = (1 + draws that reach m) / (1 + draws), never 0; ``chance`` has the draws by number of shared clips.

    NaN where m is NaN.

    Example:
        >>> import torch
        >>> from ard.monosemanticity.functional import p_values
        >>> p_values(torch.tensor([2.0]), torch.tensor([0]), {0: torch.tensor([0.0, 1.0, 3.0])})
        tensor([0.5000])
    """
    p = torch.full_like(m, torch.nan)
    for number, draws in chance.items():
        chosen = (shared == number) & ~m.isnan()
        reach = len(draws) - torch.searchsorted(draws, m[chosen])
        p[chosen] = (1 + reach).double() / (1 + len(draws))
    return p


def draw_clips(num_clips: int, size: int, num_draws: int, generator: torch.Generator) -> Int[Tensor, "draws size"]:
    """Draw clips without replacement, in random order, many times at once (Floyd's algorithm)."""
    drawn = torch.empty(num_draws, 0, dtype=torch.int64)
    for last in range(num_clips - size, num_clips):
        row = torch.randint(last + 1, (num_draws, 1), generator=generator)
        drawn = torch.cat([drawn, torch.where((drawn == row).any(dim=1, keepdim=True), last, row)], dim=1)
    return drawn.gather(1, torch.rand(num_draws, size, generator=generator).argsort(dim=1))


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
