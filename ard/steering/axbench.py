"""AxBench's three scores of steered answers, 0 to 2 each: by a language model, or by rules that are named as such."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ard.naming import Chat
from ard.results import Figure
from ard.steering.judge import ChatJudge, ClassMatch, Judge, read_rating
from ard.steering.task import SteeringTask

CONCEPT_PROMPT = """\
A model listened to a recording and answered a question about it. You see only its answer.

[Concept]
{concept}

[Answer]
{answer}

[Task]
Rate how clearly the answer conveys the concept, in whatever words and however well it is written. 2: it clearly does.
1: it does in part, or names the concept among other possibilities. 0: it does not.
Give your reason in one sentence. Then write a last line with nothing but the rating, in this form:
Rating: (0, 1 or 2)"""

INSTRUCTION_PROMPT = """\
A model listened to a recording and answered a question about it.

[Question]
{question}

[Answer]
{answer}

[Task]
Rate whether the answer answers this question, true or not. 2: it does, and settles on one answer. 1: it bears on the
question, but settles on nothing, or leaves part of it out. 0: it has nothing to do with the question.
Give your reason in one sentence. Then write a last line with nothing but the rating, in this form:
Rating: (0, 1 or 2)"""

FLUENCY_PROMPT = """\
[Answer]
{answer}

[Task]
Rate how fluent this answer is as language, whatever it says; it may be a single word. 2: fluent and natural. 1: it can
be read, but has repetitions, breaks or odd words. 0: it cannot be read.
Give your reason in one sentence. Then write a last line with nothing but the rating, in this form:
Rating: (0, 1 or 2)"""
"""AxBench's three ratings, in our words."""

RULES = "AxBench, by rules"
"""How answers are scored without a language model; see :func:`scores_by_rules`."""


class Scores(NamedTuple):
    """AxBench's scores of some answers, 0 to 2; NaN where the judge's reply could not be read."""

    concept: Float[np.ndarray, " answers"]
    instruction: Float[np.ndarray, " answers"]
    fluency: Float[np.ndarray, " answers"]

    @property
    def overall(self) -> Float[np.ndarray, " answers"]:
        """The harmonic mean of an answer's three scores, which is 0 if one of them is; NaN if one could not be read."""
        return harmonic_mean(np.stack(self))

    def summary(self, seed: int) -> dict[str, Any]:
        """Return the means with their intervals over clips, and how many replies could not be read."""
        named = {**self._asdict(), "overall": self.overall}
        figures = {
            name: asdict(Figure.estimate(each[~np.isnan(each)], np.mean, "0 to 2", over="clips", seed=seed))
            for name, each in named.items()
        }
        return figures | {"num_unreadable": int(np.isnan(np.stack(self)).sum())}


class Answers(NamedTuple):
    """Steered answers, and how long they are beside the unsteered ones."""

    texts: Sequence[str]
    num_tokens: Int[np.ndarray, " answers"]
    num_tokens_unsteered: Int[np.ndarray, " answers"]
    most_tokens: int


def axbench(judge: Judge, task: SteeringTask, answers: Answers) -> Scores:
    """Score answers as AxBench does (Wu et al. 2025, arXiv 2501.17148), by the judge's model, or else by rules."""
    if isinstance(judge, ChatJudge):
        return scores_by_chat(judge.chat, task, answers.texts)
    return scores_by_rules(task, answers)


def scored_by(judge: Judge) -> str:
    """Say who scores the answers, for the result file."""
    return f"AxBench, by {judge.chat.model}" if isinstance(judge, ChatJudge) else RULES


def scores_by_chat(chat: Chat, task: SteeringTask, answers: Sequence[str]) -> Scores:
    """Ask a language model for the three ratings of every answer, one at a time, as AxBench does.

    The concept is the words by which features are looked for. The chat keeps every reply, so that none is asked for
    twice. AxBench takes a reply that cannot be read for 0; here it is left out and counted.
    """
    fields = {"concept": task.concept, "question": task.prompt}
    prompts = [
        template.format(**fields, answer=answer)
        for template in (CONCEPT_PROMPT, INSTRUCTION_PROMPT, FLUENCY_PROMPT)
        for answer in answers
    ]
    ratings = [None if reply.text is None else read_rating(reply.text, most=2) for reply in chat(prompts, "ratings")]
    scores = np.array([np.nan if rating is None else rating for rating in ratings], dtype=float)
    return Scores(*scores.reshape(3, len(answers)))


def scores_by_rules(task: SteeringTask, answers: Answers) -> Scores:
    """Score answers by their words alone, without a language model.

    * Concept: 2 if the answer has a word of the target and of no other class, 1 if of others too, 0 if of none of the
      target's.
    * Instruction: 2 if it has words of one class of the question, 1 if of several, 0 if of none.
    * Fluency: 2; one less if at most half of its words are different ones; one less if it is cut short at the limit of
      tokens, and the unsteered answer to the same clip is not. 0 without a word.
    """
    classes = ClassMatch(task.question.classes).classes
    stated = [[name for name, word in classes.items() if word.search(answer)] for answer in answers.texts]
    concept = [(task.target in names) * (2 if len(names) == 1 else 1) for names in stated]
    instruction = [(0, 2, 1)[min(len(names), 2)] for names in stated]
    is_cut = (answers.num_tokens >= answers.most_tokens) & (answers.num_tokens_unsteered < answers.most_tokens)
    words = [re.findall(r"\w+", answer.casefold()) for answer in answers.texts]
    fluency = [
        bool(said) * (2 - (2 * len(set(said)) <= len(said)) - int(cut)) for said, cut in zip(words, is_cut, strict=True)
    ]
    return Scores(*(np.array(score, dtype=float) for score in (concept, instruction, fluency)))


def harmonic_mean(scores: Float[np.ndarray, "scores answers"]) -> Float[np.ndarray, " answers"]:
    """Return the harmonic mean over the first axis; 0 where a score is 0, NaN where one is NaN.

    Example:
        >>> import numpy as np
        >>> from ard.steering.axbench import harmonic_mean
        >>> harmonic_mean(np.array([[2.0, 1.0], [1.0, 0.0], [2.0, 2.0]])).tolist()
        [1.5, 0.0]
    """
    is_zero = scores == 0
    mean = len(scores) / (1 / np.where(is_zero, 1.0, scores)).sum(axis=0)
    return np.where(is_zero.any(axis=0), 0 * mean, mean)
