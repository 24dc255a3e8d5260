"""The interface of namers, and the names that they return."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

Embed = Callable[[Sequence[str]], Tensor]  # phrases to unit vectors in the clips' space, see `ard.embedding.Clap.text`


class Name(NamedTuple):
    """A concept's name; None if none could be made."""

    name: str | None
    candidates: list[str]  # the texts it was chosen or made from, best first
    agreement: float  # share of the captions that contain it; NaN if the namer does not count
    reason: str | None = None  # why there is no name: a kind that can be counted, and details after a colon


class Namer(ABC):
    """Makes names from the captions of the features' most representative clips."""

    @abstractmethod
    def __call__(
        self, captions: Sequence[Sequence[str]], clips: Float[Tensor, "concepts p d"], embed: Embed
    ) -> list[Name]:
        """Name features, each from the captions and the embeddings of its H^k."""

    @property
    @abstractmethod
    def choices(self) -> Mapping[str, Any]:
        """How it names features, for the result file."""

    def check(self) -> None:  # noqa: B027
        """Fail before any other work if it is clear that no names can be made."""
