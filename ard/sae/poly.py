"""The raw coordinates of x as a dictionary, for the paper's baseline `Poly. Feats.`."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ard.sae.dictionary import Dictionary
from ard.types import Codes


class PolyFeatures(Dictionary):
    """The paper's baseline `Poly. Feats.`: the raw coordinates of x in place of z, through the same pipeline."""

    method = "Poly. Feats."
    is_baseline = True

    def __init__(self, d_in: int) -> None:
        super().__init__(d_in, d_in)

    @property
    def expansion(self) -> None:
        """None: coordinates are no expansion of x."""
        return

    def pre_activations(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens features"]:
        """Return x: every coordinate is selected."""
        return x

    def encode(self, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float] | None = None) -> Codes:
        """Return every coordinate as a feature; ``clamp`` sets coordinates."""
        values = x.clone()
        for feature, value in (clamp or {}).items():
            values[:, feature] = value
        return Codes(values, torch.arange(self.d_in, device=x.device).expand(x.shape))

    def decode(self, codes: Codes) -> Float[Tensor, "tokens d_in"]:
        """Return x, with 0 for coordinates that are not among the codes."""
        x = codes.values.new_zeros(len(codes.values), self.d_in)
        return x.scatter(-1, codes.indices, codes.values)

    def check_clamp(self, clamp: Mapping[int, float]) -> None:
        """Refuse nothing: a coordinate may have any finite value."""
