"""Choose features on one half of the clips and test them on the other; how well the halves agree."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ard.monosemanticity.chance import compare_with_chance, random_lists
from ard.monosemanticity.functional import CHUNK, DEFAULT, Reading, score_lists
from ard.representatives import HALVES
from ard.representatives.functional import half_of


class Halves(NamedTuple):
    """What both halves say about every feature, and what the second says about the top-C of the first."""

    m: tuple[Float[Tensor, " features"], Float[Tensor, " features"]]  # NaN where a feature is silent throughout a half
    cosine: Float[Tensor, " features"]  # of the mean embeddings of H^k in both halves; NaN likewise
    features: Int[Tensor, " concepts"]  # the top-C by m on the first half
    p_value: Float[Tensor, " concepts"]  # on the second half, given its L^k


def compare_halves(
    embeddings: Float[Tensor, "clips d"],
    stored: Mapping[str, Tensor],
    num_selected: int,
    num_draws: int,
    reading: Reading = DEFAULT,
    *,
    generator: torch.Generator,
) -> Halves | None:
    """Score features on both halves, and test the top-C of the first half on the second.

    A feature of the top-C that is silent throughout the second half has a p-value of 1.

    Returns:
        None if no lists of halves are ``stored``, as for fewer than 2p clips.
    """
    if f"{HALVES[0]}/top_ids" not in stored:
        return None
    m, centres = [], []
    for name in HALVES:
        top, bottom = stored[f"{name}/top_ids"], stored[f"{name}/bottom_ids"]
        silent = stored[f"{name}/n_active"] == 0
        m.append(score_lists(embeddings, top, bottom, reading).masked_fill(silent, torch.nan))
        of_half = torch.cat([embeddings[ids].double().mean(dim=1) for ids in top.split(CHUNK)])
        centres.append(of_half.masked_fill(silent[:, None], torch.nan))
    features = m[0].nan_to_num(-torch.inf).argsort(descending=True, stable=True)
    features = features[: min(num_selected, int((~m[0].isnan()).sum()))]
    rows = half_of(torch.arange(len(embeddings)), int(stored["half_seed"])).nonzero()[
        :, 0
    ]  # only clips of the second half from here on, by their place in it
    top, bottom = (torch.searchsorted(rows, stored[f"{HALVES[1]}/{side}_ids"][features]) for side in ("top", "bottom"))
    drawn = random_lists(embeddings[rows], top.shape[1], num_draws, reading, generator=generator)
    p = compare_with_chance(m[1][features], top, bottom, embeddings[rows], drawn, reading, generator=generator).p_value
    return Halves((m[0], m[1]), cosine_similarity(centres[0], centres[1], dim=1), features, p.nan_to_num(1.0))
