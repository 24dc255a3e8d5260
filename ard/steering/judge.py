"""Judges of whether an answer states a class: exact words, or a language model."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

import torch
from torchmetrics.functional.classification import binary_cohen_kappa

from ard.naming import Chat
from ard.steering.task import Question
from ard.types import UserError

Verdict = bool | None
"""Whether an answer states the class; None where the judge's reply cannot be read."""

JUDGE_PROMPT = """\
A model listened to a recording and answered a question about it. Hold its answer against the reference.

[Question]
{question}

[Reference]
{reference}

[Answer]
{answer}

[Task]
Rate whether the answer says what the reference says. 1: it commits itself to the meaning of the reference, in whatever
words. 0: it says something else, leaves it open, names several possibilities, refuses, or cannot be understood.
Give your reason in one sentence. Then write a last line with nothing but the rating, in this form:
Rating: (0 or 1)"""
"""The protocol of AudioBench's binary judge, in our words."""

_RATING = re.compile(r"[*_ ]*rating[*_ ]*:[*_ ]*\(?([0-9])\)?[*_ .]*", re.IGNORECASE)


class ClassMatch:
    """Classify answers by exact words: an answer states a class if it has a word of that class and of no other.

    Args:
        classes: the classes, each its own word, or the words of each class.
    """

    def __init__(self, classes: Sequence[str] | Mapping[str, Sequence[str]]) -> None:
        words_of = classes if isinstance(classes, Mapping) else {name: [name] for name in classes}
        self.classes = {
            name: re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
            for name, words in words_of.items()
        }

    def __call__(self, answers: Sequence[str]) -> list[str | None]:
        """Return the class of each answer; None where it states none, or several."""
        return [self._judge(answer) for answer in answers]

    def _judge(self, answer: str) -> str | None:
        stated = [name for name, word in self.classes.items() if word.search(answer)]
        return stated[0] if len(stated) == 1 else None


class Judge(ABC):
    """Whatever decides whether answers to a question state a class."""

    @abstractmethod
    def __call__(self, question: Question, answers: Sequence[str], wanted: str) -> list[Verdict]:
        """Return the verdict on each answer."""

    @property
    @abstractmethod
    def choices(self) -> Mapping[str, Any]:
        """How it judges, for the result file."""

    def check(self) -> None:  # noqa: B027
        """Fail before any other work if it is already clear that there will be no verdicts."""


class ExactMatch(Judge):
    """Judge by :class:`ClassMatch`; an answer that states no class, or several, does not state this one."""

    def __call__(self, question: Question, answers: Sequence[str], wanted: str) -> list[Verdict]:
        """Return the verdict on each answer; all are readable."""
        return [stated == wanted for stated in ClassMatch(question.classes)(answers)]

    @property
    def choices(self) -> Mapping[str, Any]:
        """How it judges."""
        return {"judge": "exact match of the answer's class"}


class ChatJudge(Judge):
    """Judge by an instruction model (the paper's Llama-3-70B-Instruct), as AudioBench does: 1 or 0 for each answer.

    The reference is the class in its words. The chat keeps every verdict, so that none is asked for twice.

    Args:
        chat: the model.
        template: the prompt, with the fields ``{question}``, ``{reference}`` and ``{answer}``. It must ask for
            ``Rating: 0`` or ``Rating: 1`` as the last line; a reply without one, or with both, is unreadable.

    Raises:
        UserError: if the template has other fields, or lacks the reference or the answer.
    """

    def __init__(self, chat: Chat, template: str = JUDGE_PROMPT) -> None:
        self.chat, self.template = chat, template
        try:
            fields = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
        except ValueError as error:
            raise UserError(f"the judge's template cannot be read ({error}): write {{{{ and }}}} for braces") from error
        if not {"reference", "answer"} <= fields <= {"question", "reference", "answer"}:
            raise UserError(
                f"the judge's template has the fields {sorted(fields)}: it needs {{reference}} and {{answer}}, and may "
                "have {question}"
            )

    def __call__(self, question: Question, answers: Sequence[str], wanted: str) -> list[Verdict]:
        """Return the verdict on each answer."""
        fields = {"question": question.prompt, "reference": " or ".join(question.classes[wanted])}
        replies = self.chat([self.template.format(**fields, answer=answer) for answer in answers], "verdicts")
        return [None if reply.text is None else read_verdict(reply.text) for reply in replies]

    @property
    def choices(self) -> Mapping[str, Any]:
        """How it judges."""
        return {"judge": self.chat.model, "judge_prompt": self.template, **self.chat.parameters}

    def check(self) -> None:
        """Ask the model something, unless it was asked before."""
        self.chat.check()


def read_verdict(reply: str) -> Verdict:
    """Return the rating in a judge's last line, 0 or 1; None where :func:`read_rating` reads none."""
    rating = read_rating(reply, most=1)
    return None if rating is None else rating == 1


def read_rating(reply: str, most: int) -> int | None:
    r"""Return the rating, 0 to ``most``, in a reply's last line; None without one, or if another line rates otherwise.

    Example:
        >>> from ard.steering.judge import read_rating
        >>> read_rating("It is fluent.\nRating: 2", most=2)
        2
    """
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    matches = [match for match in map(_RATING.fullmatch, lines) if match and int(match[1]) <= most]
    ratings = {int(match[1]) for match in matches}
    return ratings.pop() if len(ratings) == 1 and matches[-1][0] == lines[-1] else None


def agreement(verdicts: Sequence[tuple[Verdict, Verdict]]) -> tuple[float, int]:
    """Return Cohen's kappa of two judges, over the answers that both could read, and the number of these.

    1 is full agreement, 0 is chance; NaN without such answers, or if both judges always give the same one verdict.
    """
    read = [(one, other) for one, other in verdicts if one is not None and other is not None]
    if not read:
        return float("nan"), 0
    one, other = torch.tensor(read, dtype=torch.int64).T
    return float(binary_cohen_kappa(one, other)), len(read)
