"""The raw coordinates of x as dictionaries: the paper's baseline `Poly. Feats.`, and its half-waves."""

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


class HalfWaves(Dictionary):
    """Both half-waves of every coordinate, relu(x) and then relu(-x): the usual basis of neurons.

    Eq. 2 to 4 are made for activations that are never negative. A signed coordinate mixes two features, and its lowest
    clips are as coherent as its highest.
    """

    method = "Poly. Feats., half-waves"
    is_baseline = True

    def __init__(self, d_in: int) -> None:
        super().__init__(d_in, 2 * d_in)

    @property
    def expansion(self) -> None:
        """None: half-waves are no expansion of x."""
        return

    def pre_activations(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens features"]:
        """Return x and -x."""
        return torch.cat([x, -x], dim=-1)

    def encode(self, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float] | None = None) -> Codes:
        """Return of every coordinate the half-wave that is not 0; ``clamp`` sets its coordinate."""
        x = x.clone()
        for feature, value in (clamp or {}).items():
            x[:, feature % self.d_in] = value if feature < self.d_in else -value
        coordinates = torch.arange(self.d_in, device=x.device).expand(x.shape)
        return Codes(x.abs(), coordinates + self.d_in * (x < 0))

    def decode(self, codes: Codes) -> Float[Tensor, "tokens d_in"]:
        """Return x, with 0 for coordinates that are not among the codes."""
        signed = torch.where(codes.indices < self.d_in, codes.values, -codes.values)
        x = signed.new_zeros(len(signed), self.d_in)
        return x.scatter_add(-1, codes.indices % self.d_in, signed)
