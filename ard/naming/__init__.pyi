from .callback import NameConcepts
from .captions import CAPTION_PROMPT
from .catalogue import CONCEPTS, read_names
from .chat import Chat
from .consensus import ConsensusNamer
from .endpoint import EndpointChat
from .llm import NAME_PROMPT, LLMNamer
from .local import TransformersChat
from .namer import Name, Namer

__all__ = [
    "CAPTION_PROMPT",
    "CONCEPTS",
    "NAME_PROMPT",
    "Chat",
    "ConsensusNamer",
    "EndpointChat",
    "LLMNamer",
    "Name",
    "NameConcepts",
    "Namer",
    "TransformersChat",
    "read_names",
]
