from .agenda import Agenda, Part, check_steps, is_begun, reopened
from .chain import Chain, claim_run, newest_whole

__all__ = ["Agenda", "Chain", "Part", "check_steps", "claim_run", "is_begun", "newest_whole", "reopened"]
