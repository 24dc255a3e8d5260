"""Names made by an instruction model, with the paper's prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

from ard.naming.chat import Chat, Reply
from ard.naming.cleaning import clean_name
from ard.naming.namer import Concepts, Name, Namer
from ard.naming.prompts import NAME_PROMPT


class LLMNamer(Namer):
    """Name a feature by what a language model finds common to its captions (the paper's Llama-3-70B-Instruct).

    Args:
        chat: the language model.
        instruction: text after the paper's prompt and the captions. If empty, only the paper's words are used;
            models answer these in whole sentences, which are then cut down to a phrase as far as possible.
    """

    needs = ("captions",)

    def __init__(self, chat: Chat, instruction: str = "Answer with one short phrase.") -> None:
        self.chat, self.instruction = chat, instruction

    def __call__(self, concepts: Concepts) -> list[Name]:
        """Name every feature.

        Raises:
            UserError: if the model answers no prompt at all.
        """
        replies = self.chat([self._prompt(of_feature) for of_feature in concepts.captions], "names")
        if replies and all(reply.text is None for reply in replies):
            raise self.chat.unanswered(f"names none of {len(replies)} concepts ({replies[0].reason})")
        return [_name(reply) for reply in replies]

    @property
    def choices(self) -> Mapping[str, Any]:
        """How it names features."""
        prompt = {"prompt": NAME_PROMPT, "instruction": self.instruction}
        return {"namer": self.chat.model, **prompt, **self.chat.parameters}

    def check(self) -> None:
        """Check that the model can be used."""
        self.chat.check()

    def _prompt(self, captions: Sequence[str]) -> str:
        listed = "\n".join(f"{number}. {' '.join(caption.split())}" for number, caption in enumerate(captions, 1))
        return f"{NAME_PROMPT}:\n{listed}\n\n{self.instruction}".strip()


def _name(reply: Reply) -> Name:
    if reply.text is None:
        return Name(None, [], float("nan"), reply.reason)
    name = clean_name(reply.text)
    return Name(name, [reply.text], float("nan"), None if name else "the answer names nothing")
