"""What the stages need of a dictionary; every variant is a subclass in a file of its own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ard.results import OWN_METHOD
from ard.types import Codes, UserError


class Dictionary(nn.Module, ABC):
    """What retrieval, naming and steering need of a dictionary: :meth:`encode` to codes and :meth:`decode` back.

    A variant says these two and :meth:`pre_activations`; the rest has defaults that hold for an SAE. Its tensors are
    parameters or buffers, and its settings attributes that are numbers or words, so that answers under one dictionary
    are never taken for those under another.

    Args:
        d_in: width of the residual stream.
        d_sae: number of features.
    """

    method: str = OWN_METHOD
    """What the rows of its results are called."""

    is_baseline: bool = False
    """Whether it is what others are held against, and is itself measured without baselines and controls."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__()
        self.d_in, self.d_sae = d_in, d_sae

    @property
    def expansion(self) -> int | None:
        """The expansion factor e; None where there is none to speak of, as of raw coordinates."""
        return self.d_sae // self.d_in

    @abstractmethod
    def pre_activations(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens features"]:
        """Return what the features are selected by, which must be affine in x: ties may go by its mean over a clip."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float] | None = None) -> Codes:
        """Return the codes of x, no feature twice in a token; ``clamp`` sets features to values, at every token."""

    @abstractmethod
    def decode(self, codes: Codes) -> Float[Tensor, "tokens d_in"]:
        """Return x_hat, which is affine in the codes."""

    def encode_both(self, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float]) -> tuple[Codes, Codes]:
        """Return the codes of x as they are, and with features set."""
        return self.encode(x), self.encode(x, clamp)

    def forward(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
        """Return the reconstruction of x."""
        return self.decode(self.encode(x))

    def check_clamp(self, clamp: Mapping[int, float]) -> None:
        """Refuse values that its features cannot have; the features exist, and the values are finite.

        Raises:
            UserError: if there is one. By default no activation is negative.
        """
        for feature, value in clamp.items():
            if value < 0:
                raise UserError(
                    f"feature {feature} cannot be set to {value}: an SAE's activations are 0 or more. 0 turns it off"
                )

    @torch.no_grad()
    def directions(self) -> Float[Tensor, "features d_in"]:
        """Return what each feature adds to x_hat at an activation of 1."""
        weights = next((tensor for tensor in self.state_dict().values() if tensor.is_floating_point()), torch.ones(()))
        one, features = weights.new_ones(self.d_sae, 1), torch.arange(self.d_sae, device=weights.device)[:, None]
        return self.decode(Codes(one, features)) - self.decode(Codes(torch.zeros_like(one), features))
