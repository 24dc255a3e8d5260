from .callback import RANDOM_ACTIVE, RetrieveRepresentatives, read_maxima, read_ties
from .functional import Ties
from .metric import (
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
