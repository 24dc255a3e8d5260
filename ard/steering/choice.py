"""What each method of Table 3 tries on the selection split, and the setting that it keeps."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ard.steering.directions import Direction, audio_minus_silence, difference_of_means, linear_probe
from ard.steering.effects import Asked
from ard.steering.features import Found
from ard.steering.functional import matched_features
from ard.steering.interview import Condition
from ard.steering.roles import Role
from ard.steering.settings import Setting, hints, norm_of_change
from ard.steering.task import SteeringTask
from ard.steering.trials import Split, Trials

STEERED, BY_EFFECT, RANDOM = "steered", "steered, by effect", "Rand. Feats."
MEANS, PROBE, SILENCE, PROMPT = "Difference of means", "Linear probe", "Audio minus silence", "Prompt"


class Features(NamedTuple):
    """What the choice needs of the features."""

    find: Callable[[str], Found]
    roles: Callable[[Asked, Path, Sequence[int]], list[Role]]
    """What candidates hear and do, from a question about clips, their folder, and features by their names."""
    n_active: Int[Tensor, " features"]
    directions: Float[Tensor, "features d_in"]


class Method(NamedTuple):
    """What a method tries, least first, and what there is to say of how it came by that."""

    name: str
    settings: Sequence[Setting]
    about: Mapping[str, Any]


class Tuned(NamedTuple):
    """A method with the setting that turned most answers on the selection split, and all that was tried there."""

    name: str
    setting: Setting | None  # None if there was nothing to try
    tried: Sequence[Mapping[str, Any]]
    about: Mapping[str, Any]

    def __str__(self) -> str:
        """Say the setting."""
        return "nothing to set" if self.setting is None else str(self.setting)


class Choice(NamedTuple):
    """The methods of a task as they are measured: the paper's, those beside it, and draws of random features."""

    own: Tuned
    others: Sequence[Tuned]
    draws: Sequence[Tuned]
    roles: Sequence[Role]
    num_clips: int

    def directions(self) -> dict[str, Direction]:
        """Return the directions among the methods, by method."""
        settings = [(one.name, one.setting) for one in self.others if one.setting is not None]
        return {name: Direction(s.direction, s.unit) for name, s in settings if s.direction is not None}


class Chooser:
    """Tune every method on clips that the measurement does not use, each with as many settings.

    Args:
        trials: asks and judges.
        features: the features to choose from.
        seed: seed of the random draws.
    """

    def __init__(self, trials: Trials, features: Features, seed: int) -> None:
        self.trials, self.features, self.seed = trials, features, seed
        self.design = trials.design

    def __call__(self, task: SteeringTask, split: Split, *, alone: bool = False, ranked: bool = True) -> Choice:
        """Choose for every method the most sensitive of its settings on a split; ties go to the first.

        ``alone`` leaves out all that does not belong to the dictionary; without ``ranked`` there are no random draws.
        """
        verdicts = self.trials.source_verdicts(task, split)
        source = [clip.id for clip, verdict in zip(split.clips, verdicts, strict=True) if verdict == 1]
        source = source[: self.design.most_clips]
        own, roles = self._by_name(task), self._roles(task, split)
        moving = [role.feature for role in roles if role.effect > 0]
        others = [Method(BY_EFFECT, self._settings(moving), {"features": moving[: max(self.design.num_features)]})]
        others += [] if alone else self._without_dictionary(task, split)
        draws = list(self._random(task, own)) if ranked else []
        mine, *rest = self._tuned(task, split, source, [own, *others, *draws])
        return Choice(mine, rest[: len(others)], rest[len(others) :], roles, len(source))

    def _roles(self, task: SteeringTask, split: Split) -> list[Role]:
        """Return what features do to the answer, the strongest towards the target first."""
        known = [clip.id for clip in split.clips if task.truth(clip) in (task.source, task.target)]
        if not known:
            return []
        (answers,) = self.trials.ask(split, known, [Condition(task.prompt, None)])
        by_name = [feature.feature for feature in self.features.find(task.concept).features]
        interview = self.trials.interview
        asked = Asked(task, interview.clips(split.audio, known), answers, interview.procedure)
        return self.features.roles(asked, split.audio, by_name)

    def _by_name(self, task: SteeringTask) -> Method:
        """Return the paper's method: the features whose names are closest to the concept."""
        found = self.features.find(task.concept)
        names = [feature._asdict() for feature in found.features[: max(self.design.num_features)]]
        ranked = [feature.feature for feature in found.features]
        return Method(STEERED, self._settings(ranked), {"by": found.by, "features": names})

    def _settings(self, ranked: Sequence[int]) -> list[Setting]:
        """Return the settings of ranked features: the first few of them, at a multiple of their maxima."""
        counts = sorted({min(n, len(ranked)) for n in self.design.num_features} - {0})
        tried = product(counts, sorted(self.design.multiples))
        return [Setting(tuple(ranked[:n]), strength=multiple) for n, multiple in tried]

    def _without_dictionary(self, task: SteeringTask, split: Split) -> Iterator[Method]:
        """Return the baselines that need no dictionary."""
        source, target = (
            [clip.id for clip in split.clips if task.truth(clip) == wanted] for wanted in (task.source, task.target)
        )
        if source and target:
            interview = self.trials.interview
            of_source, of_target = (interview.hears(split.audio, clip_ids) for clip_ids in (source, target))
            silent = interview.hears(split.audio, source, silenced=True)
            about = {"unit": of_source.spread(), "num_source": len(source), "num_target": len(target)}
            for name, direction in {
                MEANS: difference_of_means(of_source.means, of_target.means),
                PROBE: linear_probe(of_source.means, of_target.means),
                SILENCE: audio_minus_silence(of_source.means, silent.means),
            }.items():
                lengths = self.design.lengths
                yield Method(name, [Setting((), direction, x, about["unit"]) for x in lengths], about)
        words = hints(task.concept, task.target, self.design.num_settings)
        yield Method(PROMPT, [Setting(hint=hint) for hint in words], {})

    def _random(self, task: SteeringTask, own: Method) -> Iterator[Method]:
        """Draw as many features that fire as often, whose settings change x by the same length as ours do.

        Features that have one of the names in question, of source or target, are never drawn.
        """
        if not own.settings:
            return
        generator = torch.Generator().manual_seed(self.seed)
        ranked = max((setting.features for setting in own.settings), key=len)
        concepts = (task.concept, task.source_concept)
        found = [self.features.find(concept).features for concept in concepts if concept is not None]
        taken = {feature.name for features in found for feature in features[: len(ranked)]}
        named = {feature.feature for features in found for feature in features if feature.name in taken}
        for _ in range(self.design.num_draws):
            draw = matched_features(
                self.features.n_active, ranked, generator=generator, nearest=NEAREST, excluded=named
            )
            if draw:
                yield Method(RANDOM, [self._of_norm(setting, draw) for setting in own.settings], {"features": draw})

    def _of_norm(self, setting: Setting, draw: Sequence[int]) -> Setting:
        """Return a setting of drawn features that changes x by the same length as another's."""
        same = Setting(tuple(draw[: len(setting.features)]), strength=setting.strength)
        lengths = [norm_of_change(self.features.directions, one.clamp(self.trials.maxima)) for one in (setting, same)]
        return Setting(same.features, strength=setting.strength, unit=lengths[0] / lengths[1] if lengths[1] else 1.0)

    def _tuned(self, task: SteeringTask, split: Split, source: Sequence[str], methods: Sequence[Method]) -> list[Tuned]:
        """Try all settings of all methods on clips that are answered with the source."""
        flat = [setting for method in methods for setting in method.settings]
        shares = iter(self.trials.shares(task, split, source, flat) if source else [(math.nan, 0)] * len(flat))
        tuned = []
        for method in methods:
            tried = [(setting, *next(shares)) for setting in method.settings]
            known = [share for _, share, _ in tried if not math.isnan(share)]
            best = next((s for s, share, _ in tried if share == max(known, default=None)), None)
            said = [{**setting.summary(), "sensitivity": share, "n": n} for setting, share, n in tried if source]
            tuned.append(Tuned(method.name, best or next(iter(method.settings), None), said, method.about))
        return tuned


NEAREST = 50
"""From how many features of about the same firing rate each random one is drawn."""
