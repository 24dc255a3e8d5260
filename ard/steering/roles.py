"""Which features hear a class in the sound, which speak for it in the answer, and which do both."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import csc_array, csr_array, vstack
from scipy.stats import mannwhitneyu

from ard.audiollm import AudioLLM
from ard.monosemanticity.functional import q_values
from ard.ranks import Ranks
from ard.results import Figure
from ard.run import Cell
from ard.sae import Dictionary
from ard.steering.effects import Asked, Effects, measure_directions, measure_effects, per_norm
from ard.steering.judge import ClassMatch
from ard.steering.steer import _as_weights
from ard.types import Clip

Kind = Literal["hears", "speaks", "both", "neither"]
"""Whether a feature's activity tells the target's clips from the source's, and whether setting it moves the answer."""

Origin = Literal["name", "activity", "name and activity", "request"]
"""What made a feature a candidate."""

COLUMNS_AT_ONCE = 1024
"""Features that are ranked at once, which bounds the memory."""


class Heard(NamedTuple):
    """How well each feature's activity tells clips of the target from clips of the source."""

    auroc: Float[np.ndarray, " features"]  # above .5: more active on the target; .5 where all clips are alike
    p_value: Float[np.ndarray, " features"]  # two-sided, by Mann and Whitney; NaN where all clips are alike
    q_value: Float[np.ndarray, " features"]  # by Benjamini and Hochberg, over the dictionary


class Candidate(NamedTuple):
    """A feature whose effect is to be measured."""

    feature: int
    by: Origin


class Role(NamedTuple):
    """A row of ``effects.parquet``: what one feature hears, and what it does to a task's answers.

    Effects are in nats of the target's log-odds against the source's, per unit of change in the residual's norm, with
    their 95 % interval over the clips that are answered with the source.
    """

    task: str
    source: str
    target: str
    feature: int
    name: str | None
    by: Origin
    kind: Kind
    auroc: float
    q_value: float
    effect: float
    effect_low: float
    effect_high: float
    effect_by_chance: float  # the largest, towards either side, of as many random directions of the same norms
    num_clips: int
    value: float  # that the feature was set to
    change: float  # of the log-odds, at that value
    norm: float  # of the residual's change
    output_score: float
    lens: float


Spread = Callable[..., list[Any]]
"""What has processes measure a layer on clips: ``spread(clips, measure, *given)`` returns what each of them makes of
``measure(model, coder, layer, clips, ranks, *given)``, which measures its share."""


def alone(model: AudioLLM, coder: Dictionary, layer: int) -> Spread:
    """Return what measures in this process."""
    return lambda clips, measure, *given: [measure(model, coder, layer, clips, Ranks(), *given)]


def find_roles(
    spread: Spread,
    asked: Asked,
    *,
    by_name: Sequence[int],
    values: Mapping[int, float],
    names: Mapping[int, str],
    most: int = 20,
    most_clips: int | None = None,
    requested: Sequence[int] = (),
    false_discovery_rate: float = 0.05,
    seed: int = 0,
) -> list[Role]:
    """Return what the candidates hear and do, those first that move the answer most towards the target.

    A feature *hears* if its mean activity over a clip's audio tokens tells the target's clips from the source's: the
    q-value over all features of the dictionary is at most ``false_discovery_rate``. The class of a clip is its own
    emotion or gender; where no clip has one, the class that its unsteered answer states. A feature *speaks* if its mean
    effect (:func:`~ard.steering.measure_effects`), towards either class, is larger than that of every one of as many
    random directions as there are candidates, added with the same norms. Effects are measured on the clips whose answer
    states the source, by its words; without one, or without candidates, there are no roles.

    Args:
        spread: measures; :func:`~ard.steering.alone` is of a model, a dictionary and its layer.
        asked: the question about clips of the source and of the target, and how features are set.
        by_name: features by how close their names are to the target's concept, the closest first.
        values: the value that each feature would be set to; features without one are no candidates.
        names: the features' names.
        most: most candidates by name, and as many by activity.
        most_clips: most clips, of those that are answered with the source, to measure effects on; None takes all.
        requested: the only candidates, if any are given.
        false_discovery_rate: rate at which features count as hearing.
        seed: seed of the directions and the bootstrap.

    Raises:
        UserError: if a feature cannot be set, or no token tells the classes apart.
    """
    task = asked.task
    stated = ClassMatch(task.question.classes)(asked.answers)
    truth = [task.truth(clip) for clip in asked.clips]
    activity = mean_activity(spread, asked.clips, task.prompt)
    heard = hearing(activity, truth if any(truth) else stated, task.source, task.target)
    chosen = [Candidate(feature, "request") for feature in requested]
    chosen = chosen or candidates(by_name, heard, set(values), most)
    among = [index for index, name in enumerate(stated) if name == task.source][:most_clips]
    if not chosen or not among:
        return []
    clips = asked.about(among).clips
    asked = asked.about(among)._replace(clips=())  # who measures has them
    shares = spread(clips, _effects, {one.feature: values[one.feature] for one in chosen}, asked)
    found = shares[0]._replace(**{name: sum(getattr(one, name) for one in shares) for name in _MEASURED})
    change, norm = np.sum(spread(clips, _effects_of_random, found.norm.mean(axis=1), seed, asked), axis=0)
    by_chance = float(np.abs(per_norm(change, norm).mean(axis=1)).max(initial=0.0))
    groups = np.array([clip.group or clip.id for clip in clips])
    roles = []
    for row, (feature, by) in enumerate(chosen):
        effect = Figure.estimate(
            found.effect[row], np.mean, "nats per unit of norm", over="clips", seed=seed, groups=groups
        )
        q_value = float(heard.q_value[feature])
        kind = role_kind(hears=q_value <= false_discovery_rate, speaks=abs(effect.value) > by_chance)
        roles.append(
            Role(
                task=task.name,
                source=task.source,
                target=task.target,
                feature=feature,
                name=names.get(feature),
                by=by,
                kind=kind,
                auroc=float(heard.auroc[feature]),
                q_value=q_value,
                effect=effect.value,
                effect_low=effect.low,
                effect_high=effect.high,
                effect_by_chance=by_chance,
                num_clips=len(among),
                value=float(values[feature]),
                change=float(found.change[row].mean()),
                norm=float(found.norm[row].mean()),
                output_score=float(found.output_score[row]),
                lens=float(found.lens[row]),
            )
        )
    return sorted(roles, key=lambda role: role.effect, reverse=True)


_MEASURED = ("change", "norm", "scores")
"""The fields of effects that ranks share: each has 0 for what others measure."""


def _effects(
    model: AudioLLM,
    coder: Dictionary,
    layer: int,
    clips: Sequence[Clip],
    ranks: Ranks,
    values: Mapping[int, float],
    asked: Asked,
) -> Effects:
    return measure_effects(model, coder, layer, values, asked._replace(clips=clips), ranks)


def _effects_of_random(
    model: AudioLLM,
    coder: Dictionary,
    layer: int,
    clips: Sequence[Clip],
    ranks: Ranks,
    norms: Float[np.ndarray, " directions"],
    seed: int,
    asked: Asked,
) -> tuple[Float[np.ndarray, "_ clips"], Float[np.ndarray, "_ clips"]]:
    directions = random_directions(norms, model.d_in, seed)
    return measure_directions(model, layer, directions, asked._replace(clips=clips), ranks)


def mean_activity(spread: Spread, clips: Sequence[Clip], prompt: str, *, clips_per_batch: int = 16) -> csc_array:
    """Return each feature's mean over the audio tokens of each clip, [clips, features], where few are not 0."""
    return vstack(Ranks.joined(spread(clips, _activity, prompt, clips_per_batch)), format="csc")


def _activity(
    model: AudioLLM,
    coder: Dictionary,
    layer: int,
    clips: Sequence[Clip],
    ranks: Ranks,
    prompt: str,
    clips_per_batch: int,
) -> list[csr_array]:
    """Return the activity of this rank's share of the batches, batch by batch."""
    batches = [clips[start : start + clips_per_batch] for start in range(0, len(clips), clips_per_batch)]
    return [_of_batch(model, coder, layer, batch, prompt) for batch in ranks.mine(batches)]


def _of_batch(model: AudioLLM, coder: Dictionary, layer: int, clips: Sequence[Clip], prompt: str) -> csr_array:
    rows = []
    for x in model.capture(model.prompter(clips, [prompt] * len(clips)), [layer])[layer]:
        with torch.inference_mode():
            codes = coder.encode(_as_weights(coder, x))
        total = codes.values.new_zeros(coder.d_sae).index_add_(0, codes.indices.flatten(), codes.values.flatten())
        rows.append(csr_array((total / len(x)).double().cpu().numpy()[None]))
    return vstack(rows, format="csr")


def hearing(activity: csc_array, classes: Sequence[str | None], source: str, target: str) -> Heard:
    """Return how well the activity of every feature tells clips of the target from those of the source.

    Every AUROC is .5, and every p-value NaN, if one of the classes has no clip.

    Example:
        >>> import numpy as np
        >>> from scipy.sparse import csc_array
        >>> from ard.steering.roles import hearing
        >>> activity = csc_array(np.array([[0.0, 1.0], [2.0, 1.0], [3.0, 1.0]]))
        >>> hearing(activity, ["sad", "happy", "happy"], "sad", "happy").auroc.tolist()
        [1.0, 0.5]
    """
    of_target, of_source = (np.flatnonzero([name == wanted for name in classes]) for wanted in (target, source))
    auroc, p_value = np.full(activity.shape[1], 0.5), np.full(activity.shape[1], np.nan)
    for start in range(0, activity.shape[1], COLUMNS_AT_ONCE):
        block = activity[:, start : start + COLUMNS_AT_ONCE].toarray()
        varies = np.flatnonzero(_varies(block[np.concatenate([of_target, of_source])]))
        if len(varies) and len(of_target) and len(of_source):
            tested = mannwhitneyu(block[of_target][:, varies], block[of_source][:, varies], method="asymptotic")
            auroc[start + varies] = tested.statistic / (len(of_target) * len(of_source))
            p_value[start + varies] = tested.pvalue
    return Heard(auroc, p_value, q_values(torch.from_numpy(p_value)).numpy())


def _varies(activity: Float[np.ndarray, "clips features"]) -> Bool[np.ndarray, " features"]:
    return np.ptp(activity, axis=0) > 0 if len(activity) else np.zeros(activity.shape[1], dtype=bool)


def candidates(by_name: Sequence[int], heard: Heard, settable: set[int], most: int) -> list[Candidate]:
    """Return the features with the closest names and those that tell the classes best, no feature twice.

    Example:
        >>> import numpy as np
        >>> from ard.steering.roles import Heard, candidates
        >>> auroc = np.array([0.5, 0.1, 0.8, 0.6])
        >>> for one in candidates([2, 0], Heard(auroc, auroc, auroc), {0, 1, 2, 3}, most=2):
        ...     print(one.feature, one.by)
        2 name and activity
        0 name
        1 activity
    """
    named = [feature for feature in by_name if feature in settable][:most]
    best = np.argsort(-np.abs(heard.auroc - 0.5), kind="stable").tolist()
    active = [feature for feature in best if feature in settable and not np.isnan(heard.p_value[feature])][:most]
    of_names = [Candidate(feature, "name and activity" if feature in active else "name") for feature in named]
    return of_names + [Candidate(feature, "activity") for feature in active if feature not in named]


def random_directions(norms: Float[np.ndarray, " directions"], d_in: int, seed: int) -> Float[torch.Tensor, "_ d_in"]:
    """Draw a direction of each of these norms, uniformly; norms of 0 are left out."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(norms), d_in, generator=generator)
    length = torch.from_numpy(norms).float()[:, None]
    return (length * drawn / drawn.norm(dim=1, keepdim=True))[norms > 0]


def role_kind(*, hears: bool, speaks: bool) -> Kind:
    """Return what a feature is."""
    if hears and speaks:
        return "both"
    return "hears" if hears else "speaks" if speaks else "neither"


def save_roles(cell: Cell, roles: Sequence[Role]) -> None:
    """Write ``effects.parquet`` of a cell."""
    cell.save_rows("effects", (role._asdict() for role in roles))


def read_roles(cell: Cell) -> list[Role]:
    """Read ``effects.parquet`` of a cell.

    Raises:
        UserError: if it is not there.
    """
    return [Role(**row) for row in cell.rows("effects")]
