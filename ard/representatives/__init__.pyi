from .callback import RANDOM_ACTIVE, RetrieveRepresentatives, read_maxima, read_ties
from .functional import Ties
from .metric import (
    HALVES,
    Half,
    RandomActiveClips,
    RepresentativeClips,
    Representatives,
    Retrieved,
    Statistics,
)

__all__ = [
    "HALVES",
    "RANDOM_ACTIVE",
    "Half",
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
