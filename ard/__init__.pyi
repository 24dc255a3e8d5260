from . import (
    activations,
    audio,
    audiollm,
    embedding,
    evaluation,
    monosemanticity,
    naming,
    probing,
    reports,
    representatives,
    sae,
    steering,
    study,
)
from .audio import read_clip
from .audiollm import AudioLLM, load_audiollm
from .embedding import load_clap
from .run import Run
from .sae import TopKSAE
from .steering import steer
from .types import Clip, UserError

__all__ = [
    "AudioLLM",
    "Clip",
    "Run",
    "TopKSAE",
    "UserError",
    "activations",
    "audio",
    "audiollm",
    "embedding",
    "evaluation",
    "load_audiollm",
    "load_clap",
    "monosemanticity",
    "naming",
    "probing",
    "read_clip",
    "reports",
    "representatives",
    "sae",
    "steer",
    "steering",
    "study",
]

__version__: str
