"""How good an SAE is, streamed over the tokens of many batches and ranks."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torchmetrics import Metric

from ard.results import Better
from ard.types import Codes

BETTER: Mapping[str, Better] = {
    "fvu": "lower",
    "explained_variance": "higher",
    "normalised_mse": "lower",
    "cosine": "higher",
    "l0": "neither",
    "not_positive_share": "lower",
    "dead_share": "lower",
    "rare_share": "lower",
}
"""Which way each figure of :class:`Quality` is better."""


class Quality(Metric):
    """Reconstruction, sparsity and feature use over all tokens seen, in float64.

    - ``fvu``: squared error over the variance about the mean of *all* tokens; 0 is perfect, 1 is guessing the mean.
    - ``explained_variance``: 1 - fvu.
    - ``normalised_mse``: squared error over the squared norm, not centred.
    - ``cosine``: mean cosine of x and x_hat.
    - ``l0``: active features per token.
    - ``not_positive_share``: share of the selected activations that are not positive.
    - ``dead_share``: share of the features that are active on no token.
    - ``rare_share``: share of the features that are active on a smaller share of tokens than ``rare_below``.

    NaN without tokens. ``BETTER`` says which way each is better.

    Args:
        d_in: width of x.
        d_sae: number of features.
        rare_below: share of the tokens below which a feature is rare.
    """

    def __init__(self, d_in: int, d_sae: int, *, rare_below: float = 1e-4) -> None:
        super().__init__()
        self.rare_below = rare_below
        self.sum_x: Tensor
        self.sums: Tensor  # of |x|^2, of the squared error, of the cosine, of active and of selected features
        self.num_active: Tensor
        self.num_tokens: Tensor
        self.add_state("sum_x", torch.zeros(d_in, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(5, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_active", torch.zeros(d_sae, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("num_tokens", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, x: Float[Tensor, "tokens d_in"], x_hat: Float[Tensor, "tokens d_in"], codes: Codes) -> None:
        """Add a batch of tokens, their reconstructions and their codes."""
        x, x_hat = x.double(), x_hat.double()
        active = codes.values > 0
        self.sum_x += x.sum(dim=0)
        self.sums += torch.stack(
            [
                x.pow(2).sum(),
                (x - x_hat).pow(2).sum(),
                cosine_similarity(x, x_hat, dim=-1).sum(),
                active.sum(),
                x.new_tensor(active.numel()),
            ]
        )
        self.num_active.index_add_(0, codes.indices.flatten(), active.long().flatten())
        self.num_tokens += len(x)

    def compute(self) -> dict[str, Tensor]:
        """Return the figures by name."""
        num_tokens = self.num_tokens
        norm, error, cosine, active, selected = self.sums
        fvu = error / (norm - self.sum_x.pow(2).sum() / num_tokens)
        return {
            "fvu": fvu,
            "explained_variance": 1 - fvu,
            "normalised_mse": error / norm,
            "cosine": cosine / num_tokens,
            "l0": active / num_tokens,
            "not_positive_share": 1 - active / selected,
            "dead_share": (self.num_active == 0).double().mean(),
            "rare_share": (self.num_active < self.rare_below * num_tokens).double().mean(),
        }


class NormByPosition(Metric):
    """Mean and largest norm of x at the first positions of clips, and at all later ones together.

    It reveals massive activations, such as Qwen's at its first tokens, which would take up features of their own.

    Args:
        num_positions: first positions that are counted separately.
    """

    def __init__(self, num_positions: int = 16) -> None:
        super().__init__()
        self.total: Tensor
        self.count: Tensor
        self.largest: Tensor
        self.add_state("total", torch.zeros(num_positions + 1, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(num_positions + 1, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("largest", torch.zeros(num_positions + 1, dtype=torch.float64), dist_reduce_fx="max")

    def update(self, x: Float[Tensor, "tokens d_in"], clip_of_token: Int[Tensor, " tokens"]) -> None:
        """Add whole clips, their tokens in order."""
        first = torch.searchsorted(clip_of_token.contiguous(), clip_of_token.contiguous())
        place = (torch.arange(len(x), device=x.device) - first).clamp_max(len(self.count) - 1)
        norm = x.double().norm(dim=-1)
        self.total.index_add_(0, place, norm)
        self.count.index_add_(0, place, torch.ones_like(place))
        self.largest.scatter_reduce_(0, place, norm, "amax")

    def compute(self) -> dict[str, Tensor]:
        """Return ``mean`` and ``largest`` at positions 0, 1, ... and, last, all later ones; NaN and 0 without any."""
        return {"mean": self.total / self.count, "largest": self.largest}
