"""How alike two dictionaries are, feature by feature, and what directions are alike without being learned."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

CHUNK = 1024  # features compared, or directions drawn, at once


class Pairs(NamedTuple):
    """The partner of every feature of the first dictionary in the second, and how alike the two are."""

    cosines: Float[np.ndarray, " of"]
    partners: Int[np.ndarray, " of"]


def cosines(of: Float[Tensor, "of d"], among: Float[Tensor, "among d"]) -> Float[np.ndarray, "of among"]:
    """Return the cosine of every two vectors; 0 where one of them is 0. Of centred vectors it is Pearson's r."""
    among = normalize(among, dim=-1).T
    cosines = np.empty((len(of), among.shape[1]))
    for start in range(0, len(of), CHUNK):
        cosines[start : start + CHUNK] = (normalize(of[start : start + CHUNK], dim=-1) @ among).numpy()
    return cosines


def assigned(similarity: Float[np.ndarray, "of among"]) -> Pairs:
    """Return the one-to-one pairs with the highest sum of similarities (the Hungarian method).

    The mean of their cosines is the PW-MCC of two dictionaries (Song et al. 2025, arXiv 2505.20254; Paulo and Belrose
    2025, arXiv 2501.16615, match SAEs so). A feature that is left over, because there are fewer in the other
    dictionary, has partner -1 and a similarity of 0.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation.alignment import assigned
        >>> assigned(np.array([[0.9, 0.8], [0.9, 0.1]])).partners.tolist()
        [1, 0]
    """
    pairs = Pairs(np.zeros(len(similarity)), np.full(len(similarity), -1))
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    pairs.cosines[rows], pairs.partners[rows] = similarity[rows, columns], columns
    return pairs


def nearest_directions(
    of: Float[Tensor, "features d_in"], among: Float[Tensor, "others d_in"]
) -> tuple[Float[Tensor, " features"], Int[Tensor, " features"]]:
    """Return each direction's highest cosine with one of the others, and the index of that one.

    Several directions may have the same partner.
    """
    among = normalize(among, dim=-1)
    parts = [(normalize(part, dim=-1) @ among.T).max(dim=-1) for part in of.split(CHUNK)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def shuffled_coordinates(directions: Float[Tensor, "features d"], generator: torch.Generator) -> Tensor:
    """Return the directions with their coordinates in another order, the same for all."""
    return directions[:, torch.randperm(directions.shape[1], generator=generator)]


def rotated(directions: Float[Tensor, "features d"], generator: torch.Generator) -> Tensor:
    """Return the directions under one random orthogonal map: their angles to each other stay."""
    width = directions.shape[1]
    basis, triangle = torch.linalg.qr(torch.randn(width, width, generator=generator))
    return directions @ (basis * triangle.diagonal().sign())  # so that it is uniform (Mezzadri 2007)


def like_tokens(x: Float[Tensor, "tokens d"], count: int, generator: torch.Generator) -> Tensor:
    """Return Gaussian directions of mean 0 with the covariance of x.

    They know where x varies and nothing else. A dictionary whose directions are no more alike than these has learned
    no more of single features than the covariance.
    """
    centred = (x - x.mean(dim=0)) / len(x) ** 0.5
    sizes = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
    return torch.cat([torch.randn(size, len(x), generator=generator) @ centred for size in sizes])


def drawn_tokens(x: Float[Tensor, "tokens d"], count: int, generator: torch.Generator) -> Tensor:
    """Return tokens as directions, less the mean of all; none twice where there are enough."""
    if count <= len(x):
        rows = torch.randperm(len(x), generator=generator)[:count]
    else:
        rows = torch.randint(len(x), (count,), generator=generator)
    return x[rows] - x.mean(dim=0)
