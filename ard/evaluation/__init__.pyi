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
from .loss import LossRecovered
from .match import MatchLabels
from .matching import AveragePrecision, MatchReading, average_precision
from .metric import ConceptAveragePrecision, ConceptMatching
from .seeds import compare_seeds
from .steered import measure_steering_differences, pool_steering
from .timelines import KeepTimelines

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
    "KeepTimelines",
    "LossRecovered",
    "MatchLabels",
    "MatchReading",
    "ProbeLabels",
    "StateLabels",
    "auroc",
    "average_precision",
    "compare_seeds",
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
