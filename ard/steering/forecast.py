"""What a setting is expected to break, before anything is steered, and how well that fits what then changed."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csc_array
from scipy.stats import spearmanr
from torch import Tensor

from ard.steering.choice import Choice, Tuned
from ard.steering.interview import Condition
from ard.steering.judge import ClassMatch
from ard.steering.roles import hearing
from ard.steering.settings import Setting
from ard.steering.task import Question, SteeringTask
from ard.steering.trials import Split, Trials
from ard.types import Clip

NUM_TELLING = 5
"""Features of each class that tell it from the others best."""

KINDS = ("geometry", "cosine", "coactivation")


class Telling(NamedTuple):
    """What tells apart clips that the unsteered model answers a question about with different classes."""

    means: Float[Tensor, "classes d_in"]  # of the layer at the clips' audio tokens
    spread: float  # of the tokens
    features: list[int]  # the most telling ones
    activity: csc_array  # [clips, features]


class Forecast(NamedTuple):
    """What a setting of a task is expected to do to the answers to another question; higher is more damage."""

    task: str
    method: str
    strength: float
    prompt: str
    geometry: float
    cosine: float
    coactivation: float  # NaN where no features are set


class Forecaster:
    """Forecast the side effects of settings, from the first clips of the selection split, on which nothing is set.

    * *Geometry*: how far the setting moves x from the mean of one class of the other question to that of another, as a
      share of their distance; the largest over pairs of classes. The setting's change of x is the sum of its features'
      decoder rows times their values, or its direction.
    * *Cosine*: the largest absolute cosine of that change with the difference of two class means. It does not know the
      dose.
    * *Co-activation*: for each feature that is set, the length of its change, in units of the spread of tokens, times
      the largest cosine of its activity over clips with that of a feature that tells a class of the other question
      from the rest; the sum over features.

    Args:
        trials: asks the unsteered model.
        directions: the decoder rows.
        activity: returns each feature's mean activity over the audio tokens of clips that a question is asked about.
    """

    def __init__(
        self,
        trials: Trials,
        directions: Float[Tensor, "features d_in"],
        activity: Callable[[Sequence[Clip], str], csc_array],
    ) -> None:
        self.trials, self.directions, self.activity = trials, directions, activity
        self._telling: dict[tuple[Path, str], Telling | None] = {}

    def __call__(
        self, task: SteeringTask, selection: Split, choice: Choice, others: Iterable[Question]
    ) -> list[Forecast]:
        """Return the forecasts of every method at its setting and its doses, for each other question.

        There are none for words in the question, and none of a question if fewer than two classes are stated.
        """
        settings = [(one.name, setting) for one in (choice.own, *choice.others) for setting in self._settings(one)]
        forecasts = []
        for question in others:
            telling = self._tells(selection, question)
            if telling is not None:
                forecasts += [self._forecast(task, name, setting, question, telling) for name, setting in settings]
        return forecasts

    def _settings(self, tuned: Tuned) -> list[Setting]:
        """Return a method at its doses, and as it was chosen."""
        setting = tuned.setting
        if setting is None or setting.hint is not None:
            return []
        return [setting.at(strength) for strength in sorted({*self.trials.design.doses, setting.strength})]

    def _forecast(
        self, task: SteeringTask, name: str, setting: Setting, question: Question, telling: Telling
    ) -> Forecast:
        values = setting.clamp(self.trials.maxima)
        steps = torch.tensor(list(values.values()))[:, None] * self.directions[list(values)]
        coactivation = math.nan
        if setting.direction is None:
            lengths = steps.norm(dim=1).numpy() / telling.spread
            coactivation = float(lengths @ together(telling.activity, list(values), telling.features))
            change = steps.sum(dim=0)
        else:
            change = setting.strength * setting.unit * setting.direction
        geometry, cosine = along_differences(change, telling.means)
        return Forecast(task.name, name, setting.strength, question.prompt, geometry, cosine, coactivation)

    def _tells(self, split: Split, question: Question) -> Telling | None:
        key = split.audio, question.prompt
        if key not in self._telling:
            self._telling[key] = self._tell(split, question)
        return self._telling[key]

    def _tell(self, split: Split, question: Question) -> Telling | None:
        """Find what tells the classes of a question apart; None if the model states fewer than two."""
        clip_ids = [clip.id for clip in split.clips][: self.trials.design.most_clips]
        (answers,) = self.trials.ask(split, clip_ids, [Condition(question.prompt, None)])
        stated = ClassMatch(question.classes)(answers)
        pairs = [(clip_id, name) for clip_id, name in zip(clip_ids, stated, strict=True) if name is not None]
        names = sorted({name for _, name in pairs})
        if len(names) < 2:
            return None
        interview, of_clips = self.trials.interview, [name for _, name in pairs]
        stating = [clip_id for clip_id, _ in pairs]
        heard = interview.hears(split.audio, stating)
        means = torch.stack([heard.means[[one == name for one in of_clips]].mean(dim=0) for name in names])
        activity = self.activity(interview.clips(split.audio, stating), question.prompt)
        telling: dict[int, None] = {}
        for name in names:
            auroc = hearing(activity, ["it" if one == name else "rest" for one in of_clips], "rest", "it").auroc
            best = np.argsort(-auroc, kind="stable")[:NUM_TELLING]
            telling |= dict.fromkeys(best[auroc[best] > 0.5].tolist())
        return Telling(means, heard.spread(), list(telling), activity)


def along_differences(change: Float[Tensor, " d_in"], means: Float[Tensor, "classes d_in"]) -> tuple[float, float]:
    """Return how far a change moves x from one mean towards another, as a share of their distance, and its cosine.

    Each is the largest over all pairs of means, the cosine without its sign; 0 where nothing changes.

    Example:
        >>> import torch
        >>> from ard.steering.forecast import along_differences
        >>> along_differences(torch.tensor([3.0, 4.0]), torch.tensor([[0.0, 0.0], [6.0, 0.0]]))
        (0.5, 0.6000000238418579)
    """
    rows, columns = torch.triu_indices(len(means), len(means), offset=1)
    differences = means[columns] - means[rows]
    differences = differences[differences.norm(dim=1) > 0]
    if not len(differences) or not change.norm() > 0:
        return 0.0, 0.0
    dot = (differences @ change.to(differences)).abs()
    lengths = differences.norm(dim=1)
    return float((dot / lengths.square()).max()), float((dot / lengths).max() / change.norm())


def together(activity: csc_array, features: Sequence[int], telling: Sequence[int]) -> Float[np.ndarray, " features"]:
    """Return for each feature its largest cosine, over clips, with the activity of a telling feature.

    0 for a feature that is never active with one, 1 for one that is always as active.
    """
    if not telling:
        return np.zeros(len(features))
    own, other = (activity[:, list(columns)].toarray() for columns in (features, telling))
    lengths = np.linalg.norm(own, axis=0)[:, None] * np.linalg.norm(other, axis=0)
    dots = own.T @ other
    return np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0).max(axis=1)


def with_outcome(forecasts: Iterable[Forecast], measured: Mapping[str, Any], own: str) -> list[dict[str, Any]]:
    """Return forecasts with the share of answers that then changed, from the details of a measurement.

    Args:
        forecasts: those of one task.
        measured: its details: side effects of the method ``own``, and of the others in ``methods``.
        own: the name of the dictionary's own method.
    """
    rows = []
    for one in forecasts:
        of_method = measured if one.method == own else measured["methods"][one.method]
        points = [point for point in of_method["dose_response"] if point["multiple"] == one.strength]
        prompts = [entry["prompt"] for entry in of_method["selectivity"]]
        kept = (points or [of_method["at_setting"]])[0]["kept"][prompts.index(one.prompt)]["value"]
        rows.append({**one._asdict(), "changed": 1 - kept})
    return rows


def rank_correlations(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return Spearman's correlation of every kind of forecast with what changed, and over how many settings.

    NaN with fewer than three, or where all forecasts or all outcomes are equal.
    """
    correlations = {}
    for kind in KINDS:
        pairs = np.array([(row[kind], row["changed"]) for row in rows], dtype=float).reshape(-1, 2)
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        varies = len(pairs) > 2 and bool((np.ptp(pairs, axis=0) > 0).all())
        rho = float(spearmanr(*pairs.T).statistic) if varies else math.nan
        correlations[kind] = {"spearman": rho, "n": len(pairs)}
    return correlations
