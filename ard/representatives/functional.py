"""Where in a clip a feature is active and how strongly; how ties between clips are broken (Sec. 2.2)."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ard.types import Codes

NO_TOKEN = -1  # stands for the place of a silent feature
MAX_TOKEN = 0xFFFFFFFF  # the largest token number of a clip

LEAST_P = 3
"""Fewest clips in a list: two have a single pair of embeddings, so that their cosines have no spread (Eq. 4)."""

BINS_PER_OCTAVE = 4
ACTIVATION_EDGES = 2.0 ** (torch.arange(-12 * BINS_PER_OCTAVE, 12 * BINS_PER_OCTAVE + 1) / BINS_PER_OCTAVE)
"""Bin edges of activation histograms: four per octave, from 2^-12 to 2^12. The outermost bins take all beyond."""

Ties = Literal["stable", "seeded_random", "shared_random", "preact"]
"""How to order clips with equal scores. ``stable``: dataset order. ``seeded_random``: a random order per feature.
``shared_random``: one random order for all features. ``preact``: by mean pre-activation (larger first, in L^k smaller
first), then dataset order."""


class ActiveCodes(NamedTuple):
    """The positive codes of a batch, one entry each."""

    clips: Int[Tensor, " entries"]
    tokens: Int[Tensor, " entries"]  # counted from the start of the clip
    features: Int[Tensor, " entries"]
    values: Float[Tensor, " entries"]


class Places(NamedTuple):
    """Where in a clip a feature is active, as tokens from the start of the clip; ``NO_TOKEN`` if it is silent."""

    strongest: Int[Tensor, "..."]  # the first of equally strong ones
    first: Int[Tensor, "..."]
    last: Int[Tensor, "..."]


def active_codes(codes: Codes, clip_of_token: Int[Tensor, " tokens"]) -> ActiveCodes:
    """Pick the positive codes of a batch in which the tokens of each clip are contiguous."""
    entries = (codes.values > 0).flatten().nonzero()[:, 0]
    row = entries // codes.values.shape[1]
    clip_of_token = clip_of_token.contiguous()
    position = torch.arange(len(clip_of_token), device=row.device) - torch.searchsorted(clip_of_token, clip_of_token)
    features, values = codes.indices.flatten()[entries], codes.values.flatten()[entries].float()
    return ActiveCodes(clip_of_token[row], position[row], features, values)


def active_places(active: ActiveCodes, num_clips: int, num_features: int) -> Places:
    """Find where in each clip of a batch each feature is active."""
    cell = active.clips * num_features + active.features
    empty = torch.full((num_clips * num_features,), NO_TOKEN, device=cell.device)
    # Positive floats sort like their bits, so the largest (bits, -token) is the first of the strongest tokens.
    strength = (active.values.view(torch.int32).long() << 32) | (MAX_TOKEN - active.tokens)
    strongest = empty.scatter_reduce(0, cell, strength, "amax")
    strongest = torch.where(strongest < 0, NO_TOKEN, MAX_TOKEN - (strongest & MAX_TOKEN))
    first = empty.scatter_reduce(0, cell, active.tokens, "amin", include_self=False)
    last = empty.scatter_reduce(0, cell, active.tokens, "amax")
    return Places(*(place.view(num_clips, num_features) for place in (strongest, first, last)))


def activation_quantiles(
    histogram: Int[Tensor, "features bins"], levels: Float[Tensor, " levels"]
) -> Float[Tensor, "features levels"]:
    """Return quantiles of each feature's activations on the tokens where it is active; NaN if there are none.

    A quantile is reported as the geometric middle of its bin. Within ``ACTIVATION_EDGES`` it is off by at most a factor
    of 2^(1/8), or 9 %.
    """
    reached = histogram.cumsum(dim=1)
    total = reached[:, -1:]
    ranks = (levels.to(reached.device) * total).ceil().clamp_min(1).long()
    edges = ACTIVATION_EDGES.to(reached.device)
    middles = (edges[1:] * edges[:-1]).sqrt()
    quantiles = middles[torch.searchsorted(reached, ranks).clamp_max(len(middles) - 1)]
    return quantiles.masked_fill(total == 0, torch.nan)


def tie_keys(
    rows: Int[Tensor, "*#shape"], features: Int[Tensor, "*#shape"], ties: Ties, seed: int
) -> Int[Tensor, "..."]:
    """Return sort keys for clips with equal scores, smaller first, by the given rule.

    ``stable``: the row of the clip, hence dataset order for all features. ``seeded_random``: a hash of seed, feature
    and row, hence a random order per feature. ``shared_random``: a hash of seed and row, hence one random order for all
    features. ``preact``: as ``stable``, for clips whose pre-activations are equal too.

    Example:
        >>> import torch
        >>> from ard.representatives.functional import tie_keys
        >>> tie_keys(torch.tensor([3, 1]), torch.tensor([0, 0]), "stable", seed=0)
        tensor([3, 1])
    """
    if ties in ("stable", "preact"):
        return rows
    salt = _mix(torch.tensor(seed, device=rows.device))
    return _mix((_mix(salt ^ features) if ties == "seeded_random" else salt) ^ rows)


def half_of(rows: Int[Tensor, "..."], seed: int) -> Int[Tensor, "..."]:
    """Return which half of the probing set each clip belongs to, 0 or 1.

    Of every two neighbouring rows, a hash of the seed decides which is in which half. So the halves have the same size,
    give or take a clip, whatever the number of clips, and a clip's half does not depend on it.

    Example:
        >>> import torch
        >>> from ard.representatives.functional import half_of
        >>> half_of(torch.arange(8), seed=0)
        tensor([0, 1, 1, 0, 0, 1, 0, 1])
    """
    return (_mix(_mix(torch.tensor(seed, device=rows.device)) ^ (rows >> 1)) ^ rows) & 1


def _mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Scramble 63 bits (the finaliser of splitmix64), the same on every device."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return (x ^ ((x >> 31) & 0x1FFFFFFFF)) & 0x7FFFFFFFFFFFFFFF
