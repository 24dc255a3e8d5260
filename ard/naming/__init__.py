"""Stage 8: captions of a feature's most representative clips, and the concept's name from them (Sec. 2.3)."""

from ard.naming.callback import NameConcepts
from ard.naming.captions import CAPTION_PROMPT
from ard.naming.catalogue import read_names
from ard.naming.chat import Chat, Reply
from ard.naming.consensus import ConsensusNamer
from ard.naming.endpoint import EndpointChat
from ard.naming.llm import NAME_PROMPT, LLMNamer
from ard.naming.local import TransformersChat
from ard.naming.namer import Name, Namer

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
