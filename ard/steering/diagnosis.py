"""Why steering a named concept does not turn answers: which of the known causes the measurements show."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ard.results import Figure
from ard.steering.choice import STEERED, Choice
from ard.steering.effects import Asked, effect_by_layer
from ard.steering.experiment import Measured
from ard.steering.features import Found, NamedFeature
from ard.steering.interview import Condition
from ard.steering.judge import ClassMatch
from ard.steering.roles import Role
from ard.steering.task import SteeringTask
from ard.steering.trials import Split, Trials

LEAST_SENSITIVITY = 0.5
"""Steering works from here on: it turns at least as many answers as it leaves."""

LARGEST_P = 0.05
"""Steering works below this p-value among random draws, by convention; fewer than 20 draws cannot go below it."""

LEAST_RISE = 0.05
"""More of a dose helps where the last step to a larger one turned more of the answers than this. It is one or two of
the 32 clips of the demo."""

LEAST_KEPT = 0.9
"""A reconstruction leaves answers alone if it keeps this share of them; a dose at equal damage has to keep as much."""

LEAST_LEFT = 0.5
"""An answer is read from an earlier layer if the run's own has less than this share of that layer's effect: most of
it is lost in between."""

SWEEP_CLIPS = 8
"""Clips of each class for the effect by layer: few, since every layer costs a forward pass for each."""


class Cause(NamedTuple):
    """A cause that applies, and the figures that show it."""

    cause: str
    because: str


class AtLayer(NamedTuple):
    """What adding the difference of the class means of a layer does there to the log-odds, in nats, over clips."""

    layer: int
    norm: float
    effect: Figure


@dataclass(frozen=True)
class Evidence:
    """What is known of one task.

    Args:
        task: the task.
        sensitivity: of the features that were chosen by their names.
        ranks: the p-value of that sensitivity among random draws, and how many there are, by the kind of draw.
        chosen: the features that were set.
        named_for: concepts of the question's other classes, with the cosine of each feature's name with it.
        roles: what features hear and do.
        doses: multiples and the sensitivity at each, least first.
        kept: the share of answers that stay the same under the reconstruction alone.
        layers: the effect by layer.
        layer: the run's own.
        places: how many features a token can have; None without a limit.
    """

    task: SteeringTask
    sensitivity: float
    ranks: Mapping[str, tuple[float, int]]
    chosen: Sequence[NamedFeature]
    named_for: Mapping[str, Mapping[int, float]]
    roles: Mapping[int, Role]
    doses: Sequence[tuple[float, float]]
    kept: float
    layers: Sequence[AtLayer]
    layer: int
    places: int | None

    @property
    def moving(self) -> list[Role]:
        """The features among those set that move the answer towards the target, further than random directions do."""
        roles = [self.roles[one.feature] for one in self.chosen if one.feature in self.roles]
        return [role for role in roles if role.kind in ("speaks", "both") and role.effect > 0]

    @property
    def own_layer(self) -> Figure | None:
        """The effect at the run's own layer."""
        return next((at.effect for at in self.layers if at.layer == self.layer), None)


def diagnose(evidence: Evidence) -> dict[str, Any] | None:
    """Return why steering does not work: what is wrong, and the causes; None where it works or was not measured."""
    wrong = []
    if evidence.sensitivity < LEAST_SENSITIVITY:
        wrong.append(f"{evidence.sensitivity:.2f} of the answers turn")
    for kind, (p, num) in evidence.ranks.items():
        if p >= LARGEST_P > 1 / (1 + num):
            wrong.append(f"p = {p:.2f} among {num} {kind}")
    if not wrong:
        return None
    found = [
        cause for look in (not_named, without_effect, saturated, read_earlier, rebuilt) if (cause := look(evidence))
    ]
    return {"wrong": wrong, "causes": [cause._asdict() for cause in found]}


def not_named(evidence: Evidence) -> Cause | None:
    """No feature that was set is named for the target: each name is as close to the concept of another class."""
    if not evidence.chosen:
        return Cause("no feature is named for it", "no feature has a name that may be set")
    nearest = [(one, *_closest_other(one, evidence.named_for)) for one in evidence.chosen]
    if any(one.cosine > cosine for one, _, cosine in nearest):
        return None
    first, other, cosine = nearest[0]
    return Cause(
        "no feature is named for it",
        f"{first.name!r}, the closest name, is closer to {other!r} (CLAP cosine {cosine:.2f}) than to "
        f"{evidence.task.concept!r} ({first.cosine:.2f}), and so are the names of all {len(nearest)} that are set",
    )


def _closest_other(one: NamedFeature, named_for: Mapping[str, Mapping[int, float]]) -> tuple[str, float]:
    """Return which other concept a name is closest to, and its cosine."""
    cosines = {concept: of_concept.get(one.feature, -math.inf) for concept, of_concept in named_for.items()}
    return max(cosines.items(), key=lambda item: item[1], default=("", -math.inf))


def without_effect(evidence: Evidence) -> Cause | None:
    """Features are named for the target, but none of them moves the answer there."""
    roles = [evidence.roles[one.feature] for one in evidence.chosen if one.feature in evidence.roles]
    if not roles or evidence.moving or not_named(evidence):
        return None
    backwards = sum(role.kind in ("speaks", "both") for role in roles)
    only_hear = sum(role.kind == "hears" for role in roles)
    return Cause(
        "named but without effect",
        f"of {len(roles)} features that are set, none moves the log-odds of {evidence.task.target!r} up by more than "
        f"random directions do; {only_hear} only hear the class, {backwards} move the answer the other way",
    )


def saturated(evidence: Evidence) -> Cause | None:
    """Features move the answer, but fewer than half of the answers turn, and more of the features is of no use."""
    moving = evidence.moving
    if not moving:
        return None
    strongest = max(moving, key=lambda role: role.effect)
    scale = f", where the difference of the class means does {own.value:+.1f}" if (own := evidence.own_layer) else ""
    effect = (
        f"{len(moving)} of {len(evidence.chosen)} features move the answer, {strongest.feature} the furthest, by "
        f"{strongest.change:+.1f} nats{scale}"
    )
    if evidence.places is not None and len(evidence.chosen) >= evidence.places:
        return Cause(
            "effect but saturated", f"{effect}; but they take all {evidence.places} places that TopK leaves at a token"
        )
    doses = [(dose, share) for dose, share in evidence.doses if dose > 0 and not math.isnan(share)]
    if len(doses) < 2 or doses[-1][1] - doses[-2][1] > LEAST_RISE or doses[-1][1] >= LEAST_SENSITIVITY:
        return None
    (before, less), (last, more) = doses[-2:]
    return Cause(
        "effect but saturated",
        f"{effect}; but from {before:g} to {last:g} times their maxima sensitivity goes from {less:.2f} to {more:.2f}",
    )


def read_earlier(evidence: Evidence) -> Cause | None:
    """What tells the classes apart moves the answer in an earlier layer, and hardly in the run's own."""
    own = evidence.own_layer
    earlier = [at for at in evidence.layers if at.layer < evidence.layer]
    if own is None or not earlier:
        return None
    best = max(earlier, key=lambda at: at.effect.value)
    if not best.effect.low > 0 or own.value >= LEAST_LEFT * best.effect.value:
        return None
    return Cause(
        "the answer is read from an earlier layer",
        f"the difference of the class means moves the log-odds by {best.effect.value:+.1f} nats at layer {best.layer}, "
        f"and by {own.value:+.1f} at layer {evidence.layer}",
    )


def rebuilt(evidence: Evidence) -> Cause | None:
    """The dictionary's reconstruction changes answers by itself."""
    if not evidence.kept < LEAST_KEPT:
        return None
    return Cause(
        "the reconstruction alone changes the answer",
        f"with the SAE and nothing set, {evidence.kept:.2f} of the answers stay of the same class",
    )


class Examination:
    """Gather the evidence on each task of a dictionary, and diagnose.

    Args:
        trials: asks and judges.
        find: ranks the named features by a concept.
        tasks: all tasks, whose concepts are those of the classes.
    """

    def __init__(self, trials: Trials, find: Callable[[str], Found], tasks: Sequence[SteeringTask]) -> None:
        self.trials, self.find, self.tasks = trials, find, tasks

    def __call__(
        self, task: SteeringTask, selection: Split, split: Split, choice: Choice, measured: Measured
    ) -> dict[str, Any]:
        """Return the effect by layer, and the diagnosis or None, for the result file."""
        interview, details = self.trials.interview, measured.details
        layers = list(self._layers(task, selection))
        setting = choice.own.setting
        chosen = [NamedFeature(**one) for one in choice.own.about["features"]][
            : len(setting.features) if setting else 0
        ]
        concepts = {
            name: concept
            for other in self.tasks
            if other.prompt == task.prompt
            for name, concept in ((other.target, other.concept), (other.source, other.source_concept))
            if concept is not None and name != task.target
        }
        evidence = Evidence(
            task=task,
            sensitivity=measured.figures[STEERED]["sensitivity"].value,
            ranks={
                name: (details[key]["p"], len(details[key]["draws"]))
                for name, key in (("random features", "random_features"), ("random directions", "random_directions"))
            },
            chosen=chosen,
            named_for={
                concept: {one.feature: one.cosine for one in self.find(concept).features}
                for concept in concepts.values()
            },
            roles={role.feature: role for role in choice.roles},
            doses=[
                (p["multiple"], p["sensitivity"]["value"])
                for p in details["dose_response"]
                if p["multiple"] is not None
            ],
            kept=self._kept(task, split, list(details["reached"])),
            layers=layers,
            layer=interview.layer,
            places=getattr(interview.coder, "k", None),
        )
        return {
            "layers": [{**at._asdict(), "effect": asdict(at.effect)} for at in layers],
            "diagnosis": diagnose(evidence),
        }

    def _kept(self, task: SteeringTask, split: Split, clip_ids: Sequence[str]) -> float:
        """Return the share of answers that are of the same class with the SAE alone; NaN if none states a class."""
        conditions = [Condition(task.prompt, None), Condition(task.prompt, {})]
        before, after = map(ClassMatch(task.question.classes), self.trials.ask(split, clip_ids, conditions))
        same = [one == other for one, other in zip(before, after, strict=True) if one is not None]
        return float(np.mean(same)) if same else math.nan

    def _layers(self, task: SteeringTask, split: Split) -> Iterator[AtLayer]:
        """Measure the effect by layer on a few clips of either class; nothing without clips of both."""
        interview = self.trials.interview
        clip_ids = [clip.id for clip in split.clips if task.truth(clip) in (task.source, task.target)]
        (answers,) = self.trials.ask(split, clip_ids, [Condition(task.prompt, None)])
        of_clip = dict(zip(clip_ids, answers, strict=True))
        stated = dict(zip(clip_ids, ClassMatch(task.question.classes)(answers), strict=True))
        truth = {clip.id: task.truth(clip) for clip in split.clips if clip.id in of_clip}
        source = [one for one in clip_ids if truth[one] == stated[one] == task.source][:SWEEP_CLIPS]
        target = [one for one in clip_ids if truth[one] == task.target][:SWEEP_CLIPS]
        if not source or not target:
            return
        used = [one for one in clip_ids if one in {*source, *target}]
        clips = interview.clips(split.audio, used)
        groups = np.array([clip.group or clip.id for clip in clips if truth[clip.id] == task.source])
        asked = Asked(task, clips, [of_clip[one] for one in used], interview.procedure)
        for layer, norm, change in effect_by_layer(interview.model, asked, [truth[one] for one in used]):
            effect = Figure.estimate(change, _mean, "nats", over="clips", seed=self.trials.seed, groups=groups)
            yield AtLayer(layer, norm, effect)


def _mean(nats: Float[np.ndarray, " clips"]) -> float:
    """Return the mean; that of numpy itself would have zeros and ones taken for a share."""
    return float(nats.mean())
