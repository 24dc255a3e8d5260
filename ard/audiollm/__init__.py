"""Stage 2: an AudioLLM: load it, find its decoder layers, capture several of them in one pass, generate."""

from ard.audiollm.audiollm import EMBEDDED, AudioLLM, AudioPrompts, load_audiollm
from ard.audiollm.hooks import replace_output, stop_after

__all__ = ["EMBEDDED", "AudioLLM", "AudioPrompts", "load_audiollm", "replace_output", "stop_after"]
