from .callback import MeasureSteering
from .compare import Change, compare_answers, direction_added, features_set
from .directions import read_direction
from .effects import Asked, Effects, LayerEffect, effect_by_layer, measure_directions, measure_effects
from .features import features_by_name
from .interview import Condition, Interview, Procedure
from .judge import JUDGE_PROMPT, ChatJudge, ClassMatch, ExactMatch, Judge
from .roles import Role, alone, find_roles, read_roles, save_roles
from .steer import Phase, Where, clamp_values, steer
from .task import Question, SteeringTask
from .trials import Design

__all__ = [
    "JUDGE_PROMPT",
    "Asked",
    "Change",
    "ChatJudge",
    "ClassMatch",
    "Condition",
    "Design",
    "Effects",
    "ExactMatch",
    "Interview",
    "Judge",
    "LayerEffect",
    "MeasureSteering",
    "Phase",
    "Procedure",
    "Question",
    "Role",
    "SteeringTask",
    "Where",
    "alone",
    "clamp_values",
    "compare_answers",
    "direction_added",
    "effect_by_layer",
    "features_by_name",
    "features_set",
    "find_roles",
    "measure_directions",
    "measure_effects",
    "read_direction",
    "read_roles",
    "save_roles",
    "steer",
]
