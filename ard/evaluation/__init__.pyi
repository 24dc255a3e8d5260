from .absorption import ProbeLabels
from .bertscore import BERTScore
from .check import CheckNames
from .compare import CompareNames, StateLabels
from .detect import DetectConcepts
from .find import FindLabels
from .functional import (
    Difference,
    auroc,
    label_text,
    over_draws,
    paired_auroc,
    paired_difference,
    shared_label,
    stated_labels,
    unseen_support,
)
from .gain import measure_gain
from .hear import HearOrRead
from .hearing import audio_wins, hearing_index
from .loss import LossRecovered
from .match import MatchLabels
from .matching import AveragePrecision, MatchReading, average_precision
from .metric import ConceptAveragePrecision, ConceptMatching
from .seeds import compare_seeds
from .steered import measure_steering_differences, pool_steering
from .timelines import KeepTimelines
from .when import TimeConcepts

__all__ = [
    "AveragePrecision",
    "BERTScore",
    "CheckNames",
    "CompareNames",
    "ConceptAveragePrecision",
    "ConceptMatching",
    "DetectConcepts",
    "Difference",
    "FindLabels",
    "HearOrRead",
    "KeepTimelines",
    "LossRecovered",
    "MatchLabels",
    "MatchReading",
    "ProbeLabels",
    "StateLabels",
    "TimeConcepts",
    "audio_wins",
    "auroc",
    "average_precision",
    "compare_seeds",
    "hearing_index",
    "label_text",
    "measure_gain",
    "measure_steering_differences",
    "over_draws",
    "paired_auroc",
    "paired_difference",
    "pool_steering",
    "shared_label",
    "stated_labels",
    "unseen_support",
]
