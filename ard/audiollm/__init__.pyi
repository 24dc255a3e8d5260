from .audiollm import AudioLLM, Positions, load_audiollm
from .hooks import replace_output, stop_after
from .prompter import EMBEDDED, AudioPrompter, AudioPrompts, load_prompter

__all__ = [
    "EMBEDDED",
    "AudioLLM",
    "AudioPrompter",
    "AudioPrompts",
    "Positions",
    "load_audiollm",
    "load_prompter",
    "replace_output",
    "stop_after",
]
