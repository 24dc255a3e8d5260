from .planner import Plan, StagePlan, plan
from .render import render_plan

__all__ = ["Plan", "StagePlan", "plan", "render_plan"]
