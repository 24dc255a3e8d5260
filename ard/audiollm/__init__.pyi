from .audiollm import AudioLLM, Positions
from .generation import keep_plain_options
from .hooks import replace_output, stop_after
from .loading import load_audiollm
from .precision import usable_device, widen_on_cpu
from .prompter import EMBEDDED, AudioPrompter, AudioPrompts, Tokens, load_prompter, only_hears, where

__all__ = [
    "EMBEDDED",
    "AudioLLM",
    "AudioPrompter",
    "AudioPrompts",
    "Positions",
    "Tokens",
    "keep_plain_options",
    "load_audiollm",
    "load_prompter",
    "only_hears",
    "replace_output",
    "stop_after",
    "usable_device",
    "where",
    "widen_on_cpu",
]
