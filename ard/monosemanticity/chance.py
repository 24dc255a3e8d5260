"""What m comes to where H^k or L^k is drawn at random: p-values, and scores that owe nothing to one L^k."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ard.monosemanticity.functional import CHUNK, DEFAULT, Moments, Reading, contrast, list_moments

MOST_SHARING_DRAWS = 2_000
"""Draws for features with clips in both lists: their clips have to be drawn for each L^k anew."""

NUM_LOWEST_DRAWS = 200
"""Draws of L for each feature, over which its score with L at random is a mean."""

ROUNDING = 1e-9
"""By how much less than m, relative to 1 + |m|, a draw still counts as reaching it."""


class RandomLists(NamedTuple):
    """Lists of clips drawn at random, each without replacement, and their moments.

    As H, they say what chance gives; as L, they stand for any set of clips.
    """

    ids: Int[Tensor, "draws p"]
    moments: Moments


class Chance(NamedTuple):
    """How m compares with chance, for every feature.

    ``p_value`` is how often m is reached if H^k is drawn at random and L^k is kept; ``m`` is that of one such draw.
    """

    p_value: Float[Tensor, " features"]
    m: Float[Tensor, " features"]


def random_lists(
    embeddings: Float[Tensor, "clips d"],
    p: int,
    num_draws: int,
    reading: Reading = DEFAULT,
    *,
    generator: torch.Generator,
) -> RandomLists:
    """Draw lists of p clips, the same number for all features, so that their moments are taken once."""
    ids = draw_clips(len(embeddings), p, num_draws, generator)
    return RandomLists(ids, list_moments(embeddings, ids, reading))


def draw_clips(num_clips: int, size: int, num_draws: int, generator: torch.Generator) -> Int[Tensor, "draws size"]:
    """Draw clips without replacement, in random order, many times at once (Floyd's algorithm)."""
    drawn = torch.empty(num_draws, 0, dtype=torch.int64)
    for last in range(num_clips - size, num_clips):
        row = torch.randint(last + 1, (num_draws, 1), generator=generator)
        drawn = torch.cat([drawn, torch.where((drawn == row).any(dim=1, keepdim=True), last, row)], dim=1)
    return drawn.gather(1, torch.rand(num_draws, size, generator=generator).argsort(dim=1))


def compare_with_chance(
    m: Float[Tensor, " features"],
    top_ids: Int[Tensor, "features p"],
    bottom_ids: Int[Tensor, "features p"],
    embeddings: Float[Tensor, "clips d"],
    drawn: RandomLists,
    reading: Reading = DEFAULT,
    *,
    generator: torch.Generator,
) -> Chance:
    """Return how often m is reached if H^k is drawn at random and L^k is kept: p = (1 + draws that do) / (1 + draws).

    H is drawn from the clips that are not in L^k, each set being as likely; a clip that a feature has in both lists
    stays where it is. So p is uniform, or larger where few sets exist, for every feature whose activations have nothing
    to do with the embeddings, whatever L^k is: whatever breaks ties, in whatever order the clips are. p is never 0, and
    NaN where m is.

    Of ``drawn`` those serve that have no clip of L^k. Their moments are combined with those of every distinct L^k, of
    which most dictionaries have few.
    """
    result, p = Chance(torch.full_like(m, torch.nan), torch.full_like(m, torch.nan)), top_ids.shape[1]
    scored = (~m.isnan()).nonzero()[:, 0]
    if not len(scored):
        return result
    top, bottom = top_ids[scored], bottom_ids[scored].sort(dim=1).values
    shared = (top[:, :, None] == bottom[:, None, :]).any(dim=2)
    kept = top.masked_fill(~shared, -1).sort(dim=1).values
    keys, group = torch.cat([bottom, kept], dim=1).unique(dim=0, return_inverse=True)
    lowest = list_moments(embeddings, keys[:, :p], reading)
    members = group.argsort(stable=True).split(group.bincount().tolist())
    draws_with = _index(drawn.ids, len(embeddings))
    for key, mean, variance, features in zip(keys, *lowest, members, strict=True):
        in_lowest, in_both = key[:p], key[p:][key[p:] >= 0]
        if len(in_both):
            num_draws = min(len(drawn.ids), MOST_SHARING_DRAWS)
            others = _draw_outside(in_lowest, len(embeddings), p - len(in_both), num_draws, generator)
            ids = torch.cat([in_both.expand(num_draws, -1), others], dim=1)
            chance = contrast(list_moments(embeddings, ids, reading), Moments(mean, variance), reading)
        else:
            chance = contrast(drawn.moments, Moments(mean, variance), reading)
            chance[draws_with(in_lowest)] = torch.nan
        of_features = scored[features]
        result.p_value[of_features] = _share_reached(m[of_features], chance)
        defined = chance[~chance.isnan()]
        if len(defined):  # features with one L^k take one draw after another
            result.m[of_features] = defined[torch.arange(len(of_features)) % len(defined)]
    return result


def _share_reached(m: Float[Tensor, " features"], chance: Float[Tensor, " draws"]) -> Float[Tensor, " features"]:
    """Return (1 + draws that reach m) / (1 + draws); draws that are NaN do not count."""
    least, order = (m - ROUNDING * (1 + m.abs())).sort()
    defined = ~chance.isnan()
    passed = torch.searchsorted(least, chance, right=True).masked_fill(~defined, 0)  # scores that a draw reaches
    reach = passed.bincount(minlength=len(m) + 1)[1:].flip(0).cumsum(0).flip(0)
    return torch.empty_like(m).scatter_(0, order, (1 + reach).to(m.dtype) / (1 + int(defined.sum())))


def _index(ids: Int[Tensor, "draws p"], num_clips: int) -> Callable[[Int[Tensor, " clips"]], Int[Tensor, " draws"]]:
    """Return a function that finds the draws that have one of some clips."""
    rows, places = ids.flatten().sort(stable=True)
    starts = torch.searchsorted(rows, torch.arange(num_clips + 1))
    return lambda clips: torch.cat([places[starts[clip] : starts[clip + 1]] for clip in clips]) // ids.shape[1]


def _draw_outside(
    taken: Int[Tensor, " p"], num_clips: int, size: int, num_draws: int, generator: torch.Generator
) -> Int[Tensor, "draws size"]:
    free: Bool[Tensor, " clips"] = torch.ones(num_clips, dtype=torch.bool)
    free[taken] = False
    others = free.nonzero()[:, 0]
    return others[draw_clips(len(others), size, num_draws, generator)]


def mean_over_random_lowest(
    top: Moments,
    drawn: RandomLists,
    reading: Reading = DEFAULT,
    *,
    num_draws: int = NUM_LOWEST_DRAWS,
    generator: torch.Generator,
) -> Float[Tensor, " features"]:
    """Return each feature's mean m with L drawn at random many times, for each feature anew.

    The rule is the same for every dictionary, signed coordinates included: what differs is H^k alone. m by Eq. 4 also
    measures the L^k that a dictionary happens to have.
    """
    scores = []
    for mean, variance in zip(top.mean.split(CHUNK), top.variance.split(CHUNK), strict=True):
        draws = torch.randint(len(drawn.ids), (len(mean), num_draws), generator=generator)
        lowest = Moments(*(of_lists[draws] for of_lists in drawn.moments))
        scores.append(contrast(Moments(mean[:, None], variance[:, None]), lowest, reading).nanmean(dim=1))
    return torch.cat(scores)
