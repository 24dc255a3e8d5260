"""Formulas over names in CLAP's space: which of them say the same, and how well they fit their clips."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 256  # names that are compared at once


class Evidence(NamedTuple):
    """How close names are to the clips of their H^k, and to clips drawn at random."""

    clap: Float[Tensor, " concepts"]  # mean cosine to the clips of H^k
    clap_random: Float[Tensor, " concepts"]  # mean cosine to the random clips: what any name has
    clap_percentile: Float[Tensor, " concepts"]  # share of the random clips that a clip of H^k surpasses; 0.5 is chance


def name_evidence(
    names: Float[Tensor, "concepts d"], clips: Float[Tensor, "concepts p d"], others: Float[Tensor, "clips d"]
) -> Evidence:
    """Compare unit vectors of names with the clips of their H^k and with random clips; equal cosines count half."""
    own = torch.stack([(name[None] @ heard.T)[0] for name, heard in zip(names, clips, strict=True)])
    chance, percentile = torch.empty(len(names)), torch.empty(len(names))
    for start in range(0, len(names), BLOCK):
        part = slice(start, start + BLOCK)
        cosine = (names[part] @ others.T).sort(dim=1).values
        below, up_to = (torch.searchsorted(cosine, own[part].contiguous(), right=right) for right in (False, True))
        chance[part] = cosine.mean(dim=1)
        percentile[part] = ((below + up_to) / (2 * len(others))).mean(dim=1)
    return Evidence(own.mean(dim=1), chance, percentile)


def near_duplicates(names: Float[Tensor, "names d"], threshold: float) -> Int[Tensor, " names"]:
    """Return of every name the row of the name that it repeats; -1 for those that repeat none.

    Names come best first. One repeats the closest of the earlier names that repeat none themselves, if their cosine
    reaches the threshold. At most all names that repeat none are held against 256 names at a time.
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
