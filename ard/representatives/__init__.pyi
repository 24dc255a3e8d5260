from .callback import RANDOM_ACTIVE, RetrieveRepresentatives, read_maxima, read_ties
from .functional import SCORERS, Ties, clip_scores
from .metric import (
    RandomActiveClips,
    RepresentativeClips,
    Representatives,
    Retrieved,
    Statistics,
)

__all__ = [
    "RANDOM_ACTIVE",
    "SCORERS",
    "RandomActiveClips",
    "RepresentativeClips",
    "Representatives",
    "RetrieveRepresentatives",
    "Retrieved",
    "Statistics",
    "Ties",
    "clip_scores",
    "read_maxima",
    "read_ties",
]
