"""The axes of concepts' names beside those of other names, and the verdict on each name."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ard.evaluation import axes
from ard.evaluation.axes import AXES
from ard.evaluation.truth import Truth, say_the_same

BLOCK = 256  # concepts measured at once


class Concepts(NamedTuple):
    """Named concepts: their scores in unseen clips, and where they fire in these and in clips that were made."""

    features: Int[np.ndarray, " concepts"]
    names: list[str]
    scores: Float[np.ndarray, "clips concepts"]
    fires: Bool[np.ndarray, "clips concepts"]
    fires_made: Bool[np.ndarray, "made concepts"]


class Measured(NamedTuple):
    """The axes of concepts by one kind of truth: for their own names, and for others."""

    own: Float[np.ndarray, "axes concepts"]
    chance: Float[np.ndarray, "axes concepts"]  # mean over other names; of purity, the share of clips that are true
    deviations: Float[np.ndarray, "axes concepts"]  # above independence
    purity_at: Float[np.ndarray, "depths concepts"]
    average_precision: Float[np.ndarray, " concepts"]
    num_true: Int[np.ndarray, " concepts"]  # unseen clips in which the name is true
    of_others: Float[np.ndarray, "axes others concepts"]  # deviations with other names; NaN for those left out


def measure(
    concepts: Concepts,
    truth: Truth,
    columns: Int[np.ndarray, " concepts"],
    others: Int[np.ndarray, " others"],
    least_clips: int,
) -> Measured:
    """Measure the axes of concepts' own names and of other names, a few hundred concepts at a time.

    A name that is true of many clips is pure by chance alone, and one that is true of few varies more. So names are
    compared by how many standard deviations an axis is above independence (:class:`~ard.evaluation.axes.Axis`).

    Args:
        concepts: the concepts.
        truth: in which clips names are true.
        columns: the column of ``truth`` of every concept's own name.
        others: the columns of the names that these are compared with; those that say much the same are left out.
        least_clips: an axis is measured on at least so many clips in which the name is true, and as many others.
    """
    parts = []
    for start in range(0, max(len(columns), 1), BLOCK):
        part = slice(start, start + BLOCK)
        own_names, own = np.unique(columns[part], return_inverse=True)
        names = np.concatenate([own_names, others])
        of_block = concepts._replace(
            scores=concepts.scores[:, part], fires=concepts.fires[:, part], fires_made=concepts.fires_made[:, part]
        )
        of_names, deviations, depths = _axes(of_block, truth, names, least_clips)
        place = np.arange(len(own))
        figures = of_names[:, own, place]
        alike = say_the_same(truth.true[:, own_names], truth.true[:, others]) | (own_names[:, None] == others)
        compared = np.where(alike[own].T, np.nan, of_names[:, len(own_names) :])
        true = truth.true[:, columns[part]]
        chance = axes.mean_of_told(compared, axis=1)
        chance[AXES.index("purity")] = true.mean(axis=0)
        beside = np.where(alike[own].T, np.nan, deviations[:, len(own_names) :]).astype(np.float32)
        precision = axes.average_precisions(of_block.scores, true)
        of_own = deviations[:, own, place]
        parts.append(Measured(figures, chance, of_own, depths[:, own, place], precision, true.sum(axis=0), beside))
    return Measured(*(np.concatenate(field, axis=-1) for field in zip(*parts, strict=True)))


class _Axes(NamedTuple):
    """The axes of names for all concepts; NaN where there are too few clips to tell."""

    figures: Float[np.ndarray, "axes names concepts"]
    deviations: Float[np.ndarray, "axes names concepts"]  # standard deviations above independence
    purity_at: Float[np.ndarray, "depths names concepts"]


def _axes(concepts: Concepts, truth: Truth, names: Int[np.ndarray, " names"], least_clips: int) -> _Axes:
    true, near, made = truth.true[:, names], truth.near[:, names], truth.made[:, names]
    depths = axes.depths(concepts.scores)
    at_depths = axes.purity(depths, true)
    measured = (
        (axes.responsiveness(concepts.scores, true), true, ~true),
        (axes.mean_purity(depths, at_depths, true.mean(axis=0)[:, None]), true, ~true),
        (axes.sensitivity(concepts.fires_made, made), made, ~made),
        (axes.intruder(concepts.scores, true, near), true, near),
    )
    told = [np.minimum(of.sum(axis=0), others.sum(axis=0))[:, None] >= least_clips for _, of, others in measured]
    figures, deviations = (
        np.stack([np.where(is_told, axis[part], np.nan) for is_told, (axis, _, _) in zip(told, measured, strict=True)])
        for part in range(2)
    )
    return _Axes(figures, deviations, at_depths)


class Verdict(NamedTuple):
    """What the axes say of every name, in the order of the concepts."""

    q: Float[np.ndarray, "axes concepts"]
    score: Float[np.ndarray, " concepts"]
    passes: list[bool | None]  # None where it cannot be told
    fails: list[list[str]]  # why


def judge(
    measured: Measured, fires: Bool[np.ndarray, " concepts"], near_names: Sequence[str | None], rate: float
) -> Verdict:
    """Return the verdict on every name.

    Args:
        measured: the axes.
        fires: whether each feature has a positive score in any unseen clip.
        near_names: of every concept, the nearest other name.
        rate: highest q-value of an axis that passes.
    """
    pairs = zip(measured.deviations, measured.of_others, strict=True)
    q = np.stack([axes.q_values(axes.above_others(own, others.ravel(), rate)) for own, others in pairs])
    score = axes.name_scores(measured.own, measured.chance)
    passes: list[bool | None] = []
    fails: list[list[str]] = []
    for concept, of_concept in enumerate(q.T):
        why = [] if fires[concept] else ["its feature fires in no unseen clip"]
        if fires[concept]:
            why += [
                reason(axis, measured.own[row, concept], measured.chance[row, concept], near_names[concept])
                for row, axis in enumerate(AXES)
                if of_concept[row] > rate
            ]
        told = not np.isnan(of_concept[AXES.index("responsiveness")])
        passes.append(not why if told else None)
        fails.append(why if told else [])
    return Verdict(q, score, passes, fails)


def reason(axis: str, own: float, chance: float, near_name: str | None) -> str:
    """Say in what a name fails."""
    return {
        "responsiveness": f"fires no more where the name is true than it does for other names (AUROC {own:.2f}, other "
        f"names {chance:.2f})",
        "purity": f"the name is true in {own:.0%} of the clips in which it fires, and in {chance:.0%} of all",
        "sensitivity": f"fires in {own:.0%} of the new clips made for the name, and in {chance:.0%} of those made for "
        "others",
        "intruder": f"hardly tells the name from its nearest others, such as {near_name!r} (AUROC {own:.2f})",
    }[axis]


def combined(by: Mapping[str, Measured]) -> tuple[Measured, list[str]]:
    """Return the axes by labels where some clip has all that the name states, else by CLAP, and which of them it is."""
    (first, measured), *rest = by.items()
    if not rest:
        return measured, [first] * len(measured.num_true)
    labels, clap = by["labels"], by["CLAP"]
    states = labels.num_true > 0
    fields: list[Any] = [np.where(states, one, other) for one, other in zip(labels, clap, strict=True)]
    return Measured(*fields), ["labels" if of else "CLAP" for of in states]
