"""The one pass over clips: codes and clip scores once, handed to all evaluators; and what every evaluator is."""

from ard.probing.callback import InputNorms, KeepScores
from ard.probing.evaluator import STAMPS, Evaluator
from ard.probing.functional import SCORERS, ClipScores, clip_scores
from ard.probing.module import Encoding, Scored, score
from ard.probing.scores import SparseScores, read_scores

__all__ = [
    "SCORERS",
    "STAMPS",
    "ClipScores",
    "Encoding",
    "Evaluator",
    "InputNorms",
    "KeepScores",
    "Scored",
    "SparseScores",
    "clip_scores",
    "read_scores",
    "score",
]
