"""A column of Table 3: which answers to which question are to become which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ard.types import Clip, UserError


class Question(NamedTuple):
    """What is asked about a clip, and by which words each class of answers is known."""

    prompt: str
    classes: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class SteeringTask:
    """One column of Table 3: answers of class ``source`` are to become ``target``.

    Args:
        source: class of the answers that are to change.
        target: class that they are to have.
        prompt: the question.
        classes: the classes of its answers. In a mapping, the words of each: ``{happy: [happiness, happy, excited]}``
            takes excited speakers for happy ones, in answers and in the truth alike.
        concept: words by which the features that stand for the target are found among the names.
        source_concept: the same for the source; without them the reverse direction is left out.
        audio: audio shards of the clips that it is asked about, if not those of the callback.

    Raises:
        UserError: if source or target is none of the classes.
    """

    source: str
    target: str
    prompt: str
    classes: list[str] | dict[str, list[str]]
    concept: str
    source_concept: str | None = None
    audio: str | None = None

    def __post_init__(self) -> None:
        """Refuse classes that no answer can have."""
        for name in (self.source, self.target):
            if name not in self.classes:
                raise UserError(
                    f"{name!r} of the task {self.name!r} is none of its classes {list(self.classes)}: add it to them"
                )

    @property
    def name(self) -> str:
        """Such as ``sad to happy``."""
        return f"{self.source} to {self.target}"

    @property
    def question(self) -> Question:
        """The question with the words of its classes, which are the classes themselves where no others are given."""
        given = self.classes if isinstance(self.classes, dict) else {name: [name] for name in self.classes}
        return Question(self.prompt, given)

    @property
    def reverse(self) -> "SteeringTask | None":
        """The way back; None where it is not known by which words to find the source's features."""
        if self.source_concept is None:
            return None
        back = replace(self, source=self.target, target=self.source)
        return replace(back, concept=self.source_concept, source_concept=self.concept)

    def truth(self, clip: Clip) -> str | None:
        """Return the class that a clip's own emotion or gender is of; None where none of its words is."""
        known = {word.casefold() for word in (clip.emotion, clip.gender) if word}
        classes = self.question.classes.items()
        return next((name for name, words in classes if known & {w.casefold() for w in (name, *words)}), None)
