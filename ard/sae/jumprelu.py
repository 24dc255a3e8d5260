"""The JumpReLU sparse autoencoder, which is trained elsewhere and only used here."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ard.sae.autoencoder import SAE
from ard.sae.formats import StoredSAE
from ard.sae.functional import keep_positive
from ard.types import Codes


class JumpReLUSAE(SAE):
    """JumpReLU sparse autoencoder: a feature is active where its pre-activation is above both its threshold and 0.

    z_j = ReLU(a_j) where a_j > theta_j, else 0; a = W_enc x + b_enc, x_hat = W_dec z + b_dec. The thresholds start
    at 0.

    Args:
        d_in: width of the residual stream.
        d_sae: number of features, e * d_in.
        pre_bias: subtract b_dec from the input.
        generator: random generator for the initial weights.
        metadata: facts to keep with the weights (model, layer, ...).
    """

    architecture = "jumprelu"

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        *,
        pre_bias: bool = False,
        generator: torch.Generator | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(d_in, d_sae, pre_bias=pre_bias, generator=generator, metadata=metadata)
        self.threshold = nn.Parameter(torch.zeros(d_sae))

    def encode(self, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float] | None = None) -> Codes:
        """Return the codes of x, as wide as the busiest token needs.

        ``clamp`` sets activations after the threshold: a feature takes the value at every token, however small.
        """
        return self.encode_both(x, clamp)[1] if clamp else keep_positive(self._activations(x))

    def encode_both(self, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float]) -> tuple[Codes, Codes]:
        """Return the codes of x without and with features set, from one encoder product."""
        activations = self._activations(x)
        codes = keep_positive(activations)
        for feature, value in clamp.items():
            activations[:, feature] = value
        return codes, keep_positive(activations)

    def _activations(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens features"]:
        pre_activations = self.pre_activations(x).to(x.dtype)
        return pre_activations * (pre_activations > self.threshold.clamp_min(0))

    def stored(self) -> StoredSAE:
        """Return what is stored of it in SAELens' format, the only one that has this kind."""
        return StoredSAE(None, self.pre_bias, dict(self.named_parameters()), self.metadata)

    @classmethod
    def like(cls, stored: StoredSAE) -> "JumpReLUSAE":
        """Return an SAE of the same size."""
        return cls(stored.d_in, stored.d_sae, pre_bias=stored.pre_bias, metadata=stored.metadata)
