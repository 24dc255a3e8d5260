"""In which clips names are true, by labels or by CLAP, and in which ones their nearest other names are."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ard.naming.functional import labels_in
from ard.types import Mixture

DEVIATIONS = 2.0
"""A name is true of a clip, as CLAP hears it, if their cosine is so many standard deviations above its mean."""

NUM_NEAREST = 5
MOST_SHARED = 0.5
"""Of the clips of the rarer of two names, the share from which on the two say much the same."""

BLOCK = 256  # names compared at once


class Truth(NamedTuple):
    """In which clips names are true; a column for every name.

    Attributes:
        by: what says so: ``labels`` or ``CLAP``.
        true: unseen clips in which the name is true.
        near: those in which one of its nearest other names is true, and it is not.
        made: new clips that were made for the name.
    """

    by: str
    true: Bool[np.ndarray, "clips names"]
    near: Bool[np.ndarray, "clips names"]
    made: Bool[np.ndarray, "made names"]


class Clips(NamedTuple):
    """The unseen clips and those that were made: their descriptions, and their embeddings if there is a CLAP model."""

    unseen: Sequence[Mapping[str, Any]]
    made: Sequence[Mapping[str, Any]]
    embedded: Float[np.ndarray, "clips d"] | None = None
    embedded_made: Float[np.ndarray, "made d"] | None = None

    @property
    def vocabulary(self) -> list[str]:
        """The labels of the unseen clips."""
        return sorted({label for clip in self.unseen for label in clip.get("labels", ())})


def truth_by_labels(names: Sequence[str], clips: Clips, alike: Float[np.ndarray, "names names"]) -> Truth:
    """Return where names are true by labels: a clip has every label whose words the name contains in sequence.

    A name that states no label is true nowhere. A mixture was made for what its clip has and its background lacks.

    Args:
        names: the names.
        clips: the clips.
        alike: how alike each two names are.
    """
    vocabulary = clips.vocabulary
    stated = np.array([[label in labels_in(name, vocabulary) for label in vocabulary] for name in names], dtype=float)
    stated = stated.reshape(len(names), len(vocabulary))

    def has(labels_of_clips: Sequence[Sequence[str]]) -> Bool[np.ndarray, "clips names"]:
        labels = np.array([[label in of_clip for label in vocabulary] for of_clip in labels_of_clips], dtype=float)
        counts = labels.reshape(len(labels_of_clips), len(vocabulary)) @ stated.T
        return (counts >= stated.sum(axis=1)) & (stated.sum(axis=1) > 0)

    true = has([clip.get("labels", ()) for clip in clips.unseen])
    rendered = has([clip.get("labels", ()) for clip in clips.made])
    return Truth("labels", true, _near(true, alike), _made(true, clips, rendered))


def truth_by_clap(texts: Float[np.ndarray, "names d"], clips: Clips, alike: Float[np.ndarray, "names names"]) -> Truth:
    """Return where CLAP hears names: cosine at least ``DEVIATIONS`` standard deviations above its mean.

    Mean and standard deviation are a name's own, over the unseen clips.

    Args:
        texts: embeddings of the names.
        clips: the clips, with embeddings.
        alike: how alike each two names are.
    """
    assert clips.embedded is not None
    true = np.empty((len(clips.unseen), len(texts)), dtype=bool)
    rendered = np.zeros((len(clips.made), len(texts)), dtype=bool)
    for start in range(0, len(texts), BLOCK):
        part = slice(start, start + BLOCK)
        cosine = clips.embedded @ texts[part].T
        least = cosine.mean(axis=0) + DEVIATIONS * cosine.std(axis=0)
        true[:, part] = cosine >= least
        if clips.embedded_made is not None:
            rendered[:, part] = clips.embedded_made @ texts[part].T >= least
    return Truth("CLAP", true, _near(true, alike), _made(true, clips, rendered))


def shared_words(names: Sequence[str]) -> Float[np.ndarray, "names names"]:
    """Return what share of the words of each two names both have, where there is no model to compare them."""
    words = [{*name.lower().replace("_", " ").split()} for name in names]
    return np.array([[len(one & other) / max(len(one | other), 1) for other in words] for one in words])


def say_the_same(
    true: Bool[np.ndarray, "clips names"], others: Bool[np.ndarray, "clips others"]
) -> Bool[np.ndarray, "names others"]:
    """Return which names say much the same: they share over half of the clips of the rarer one."""
    both = true.T.astype(float) @ others
    rarer = np.minimum(true.sum(axis=0)[:, None], others.sum(axis=0))
    return both > MOST_SHARED * np.maximum(rarer, 1)


def nearest(
    true: Bool[np.ndarray, "clips names"], alike: Float[np.ndarray, "names names"], number: int = NUM_NEAREST
) -> Iterator[list[int]]:
    """Yield for each name the most similar others that are true somewhere and do not say much the same, best first."""
    somewhere = true.any(axis=0)
    for start in range(0, true.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        closeness = np.where(say_the_same(true[:, part], true) | ~somewhere, -np.inf, alike[part])
        closeness[np.arange(closeness.shape[0]), np.arange(closeness.shape[0]) + start] = -np.inf
        for of_name in closeness:
            order = np.argsort(-of_name, kind="stable")[:number]
            yield [int(other) for other in order if np.isfinite(of_name[other])]


def _near(true: Bool[np.ndarray, "clips names"], alike: Float[np.ndarray, "_ _"]) -> Bool[np.ndarray, "clips names"]:
    near = np.zeros_like(true)
    for name, others in enumerate(nearest(true, alike)):
        near[:, name] = true[:, others].any(axis=1) & ~true[:, name]
    return near


def _made(
    true: Bool[np.ndarray, "clips names"], clips: Clips, rendered: Bool[np.ndarray, "made names"]
) -> Bool[np.ndarray, "made names"]:
    """Return for which names each clip was made: by the clips that it was mixed from, or else by what it is."""
    row, made = {str(clip["id"]): number for number, clip in enumerate(clips.unseen)}, rendered.copy()
    for number, clip in enumerate(clips.made):
        if clip.get("mixture"):
            mixture = Mixture(**clip["mixture"])
            unseen = mixture.source in row and mixture.background in row
            made[number] = unseen and (true[row[mixture.source]] & ~true[row[mixture.background]])
    return made
