"""Stage 9b: features against behaviour (Sec. 4, Table 3)."""

from ard.steering.callback import MeasureSteering
from ard.steering.experiment import Design
from ard.steering.features import features_by_name
from ard.steering.interview import Condition, Interview, Procedure
from ard.steering.judge import JUDGE_PROMPT, ChatJudge, ClassMatch, ExactMatch, Judge
from ard.steering.steer import steer
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
    "Procedure",
    "Question",
    "SteeringTask",
    "features_by_name",
    "steer",
]
