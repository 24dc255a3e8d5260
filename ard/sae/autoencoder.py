"""What all sparse autoencoders share: their four tensors, and the folder they are stored in."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ard.results import CONTROL_METHODS, Figure
from ard.sae.dictionary import Dictionary
from ard.sae.formats import StoredSAE, read, write
from ard.sae.functional import affine, decode_sparse
from ard.sae.hub import push
from ard.types import Codes, UserError

Kind = TypeVar("Kind", bound="SAE")


class SAE(Dictionary):
    """A sparse autoencoder: z = sigma(W_enc x + b_enc), x_hat = W_dec z + b_dec; a kind says what sigma keeps.

    The weights have SAELens' shapes (W_enc [d_in, d_sae], W_dec [d_sae, d_in]), and :meth:`save_pretrained` writes
    SAELens' own folder layout. W_enc is stored in memory feature by feature, as a transposed view of contiguous rows,
    and so is its gradient. The decoder is initialised as the encoder's transpose, with rows of unit norm.

    Args:
        d_in: width of the residual stream.
        d_sae: number of features, e * d_in.
        pre_bias: subtract b_dec from the input and add it to the output (reference [17]); Eq. 1 has none.
        generator: random generator for the initial weights.
        metadata: facts to keep with the weights (model, layer, ...).
    """

    architecture: str
    """The kind of :class:`~ard.sae.formats.StoredSAE` it is made from."""

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        *,
        pre_bias: bool = False,
        generator: torch.Generator | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(d_in, d_sae)
        self.pre_bias, self.metadata = pre_bias, dict(metadata or {})
        if (control := str(self.metadata.get("control"))) in CONTROL_METHODS:
            self.method, self.is_baseline = CONTROL_METHODS[control], True
        directions = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=-1)
        self.W_dec = nn.Parameter(directions)
        self.W_enc = nn.Parameter(directions.clone().T)
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in), requires_grad=pre_bias)

    def pre_activations(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens features"]:
        """Return W_enc (x - b_dec) + b_enc, where b_dec is 0 without ``pre_bias``."""
        return affine(x if self.centre is None else x - self.centre, self.W_enc, self.b_enc)

    @property
    def centre(self) -> Float[Tensor, " d_in"] | None:
        """What the encoder subtracts from x: b_dec with ``pre_bias``, else nothing."""
        return self.b_dec if self.pre_bias else None

    def decode(self, codes: Codes) -> Float[Tensor, "tokens d_in"]:
        """Return x_hat from the codes."""
        return decode_sparse(codes, self.W_dec) + self.b_dec

    def directions(self, features: Sequence[int] | None = None) -> Float[Tensor, "features d_in"]:
        """Return the rows of W_dec."""
        w_dec = self.W_dec.detach()
        return w_dec if features is None else w_dec[list(features)]

    def with_directions(
        self, directions: Float[Tensor, "features d_in"], centre: Float[Tensor, " d_in"], metadata: Mapping[str, Any]
    ) -> "SAE":
        """Return an untrained SAE that is as sparse, reads and writes along these directions, and is centred here.

        Raises:
            UserError: if this kind of SAE has none, which is the default.
        """
        raise UserError(f"a {type(self).__name__} has no untrained controls: set num_untrained to 0")

    @abstractmethod
    def stored(self) -> StoredSAE:
        """Return what is stored of it, whatever the file format."""

    @classmethod
    @abstractmethod
    def like(cls: type[Kind], stored: StoredSAE) -> Kind:
        """Return an SAE with the same settings, before its weights are loaded."""

    @classmethod
    def from_stored(cls: type[Kind], stored: StoredSAE) -> Kind:
        """Return the SAE that was read. Half precision becomes float32, which rounds less in computation."""
        sae = cls.like(stored).to(torch.promote_types(stored.tensors["W_dec"].dtype, torch.float32))
        sae.load_state_dict({**sae.state_dict(), **stored.tensors})
        return sae

    @classmethod
    def from_pretrained(cls: type[Kind], source: str | Path, revision: str | None = None) -> Kind:
        """Load an SAE of this kind, saved by this package, SAELens, sparsify or dictionary_learning.

        Args:
            source: a folder; as a string also ``user/repository`` or ``user/repository/folder`` on the hub, or an
                artifact in W&B, ``wandb:entity/project/name:version``.
            revision: branch, tag or commit of the hub repository.

        Raises:
            UserError: if there is no such SAE, or one of its files is broken or would run code.
        """
        stored = read(source, revision)
        if stored.architecture != cls.architecture:
            raise UserError(
                f"{str(source)!r} holds an SAE of another kind, {stored.architecture!r}, and {cls.__name__} is "
                f"{cls.architecture!r}: load it with ard.sae.load_dictionary, which takes every kind"
            )
        return cls.from_stored(stored)

    def save_pretrained(self, folder: Path) -> None:
        """Write a folder that ``sae_lens`` can open; the configuration is written last."""
        write(self.stored(), folder, "saelens")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        inner: str = "",
        metrics: Mapping[str, float | Figure] | None = None,
        dataset: str | None = None,
        private: bool = False,
    ) -> str:
        """Upload the SAE with a model card that lists the metrics; see :func:`ard.sae.hub.push`."""
        with TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder))
            return push(Path(folder), repo_id, inner=inner, metrics=metrics, dataset=dataset, private=private)
