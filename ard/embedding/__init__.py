"""Stage 6: clips and texts in one space, by CLAP."""

from ard.embedding.base import Clap
from ard.embedding.clap import EMBEDDED, load_clap
from ard.embedding.store import embed_clips

__all__ = ["EMBEDDED", "Clap", "embed_clips", "load_clap"]
