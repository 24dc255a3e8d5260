"""Pairs of a sound and words for each concept: clips in which its name is true, and a name that contradicts it."""

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ard.activations import read_clips_metadata
from ard.audio import Conflict
from ard.evaluation.scores import read_unseen
from ard.monosemanticity import read_selections
from ard.naming.functional import labels_in
from ard.probing import read_scores
from ard.run import Cell


@dataclass(frozen=True)
class Trial:
    """Some pairs, and the features whose activity is read in them."""

    features: tuple[int, ...]
    conflicts: tuple[Conflict, ...]  # the audio of one without a file is the clip of its id
    clips_by: str  # how the sounds were chosen
    contradicting: str | None = None  # the name that contradicts

    def __len__(self) -> int:
        """Return the number of its pairs."""
        return len(self.conflicts)


class Unseen:
    """The clips of a cell that naming never saw: their labels, and where some features are active.

    Args:
        cell: the cell.
        features: the features.
    """

    def __init__(self, cell: Cell, features: Sequence[int]) -> None:
        scores = read_scores(cell, cell.unseen)
        assert scores is not None
        rows = read_unseen(cell, read_selections(cell)["ard"][0].top_ids).tolist()
        metadata = read_clips_metadata(cell.splits[cell.unseen])
        self.clip_ids = [metadata[row]["id"] for row in rows]
        self.labels = [set(metadata[row].get("labels") or ()) for row in rows]
        self.vocabulary = set().union(*self.labels)
        self._scores = dict(
            zip(features, scores.dense("ard", torch.tensor(features, dtype=torch.int64))[rows].T, strict=True)
        )

    def num_active(self, feature: int) -> int:
        """Return in how many clips a feature is active."""
        return int((self._scores[feature] > 0).sum())

    def most_active(self, feature: int, most: int) -> list[int]:
        """Return the clips in which a feature is most active, at most so many, without those where it is silent."""
        values, clips = self._scores[feature].sort(descending=True, stable=True)
        return clips[:most][values[:most] > 0].tolist()

    def true_of(self, name: str, contradicting: str | None) -> list[int]:
        """Return the clips that have all labels that a name states, and not all that another states; none without."""
        own, other = (set(labels_in(text, self.vocabulary)) for text in (name, contradicting))
        return [
            clip for clip, labels in enumerate(self.labels) if own and own <= labels and not (other and other <= labels)
        ]


def contradicting_names(
    rates: Mapping[str, float], alike: Bool[Tensor, "names names"], seed: int
) -> dict[str, str | None]:
    """Return for each name the one of nearest rate among those that are not alike; None if all are.

    Ties go to what comes first in a random order.

    Args:
        rates: how often each name's features are active.
        alike: which names mean nearly the same, in the order of ``rates``.
        seed: seed of the order.
    """
    names = list(rates)
    order: Int[np.ndarray, " names"] = np.random.default_rng(seed).permutation(len(names))
    return {
        name: min(
            (names[other] for other in order if other != place and not alike[place, other]),
            key=lambda other, name=name: abs(rates[other] - rates[name]),  # type: ignore[misc]
            default=None,
        )
        for place, name in enumerate(names)
    }


def mean_rates(names: Mapping[int, str], unseen: Unseen) -> dict[str, float]:
    """Return for each name in how many clips its features are active, on average."""
    count, rates = Counter(names.values()), dict.fromkeys(names.values(), 0.0)
    for feature, name in names.items():
        rates[name] += unseen.num_active(feature) / count[name]
    return rates


def pairs_of_concepts(
    names: Mapping[int, str],
    unseen: Unseen,
    contradicting: Mapping[str, str | None],
    template: str,
    neutral: str,
    num_pairs: int,
    seed: int,
) -> Iterator[Trial]:
    """Choose the clips of every concept, and say what their words are; concepts of one name share their clips.

    By label, clips are drawn at random from those in which the name is true; without any, they are a feature's most
    active ones. A feature that is silent gets none. Without a contradicting name, the neutral text stands in its place.
    """
    by_name: dict[str, list[int]] = {}
    for feature, name in names.items():
        by_name.setdefault(name, []).append(feature)
    for name, features in by_name.items():
        other = contradicting[name]
        words = template.replace("{}", name), neutral if other is None else template.replace("{}", other)
        draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
        clips = sorted(draw.permutation(unseen.true_of(name, other))[:num_pairs].tolist())
        chosen = [(tuple(features), clips, "label")] if clips else []
        if not clips:
            chosen = [((feature,), unseen.most_active(feature, num_pairs), "activity") for feature in features]
        for of, clips, clips_by in chosen:
            if clips:
                conflicts = tuple(Conflict(unseen.clip_ids[clip], Path(), *words) for clip in clips)
                yield Trial(of, conflicts, clips_by, other)
