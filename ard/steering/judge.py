"""What class an answer states."""

import re
from collections.abc import Sequence
from typing import Protocol


class Judge(Protocol):
    """Whatever tells which of the classes an answer states."""

    def __call__(self, answers: Sequence[str]) -> list[str | None]:
        """Return the class of each answer; None where it states none, or several."""
        ...


class ClassMatch:
    """Judge by exact words: an answer states a class if it has that word and no other class's.

    It stands in for the paper's Llama-3-70B-Instruct.

    Args:
        classes: the words.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = {name: re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE) for name in classes}

    def __call__(self, answers: Sequence[str]) -> list[str | None]:
        """Return the class of each answer; None where it states none, or several."""
        return [self._judge(answer) for answer in answers]

    def _judge(self, answer: str) -> str | None:
        stated = [name for name, word in self.classes.items() if word.search(answer)]
        return stated[0] if len(stated) == 1 else None
