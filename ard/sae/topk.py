"""The TopK sparse autoencoder as a plain module, and what stands in its place for `Poly. Feats.`."""

import copy
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ard.results import Figure
from ard.sae.formats import StoredSAE, read, write
from ard.sae.functional import affine, decode_sparse, encode_above, encode_top_k, top_k, top_k_clamped
from ard.sae.hub import push
from ard.types import Codes

POLY = "poly"
THRESHOLD_DECAY = 0.99
"""Of the running mean of BatchTopK's threshold: it forgets in some hundred batches what the first ones were like."""


class Reconstruction(NamedTuple):
    """What an SAE makes of tokens."""

    x_hat: Float[Tensor, "tokens d_in"]
    codes: Codes


class TopKSAE(nn.Module):
    """TopK sparse autoencoder: z = TopK(W_enc x + b_enc), x_hat = W_dec z (Eq. 1).

    The weights lie as SAELens has them (W_enc [d_in, d_sae], W_dec [d_sae, d_in]), and the folder that
    :meth:`save_pretrained` writes is SAELens' own layout. In memory W_enc is the transpose of rows, one a feature, as
    its gradient is. The decoder starts as the encoder's transpose, with rows of unit norm.

    Args:
        d_in: width of the residual stream.
        d_sae: number of features, e * d_in.
        k: features that each token keeps.
        pre_bias: subtract b_dec from the input and add it to the output (reference [17]); Eq. 1 has none.
        threshold: what an activation must be above, in the place of being among the k largest (BatchTopK); training
            goes on with its estimate where it is 0.
        generator: for the initial weights.
        metadata: facts to keep with the weights (model, layer, ...).
    """

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
        super().__init__()
        if not 1 <= k <= d_sae:
            raise ValueError(f"k must be between 1 and d_sae = {d_sae}, got {k}")
        self.d_in, self.d_sae, self.k, self.pre_bias = d_in, d_sae, k, pre_bias
        self.metadata = dict(metadata or {})
        directions = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=-1)
        self.W_dec = nn.Parameter(directions)
        self.W_enc = nn.Parameter(directions.clone().T)
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in), requires_grad=pre_bias)
        self.threshold: Tensor | None
        self.register_buffer("threshold", None if threshold is None else torch.tensor(threshold))

    def pre_activations(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens features"]:
        """Return W_enc (x - b_dec) + b_enc, where b_dec is 0 without ``pre_bias``."""
        return affine(self.centred(x), self.W_enc, self.b_enc)

    def centred(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
        """Return what the encoder reads: x - b_dec with ``pre_bias``, else x."""
        return x - self.b_dec if self.pre_bias else x

    def encode(self, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float] | None = None) -> Codes:
        """Return the codes of x; ``clamp`` sets pre-activations before TopK, so that a large value is selected."""
        if clamp:
            return self.encode_both(x, clamp)[1]
        if self.threshold is None:
            return encode_top_k(self.centred(x), self.W_enc, self.b_enc, self.k)
        return encode_above(self.centred(x), self.W_enc, self.b_enc, self.k, self.threshold)

    def encode_both(self, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float]) -> tuple[Codes, Codes]:
        """Return the codes of x as they are and with features set before TopK, from one product of the encoder."""
        if self.threshold is None:
            width = min(self.k + len(clamp), self.d_sae)
            codes = encode_top_k(self.centred(x), self.W_enc, self.b_enc, width)
            return top_k_clamped(codes, {}, self.k), top_k_clamped(codes, clamp, self.k)
        pre_activations = self.pre_activations(x)
        codes = self._above_threshold(pre_activations)
        for feature, value in clamp.items():
            pre_activations[:, feature] = value
        return codes, self._above_threshold(pre_activations)

    def _above_threshold(self, pre_activations: Float[Tensor, "tokens features"]) -> Codes:
        assert self.threshold is not None
        above = pre_activations > self.threshold
        return top_k(pre_activations * above, max(int(above.sum(dim=-1).amax()) if len(above) else 1, 1))

    def encode_to_train(self, x: Float[Tensor, "tokens d_in"]) -> Codes:
        """Return the codes of a training batch; of BatchTopK by the batch's own threshold, which is kept on average."""
        if self.threshold is None:
            return self.encode(x)
        codes = encode_above(self.centred(x), self.W_enc, self.b_enc, self.k)
        values = codes.values.detach()
        if (values > 0).any():
            smallest = values[values > 0].min()
            self.threshold.lerp_(smallest, 1 - THRESHOLD_DECAY if self.threshold > 0 else 1.0)
        return codes

    def decode(self, codes: Codes) -> Float[Tensor, "tokens d_in"]:
        """Return x_hat from the codes."""
        return decode_sparse(codes, self.W_dec) + self.b_dec

    def forward(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
        """Return the reconstruction of x."""
        return self.decode(self.encode(x))

    def save_pretrained(self, folder: Path) -> None:
        """Write the folder that ``sae_lens`` opens; the configuration comes last."""
        threshold = None if self.threshold is None else float(self.threshold)
        stored = StoredSAE(self.k, self.pre_bias, dict(self.named_parameters()), self.metadata, threshold)
        write(stored, folder, "saelens")

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None) -> "TopKSAE":
        """Load a TopK- or BatchTopK-SAE that this package, SAELens, sparsify or dictionary_learning saved.

        Half precision becomes float32, in which the same weights are computed with less rounding.

        Args:
            source: a folder, or as a string also ``user/repository`` or ``user/repository/folder`` of the hub.
            revision: of the hub's repository.

        Raises:
            UserError: if no such SAE is there, or a file of it is broken or would run code.
        """
        stored = read(source, revision)
        sae = cls(
            stored.d_in,
            stored.d_sae,
            k=stored.k,
            pre_bias=stored.pre_bias,
            threshold=stored.threshold,
            metadata=stored.metadata,
        )
        state = dict(stored.tensors)
        if stored.threshold is not None:
            state["threshold"] = torch.tensor(stored.threshold)
        sae.to(torch.promote_types(stored.tensors["W_dec"].dtype, torch.float32)).load_state_dict(state)
        return sae

    def push_to_hub(
        self,
        repo_id: str,
        *,
        inner: str = "",
        metrics: Mapping[str, float | Figure] | None = None,
        dataset: str | None = None,
        private: bool = False,
    ) -> str:
        """Upload the SAE with a model card that carries the metrics; see :func:`ard.sae.hub.push`."""
        with TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder))
            return push(Path(folder), repo_id, inner=inner, metrics=metrics, dataset=dataset, private=private)

    @torch.no_grad()
    def scaled(self, scale: float) -> "TopKSAE":
        """Return the SAE that makes ``scale`` times as much of ``scale`` times the tokens: its biases are as large."""
        sae = copy.deepcopy(self)
        for bias in (sae.b_enc, sae.b_dec, sae.threshold):
            if bias is not None:
                bias.mul_(scale)
        return sae


class PolyFeatures(nn.Module):
    """The paper's baseline `Poly. Feats.`: the raw coordinates of x in the place of z, through the same pipeline."""

    def __init__(self, d_in: int) -> None:
        super().__init__()
        self.d_in = self.d_sae = d_in

    def pre_activations(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens features"]:
        """Return x: every coordinate is selected."""
        return x

    def encode(self, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float] | None = None) -> Codes:
        """Return every coordinate as a feature; ``clamp`` sets coordinates."""
        values = x.clone()
        for feature, value in (clamp or {}).items():
            values[:, feature] = value
        return Codes(values, torch.arange(self.d_in, device=x.device).expand(x.shape))

    def encode_both(self, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float]) -> tuple[Codes, Codes]:
        """Return x as it is and with coordinates set."""
        return self.encode(x), self.encode(x, clamp)

    def decode(self, codes: Codes) -> Float[Tensor, "tokens d_in"]:
        """Return x."""
        return torch.zeros_like(codes.values).scatter(-1, codes.indices, codes.values)


SparseCoder = TopKSAE | PolyFeatures
"""What retrieval, naming and steering need of a dictionary: ``encode`` to codes and ``decode`` back."""


def load_sparse_coder(sae: str, d_in: int) -> SparseCoder:
    """Load an SAE from its folder, or the raw coordinates for ``poly``."""
    return PolyFeatures(d_in) if sae == POLY else TopKSAE.from_pretrained(sae)
