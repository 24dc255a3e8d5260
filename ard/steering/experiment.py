"""One column of Table 3: the choice on one split, then on the other the sensitivity, its controls and side effects."""

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
    """What is tried and measured.

    Args:
        num_features: numbers of features to try on the selection split.
        multiples: values to try there, in units of each feature's maximum on the probing set.
        doses: values of the dose-response, likewise; none, no dose-response.
        num_draws: draws of random features.
        denominators: of sensitivity; the first is the table's, the others stand in ``steering.json``. ``dataset`` has
            every clip of the split answered under every condition, the others only those that they count.
        most_clips: clips at most, of a task, of the choice, of every draw of random features, the way back, the
            dose-response and the selectivity; None, all that are counted.
    """

    num_features: list[int] = field(default_factory=lambda: [1])
    multiples: list[float] = field(default_factory=lambda: [1.0])
    doses: list[float] = field(default_factory=lambda: [0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
    num_draws: int = 3
    denominators: list[Denominator] = field(default_factory=lambda: ["predicted", "truth"])
    most_clips: int | None = None


class Split(NamedTuple):
    """Clips that a task is asked about: the shards' folder, and what is known of each, without its sound."""

    audio: Path
    clips: Sequence[Clip]


class Features(NamedTuple):
    """What the choice and the controls need to know of the features."""

    find: Callable[[str], Found]
    maxima: Float[Tensor, " features"]
    n_active: Int[Tensor, " features"]


class Choice(NamedTuple):
    """How a task is steered: the features closest to the concept, at a multiple of their maxima."""

    features: list[NamedFeature]
    multiple: float


class Outcome(NamedTuple):
    """Of the clips that one of the denominators counts: which does, and the verdicts on the answers to come."""

    clip_ids: list[str]
    among: dict[Denominator, Bool[np.ndarray, " clips"]]
    reached: dict[str, Float[np.ndarray, "draws clips"]]  # by condition: 1 target, 0 not, NaN unread
    exact: dict[str, Float[np.ndarray, "draws clips"]]  # the same by exact match


@dataclass
class Measured:
    """What one task gives: figures by row of the table, and what else is written down of it."""

    figures: dict[str, dict[str, Figure]]
    details: dict[str, Any]


class Experiment:
    """Steer one model with one dictionary; ``verdicts`` are those of the judge and of exact match on what it measured.

    Args:
        interview: asks the model.
        judge: reads its answers.
        features: those that are set.
        design: what is tried and measured.
        seed: of the draws and the bootstrap.
    """

    def __init__(self, interview: Interview, judge: Judge, *, features: Features, design: Design, seed: int) -> None:
        self.interview, self.judge, self.features = interview, judge, features
        self.design, self.seed = design, seed
        self.verdicts: list[tuple[Verdict, Verdict]] = []

    def choose(self, task: SteeringTask, split: Split) -> tuple[Choice, dict[str, Any]]:
        """Choose the most sensitive number of features and multiple on a split, the least of equals.

        Also returned is what was tried. Where no feature has a name, nothing is steered.
        """
        found = self.features.find(task.concept)
        counts = sorted({min(n, len(found.features)) for n in self.design.num_features})
        trials = [Choice(found.features[:n], m) for n, m in product(counts, sorted(self.design.multiples)) if n]
        heard = self._heard(task, split)
        source = [clip.id for clip, is_source in zip(split.clips, heard, strict=True) if is_source == 1]
        source = source[: self.design.most_clips]
        tried: list[dict[str, Any]] = []
        if source and trials:
            answers = self._answers(split, task.question, source, [self._clamp(trial) for trial in trials])
            for trial, said in zip(trials, answers, strict=True):
                reached = self._verdicts(task.question, said, task.target)[0]
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
            "by": found.by,
            "features": [
                {**feature._asdict(), "n_active": int(self.features.n_active[feature.feature]), "value": value}
                for feature, value in zip(choice.features, self._clamp(choice).values(), strict=True)
            ],
            "multiple": choice.multiple,
            "tried": tried,
            "num_clips_of_selection": len(source),
        }

    def measure(self, task: SteeringTask, split: Split, choice: Choice, others: Iterable[Question]) -> Measured:
        """Measure a choice on another split, with its controls, doses, selectivity, and the way back."""
        outcome = self._outcome(task, split, {NO_SAE: [None], NO_CLAMP: [{}], STEERED: [self._clamp(choice)]})
        figures = {name: self._figures(outcome, name) for name in outcome.reached}
        details: dict[str, Any] = {}
        figures[RANDOM], details["random_features"] = self._random(task, split, choice)
        if (reverse := task.reverse) is not None:
            figures[REVERSE], details["reverse"] = self._back(reverse, split, choice)
        among = outcome.among[self.design.denominators[0]]
        some = [clip_id for clip_id, counts in zip(outcome.clip_ids, among, strict=True) if counts]
        some = some[: self.design.most_clips]
        details["dose_response"] = self._dose_response(task, split, choice, some) if self.design.doses else []
        details["selectivity"] = self._selectivity(task, split, choice, some, others)
        return Measured(figures, details)

    def measure_alone(self, task: SteeringTask, split: Split, choice: Choice) -> Measured:
        """Measure a choice without controls, which another dictionary of the same layer has in its own run."""
        outcome = self._outcome(task, split, {STEERED: [self._clamp(choice)]})
        return Measured({STEERED: self._figures(outcome, STEERED)}, {})

    def _clamp(self, choice: Choice) -> Clamp:
        return self._at([feature.feature for feature in choice.features], choice.multiple)

    def _at(self, features: Sequence[int], multiple: float) -> Clamp:
        return {feature: multiple * float(self.features.maxima[feature]) for feature in features}

    def _draws(self, choice: Choice) -> list[list[int]]:
        """Draw random features of the same number and about the same firing rates, several times."""
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
        """Return verdicts as numbers, of the judge and of exact match; ``note`` those that go into the table."""
        judged, exact = self.judge(question, answers, wanted), ExactMatch()(question, answers, wanted)
        if note:
            self.verdicts += zip(judged, exact, strict=True)
        return _numbers(judged), _numbers(exact)

    def _heard(self, task: SteeringTask, split: Split, *, note: bool = False) -> Float[np.ndarray, " clips"]:
        """Return the verdicts on whether the unsteered model answers with the source class."""
        (said,) = self._answers(split, task.question, [clip.id for clip in split.clips], [None])
        return self._verdicts(task.question, said, task.source, note=note)[0]

    def _outcome(
        self,
        task: SteeringTask,
        split: Split,
        clamps: Mapping[str, Sequence[Clamp | None]],
        most: int | None = None,
    ) -> Outcome:
        """Answer under every condition what a denominator counts, or the first of it, and judge."""
        heard = self._heard(task, split, note=most is None)
        true = np.array([task.truth(clip) == task.source for clip in split.clips], dtype=bool)
        among = {name: counted(name, heard, true) for name in self.design.denominators}
        rows = np.flatnonzero(np.any(list(among.values()), axis=0))[:most]
        clip_ids = [split.clips[row].id for row in rows]
        flat = [clamp for draws in clamps.values() for clamp in draws]
        said = iter(self._answers(split, task.question, clip_ids, flat))
        reached, exact = {}, {}
        for name, draws in clamps.items():
            pairs = [self._verdicts(task.question, next(said), task.target, note=True) for _ in draws]
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
        return Figure.estimate(sensitivity_samples(reached, among), np.mean, "share of clips", seed=self.seed)

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
        said = [
            {"features": draw, "sensitivity": asdict(figure.of_control())}
            for draw, figure in zip(draws, each, strict=True)
        ]
        return {"sensitivity": Figure.estimate(shares, np.mean, "share of clips, a draw", seed=self.seed)}, said

    def _back(self, reverse: SteeringTask, split: Split, choice: Choice) -> tuple[dict[str, Figure], dict[str, Any]]:
        """Steer the clips that are heard as the target to the source, by as many features at the same multiple."""
        back = Choice(self.features.find(reverse.concept).features[: len(choice.features)], choice.multiple)
        clamps: dict[str, list[Clamp | None]] = {NO_CLAMP: [{}], STEERED: [self._clamp(back)]}
        outcome = self._outcome(reverse, split, clamps, self.design.most_clips)
        features = [feature._asdict() for feature in back.features]
        alone = self._figures(outcome, NO_CLAMP)["sensitivity"]
        return self._figures(outcome, STEERED), {"features": features, "without_clamp": asdict(alone.of_control())}

    def _dose_response(
        self, task: SteeringTask, split: Split, choice: Choice, clip_ids: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Return sensitivity and soundness of the answers without SAE (dose None), without clamp (0), and by dose."""
        doses: list[tuple[float | None, Clamp | None]] = [(None, None), (0.0, {})]
        doses += [(dose, self._clamp(choice._replace(multiple=dose))) for dose in sorted(self.design.doses)]
        every = self._answers(split, task.question, clip_ids, [clamp for _, clamp in doses])
        points = []
        for (dose, _), said in zip(doses, every, strict=True):
            reached, _ = self._verdicts(task.question, said, task.target)
            surprise = self.interview.surprise(split.audio, task.prompt, dict(zip(clip_ids, said, strict=True)))
            log_p, lengths = zip(*surprise, strict=True) if surprise else ((), ())
            stated = np.array([found is not None for found in ClassMatch(task.question.classes)(said)], dtype=float)
            readable = Figure.estimate(stated, np.mean, "share of answers", seed=self.seed)
            points.append(
                {
                    "multiple": dose,
                    "sensitivity": asdict(self._figure(reached, np.ones(len(said), dtype=bool))),
                    "readable": asdict(readable),
                    "verdicts_read": float(np.mean(~np.isnan(reached))) if len(said) else math.nan,
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
        found = []
        for question in others:
            before, alone, steered = self._answers(split, question, clip_ids, [None, {}, self._clamp(choice)])
            read = ClassMatch(question.classes)
            classes = [read(said) for said in (before, alone, steered)]
            stated = np.array([said is not None for said in classes[0]], dtype=bool)
            same = [np.array([a == b for a, b in zip(classes[0], later, strict=True)], float) for later in classes[1:]]
            no_clamp, clamped = (
                asdict(Figure.estimate(kept[stated], np.mean, "share of answers", seed=self.seed)) for kept in same
            )
            found.append({"prompt": question.prompt, "unchanged": clamped, "unchanged_without_clamp": no_clamp})
        return found


def _numbers(verdicts: Sequence[Verdict]) -> Float[np.ndarray, " clips"]:
    return np.array([math.nan if verdict is None else float(verdict) for verdict in verdicts], dtype=float)
