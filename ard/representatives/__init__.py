"""Stage 5: which clips stand for a feature most and least (Sec. 2.2, Eq. 2)."""

from ard.representatives.callback import RANDOM_ACTIVE, RetrieveRepresentatives, read_maxima, read_ties
from ard.representatives.functional import Ties
from ard.representatives.metric import (
    RandomActiveClips,
    RepresentativeClips,
    Representatives,
    Retrieved,
    Statistics,
)

__all__ = [
    "RANDOM_ACTIVE",
    "RandomActiveClips",
    "RepresentativeClips",
    "Representatives",
    "RetrieveRepresentatives",
    "Retrieved",
    "Statistics",
    "Ties",
    "read_maxima",
    "read_ties",
]
