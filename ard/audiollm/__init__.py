"""Stage 2: an AudioLLM: load it, find its layers, capture several of them in one pass, intervene, generate."""

from ard.audiollm.audiollm import AudioLLM, Positions, load_audiollm
from ard.audiollm.generation import keep_plain_options
from ard.audiollm.hooks import replace_output, stop_after
from ard.audiollm.precision import widen_on_cpu
from ard.audiollm.prompter import EMBEDDED, AudioPrompter, AudioPrompts, load_prompter

__all__ = [
    "EMBEDDED",
    "AudioLLM",
    "AudioPrompter",
    "AudioPrompts",
    "Positions",
    "keep_plain_options",
    "load_audiollm",
    "load_prompter",
    "replace_output",
    "stop_after",
    "widen_on_cpu",
]
