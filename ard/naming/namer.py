"""The interface of namers: what they see, and the names that they return."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Embed = Callable[[Sequence[str]], Tensor]  # phrases to unit vectors in the clips' space, see `ard.embedding.Clap.text`
Need = Literal["captions", "embeddings", "labels"]


class Concepts(NamedTuple):
    """The concepts to be named, and what their namer needs to know of the clips; the rest is left empty."""

    top_ids: Int[Tensor, "concepts p"]  # the clips of each H^k by their rows in the probing set, best first
    captions: Sequence[Sequence[str]] = ()  # of the clips of each H^k; a clip without a caption is left out
    embeddings: Float[Tensor, "clips d"] = torch.empty(0, 0)  # of all clips of the probing set: unit vectors
    embed: Embed | None = None  # embeds phrases in the same space
    labels: Sequence[Sequence[str]] = ()  # of all clips of the probing set; none for a clip without labels

    @property
    def clips(self) -> Float[Tensor, "concepts p d"]:
        """The embeddings of the clips of every H^k."""
        return self.embeddings[self.top_ids]


class Name(NamedTuple):
    """A concept's name; None if none could be made."""

    name: str | None
    candidates: list[str]  # the texts it was chosen or made from, best first
    agreement: float  # share of the captions that contain it; NaN if the namer does not count
    reason: str | None = None  # why there is no name: a kind that can be counted, and details after a colon
    phrases: Sequence[str] = ()  # those that the name joins, if it is made of several
    support: Sequence[str] = ()  # what supports each phrase of the name, in words

    @classmethod
    def joined(cls, phrases: Sequence[str], support: Sequence[str], candidates: list[str]) -> "Name":
        """Return the name that joins some phrases."""
        return cls(" and ".join(phrases), candidates, math.nan, None, phrases, support)


class Namer(ABC):
    """Makes names of concepts.

    Attributes:
        needs: what it needs to know of the clips: their ``captions`` (those of each H^k; concepts without a caption
            are then left out), their ``embeddings`` (and what embeds phrases in the same space), or their ``labels``.
        made_from: what its names are made from, in a few words.
    """

    needs: ClassVar[Sequence[Need]] = ("captions", "embeddings")

    @abstractmethod
    def __call__(self, concepts: Concepts) -> list[Name]:
        """Name every concept."""

    @property
    @abstractmethod
    def choices(self) -> Mapping[str, Any]:
        """How it names concepts, for the result file."""

    @property
    def made_from(self) -> str:
        """What names are made from."""
        return "captions"

    def check(self) -> None:  # noqa: B027
        """Fail before any other work if it is clear that no names can be made."""
