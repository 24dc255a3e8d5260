from .callback import ScoreMonosemanticity, Selection, read_selections
from .functional import Reading, monosemanticity, score_lists
from .metric import WeightedMonosemanticity

__all__ = [
    "Reading",
    "ScoreMonosemanticity",
    "Selection",
    "WeightedMonosemanticity",
    "monosemanticity",
    "read_selections",
    "score_lists",
]
