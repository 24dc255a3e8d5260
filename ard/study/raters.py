"""Language models as raters, which are kept apart from people everywhere."""

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from ard.naming import Chat
from ard.study.store import HIGHEST, LONGEST, Answer, Concept, Store

CAPTIONS = "These are captions of audio clips that have something in common:\n{captions}\n\n"
LABEL_PROMPT = (
    CAPTIONS
    + "Say in at most six words what the sounds have in common. Answer with these words alone, or with the one "
    "word CANNOT if the captions do not tell."
)
RATING_PROMPT = (
    CAPTIONS + "Someone said that the sounds have this in common: {name}\n\nHow well does that describe what the clips "
    "have in common, from 0 (not at all) to {highest} (completely)? Answer with one digit, or with the one word "
    "CANNOT if the captions do not tell."
)

DIGIT = re.compile(rf"""(?i)[\s*"'(]*(?:rating[\s*:=]*)?([0-{HIGHEST}])(?:\s*/\s*{HIGHEST})?[\s*"').]*""")


class Judgement(NamedTuple):
    """What a rater says of one concept; ``unanswered`` is ``cannot tell`` or ``unreadable`` where that is not all."""

    label: str | None = None
    rating: int | None = None
    unanswered: str | None = None


@runtime_checkable
class Rater(Protocol):
    """Whatever labels and rates concepts and is not a person.

    Attributes:
        name: what it is called in the tables.
    """

    name: str

    def __call__(self, concepts: Sequence[Concept]) -> list[Judgement]:
        """Label and rate every concept; what was not understood is no rating."""
        ...


class ChatRater:
    """A language model that does not hear: it is given the captions of the clips, as the namer was.

    It labels before it is asked about the name, and in another conversation. An answer that is no digit from 0 to 5 is
    counted as unreadable, and so is a missing one.

    Args:
        chat: the language model.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat, self.name = chat, chat.model

    def __call__(self, concepts: Sequence[Concept]) -> list[Judgement]:
        """Ask for labels, then for ratings."""
        captions = [
            "\n".join(f"{n}. {' '.join(said.split())}" for n, said in enumerate(filter(None, c.captions), 1))
            for c in concepts
        ]
        labels = self.chat([LABEL_PROMPT.format(captions=said) for said in captions], "labels")
        ratings = self.chat(
            [
                RATING_PROMPT.format(captions=said, name=concept.name, highest=HIGHEST)
                for said, concept in zip(captions, concepts, strict=True)
            ],
            "ratings",
        )
        return [_judgement(label.text, rating.text) for label, rating in zip(labels, ratings, strict=True)]


def rate_study(store: Store, rater: Rater) -> list[Judgement]:
    """Have a rater judge every concept of a study, and keep what it said."""
    judged = rater(store.concepts)
    answers = []
    for concept, (label, rating, unanswered) in zip(store.concepts, judged, strict=True):
        given = rating if label is not None else None
        answers.append(Answer(rater.name, "llm", concept.key, label, None, given, None, given, unanswered=unanswered))
    store.put(answers)
    return judged


def _judgement(label: str | None, rating: str | None) -> Judgement:
    said = " ".join((label or "").split()).strip(" \"'.*")
    said = "".join(character for character in said if character.isprintable())
    found = (rating or "").strip()
    if any(re.fullmatch(r"\W*cannot\W*", answer, re.IGNORECASE) for answer in (said, found)):
        return Judgement(unanswered="cannot tell")
    digit = DIGIT.fullmatch(found)
    if not digit or not said or len(said) > LONGEST:
        return Judgement(unanswered="unreadable")
    return Judgement(said, int(digit[1]))
