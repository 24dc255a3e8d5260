"""The highest m of a dictionary over orders of the data set, which decide what silent clips make L^k."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ard.monosemanticity.chance import draw_clips
from ard.monosemanticity.functional import DEFAULT, Moments, Reading, contrast, list_moments, score_lists
from ard.monosemanticity.metric import Noted

NUM_ORDERS = 200
FIRST_CLIPS = 64
"""How many clips of an order are looked at: a feature that is silent in fewer than p of them keeps its own L^k."""


def draw_orders(num_clips: int, generator: torch.Generator) -> Int[Tensor, "orders first"]:
    """Draw the first clips of random orders of the data set."""
    return draw_clips(num_clips, min(FIRST_CLIPS, num_clips), NUM_ORDERS, generator)


def highest_over_orders(
    embeddings: Float[Tensor, "clips d"],
    stored: Mapping[str, Tensor],
    noted: Noted,
    orders: Int[Tensor, "orders first"],
    reading: Reading = DEFAULT,
    *,
    each: bool,
    generator: torch.Generator,
) -> Float[Tensor, " found"]:
    """Return the highest m of the live features in every order, in ascending order.

    With ties ``stable`` or ``shared_random``, L^k is the first p clips of an order in which the feature is silent, and
    these fill up H^k if it is active in fewer than p clips. With ``seeded_random``, the order is random for ``each``
    feature. L^k stays if its clips are not all silent, as in raw coordinates, which are lower still elsewhere.

    Returns:
        None of them if the lists are longer than what was noted of an order.
    """
    top_ids, bottom_ids = stored["ard/top_ids"], stored["ard/bottom_ids"]
    top, p = list_moments(embeddings, top_ids, reading), top_ids.shape[1]
    tied = (stored["ard/bottom_scores"] == 0).all(dim=1)
    filled = tied & (stored["ard/top_scores"] == 0).any(dim=1)
    live = stored["n_active"] > 0
    highest = [top.mean.new_empty(0)]
    for rows in orders if p <= orders.shape[1] else ():
        silent = noted.silent(rows).T
        rank = torch.rand(silent.shape, generator=generator) if each else torch.arange(len(rows)) / len(rows)
        first, places = (1 - rank).masked_fill(~silent, -1).topk(p, dim=1)
        replaced = tied & (first[:, -1] >= 0)
        bottom = torch.where(replaced[:, None], rows[places], bottom_ids)
        distinct, which = bottom.sort(dim=1).values.unique(dim=0, return_inverse=True)
        lowest = list_moments(embeddings, distinct, reading)
        m = contrast(top, Moments(*(of_lists[which] for of_lists in lowest)), reading)
        if (refilled := replaced & filled & live).any():
            slots = stored["ard/top_scores"][refilled] == 0
            fill = bottom[refilled].gather(1, (slots.cumsum(dim=1) - 1).clamp_min(0))
            new_top = torch.where(slots, fill, top_ids[refilled])
            m[refilled] = score_lists(embeddings, new_top, bottom[refilled], reading)
        highest.append(m[live].nan_to_num(-torch.inf).amax(dim=0, keepdim=True))
    return torch.cat(highest).sort().values
