"""What a steered model still hears besides what it is steered by: sounds in its captions, words in its transcripts."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float

from ard.naming import CAPTION_PROMPT
from ard.naming.functional import labels_in
from ard.results import Figure
from ard.steering.interview import Condition
from ard.steering.judge import ClassMatch
from ard.steering.task import SteeringTask
from ard.steering.trials import Split, Trials
from ard.types import UserError

MOST_TOKENS = 64
"""Most tokens of a caption or a transcript."""


class Retelling:
    """Captions, and transcripts, of steered clips against the unsteered ones.

    Args:
        trials: asks the model; its design says whether there is a prompt for transcripts.
        task: what is steered.
        split: where the clips are.
        clip_ids: the clips.
    """

    def __init__(self, trials: Trials, task: SteeringTask, split: Split, clip_ids: Sequence[str]) -> None:
        self.trials, self.task, self.split, self.clip_ids = trials, task, split, clip_ids
        clips = {clip.id: clip for clip in split.clips}
        self.clips = [clips[clip_id] for clip_id in clip_ids]
        self.labels = [bystanders(task, clip.labels) for clip in self.clips]

    def __call__(self, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
        """Return, under each condition, the share of sounds still named and the word error rate, where defined."""
        measured: list[dict[str, Any]] = [{} for _ in conditions]
        if any(self.labels) and conditions:
            before, *every = self._ask(CAPTION_PROMPT, conditions)
            for of_condition, captions in zip(measured, every, strict=True):
                shares = still_named(self.labels, before, captions)
                figure = Figure.estimate(
                    shares[~np.isnan(shares)], np.mean, "share of labels", over="clips", seed=self.trials.seed
                )
                if figure.n:
                    of_condition["named"] = asdict(figure)
        if (prompt := self.trials.design.transcription) is not None and conditions:
            before, *every = self._ask(prompt, conditions)
            own = [clip.transcript for clip in self.clips]
            for of_condition, transcripts in zip(measured, every, strict=True):
                of_condition["word_error_rate"] = {
                    "against": "transcripts" if any(own) else "the unsteered transcripts",
                    "value": word_error_rate(own if any(own) else before, transcripts),
                    "unsteered": word_error_rate(own if any(own) else before, before),
                }
        return measured

    def _ask(self, prompt: str, conditions: Sequence[Condition]) -> list[list[str]]:
        """Return the unsteered answers, and those under each condition, to another prompt."""
        others = [one._replace(prompt=one.prompt.replace(self.task.prompt, prompt)) for one in conditions]
        asked = [one._replace(most_tokens=MOST_TOKENS) for one in (Condition(prompt, None), *others)]
        return self.trials.ask(self.split, self.clip_ids, asked)


def bystanders(task: SteeringTask, labels: Iterable[str]) -> list[str]:
    """Return the labels that steering is not meant to change: those that neither source nor target is known by.

    A label goes if the words of the source's or target's class stand in it, or if it stands in the words that their
    features are looked for by.

    Example:
        >>> from ard.steering import SteeringTask
        >>> from ard.steering.captions import bystanders
        >>> task = SteeringTask("sad", "happy", "Which?", ["sad", "happy"], "a woman's happy voice", "a sad voice")
        >>> bystanders(task, ["man speaking", "sad voice", "rain"])
        ['man speaking', 'rain']
    """
    labels = list(labels)
    classes = ClassMatch(task.question.classes).classes
    concepts = f"{task.concept} / {task.source_concept or ''}"
    meant = {name for name in labels if any(classes[one].search(name) for one in (task.source, task.target))}
    meant |= set(labels_in(concepts, labels))
    return [name for name in labels if name not in meant]


def still_named(
    labels: Sequence[Sequence[str]], before: Sequence[str], after: Sequence[str]
) -> Float[np.ndarray, " clips"]:
    """Return, of each clip's labels that its unsteered caption states, the share that its steered one states.

    A caption states a label whose words it contains in sequence. NaN where the unsteered caption states none.

    Example:
        >>> from ard.steering.captions import still_named
        >>> still_named([["dog", "rain"], ["owl"]], ["a dog in the rain", "wind"], ["heavy rain", "an owl"])
        array([0.5, nan])
    """
    shares = np.full(len(labels), np.nan)
    for row, (of_clip, unsteered, steered) in enumerate(zip(labels, before, after, strict=True)):
        if stated := labels_in(unsteered, of_clip):
            shares[row] = len(labels_in(steered, stated)) / len(stated)
    return shares


def word_error_rate(references: Sequence[str | None], transcripts: Sequence[str]) -> float:
    """Return jiwer's word error rate over all clips that have a reference, without case and punctuation.

    It is the number of words to substitute, delete and insert, by the number of words of the references: 0 is best, and
    it may exceed 1. NaN without any reference.

    Raises:
        UserError: if jiwer is not installed.
    """
    jiwer = _jiwer()
    plain = jiwer.Compose([jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), jiwer.Strip()])
    pairs = [(plain(one or ""), plain(other)) for one, other in zip(references, transcripts, strict=True)]
    pairs = [(one, other) for one, other in pairs if one]
    return float(jiwer.wer(*map(list, zip(*pairs, strict=True)))) if pairs else float("nan")


def check_transcription() -> None:
    """Fail now if word error rates cannot be counted later."""
    _jiwer()


def _jiwer() -> Any:
    try:
        import jiwer
    except ImportError as error:
        raise UserError(
            "the word error rate of a `transcription` needs jiwer: pip install 'ard-audio[jiwer]', or leave "
            "`transcription` out"
        ) from error
    return jiwer
