"""How strongly a clip represents a feature, from sparse codes (Sec. 2.2, Eq. 2)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from ard.sae.products import Order
from ard.types import Codes

SCORERS = ("ard", "mean", "coverage")  # r = mu * c (Eq. 2), mu alone (`Mean Act.`), c alone (`Coverage`)


class ClipScores(NamedTuple):
    """The scores of every clip of a batch for every feature."""

    ard: Float[Tensor, "clips features"]
    mean: Float[Tensor, "clips features"]
    coverage: Float[Tensor, "clips features"]


def clip_scores(codes: Codes, clip_of_token: Int[Tensor, " tokens"], num_clips: int, num_features: int) -> ClipScores:
    """Score the clips of one batch: mean activation mu, coverage c, and representativeness r = mu * c (Eq. 2).

    Scores are dense over the clips of a batch, never over tokens or the data set. They are 0 where a feature is silent;
    higher is more representative. SAE codes and their scores are never negative; those of raw coordinates
    (`Poly. Feats.`) may be.

    Raises:
        ValueError: if a clip of the batch has no tokens.

    Example:
        >>> import torch
        >>> from ard.probing import clip_scores
        >>> from ard.types import Codes
        >>> codes = Codes(torch.tensor([[2.0], [0.0], [3.0]]), torch.tensor([[0], [1], [1]]))  # of three tokens
        >>> clip_scores(codes, torch.tensor([0, 0, 1]), num_clips=2, num_features=2).ard
        tensor([[0.5000, 0.0000],
                [0.0000, 3.0000]], dtype=torch.float64)
    """
    num_tokens = torch.bincount(clip_of_token, minlength=num_clips)[:, None]
    if not num_tokens.all():
        raise ValueError(f"clips {(num_tokens[:, 0] == 0).nonzero()[:, 0].tolist()} of the batch have no token")
    place = clip_of_token[:, None] * num_features + codes.indices
    values = codes.values.flatten().double()
    if values.device.type == "cpu":
        flat = values.new_zeros(2, num_clips * num_features)
        flat[0].index_add_(0, place.flatten(), values)
        flat[1].index_add_(0, place.flatten(), (values > 0).double())
    else:  # where that adds in any order: clips with equal activations would not have equal scores
        order = Order.of(place, num_clips * num_features)
        of_entry = torch.stack([values, (values > 0).double()], dim=1)
        flat = embedding_bag(order.entries, of_entry, order.starts[:-1], mode="sum").T
    mean, coverage = flat.reshape(2, num_clips, num_features) / num_tokens
    return ClipScores(mean * coverage, mean, coverage)
