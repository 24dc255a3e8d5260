"""One column of Table 3: sensitivity on clips that nothing was chosen on, with controls, doses and side effects."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ard.results import Figure
from ard.steering.axbench import Answers, axbench
from ard.steering.captions import Retelling
from ard.steering.choice import MEANS, PROBE, PROMPT, RANDOM, SILENCE, STEERED, Choice, Features, Tuned
from ard.steering.directions import random_directions
from ard.steering.functional import equal_damage, perplexity, rank_p
from ard.steering.interview import Condition
from ard.steering.judge import ClassMatch
from ard.steering.settings import Setting, norm_of_change
from ard.steering.task import Question, SteeringTask
from ard.steering.trials import Outcome, Split, Trials

NO_SAE, NO_CLAMP, REVERSE, RANDOM_DIRECTIONS = "No SAE", "SAE, no clamp", "Reverse", "Rand. directions"
RANKED = (RANDOM, RANDOM_DIRECTIONS)
"""Random draws, of which each dictionary that is ranked among them has its own."""
CONTROLS = (NO_SAE, NO_CLAMP, *RANKED)
WITHOUT_SAE = (NO_SAE, RANDOM_DIRECTIONS, MEANS, PROBE, SILENCE, PROMPT)
"""Rows that no dictionary has a part in."""


@dataclass
class Measured:
    """What one task gives: figures by row of the table, and details for the result file."""

    figures: dict[str, dict[str, Figure]]
    details: dict[str, Any]


class Experiment:
    """Measure what was chosen, with one model and one dictionary.

    Args:
        trials: asks and judges.
        features: the features of the dictionary.
        seed: seed of the random directions.
    """

    def __init__(self, trials: Trials, features: Features, seed: int) -> None:
        self.trials, self.features, self.seed = trials, features, seed
        self.design = trials.design

    def measure(self, task: SteeringTask, split: Split, choice: Choice, others: Iterable[Question]) -> Measured:
        """Measure all methods of a task, with doses; the dictionary's own with its controls and reverse direction."""
        tuned = [choice.own, *choice.others]
        conditions = {NO_SAE: [Condition(task.prompt, None)], NO_CLAMP: [Condition(task.prompt, {})]}
        conditions |= {one.name: [self.trials.condition(task.question, one.setting)] for one in tuned}
        outcome = self.trials.outcome(task, split, conditions)
        figures = {name: self.trials.figures(outcome, name) for name in outcome.reached}
        details: dict[str, Any] = {"reached": self.trials.reached(outcome, STEERED), "groups": _groups(split, outcome)}
        details["controls"] = {name: self.trials.reached(outcome, name) for name in (NO_SAE, NO_CLAMP)}
        self._rank(task, split, choice, figures, details)
        if (reverse := task.reverse) is not None:
            figures[REVERSE], details["reverse"] = self._reverse(reverse, split, choice.own.setting or Setting())
        counts = outcome.among[self.design.denominators[0]]
        some = [clip_id for clip_id, one in zip(outcome.clip_ids, counts, strict=True) if one][: self.design.most_clips]
        side_effects = self._side_effects(task, split, tuned, some, list(others))
        details |= side_effects[STEERED]
        details["methods"] = {
            one.name: {**self._of_other(one, outcome), **side_effects[one.name]} for one in choice.others
        }
        figures = {
            name: of_row | self._at_equal_damage(side_effects.get(name, {}).get("dose_response", []))
            for name, of_row in figures.items()
        }
        return Measured(figures, details)

    def measure_alone(self, task: SteeringTask, split: Split, choice: Choice, *, ranked: bool = False) -> Measured:
        """Measure a choice without controls, which the layer's other dictionary has; ``ranked`` adds random draws."""
        tuned = [choice.own, *choice.others]
        conditions = {one.name: [self.trials.condition(task.question, one.setting)] for one in tuned}
        outcome = self.trials.outcome(task, split, conditions)
        figures = {name: self.trials.figures(outcome, name) for name in outcome.reached}
        details = {
            "reached": self.trials.reached(outcome, STEERED),
            "methods": {one.name: self._of_other(one, outcome) for one in choice.others},
        }
        if ranked:
            self._rank(task, split, choice, figures, details)
        return Measured(figures, details)

    def chosen(self, choice: Choice) -> dict[str, Any]:
        """Return what was chosen by names, and all that was tried, for the result file."""
        setting, named = choice.own.setting or Setting(), choice.own.about["features"]
        values = setting.clamp(self.trials.maxima)
        return {
            "by": choice.own.about["by"],
            "features": [
                {**name, "n_active": int(self.features.n_active[feature]), "value": values[feature]}
                for name, feature in zip(named, setting.features, strict=False)
            ],
            "multiple": setting.strength,
            "norm": norm_of_change(self.features.directions, values),
            "tried": list(choice.own.tried),
            "num_clips_of_selection": choice.num_clips,
        }

    def _of_other(self, tuned: Tuned, outcome: Outcome) -> dict[str, Any]:
        """Return what a method beside the paper's tried, kept and reached."""
        return {
            **tuned.about,
            "setting": str(tuned),
            "tried": list(tuned.tried),
            "reached": self.trials.reached(outcome, tuned.name),
        }

    def _rank(
        self,
        task: SteeringTask,
        split: Split,
        choice: Choice,
        figures: dict[str, dict[str, Figure]],
        details: dict[str, Any],
    ) -> None:
        """Add what random draws reach, and the rank of ours among them."""
        figures[RANDOM], details["random_features"] = self._random_features(task, split, choice)
        figures[RANDOM_DIRECTIONS], details["random_directions"] = self._random_directions(task, split, choice)

    def _random_features(
        self, task: SteeringTask, split: Split, choice: Choice
    ) -> tuple[dict[str, Figure], dict[str, Any]]:
        """Steer by draws of features that fire as often and change x as much, each tuned as ours are."""
        settings = [draw.setting for draw in choice.draws if draw.setting is not None]
        about = [{"features": list(one.features), "strength": one.strength * one.unit} for one in settings]
        return self._of_draws(task, split, choice, RANDOM, settings, about)

    def _random_directions(
        self, task: SteeringTask, split: Split, choice: Choice
    ) -> tuple[dict[str, Figure], dict[str, Any]]:
        """Steer by random directions, as long as what our features add to x."""
        own = choice.own.setting
        directions, length = self.features.directions, 0.0
        drawn = torch.empty(0)
        if own is not None:
            length = norm_of_change(directions, own.clamp(self.trials.maxima))
            generator = torch.Generator().manual_seed(self.seed)
            drawn = random_directions(self.design.num_draws, directions.shape[1], generator)
        settings = [Setting(direction=direction, unit=length) for direction in drawn]
        return self._of_draws(task, split, choice, RANDOM_DIRECTIONS, settings, [{"length": length}] * len(settings))

    def _of_draws(
        self,
        task: SteeringTask,
        split: Split,
        choice: Choice,
        name: str,
        settings: Sequence[Setting],
        about: Sequence[Mapping[str, Any]],
    ) -> tuple[dict[str, Figure], dict[str, Any]]:
        """Measure draws on a task's first clips, beside ours on the same ones; the interval is over the draws."""
        conditions = {name: [self.trials.condition(task.question, setting) for setting in settings]}
        ours = {STEERED: [self.trials.condition(task.question, choice.own.setting)]}
        outcome = self.trials.outcome(task, split, (conditions if settings else {}) | ours, self.design.most_clips)
        among = outcome.among[self.design.denominators[0]]
        each = [self.trials.figure(row, among) for row in outcome.reached.get(name, ())]
        own = self.trials.figure(outcome.reached[STEERED][0], among)
        shares = np.array([figure.value for figure in each if not math.isnan(figure.value)])
        spread = Figure.estimate(shares, np.mean, "share of clips, a draw", over="draws", seed=self.trials.seed)
        details = {
            "draws": [
                {**one, "sensitivity": asdict(figure.of_control())} for one, figure in zip(about, each, strict=True)
            ],
            "ours": asdict(own),
            "p": rank_p(own.value, shares),
        }
        return {"sensitivity": spread}, details

    def _reverse(self, reverse: SteeringTask, split: Split, own: Setting) -> tuple[dict[str, Figure], dict[str, Any]]:
        """Steer the clips answered with the target towards the source, by as many features at the same multiple."""
        named = self.features.find(reverse.concept).features[: len(own.features)]
        back = Setting(tuple(feature.feature for feature in named), strength=own.strength)
        steered = self.trials.condition(reverse.question, back)
        conditions = {NO_CLAMP: [Condition(reverse.prompt, {})], STEERED: [steered]}
        outcome = self.trials.outcome(reverse, split, conditions, self.design.most_clips)
        alone = self.trials.figures(outcome, NO_CLAMP)["sensitivity"]
        details = {
            "features": [feature._asdict() for feature in named],
            "without_clamp": asdict(alone.of_control()),
        }
        return self.trials.figures(outcome, STEERED), details

    def _side_effects(
        self, task: SteeringTask, split: Split, tuned: Sequence[Tuned], clip_ids: Sequence[str], others: list[Question]
    ) -> dict[str, dict[str, Any]]:
        """Return by method its dose-response, what is left at its chosen setting, and of answers to other questions.

        The first two points of a dose-response are the model as it is (dose None) and the SAE without clamp (0); a
        direction at 0 is the model as it is. What words in the question do has no dose.
        """
        asked = {one.name: self._doses(task.question, one) for one in tuned}
        flat = [condition for doses in asked.values() for _, condition in doses]
        chosen = [self.trials.condition(task.question, one.setting) for one in tuned]
        plain, *answers = self.trials.ask(split, clip_ids, [Condition(task.prompt, None), *flat, *chosen])
        surprise = self._surprise(split, task.prompt, clip_ids, [plain, *answers])
        kept = [
            self._kept(task, split, other, clip_ids, [*flat, *chosen, Condition(task.prompt, {})]) for other in others
        ]
        points = [
            self._point(task, clip_ids, plain, said, [of_question[row] for of_question in kept], surprise)
            for row, said in enumerate(answers)
        ]
        at = self.design.captions
        retold = [*flat, *chosen] if at == "doses" else chosen if at == "setting" else []
        for point, of_point in zip(
            points[len(points) - len(retold) :], Retelling(self.trials, task, split, clip_ids)(retold), strict=True
        ):
            point |= of_point
        of_doses, of_chosen = iter(points[: len(flat)]), points[len(flat) :]
        return {
            one.name: {
                "dose_response": [{"multiple": dose, **next(of_doses)} for dose, _ in asked[one.name]],
                "at_setting": of_chosen[row],
                "selectivity": [
                    {
                        "prompt": other.prompt,
                        "unchanged": asdict(of_question[len(flat) + row]),
                        "unchanged_without_clamp": asdict(of_question[-1]),
                    }
                    for other, of_question in zip(others, kept, strict=True)
                ],
            }
            for row, one in enumerate(tuned)
        }

    def _doses(self, question: Question, tuned: Tuned) -> list[tuple[float | None, Condition]]:
        """Return the conditions of a method's dose-response, by dose."""
        setting = tuned.setting
        if not self.design.doses or setting is None or setting.hint is not None:
            return []
        nothing = Condition(question.prompt, {} if setting.direction is None else None)
        doses: list[tuple[float | None, Condition]] = [(None, Condition(question.prompt, None)), (0.0, nothing)]
        return doses + [(dose, self.trials.condition(question, setting.at(dose))) for dose in sorted(self.design.doses)]

    def _point(
        self,
        task: SteeringTask,
        clip_ids: Sequence[str],
        plain: Sequence[str],
        answers: Sequence[str],
        kept: Sequence[Figure],
        surprise: Mapping[tuple[str, str], tuple[float, int]],
    ) -> dict[str, Any]:
        """Return what there is to say of answers under one condition, beside the unsteered ones (``plain``)."""
        reached, _ = self.trials.judged(task.question, answers, task.target)
        weighed = [surprise[pair] for pair in zip(clip_ids, answers, strict=True)]
        log_p, lengths = [one for one, _ in weighed], [num for _, num in weighed]
        unsteered = [surprise[pair][1] for pair in zip(clip_ids, plain, strict=True)]
        most = self.trials.interview.procedure.max_new_tokens
        scores = axbench(self.trials.judge, task, Answers(answers, np.array(lengths), np.array(unsteered), most))
        stated = np.array([name is not None for name in ClassMatch(task.question.classes)(answers)], dtype=float)
        readable = Figure.estimate(stated, np.mean, "share of answers", over="clips", seed=self.trials.seed)
        return {
            "sensitivity": asdict(self.trials.figure(reached, np.ones(len(answers), dtype=bool))),
            "readable": asdict(readable),
            "kept": [asdict(figure) for figure in kept],
            "axbench": scores.summary(self.trials.seed),
            "verdicts_read": float(np.mean(~np.isnan(reached))) if len(answers) else math.nan,
            "perplexity": perplexity(log_p, lengths),
            "mean_num_tokens": float(np.mean(lengths)) if lengths else math.nan,
        }

    def _surprise(
        self, split: Split, prompt: str, clip_ids: Sequence[str], answers: Sequence[Sequence[str]]
    ) -> dict[tuple[str, str], tuple[float, int]]:
        """Return log p and number of tokens, under the unsteered model, of each different answer to each clip."""
        different = {
            clip_id: list(dict.fromkeys(of_clip)) for clip_id, *of_clip in zip(clip_ids, *answers, strict=True)
        }
        found: dict[tuple[str, str], tuple[float, int]] = {}
        for turn in range(max(map(len, different.values()), default=0)):
            turns = {clip_id: of_clip[turn] for clip_id, of_clip in different.items() if turn < len(of_clip)}
            weighed = self.trials.interview.surprise(split.audio, prompt, turns)
            found |= dict(zip(turns.items(), weighed, strict=True))
        return found

    def _kept(
        self,
        task: SteeringTask,
        split: Split,
        question: Question,
        clip_ids: Sequence[str],
        conditions: Sequence[Condition],
    ) -> list[Figure]:
        """Return the share of answers to another question that are of the same class as those of the model as it is."""
        others = [one._replace(prompt=one.prompt.replace(task.prompt, question.prompt)) for one in conditions]
        before, *every = self.trials.ask(split, clip_ids, [Condition(question.prompt, None), *others])
        read = ClassMatch(question.classes)
        classes = read(before)
        stated = np.array([name is not None for name in classes], dtype=bool)
        pairs = [zip(classes, read(answers), strict=True) for answers in every]
        same = [np.array([a == b for a, b in of_condition], dtype=float) for of_condition in pairs]
        return [
            Figure.estimate(kept[stated], np.mean, "share of answers", over="clips", seed=self.trials.seed)
            for kept in same
        ]

    def _at_equal_damage(self, doses: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
        """Return the sensitivity at the largest dose that keeps nine tenths of the rest; none without doses."""
        found = equal_damage(doses)
        return {} if found is None else {"sensitivity_at_equal_damage": Figure(**found["sensitivity"])}


def _groups(split: Split, outcome: Outcome) -> dict[str, str]:
    """Return the group of every clip that has one, such as its speaker: they are resampled together."""
    wanted = set(outcome.clip_ids)
    return {clip.id: clip.group for clip in split.clips if clip.group is not None and clip.id in wanted}
