"""What the stages need from a dictionary; every variant is a subclass in its own file."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor, nn

from ard.results import OWN_METHOD
from ard.types import Codes, UserError


class Dictionary(nn.Module, ABC):
    """The interface that retrieval, naming and steering use: :meth:`encode` to codes and :meth:`decode` back.

    A variant implements these two and :meth:`pre_activations`; the other methods have defaults that fit an SAE. Keep
    its tensors as parameters or buffers, and its settings as attributes that are numbers or strings. These identify the
    dictionary, so that answers under one are never mistaken for answers under another.

    Args:
        d_in: width of the residual stream.
        d_sae: number of features.
    """

    method: str = OWN_METHOD
    """The name of its rows in the results."""

    is_baseline: bool = False
    """Whether it is a baseline for others; a baseline is measured without baselines and controls of its own."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__()
        self.d_in, self.d_sae = d_in, d_sae

    @property
    def expansion(self) -> int | None:
        """The expansion factor e; None where it has no meaning, as for raw coordinates."""
        return self.d_sae // self.d_in

    @abstractmethod
    def pre_activations(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens features"]:
        """Return what features are selected by. It must be affine in x: its mean over a clip may break ties."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float] | None = None) -> Codes:
        """Return the codes of x, no feature twice in a token; ``clamp`` sets features to values at every token."""

    @abstractmethod
    def decode(self, codes: Codes) -> Float[Tensor, "tokens d_in"]:
        """Return x_hat, which is affine in the codes."""

    def encode_both(self, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float]) -> tuple[Codes, Codes]:
        """Return the codes of x without and with features set."""
        return self.encode(x), self.encode(x, clamp)

    def forward(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
        """Return the reconstruction of x."""
        return self.decode(self.encode(x))

    def check_clamp(self, clamp: Mapping[int, float]) -> None:
        """Refuse values that its features cannot have. The features are known to exist, and the values to be finite.

        Raises:
            UserError: if there is such a value. By default, that is any negative one.
        """
        for feature, value in clamp.items():
            if value < 0:
                raise UserError(
                    f"feature {feature} cannot be set to {value}: an SAE's activations are 0 or more. 0 turns it off"
                )

    def fingerprint(self) -> str:
        """Return XXH3-64 of its kind, its settings such as k, and its tensors."""
        settings = {name: value for name, value in vars(self).items() if isinstance(value, bool | int | float | str)}
        settings.pop("training")
        digest = xxhash.xxh3_64(f"{type(self).__name__} {sorted(settings.items())}".encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @torch.no_grad()
    def directions(self, features: Sequence[int] | None = None) -> Float[Tensor, "features d_in"]:
        """Return what each feature, or each of those given, adds to x_hat at an activation of 1."""
        weights = next((tensor for tensor in self.state_dict().values() if tensor.is_floating_point()), torch.ones(()))
        wanted = range(self.d_sae) if features is None else features
        indices = torch.tensor(wanted, dtype=torch.int64, device=weights.device)[:, None]
        one = weights.new_ones(indices.shape)
        return self.decode(Codes(one, indices)) - self.decode(Codes(torch.zeros_like(one), indices))
