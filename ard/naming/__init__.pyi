from .callback import NameConcepts
from .catalogue import read_names
from .chat import Chat, Reply
from .consensus import ConsensusNamer
from .endpoint import EndpointChat
from .llm import LLMNamer
from .local import TransformersChat
from .namer import Name, Namer
from .prompts import CAPTION_PROMPT, NAME_PROMPT

__all__ = [
    "CAPTION_PROMPT",
    "NAME_PROMPT",
    "Chat",
    "ConsensusNamer",
    "EndpointChat",
    "LLMNamer",
    "Name",
    "NameConcepts",
    "Namer",
    "Reply",
    "TransformersChat",
    "read_names",
]
