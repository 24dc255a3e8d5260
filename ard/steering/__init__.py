"""Stage 9b: features against behaviour (Sec. 4, Table 3)."""

from ard.steering.callback import MeasureSteering, SteeringTask
from ard.steering.judge import ClassMatch, Judge
from ard.steering.steer import steer

__all__ = ["ClassMatch", "Judge", "MeasureSteering", "SteeringTask", "steer"]
