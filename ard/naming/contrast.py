"""Which phrases of a list belong to lists of clips, and to how many of them, beyond what chance gives."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ard.monosemanticity.chance import draw_clips

NUM_DRAWS = 5_000
"""Random lists that the highest contrast is compared with; no p-value is below 1 / (1 + this number)."""

LEAST_CLIPS = 2
"""A phrase that is found in a single clip says nothing of what clips have in common."""

BLOCK = 1024  # phrases, or concepts, compared at once

ROUNDING = 1e-6
"""Standard deviation below which a phrase's cosines to all clips are the same."""

NUM_RANKED = 8


class Phrase(NamedTuple):
    """A phrase of the list, and how it fares on the clips that it was tried on."""

    row: int  # its place in the list
    contrast: float  # on these clips, in standard deviations
    p_value: float  # share of random lists of as many clips in which some phrase has as high a contrast
    num_clips: int  # of all clips of H^k, those in which it is found


class MostAlike(NamedTuple):
    """What the phrases of a list say of one H^k."""

    ranked: list[int]  # the rows of a few phrases, those of the highest contrast, highest first
    passed: list[Phrase]  # those that name it, in the order in which they were found
    failed: list[Phrase]  # if there are none, the one of the highest contrast


class _Space:
    """Phrases, and the clips that they are weighed against."""

    def __init__(self, phrases: Float[Tensor, "phrases d"], clips: Float[Tensor, "clips d"]) -> None:
        self.phrases, self.clips = phrases.double(), clips.double()
        self.mean = self.clips.mean(dim=0)
        centred = self.clips - self.mean
        covariance = centred.T @ centred / len(clips)
        deviation = (self.phrases @ covariance * self.phrases).sum(dim=1).clamp(min=0).sqrt()
        self.deviation = deviation.masked_fill(deviation < ROUNDING, torch.inf)  # the same to all clips: no contrast

    def contrast(self, means: Float[Tensor, "lists d"], rows: slice = slice(None)) -> Float[Tensor, "_ lists"]:
        """Return the contrast of phrases on lists, of which only the mean embedding is needed."""
        return self.phrases[rows] @ (means - self.mean).T / self.deviation[rows, None]

    def highest(self, means: Float[Tensor, "lists d"]) -> tuple[Float[Tensor, " lists"], Int[Tensor, " lists"]]:
        """Return the highest contrast over all phrases on every list, and the phrase that has it."""
        highest, row = torch.full((len(means),), -torch.inf, dtype=torch.float64), torch.zeros(len(means)).long()
        for start in range(0, len(self.phrases), BLOCK):
            values, rows = self.contrast(means, slice(start, start + BLOCK)).max(dim=0)
            row = torch.where(values > highest, rows + start, row)
            highest = torch.maximum(values, highest)
        return highest, row

    def contrast_of_clips(self, rows: Int[Tensor, " lists"], ids: Int[Tensor, "lists p"]) -> Float[Tensor, "lists p"]:
        """Return the contrast of one phrase for every list on each of its clips alone."""
        phrases, of_place = self.phrases[rows], ids.T
        cosines = torch.stack([((self.clips[clips] - self.mean) * phrases).sum(dim=1) for clips in of_place], dim=1)
        return cosines / self.deviation[rows, None]

    def means(self, ids: Int[Tensor, "lists p"], kept: Bool[Tensor, "lists p"]) -> Float[Tensor, "lists d"]:
        """Return the mean embedding of the clips that are kept of each list."""
        total = torch.zeros(len(ids), self.clips.shape[1], dtype=torch.float64)
        for of_place, is_kept in zip(ids.T, kept.T, strict=True):
            total += self.clips[of_place] * is_kept[:, None]
        return total / kept.sum(dim=1, keepdim=True)


def contrast(
    phrases: Float[Tensor, "phrases d"], clips: Float[Tensor, "clips d"], lists: Int[Tensor, "lists p"]
) -> Float[Tensor, "phrases lists"]:
    """Return by how many standard deviations each phrase is closer to the clips of each list than to all clips.

    With the cosine s of phrase and clip, (mean of s over the list - mean over all clips) / (standard deviation over all
    clips). A phrase that is close to every clip, and one that is far from every clip, have contrast 0.

    Args:
        phrases: unit vectors.
        clips: unit vectors of all clips, in the same space.
        lists: rows of ``clips``.
    """
    space = _Space(phrases, clips)
    return space.contrast(space.means(lists, torch.ones_like(lists, dtype=torch.bool)))


def phrases_by_contrast(
    phrases: Float[Tensor, "phrases d"],
    clips: Float[Tensor, "clips d"],
    top_ids: Int[Tensor, "concepts p"],
    rate: float,
    *,
    generator: torch.Generator,
) -> list[MostAlike]:
    """Find the phrases that name every H^k; none where the clips could as well be random ones.

    The phrase of the highest contrast on the clips of H^k passes if at most a share ``rate`` of random lists of as many
    clips has a phrase of as high a contrast, and it is found in at least two clips: in those where it is at least half
    as far above its mean over all clips as it is on average over the clips of H^k. Clips where it is not found are left
    out; while there are at least two of them, the phrase of the highest contrast on these is tried in the same way, and
    compared with random lists of their number.

    So a random H^k has a name in at most a share ``rate`` of cases, whatever the phrases: the p-value is that of the
    highest contrast over all of them (family-wise).

    Args:
        phrases: unit vectors.
        clips: unit vectors of all clips of the probing set, in the same space.
        top_ids: rows of ``clips``, those of every H^k.
        rate: highest p-value of a phrase that passes.
        generator: draws the random lists.
    """
    space, p = _Space(phrases, clips), top_ids.shape[1]
    drawn = draw_clips(len(clips), p, NUM_DRAWS, generator)
    alike = [MostAlike(of_concept, [], []) for of_concept in _ranked(space, top_ids)]
    left = torch.ones_like(top_ids, dtype=torch.bool)
    concepts = torch.arange(len(top_ids))
    for _ in range(p):
        concepts = concepts[left[concepts].sum(dim=1) >= LEAST_CLIPS]
        if not len(concepts):
            break
        ids, kept = top_ids[concepts], left[concepts]
        highest, rows = space.highest(space.means(ids, kept))
        p_values = _p_values(space, highest, kept.sum(dim=1), drawn)
        has_phrase = space.contrast_of_clips(rows, ids) >= highest[:, None] / 2
        passes = (p_values <= rate) & ((has_phrase & kept).sum(dim=1) >= LEAST_CLIPS) & (highest > 0)
        columns = concepts, rows, highest, p_values, has_phrase.sum(dim=1)
        for place, (concept, *of_phrase) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            phrase, of_concept = Phrase(*of_phrase), alike[concept]
            passes[place] &= phrase.row not in [earlier.row for earlier in of_concept.passed]  # weaker cases of it
            if passes[place]:
                of_concept.passed.append(phrase)
            elif not of_concept.passed:
                of_concept.failed.append(phrase)
        left[concepts] &= ~has_phrase
        concepts = concepts[passes]
    return alike


def _ranked(space: _Space, top_ids: Int[Tensor, "concepts p"]) -> list[list[int]]:
    means, most = space.means(top_ids, torch.ones_like(top_ids, dtype=torch.bool)), min(NUM_RANKED, len(space.phrases))
    return [row for part in means.split(BLOCK) for row in space.contrast(part).topk(most, dim=0).indices.T.tolist()]


def _p_values(
    space: _Space, highest: Float[Tensor, " lists"], sizes: Int[Tensor, " lists"], drawn: Int[Tensor, "draws p"]
) -> Float[Tensor, " lists"]:
    """Return the share of random lists, this one counted among them, whose highest contrast is at least as high."""
    p_values = torch.empty_like(highest)
    for size in sizes.unique().tolist():
        ids, of_size = drawn[:, :size], sizes == size
        chance, _ = space.highest(space.means(ids, torch.ones_like(ids, dtype=torch.bool)))
        as_high = len(chance) - torch.searchsorted(chance.sort().values, highest[of_size].contiguous())
        p_values[of_size] = (1 + as_high).double() / (1 + len(chance))
    return p_values
