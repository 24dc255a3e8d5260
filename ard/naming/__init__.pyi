from .callback import NameConcepts
from .catalogue import read_names, read_phrases
from .chat import Chat, Reply
from .consensus import ConsensusNamer
from .endpoint import EndpointChat
from .labels import LabelNamer
from .llm import LLMNamer
from .local import TransformersChat
from .namer import Concepts, Name, Namer
from .prompts import CAPTION_PROMPT, NAME_PROMPT
from .vocabulary import VocabularyNamer, read_vocabulary

__all__ = [
    "CAPTION_PROMPT",
    "NAME_PROMPT",
    "Chat",
    "Concepts",
    "ConsensusNamer",
    "EndpointChat",
    "LLMNamer",
    "LabelNamer",
    "Name",
    "NameConcepts",
    "Namer",
    "Reply",
    "TransformersChat",
    "VocabularyNamer",
    "read_names",
    "read_phrases",
    "read_vocabulary",
]
