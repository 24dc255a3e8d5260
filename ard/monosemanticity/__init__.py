"""Stage 7: how monosemantic a feature is (Sec. 2.3, Eq. 3 and 4), and the top-C."""

from ard.monosemanticity.callback import ScoreMonosemanticity, Selection, read_selections
from ard.monosemanticity.functional import Reading, monosemanticity, score_lists
from ard.monosemanticity.metric import WeightedMonosemanticity

__all__ = [
    "Reading",
    "ScoreMonosemanticity",
    "Selection",
    "WeightedMonosemanticity",
    "monosemanticity",
    "read_selections",
    "score_lists",
]
