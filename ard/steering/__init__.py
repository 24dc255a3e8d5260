"""Stage 9b: features against behaviour (Sec. 4, Table 3)."""

from ard.steering.callback import MeasureSteering
from ard.steering.compare import compare_answers
from ard.steering.experiment import Design
from ard.steering.features import features_by_name
from ard.steering.interview import Condition, Interview, Procedure
from ard.steering.judge import JUDGE_PROMPT, ChatJudge, ClassMatch, ExactMatch, Judge
from ard.steering.steer import Phase, Where, clamp_values, steer
from ard.steering.task import Question, SteeringTask

__all__ = [
    "JUDGE_PROMPT",
    "ChatJudge",
    "ClassMatch",
    "Condition",
    "Design",
    "ExactMatch",
    "Interview",
    "Judge",
    "MeasureSteering",
    "Phase",
    "Procedure",
    "Question",
    "SteeringTask",
    "Where",
    "clamp_values",
    "compare_answers",
    "features_by_name",
    "steer",
]
