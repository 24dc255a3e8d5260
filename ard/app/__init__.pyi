from .clips import Clips
from .jobs import Jobs, Stopped
from .listen import Fired, Heard, hear, listen
from .steer import Asked, answer, read_asked
from .subject import Subject

__all__ = [
    "Asked",
    "Clips",
    "Fired",
    "Heard",
    "Jobs",
    "Stopped",
    "Subject",
    "answer",
    "hear",
    "listen",
    "read_asked",
]
