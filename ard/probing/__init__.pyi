from .callback import InputNorms, KeepScores, MeasureReconstruction
from .control import draw_control
from .evaluator import STAMPS, Evaluator, numbered
from .functional import SCORERS, ClipScores, clip_scores
from .module import Encoding, Scored, score
from .scores import SparseScores, read_scores

__all__ = [
    "SCORERS",
    "STAMPS",
    "ClipScores",
    "Encoding",
    "Evaluator",
    "InputNorms",
    "KeepScores",
    "MeasureReconstruction",
    "Scored",
    "SparseScores",
    "clip_scores",
    "draw_control",
    "numbered",
    "read_scores",
    "score",
]
