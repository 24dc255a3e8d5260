"""What makes names, and what a name is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

Embed = Callable[[Sequence[str]], Tensor]  # phrases to unit vectors among the clips, as `ard.embedding.Clap.text`


class Name(NamedTuple):
    """A concept's name; None where none could be made."""

    name: str | None
    candidates: list[str]  # what it was chosen or made from, best first
    agreement: float  # share of the captions that contain it; NaN where the namer does not count it
    reason: str | None = None  # why there is none: a kind that can be counted, and details after a colon


class Namer(ABC):
    """Whatever makes names from the captions of the features' most representative clips."""

    @abstractmethod
    def __call__(
        self, captions: Sequence[Sequence[str]], clips: Float[Tensor, "concepts p d"], embed: Embed
    ) -> list[Name]:
        """Name features, each from the captions and the embeddings of its H^k."""

    @property
    @abstractmethod
    def choices(self) -> Mapping[str, Any]:
        """How it names, for the result file."""

    def check(self) -> None:  # noqa: B027
        """Fail before any other work, where it can be told that names will not be had."""
