"""Stage 8: captions of a feature's most representative clips, and the concept's name from them (Sec. 2.3)."""

from ard.naming.callback import CAPTION_PROMPT, NameConcepts, read_names
from ard.naming.chat import Chat, EndpointChat, TransformersChat
from ard.naming.consensus import ConsensusNamer, Name, Namer

__all__ = [
    "CAPTION_PROMPT",
    "Chat",
    "ConsensusNamer",
    "EndpointChat",
    "Name",
    "NameConcepts",
    "Namer",
    "TransformersChat",
    "read_names",
]
