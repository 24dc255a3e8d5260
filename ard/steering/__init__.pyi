from .callback import MeasureSteering
from .compare import compare_answers
from .features import features_by_name
from .interview import Condition, Interview, Procedure
from .judge import JUDGE_PROMPT, ChatJudge, ClassMatch, ExactMatch, Judge
from .steer import Phase, Where, clamp_values, steer
from .task import Question, SteeringTask
from .trials import Design

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
