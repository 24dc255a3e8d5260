"""One column of Table 3: a choice on one split; on the other, its sensitivity, controls and side effects."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ard.results import Figure
from ard.steering.features import Found, NamedFeature
from ard.steering.functional import Denominator, counted, matched_features, perplexity, sensitivity_samples
from ard.steering.interview import Condition, Interview
from ard.steering.judge import ClassMatch, ExactMatch, Judge, Verdict
from ard.steering.task import Question, SteeringTask
from ard.types import Clip

Clamp = Mapping[int, float]
NO_SAE, NO_CLAMP, RANDOM, REVERSE = "No SAE", "SAE, no clamp", "Rand. Feats.", "Reverse"
STEERED = "steered"
CONTROLS = (NO_SAE, NO_CLAMP, RANDOM)


@dataclass(frozen=True)
class Design:
    """What to try and measure.

    Args:
        num_features: numbers of features to try on the selection split.
        multiples: values to try there, as multiples of each feature's maximum on the probing set.
        doses: values of the dose-response, as such multiples; an empty list leaves the dose-response out.
        num_draws: number of draws of random features.
        denominators: denominators of sensitivity; the table shows the first, ``steering.json`` has all. With
            ``dataset`` every clip of the split is answered under every condition, else only the clips that count.
        most_clips: most clips of a task to use for the choice, each draw of random features, the reverse direction,
            the dose-response and the selectivity; None takes all that count.
    """

    num_features: list[int] = field(default_factory=lambda: [1])
    multiples: list[float] = field(default_factory=lambda: [1.0])
    doses: list[float] = field(default_factory=lambda: [0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
    num_draws: int = 3
    denominators: list[Denominator] = field(default_factory=lambda: ["predicted", "truth"])
    most_clips: int | None = None


class Split(NamedTuple):
    """The clips of a task: the folder of their shards, and the clips without their waveforms."""

    audio: Path
    clips: Sequence[Clip]


class Features(NamedTuple):
    """What the choice and the controls need of the features."""

    find: Callable[[str], Found]
    maxima: Float[Tensor, " features"]
    n_active: Int[Tensor, " features"]


class Choice(NamedTuple):
    """How a task is steered: the features closest to the concept, at a multiple of their maxima."""

    features: list[NamedFeature]
    multiple: float


class Outcome(NamedTuple):
    """The clips that some denominator counts: which denominators count each, and verdicts on its steered answers."""

    clip_ids: list[str]
    among: dict[Denominator, Bool[np.ndarray, " clips"]]
    reached: dict[str, Float[np.ndarray, "draws clips"]]  # by condition: 1 target, 0 not, NaN unread
    exact: dict[str, Float[np.ndarray, "draws clips"]]  # the same by exact match


@dataclass
class Measured:
    """What one task gives: figures by row of the table, and details for the result file."""

    figures: dict[str, dict[str, Figure]]
    details: dict[str, Any]


class Experiment:
    """Steer one model with one dictionary; ``verdicts`` are those of the judge and of exact match in the measurements.

    Args:
        interview: asks the model.
        judge: reads its answers.
        features: the features to choose from.
        design: what to try and measure.
        seed: seed of the draws and the bootstrap.
    """

    def __init__(self, interview: Interview, judge: Judge, *, features: Features, design: Design, seed: int) -> None:
        self.interview, self.judge, self.features = interview, judge, features
        self.design, self.seed = design, seed
        self.verdicts: list[tuple[Verdict, Verdict]] = []

    def choose(self, task: SteeringTask, split: Split) -> tuple[Choice, dict[str, Any]]:
        """Choose the most sensitive number of features and multiple on a split; ties go to the smallest.

        Also return what was tried. If no feature has a name, the choice is empty.
        """
        candidates = self.features.find(task.concept)
        counts = sorted({min(n, len(candidates.features)) for n in self.design.num_features})
        trials = [Choice(candidates.features[:n], m) for n, m in product(counts, sorted(self.design.multiples)) if n]
        is_source = self._source_verdicts(task, split)
        source = [clip.id for clip, verdict in zip(split.clips, is_source, strict=True) if verdict == 1]
        source = source[: self.design.most_clips]
        tried: list[dict[str, Any]] = []
        if source and trials:
            answers = self._answers(split, task.question, source, [self._clamp(trial) for trial in trials])
            for trial, of_trial in zip(trials, answers, strict=True):
                reached = self._verdicts(task.question, of_trial, task.target)[0]
                samples = sensitivity_samples(reached, np.ones(len(source), dtype=bool))
                share = float(samples.mean()) if len(samples) else math.nan
                tried.append(
                    {
                        "num_features": len(trial.features),
                        "multiple": trial.multiple,
                        "sensitivity": share,
                        "n": len(samples),
                    }
                )
        shares = [entry["sensitivity"] for entry in tried if not math.isnan(entry["sensitivity"])]
        best = next((i for i, entry in enumerate(tried) if entry["sensitivity"] == max(shares, default=None)), 0)
        choice = trials[best] if trials else Choice([], min(self.design.multiples))
        return choice, {
            "by": candidates.by,
            "features": [
                {**feature._asdict(), "n_active": int(self.features.n_active[feature.feature]), "value": value}
                for feature, value in zip(choice.features, self._clamp(choice).values(), strict=True)
            ],
            "multiple": choice.multiple,
            "tried": tried,
            "num_clips_of_selection": len(source),
        }

    def measure(self, task: SteeringTask, split: Split, choice: Choice, others: Iterable[Question]) -> Measured:
        """Measure a choice on another split, with its controls, doses, selectivity and reverse direction."""
        outcome = self._outcome(task, split, {NO_SAE: [None], NO_CLAMP: [{}], STEERED: [self._clamp(choice)]})
        figures = {name: self._figures(outcome, name) for name in outcome.reached}
        details: dict[str, Any] = {"reached": self._reached(outcome)}
        figures[RANDOM], details["random_features"] = self._random(task, split, choice)
        if (reverse := task.reverse) is not None:
            figures[REVERSE], details["reverse"] = self._reverse(reverse, split, choice)
        among = outcome.among[self.design.denominators[0]]
        some = [clip_id for clip_id, counts in zip(outcome.clip_ids, among, strict=True) if counts]
        some = some[: self.design.most_clips]
        details["dose_response"] = self._dose_response(task, split, choice, some) if self.design.doses else []
        details["selectivity"] = self._selectivity(task, split, choice, some, others)
        return Measured(figures, details)

    def measure_alone(self, task: SteeringTask, split: Split, choice: Choice) -> Measured:
        """Measure a choice without controls; those are measured with the layer's other dictionary."""
        outcome = self._outcome(task, split, {STEERED: [self._clamp(choice)]})
        return Measured({STEERED: self._figures(outcome, STEERED)}, {"reached": self._reached(outcome)})

    def _reached(self, outcome: Outcome) -> dict[str, float]:
        """Return for each clip that counts whether its steered answer is the target, to pair dictionaries by clip."""
        counts = outcome.among[self.design.denominators[0]]
        verdicts = zip(outcome.clip_ids, outcome.reached[STEERED].mean(axis=0).tolist(), strict=True)
        return {clip_id: reached for (clip_id, reached), one in zip(verdicts, counts, strict=True) if one}

    def _clamp(self, choice: Choice) -> Clamp:
        return self._at([feature.feature for feature in choice.features], choice.multiple)

    def _at(self, features: Sequence[int], multiple: float) -> Clamp:
        return {feature: multiple * float(self.features.maxima[feature]) for feature in features}

    def _draws(self, choice: Choice) -> list[list[int]]:
        """Draw several times as many random features, with about the same firing rates."""
        generator = torch.Generator().manual_seed(self.seed)
        chosen = [feature.feature for feature in choice.features]
        every = [
            matched_features(self.features.n_active, chosen, generator=generator) for _ in range(self.design.num_draws)
        ]
        return [draw for draw in every if draw]

    def _answers(
        self, split: Split, question: Question, clip_ids: Sequence[str], clamps: Sequence[Clamp | None]
    ) -> list[list[str]]:
        return self.interview(split.audio, clip_ids, [Condition(question.prompt, clamp) for clamp in clamps])

    def _verdicts(
        self, question: Question, answers: Sequence[str], wanted: str, *, note: bool = False
    ) -> tuple[Float[np.ndarray, " clips"], Float[np.ndarray, " clips"]]:
        """Return the verdicts of the judge and of exact match as numbers; ``note`` those that go into the table."""
        judged, exact = self.judge(question, answers, wanted), ExactMatch()(question, answers, wanted)
        if note:
            self.verdicts += zip(judged, exact, strict=True)
        return _numbers(judged), _numbers(exact)

    def _source_verdicts(self, task: SteeringTask, split: Split, *, note: bool = False) -> Float[np.ndarray, " clips"]:
        """Return the verdicts on whether the unsteered model answers with the source class."""
        (answers,) = self._answers(split, task.question, [clip.id for clip in split.clips], [None])
        return self._verdicts(task.question, answers, task.source, note=note)[0]

    def _outcome(
        self,
        task: SteeringTask,
        split: Split,
        clamps: Mapping[str, Sequence[Clamp | None]],
        most: int | None = None,
    ) -> Outcome:
        """Answer under every condition, and judge, the clips that count, or the first ``most`` of them."""
        is_source = self._source_verdicts(task, split, note=most is None)
        true = np.array([task.truth(clip) == task.source for clip in split.clips], dtype=bool)
        among = {name: counted(name, is_source, true) for name in self.design.denominators}
        rows = np.flatnonzero(np.any(list(among.values()), axis=0))[:most]
        clip_ids = [split.clips[row].id for row in rows]
        flat = [clamp for draws in clamps.values() for clamp in draws]
        answers = iter(self._answers(split, task.question, clip_ids, flat))
        reached, exact = {}, {}
        for name, draws in clamps.items():
            pairs = [self._verdicts(task.question, next(answers), task.target, note=True) for _ in draws]
            reached[name], exact[name] = (np.stack(each) for each in zip(*pairs, strict=True))
        return Outcome(clip_ids, {name: counts[rows] for name, counts in among.items()}, reached, exact)

    def _figures(self, outcome: Outcome, name: str) -> dict[str, Figure]:
        """Return the sensitivity under every denominator, the table's first, and by exact match."""
        first, *rest = self.design.denominators
        figures = {"sensitivity": self._figure(outcome.reached[name].mean(axis=0), outcome.among[first])}
        for denominator in rest:
            among = outcome.among[denominator]
            figures[f"sensitivity_of_{denominator}"] = self._figure(outcome.reached[name].mean(axis=0), among)
        if not isinstance(self.judge, ExactMatch):
            figures["sensitivity_by_exact_match"] = self._figure(outcome.exact[name].mean(axis=0), outcome.among[first])
        return figures

    def _figure(self, reached: Float[np.ndarray, " clips"], among: Bool[np.ndarray, " clips"]) -> Figure:
        return Figure.estimate(
            sensitivity_samples(reached, among), np.mean, "share of clips", over="clips", seed=self.seed
        )

    def _random(
        self, task: SteeringTask, split: Split, choice: Choice
    ) -> tuple[dict[str, Figure], list[dict[str, Any]]]:
        """Steer by features that fire as often as the chosen ones, several times; the interval is over the draws."""
        draws = self._draws(choice)
        clamps = [self._at(draw, choice.multiple) for draw in draws]
        outcome = self._outcome(task, split, {RANDOM: clamps} if clamps else {}, self.design.most_clips)
        among = outcome.among[self.design.denominators[0]]
        each = [self._figure(row, among) for row in outcome.reached.get(RANDOM, ())]
        shares = np.array([figure.value for figure in each if not math.isnan(figure.value)])
        details = [
            {"features": draw, "sensitivity": asdict(figure.of_control())}
            for draw, figure in zip(draws, each, strict=True)
        ]
        return {
            "sensitivity": Figure.estimate(shares, np.mean, "share of clips, a draw", over="draws", seed=self.seed)
        }, details

    def _reverse(self, reverse: SteeringTask, split: Split, choice: Choice) -> tuple[dict[str, Figure], dict[str, Any]]:
        """Steer the clips answered with the target towards the source, by as many features at the same multiple."""
        back = Choice(self.features.find(reverse.concept).features[: len(choice.features)], choice.multiple)
        clamps: dict[str, list[Clamp | None]] = {NO_CLAMP: [{}], STEERED: [self._clamp(back)]}
        outcome = self._outcome(reverse, split, clamps, self.design.most_clips)
        features = [feature._asdict() for feature in back.features]
        alone = self._figures(outcome, NO_CLAMP)["sensitivity"]
        return self._figures(outcome, STEERED), {"features": features, "without_clamp": asdict(alone.of_control())}

    def _dose_response(
        self, task: SteeringTask, split: Split, choice: Choice, clip_ids: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Return the sensitivity and soundness of answers without SAE (dose None), without clamp (0), and by dose."""
        doses: list[tuple[float | None, Clamp | None]] = [(None, None), (0.0, {})]
        doses += [(dose, self._clamp(choice._replace(multiple=dose))) for dose in sorted(self.design.doses)]
        every = self._answers(split, task.question, clip_ids, [clamp for _, clamp in doses])
        points = []
        for (dose, _), answers in zip(doses, every, strict=True):
            reached, _ = self._verdicts(task.question, answers, task.target)
            surprise = self.interview.surprise(split.audio, task.prompt, dict(zip(clip_ids, answers, strict=True)))
            log_p, lengths = zip(*surprise, strict=True) if surprise else ((), ())
            stated = np.array([name is not None for name in ClassMatch(task.question.classes)(answers)], dtype=float)
            readable = Figure.estimate(stated, np.mean, "share of answers", over="clips", seed=self.seed)
            points.append(
                {
                    "multiple": dose,
                    "sensitivity": asdict(self._figure(reached, np.ones(len(answers), dtype=bool))),
                    "readable": asdict(readable),
                    "verdicts_read": float(np.mean(~np.isnan(reached))) if len(answers) else math.nan,
                    "perplexity": perplexity(log_p, lengths),
                    "mean_num_tokens": float(np.mean(lengths)) if lengths else math.nan,
                }
            )
        return points

    def _selectivity(
        self,
        task: SteeringTask,
        split: Split,
        choice: Choice,
        clip_ids: Sequence[str],
        others: Iterable[Question],
    ) -> list[dict[str, Any]]:
        """Return how many answers to other questions keep their class under the same clamp, and under the SAE alone."""
        entries = []
        for question in others:
            before, alone, steered = self._answers(split, question, clip_ids, [None, {}, self._clamp(choice)])
            read = ClassMatch(question.classes)
            classes = [read(answers) for answers in (before, alone, steered)]
            stated = np.array([name is not None for name in classes[0]], dtype=bool)
            same = [np.array([a == b for a, b in zip(classes[0], later, strict=True)], float) for later in classes[1:]]
            no_clamp, clamped = (
                asdict(Figure.estimate(kept[stated], np.mean, "share of answers", over="clips", seed=self.seed))
                for kept in same
            )
            entries.append({"prompt": question.prompt, "unchanged": clamped, "unchanged_without_clamp": no_clamp})
        return entries


def _numbers(verdicts: Sequence[Verdict]) -> Float[np.ndarray, " clips"]:
    return np.array([math.nan if verdict is None else float(verdict) for verdict in verdicts], dtype=float)
