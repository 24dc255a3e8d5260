"""Where in a clip a feature is active, how strongly, and the rule for clips of equal score (Sec. 2.2)."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ard.types import Codes

NO_TOKEN = -1  # where a feature is silent
MAX_TOKEN = 0xFFFFFFFF  # that a clip may have

BINS_PER_OCTAVE = 4
ACTIVATION_EDGES = 2.0 ** (torch.arange(-12 * BINS_PER_OCTAVE, 12 * BINS_PER_OCTAVE + 1) / BINS_PER_OCTAVE)
"""Of the bins of activation histograms: four to a doubling, from 2^-12 to 2^12; the outermost take what lies beyond."""

Ties = Literal["stable", "seeded_random", "shared_random", "preact"]
"""Who comes first among clips of equal score: by the order of the data set; by a random one, of each feature or of all;
or by the mean pre-activation (the larger, and in L^k the smaller), and of equals again by the order of the data set."""


class ActiveCodes(NamedTuple):
    """The positive codes of a batch, one entry each."""

    clips: Int[Tensor, " entries"]
    tokens: Int[Tensor, " entries"]  # counted from the clip's first
    features: Int[Tensor, " entries"]
    values: Float[Tensor, " entries"]


class Places(NamedTuple):
    """Where in its clip a feature is active: tokens counted from the clip's first; ``NO_TOKEN`` where it is silent."""

    strongest: Int[Tensor, "..."]  # the first of equals
    first: Int[Tensor, "..."]
    last: Int[Tensor, "..."]


def active_codes(codes: Codes, clip_of_token: Int[Tensor, " tokens"]) -> ActiveCodes:
    """Pick the codes that are positive out of a batch, in which the tokens of a clip lie one after another."""
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
    # Of positive floats the bits are in the order of the numbers: the largest of (bits, -token) is the first strongest.
    strength = (active.values.view(torch.int32).long() << 32) | (MAX_TOKEN - active.tokens)
    strongest = empty.scatter_reduce(0, cell, strength, "amax")
    strongest = torch.where(strongest < 0, NO_TOKEN, MAX_TOKEN - (strongest & MAX_TOKEN))
    first = empty.scatter_reduce(0, cell, active.tokens, "amin", include_self=False)
    last = empty.scatter_reduce(0, cell, active.tokens, "amax")
    return Places(*(found.view(num_clips, num_features) for found in (strongest, first, last)))


def activation_quantiles(
    histogram: Int[Tensor, "features bins"], levels: Float[Tensor, " levels"]
) -> Float[Tensor, "features levels"]:
    """Return quantiles of the activations of each feature on the tokens where it is active; NaN where there are none.

    A quantile is told as the geometric middle of its bin: it is off by at most a factor 2^(1/8), 9 %, within the range
    of ``ACTIVATION_EDGES``.
    """
    reached = histogram.cumsum(dim=1)
    total = reached[:, -1:]
    wanted = (levels.to(reached.device) * total).ceil().clamp_min(1).long()
    edges = ACTIVATION_EDGES.to(reached.device)
    middles = (edges[1:] * edges[:-1]).sqrt()
    found = middles[torch.searchsorted(reached, wanted).clamp_max(len(middles) - 1)]
    return found.masked_fill(total == 0, torch.nan)


def tie_keys(
    rows: Int[Tensor, "*#shape"], features: Int[Tensor, "*#shape"], ties: Ties, seed: int
) -> Int[Tensor, "..."]:
    """Return the order among clips of equal score, smaller first, by a rule that can be named.

    ``stable``: the row of the clip, hence the order of the data set, the same for all features. ``seeded_random``: a
    hash of seed, feature and row, so that every feature has an order of its own. ``shared_random``: a hash of seed and
    row, one random order for all features. ``preact``: as ``stable``, where pre-activations are equal too.

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


def _mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Scramble 63 bits (the finaliser of splitmix64), the same on every device."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return (x ^ ((x >> 31) & 0x1FFFFFFFF)) & 0x7FFFFFFFFFFFFFFF
