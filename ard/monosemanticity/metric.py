"""What is kept as the data stream by: the weighted score of reference [18], and where features are silent."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import normalize, pad
from torchmetrics import Metric

MANY_TIMES_LESS = 1e-12  # below this share of the squared sum of weights, pairs are mere rounding: no second clip


class WeightedMonosemanticity(Metric):
    """Mean cosine over all pairs of clips, weighted by the product of their activations (reference [18]).

    For a feature with activations a_i on clips with unit embeddings e_i:
    sum_{i<j} a_i a_j e_i.e_j / sum_{i<j} a_i a_j. The activations a are first mapped to [0, 1] by their smallest and
    largest value over all clips. The scale cancels, and the smallest value is 0 once an SAE's feature is silent on any
    clip.

    Since sum_{i<j} a_i a_j e_i.e_j = (|sum a_i e_i|^2 - sum a_i^2) / 2, and likewise without e, only sums over clips
    are kept. The score is exact, and its cost grows with the number of active (clip, feature) pairs. Memory is
    ``num_features * d`` numbers of 8 bytes, however many clips are seen.

    Between -1 and 1; higher is more monosemantic. NaN for a feature that exceeds its smallest activation on fewer than
    two clips.

    Args:
        num_features: width of the dictionary.
        d: width of the embeddings.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, num_features: int, d: int) -> None:
        super().__init__()
        self.num_clips: Tensor
        self.least: Tensor
        self.sum: Tensor
        self.sum_squares: Tensor
        self.sum_weighted: Tensor
        self.sum_embeddings: Tensor
        self.add_state("num_clips", torch.tensor(0), "sum", persistent=True)
        self.add_state("least", torch.full((num_features,), torch.inf, dtype=torch.float64), "min", persistent=True)
        shapes = {"sum": [num_features], "sum_squares": [num_features], "sum_weighted": [num_features, d]}
        for name, shape in {**shapes, "sum_embeddings": [d]}.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), "sum", persistent=True)

    def update(self, activations: Float[Tensor, "clips features"], embeddings: Float[Tensor, "clips d"]) -> None:
        """Add a batch of clips, with each feature's activation on each clip (such as its mean over tokens)."""
        weights, unit = activations.double(), normalize(embeddings.double(), dim=-1)
        active = weights.any(dim=0).nonzero()[:, 0]
        self.least = torch.minimum(self.least, weights.amin(dim=0))
        self.sum += weights.sum(dim=0)
        self.sum_squares += weights.square().sum(dim=0)
        self.sum_weighted.index_add_(0, active, weights[:, active].T @ unit)
        self.sum_embeddings += unit.sum(dim=0)
        self.num_clips += len(weights)

    def compute(self) -> Float[Tensor, " features"]:
        """Return the score of every feature."""
        least = self.least.masked_fill(self.num_clips == 0, 0)
        total = self.sum - self.num_clips * least
        squares = self.sum_squares - 2 * least * self.sum + self.num_clips * least.square()
        weighted = self.sum_weighted - least[:, None] * self.sum_embeddings
        pairs = total.square() - squares
        score = (weighted.square().sum(dim=1) - squares) / pairs
        return score.masked_fill(~(pairs > MANY_TIMES_LESS * total.square()), torch.nan)


class Noted(NamedTuple):
    """Which features are silent in some of the clips."""

    rows: Int[Tensor, " clips"]  # in ascending order
    bits: UInt8[Tensor, "clips bytes"]
    num_features: int

    def silent(self, rows: Int[Tensor, " clips"]) -> Bool[Tensor, "clips features"]:
        """Return it for some of these clips."""
        of_rows = self.bits[torch.searchsorted(self.rows, rows)]
        bits = of_rows[..., None] >> torch.arange(8, dtype=torch.uint8) & 1
        return bits.flatten(start_dim=1)[:, : self.num_features].bool()


class SilentFeatures(Metric):
    """Note which features are silent in some of the clips as the data streams by, in a bit each.

    Args:
        num_features: width of the dictionary.
        rows: the clips to note it for.
    """

    full_state_update = False

    def __init__(self, num_features: int, rows: Int[Tensor, "..."]) -> None:
        super().__init__()
        self.num_features = num_features
        self.rows: Tensor
        self.bits: Tensor
        self.register_buffer("rows", rows.unique(), persistent=False)
        num_bytes = -(-num_features // 8)
        self.add_state("bits", torch.zeros(len(self.rows), num_bytes, dtype=torch.uint8), "max", persistent=True)

    def update(self, silent: Bool[Tensor, "clips features"], rows: Int[Tensor, " clips"]) -> None:
        """Add a batch of clips."""
        noted = torch.isin(rows, self.rows)
        eights = pad(silent[noted], (0, 8 * self.bits.shape[1] - self.num_features))
        weights = 2 ** torch.arange(8, dtype=torch.uint8, device=rows.device)
        places = torch.searchsorted(self.rows, rows[noted])
        self.bits[places] = (eights.unflatten(1, (self.bits.shape[1], 8)) * weights).sum(dim=-1, dtype=torch.uint8)

    def compute(self) -> Noted:
        """Return what all ranks noted."""
        return Noted(self.rows, self.bits, self.num_features)
