from .base import Clap
from .clap import EMBEDDED, load_clap
from .store import embed_clips

__all__ = ["EMBEDDED", "Clap", "embed_clips", "load_clap"]
