"""Stage 2: an AudioLLM: load it, find its decoder layers, capture several of them in one pass, generate."""

from ard.audiollm.audiollm import EMBEDDED, AudioLLM, AudioPrompter, AudioPrompts, load_audiollm, load_prompter
from ard.audiollm.hooks import replace_output, stop_after

__all__ = [
    "EMBEDDED",
    "AudioLLM",
    "AudioPrompter",
    "AudioPrompts",
    "load_audiollm",
    "load_prompter",
    "replace_output",
    "stop_after",
]
