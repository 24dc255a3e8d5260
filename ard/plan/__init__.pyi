from .machine import Machine
from .planner import plan, planned
from .render import render_plan
from .stages import Change, Plan, StagePlan

__all__ = ["Change", "Machine", "Plan", "StagePlan", "plan", "planned", "render_plan"]
