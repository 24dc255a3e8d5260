"""Stage 9b: features against behaviour (Sec. 4, Table 3)."""

from ard.steering.callback import MeasureSteering, SteeringTask
from ard.steering.compare import compare_answers
from ard.steering.judge import ClassMatch, Judge
from ard.steering.steer import Phase, Where, clamp_values, steer

__all__ = [
    "ClassMatch",
    "Judge",
    "MeasureSteering",
    "Phase",
    "SteeringTask",
    "Where",
    "clamp_values",
    "compare_answers",
    "steer",
]
