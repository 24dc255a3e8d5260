"""Language models as raters; they are kept apart from people everywhere."""

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from ard.naming import Chat
from ard.study.store import HIGHEST, LONGEST, Answer, Concept, Store
from ard.types import UserError

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
    """A rater's label and rating of one concept; ``unanswered`` is why there are none: cannot tell, or unreadable."""

    label: str | None = None
    rating: int | None = None
    unanswered: str | None = None


@runtime_checkable
class Rater(Protocol):
    """Whatever labels and rates concepts, other than a person.

    Attributes:
        name: its name in the tables.
    """

    name: str

    def __call__(self, concepts: Sequence[Concept]) -> list[Judgement]:
        """Label and rate every concept; an answer that was not understood is not a rating."""
        ...


class ChatRater:
    """A language model that does not hear: it is given the captions of the clips, as the namer was.

    It labels a concept before it is asked about the name, in a separate conversation. An answer that is missing, or is
    not a digit from 0 to 5, counts as unreadable.

    Args:
        chat: the language model.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat, self.name = chat, chat.model

    def __call__(self, concepts: Sequence[Concept]) -> list[Judgement]:
        """Ask for labels, then for ratings.

        Raises:
            UserError: if a concept has no captions.
        """
        silent = [concept.name for concept in concepts if not any(concept.captions)]
        if silent:
            raise UserError(
                f"{len(silent)} concepts of the study have no captions ({silent[0]!r}), and a language model hears "
                "nothing else: name them from captions, or have people rate them"
            )
        listings = [
            "\n".join(f"{n}. {' '.join(caption.split())}" for n, caption in enumerate(filter(None, c.captions), 1))
            for c in concepts
        ]
        labels = self.chat([LABEL_PROMPT.format(captions=listing) for listing in listings], "labels")
        ratings = self.chat(
            [
                RATING_PROMPT.format(captions=listing, name=concept.name, highest=HIGHEST)
                for listing, concept in zip(listings, concepts, strict=True)
            ],
            "ratings",
        )
        return [_judgement(label.text, rating.text) for label, rating in zip(labels, ratings, strict=True)]


def rate_study(store: Store, rater: Rater) -> list[Judgement]:
    """Have a rater judge every concept of a study, and save its answers."""
    judgements = rater(store.concepts)
    answers = []
    for concept, (label, rating, unanswered) in zip(store.concepts, judgements, strict=True):
        score = rating if label is not None else None
        answers.append(Answer(rater.name, "llm", concept.key, label, None, score, None, score, unanswered=unanswered))
    store.put(answers)
    return judgements


def _judgement(label: str | None, rating: str | None) -> Judgement:
    words = " ".join((label or "").split()).strip(" \"'.*")
    words = "".join(character for character in words if character.isprintable())
    reply = (rating or "").strip()
    if any(re.fullmatch(r"\W*cannot\W*", answer, re.IGNORECASE) for answer in (words, reply)):
        return Judgement(unanswered="cannot tell")
    digit = DIGIT.fullmatch(reply)
    if not digit or not words or len(words) > LONGEST:
        return Judgement(unanswered="unreadable")
    return Judgement(words, int(digit[1]))
