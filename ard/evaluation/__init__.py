"""Stage 9a: named concepts against the labels of clips that nothing was trained on (Sec. 4, Table 1)."""

from ard.evaluation.bertscore import BERTScore
from ard.evaluation.compare import CompareNames, StateLabels
from ard.evaluation.detect import DetectConcepts
from ard.evaluation.find import FindLabels
from ard.evaluation.functional import auroc, label_text, paired_auroc, shared_label, stated_labels
from ard.evaluation.loss import LossRecovered
from ard.evaluation.match import MatchLabels
from ard.evaluation.matching import AveragePrecision, MatchReading, average_precision, match
from ard.evaluation.metric import ConceptAveragePrecision, ConceptMatching
from ard.evaluation.seeds import compare_seeds

__all__ = [
    "AveragePrecision",
    "BERTScore",
    "CompareNames",
    "ConceptAveragePrecision",
    "ConceptMatching",
    "DetectConcepts",
    "FindLabels",
    "LossRecovered",
    "MatchLabels",
    "MatchReading",
    "StateLabels",
    "auroc",
    "average_precision",
    "compare_seeds",
    "label_text",
    "match",
    "paired_auroc",
    "shared_label",
    "stated_labels",
]
