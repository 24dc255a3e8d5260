"""The TopK sparse autoencoder (Eq. 1)."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ard.sae.autoencoder import SAE
from ard.sae.formats import StoredSAE
from ard.sae.functional import encode_above, encode_top_k, keep_positive, top_k_clamped
from ard.types import Codes, UserError

THRESHOLD_DECAY = 0.99
"""Decay of the running mean of BatchTopK's threshold: the first batches are forgotten within some hundred."""


class Reconstruction(NamedTuple):
    """The reconstruction of tokens, and their codes."""

    x_hat: Float[Tensor, "tokens d_in"]
    codes: Codes


class TopKSAE(SAE):
    """TopK sparse autoencoder: z = TopK(W_enc x + b_enc), x_hat = W_dec z (Eq. 1).

    Args:
        d_in: width of the residual stream.
        d_sae: number of features, e * d_in.
        k: features that each token keeps.
        pre_bias: subtract b_dec from the input and add it to the output (reference [17]); Eq. 1 has none.
        threshold: keep activations above this rather than the k largest (BatchTopK). Training updates it; 0 means that
            there is no estimate yet.
        generator: random generator for the initial weights.
        metadata: facts to keep with the weights (model, layer, ...).
    """

    architecture = "topk"

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        *,
        k: int,
        pre_bias: bool = False,
        threshold: float | None = None,
        generator: torch.Generator | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if not 1 <= k <= d_sae:
            raise ValueError(f"k must be between 1 and d_sae = {d_sae}, got {k}")
        super().__init__(d_in, d_sae, pre_bias=pre_bias, generator=generator, metadata=metadata)
        self.k = k
        self.threshold: Tensor | None
        self.register_buffer("threshold", None if threshold is None else torch.tensor(threshold))

    def encode(self, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float] | None = None) -> Codes:
        """Return the codes of x; ``clamp`` sets pre-activations before TopK, so that a large value is selected."""
        if clamp:
            return self.encode_both(x, clamp)[1]
        if self.threshold is None:
            return encode_top_k(x, self.W_enc, self.b_enc, self.k, self.centre)
        return encode_above(x, self.W_enc, self.b_enc, self.k, self.threshold, self.centre)

    def encode_both(self, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float]) -> tuple[Codes, Codes]:
        """Return the codes of x without and with features set before TopK, from one encoder product."""
        if self.threshold is None:
            width = min(self.k + len(clamp), self.d_sae)
            codes = encode_top_k(x, self.W_enc, self.b_enc, width, self.centre)
            return top_k_clamped(codes, {}, self.k), top_k_clamped(codes, clamp, self.k)
        pre_activations = self.pre_activations(x)
        codes = self._above_threshold(pre_activations)
        for feature, value in clamp.items():
            pre_activations[:, feature] = value
        return codes, self._above_threshold(pre_activations)

    def _above_threshold(self, pre_activations: Float[Tensor, "tokens features"]) -> Codes:
        assert self.threshold is not None
        return keep_positive(pre_activations * (pre_activations > self.threshold))

    def encode_to_train(self, x: Float[Tensor, "tokens d_in"]) -> Codes:
        """Return the codes of a training batch. BatchTopK uses the batch's own threshold and keeps a running mean."""
        if self.threshold is None:
            return self.encode(x)
        codes = encode_above(x, self.W_enc, self.b_enc, self.k, centre=self.centre)
        values = codes.values.detach()
        smallest = torch.where(values > 0, values, torch.inf).amin()
        moved = torch.where(self.threshold > 0, self.threshold.lerp(smallest, 1 - THRESHOLD_DECAY), smallest)
        self.threshold.copy_(torch.where(smallest.isfinite(), moved, self.threshold))
        return codes

    def width_to_train(self) -> int:
        """Return how wide the codes of a training batch are; those of BatchTopK as far as most batches need it."""
        return self.k if self.threshold is None else min(2 * self.k, self.d_sae)

    def check_clamp(self, clamp: Mapping[int, float]) -> None:
        """Refuse negative values, and more features than TopK keeps."""
        super().check_clamp(clamp)
        num_set = sum(value > 0 for value in clamp.values())
        if self.threshold is None and num_set > self.k:
            raise UserError(f"{num_set} features cannot be set at once: this SAE keeps {self.k} per token")

    def with_directions(
        self, directions: Float[Tensor, "features d_in"], centre: Float[Tensor, " d_in"], metadata: Mapping[str, Any]
    ) -> "TopKSAE":
        """Return an untrained SAE of the same K along these directions; also of BatchTopK, whose K is a mean."""
        sae = TopKSAE(self.d_in, self.d_sae, k=self.k, pre_bias=True, metadata=metadata)
        sae.load_state_dict({**sae.state_dict(), "W_dec": directions, "W_enc": directions.T, "b_dec": centre})
        return sae

    def stored(self) -> StoredSAE:
        """Return what is stored of it, whatever the file format."""
        threshold = None if self.threshold is None else float(self.threshold)
        return StoredSAE(self.k, self.pre_bias, dict(self.named_parameters()), self.metadata, threshold)

    @classmethod
    def like(cls, stored: StoredSAE) -> "TopKSAE":
        """Return an SAE of the same size, k and threshold."""
        assert stored.k is not None
        return cls(
            stored.d_in,
            stored.d_sae,
            k=stored.k,
            pre_bias=stored.pre_bias,
            threshold=stored.threshold,
            metadata=stored.metadata,
        )

    @torch.no_grad()
    def scaled(self, scale: float) -> "TopKSAE":
        """Return a copy g of this SAE f with biases and threshold times ``scale``: g(scale * x) = scale * f(x)."""
        sae = copy.deepcopy(self)
        for bias in (sae.b_enc, sae.b_dec, sae.threshold):
            if bias is not None:
                bias.mul_(scale)
        return sae
