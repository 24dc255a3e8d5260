"""How well a clip stands for a feature, from sparse codes (Sec. 2.2, Eq. 2), and the rule for equal scores."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ard.types import Codes

SCORERS = ("ard", "mean", "coverage")  # r = mu * c (Eq. 2), mu alone (`Mean Act.`), c alone (`Coverage`)


class ClipScores(NamedTuple):
    """Every clip of a batch scored for every feature."""

    ard: Float[Tensor, "clips features"]
    mean: Float[Tensor, "clips features"]
    coverage: Float[Tensor, "clips features"]


def clip_scores(codes: Codes, clip_of_token: Int[Tensor, " tokens"], num_clips: int, num_features: int) -> ClipScores:
    """Score the clips of one batch: mean activation mu, coverage c, and representativeness r = mu * c (Eq. 2).

    Dense over the few clips of a batch, never over tokens or the data set. Codes of SAEs are not negative, and so are
    their scores; raw coordinates (`Poly. Feats.`) may be. 0 where a feature is silent; higher is more representative.

    Raises:
        ValueError: if a clip of the batch has no token.
    """
    num_tokens = torch.bincount(clip_of_token, minlength=num_clips)[:, None]
    if not num_tokens.all():
        raise ValueError(f"clips {(num_tokens[:, 0] == 0).nonzero()[:, 0].tolist()} of the batch have no token")
    place = (clip_of_token[:, None] * num_features + codes.indices).flatten()
    values = codes.values.flatten().double()
    flat = values.new_zeros(2, num_clips * num_features)
    flat[0].index_add_(0, place, values)
    flat[1].index_add_(0, place, (values > 0).double())
    mean, coverage = flat.view(2, num_clips, num_features) / num_tokens
    return ClipScores(mean * coverage, mean, coverage)


def tie_keys(rows: Int[Tensor, "features slots"], seed: int | None) -> Int[Tensor, "features slots"]:
    """Return the order among clips of equal score, smaller first, by a rule that can be named.

    Without a seed, `stable`: the row of the clip, hence the order of the data set, the same for all features. With one,
    `seeded`: a hash of seed, feature and row, so that every feature has an order of its own.
    """
    if seed is None:
        return rows
    features = torch.arange(len(rows), device=rows.device)[:, None]
    return _mix(_mix(_mix(torch.full_like(rows, seed)) ^ features) ^ rows)


def _mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Scramble 63 bits (the finaliser of splitmix64), the same on every device."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return (x ^ ((x >> 31) & 0x1FFFFFFFF)) & 0x7FFFFFFFFFFFFFFF
