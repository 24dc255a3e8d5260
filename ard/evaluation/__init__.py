"""Stage 9a: named concepts against the labels of clips that nothing was trained on (Sec. 4, Table 1)."""

from ard.evaluation.bertscore import BERTScore
from ard.evaluation.callback import FindLabels, MatchLabels
from ard.evaluation.detection import DetectConcepts
from ard.evaluation.functional import (
    AveragePrecision,
    auroc,
    average_precision,
    hungarian,
    paired_auroc,
    precision_recall_f1_map,
    shared_label,
    stated_labels,
)
from ard.evaluation.metric import ConceptMatching
from ard.evaluation.names import CompareNames

__all__ = [
    "AveragePrecision",
    "BERTScore",
    "CompareNames",
    "ConceptMatching",
    "DetectConcepts",
    "FindLabels",
    "MatchLabels",
    "auroc",
    "average_precision",
    "hungarian",
    "paired_auroc",
    "precision_recall_f1_map",
    "shared_label",
    "stated_labels",
]
