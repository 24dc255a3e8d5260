"""Formulas on names in CLAP's space: which ones say the same, and how well they fit their clips."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 256  # names compared at once


class Evidence(NamedTuple):
    """How close names are to the clips of their H^k, and to clips drawn at random."""

    clap: Float[Tensor, " concepts"]  # mean cosine to the clips of H^k
    clap_random: Float[Tensor, " concepts"]  # mean cosine to random clips: the level of any name
    clap_percentile: Float[Tensor, " concepts"]  # share of random clips that a clip of H^k beats; 0.5 is chance


def name_evidence(
    names: Float[Tensor, "concepts d"], clips: Float[Tensor, "concepts p d"], others: Float[Tensor, "clips d"]
) -> Evidence:
    """Compare the unit vectors of names with the clips of their H^k and with random clips; ties count half."""
    own = torch.stack([(name[None] @ top.T)[0] for name, top in zip(names, clips, strict=True)])
    chance, percentile = torch.empty(len(names)), torch.empty(len(names))
    for start in range(0, len(names), BLOCK):
        part = slice(start, start + BLOCK)
        cosine = (names[part] @ others.T).sort(dim=1).values
        below, up_to = (torch.searchsorted(cosine, own[part].contiguous(), right=right) for right in (False, True))
        chance[part] = cosine.mean(dim=1)
        percentile[part] = ((below + up_to) / (2 * len(others))).mean(dim=1)
    return Evidence(own.mean(dim=1), chance, percentile)


def near_duplicates(names: Float[Tensor, "names d"], threshold: float) -> Int[Tensor, " names"]:
    """Return, for every name, the row of the name that it repeats; -1 if it repeats none.

    Names are ordered best first. A name repeats the closest of the earlier names that repeat none themselves, if their
    cosine reaches the threshold. Names are processed 256 at a time, so that the full matrix of cosines is never built.
    """
    repeated = torch.full((len(names),), -1)
    firsts = torch.empty(0, dtype=torch.int64)
    for start in range(0, len(names), BLOCK):
        block = torch.arange(start, min(start + BLOCK, len(names)))
        columns = torch.cat([firsts, block])
        cosine = names[block] @ names[columns].T
        is_first = columns < start
        for index, row in enumerate(block.tolist()):
            closest, column = cosine[index].masked_fill(~is_first, -torch.inf).max(dim=0)
            if closest >= threshold:
                repeated[row] = columns[column]
            else:
                is_first[len(firsts) + index] = True
        firsts = columns[is_first]
    return repeated
