"""A column of Table 3: a question, and which of its answers should become which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ard.types import Clip, UserError


class Question(NamedTuple):
    """What is asked about a clip, and the words that mark each class of answers."""

    prompt: str
    classes: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class SteeringTask:
    """One column of Table 3: answers of class ``source`` should become ``target``.

    Args:
        source: class of the answers that should change.
        target: class that they should change to.
        prompt: the question.
        classes: the classes of its answers, or a mapping to their words: ``{happy: [happiness, happy, excited]}``
            takes excited speakers for happy ones, both in answers and in the ground truth.
        concept: words to look for the target's features by, among the names.
        source_concept: the same for the source; without it the reverse direction is left out.
        audio: audio shards of the task's clips, if not those of the callback.

    Raises:
        UserError: if source or target is not one of the classes.
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
                    f"{name!r} of the task {self.name!r} is not one of its classes {list(self.classes)}: add it to them"
                )

    @property
    def name(self) -> str:
        """A name such as ``sad to happy``."""
        return f"{self.source} to {self.target}"

    @property
    def question(self) -> Question:
        """The question with the words of its classes; without a mapping, each class is its own word."""
        words_of = self.classes if isinstance(self.classes, dict) else {name: [name] for name in self.classes}
        return Question(self.prompt, words_of)

    @property
    def reverse(self) -> "SteeringTask | None":
        """The task from target to source; None without words to look for the source's features by."""
        if self.source_concept is None:
            return None
        back = replace(self, source=self.target, target=self.source)
        return replace(back, concept=self.source_concept, source_concept=self.concept)

    def truth(self, clip: Clip) -> str | None:
        """Return the class of a clip's own emotion or gender; None if no class has it among its words."""
        own = {word.casefold() for word in (clip.emotion, clip.gender) if word}
        classes = self.question.classes.items()
        return next((name for name, words in classes if own & {w.casefold() for w in (name, *words)}), None)
