"""Formulas of Table 3: sensitivity under every denominator, features of equal firing rate, perplexity."""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Denominator = Literal["predicted", "truth", "dataset"]
"""The clips of which sensitivity is the share: those that the unsteered model answers with the source class, those that
truly belong to it, or all. The paper does not say."""


def counted(
    denominator: Denominator, is_source: Float[np.ndarray, " clips"], true: Bool[np.ndarray, " clips"]
) -> Bool[np.ndarray, " clips"]:
    """Return which clips a denominator counts, from verdicts on the unsteered answers (1 source, 0 not, NaN unread)."""
    if denominator == "dataset":
        return np.ones_like(true)
    return true if denominator == "truth" else is_source == 1


def sensitivity_samples(
    reached: Float[np.ndarray, " clips"], among: Bool[np.ndarray, " clips"]
) -> Float[np.ndarray, " counted"]:
    """Return for each counted clip whether its answer is the target (1 or 0); the mean is the sensitivity.

    A clip whose verdict could not be read (NaN) is left out. Over several draws (a mean of verdicts), a clip is left
    out if any of its verdicts could not be read.

    Example:
        >>> import numpy as np
        >>> from ard.steering.functional import sensitivity_samples
        >>> sensitivity_samples(np.array([1.0, 0.0, np.nan, 1.0]), np.array([True, True, True, False]))
        array([1., 0.])
    """
    return reached[among & ~np.isnan(reached)]


def matched_features(
    n_active: Int[Tensor, " features"],
    chosen: Sequence[int],
    *,
    generator: torch.Generator,
    nearest: int = 10,
    excluded: Collection[int] = (),
) -> list[int]:
    """Draw for each chosen feature another one that fires about as often.

    It is drawn from the ``nearest`` features by the logarithm of the number of clips where they are active, among those
    that are alive, not chosen, not excluded and not drawn yet; ties go to the lower feature number. The list is shorter
    if no others are left.

    Example:
        >>> import torch
        >>> from ard.steering.functional import matched_features
        >>> matched_features(torch.tensor([50, 3, 48, 900]), [0], generator=torch.Generator(), nearest=1)
        [2]
    """
    rate = n_active.double().log()
    free = n_active > 0
    free[[*chosen, *excluded]] = False
    drawn: list[int] = []
    for feature in chosen:
        distance = (rate - max(float(rate[feature]), 0.0)).abs().masked_fill(~free, math.inf)
        near = distance.argsort(stable=True)[: min(nearest, int(free.sum()))]
        if len(near) == 0:
            break
        drawn.append(int(near[torch.randint(len(near), (1,), generator=generator)]))
        free[drawn[-1]] = False
    return drawn


def perplexity(log_likelihood: Sequence[float], num_tokens: Sequence[int]) -> float:
    """Return exp(-sum of log p / number of tokens): 1 is no surprise. NaN without tokens.

    Example:
        >>> import math
        >>> from ard.steering.functional import perplexity
        >>> round(perplexity([math.log(0.25), math.log(0.25)], [1, 1]), 4)
        4.0
    """
    return math.exp(-sum(log_likelihood) / sum(num_tokens)) if sum(num_tokens) else math.nan


def is_selection(clip_id: str, share: float, seed: int) -> bool:
    """Return whether a clip belongs to the share for choices, which only the seed and the hash of its id decide."""
    digest = hashlib.sha256(f"{seed}/{clip_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def rank_p(own: float, draws: Float[np.ndarray, " draws"]) -> float:
    """Return the p-value of a figure among random draws: the share that reach it, counting itself; NaN without any.

    Example:
        >>> import numpy as np
        >>> from ard.steering.functional import rank_p
        >>> rank_p(0.9, np.array([0.1, 0.9, 0.3]))
        0.5
    """
    return (1 + int(np.sum(draws >= own))) / (1 + len(draws)) if len(draws) and not math.isnan(own) else math.nan


def equal_damage(points: Sequence[Mapping[str, Any]], share: float = 0.9) -> Mapping[str, Any] | None:
    """Return the largest dose at which answers are sound and all else stays, as a share of the model as it is.

    Doses grow from 0 on. At the one that is returned, and at all below it, at least ``share`` of the readable answers
    are still readable, at least ``share`` of the answers to each other question are of the same class as before, and,
    where captions were asked for, at least ``share`` of the sounds that they named are still named. None if there are
    no doses, or if nothing set already breaks more than that.

    Args:
        points: the dose-response, whose first point is the model as it is (``multiple`` None).
        share: what has to be left.

    Example:
        >>> from ard.steering.functional import equal_damage
        >>> def point(dose, kept):
        ...     return {"multiple": dose, "readable": {"value": 1.0}, "kept": [{"value": kept}]}
        >>> equal_damage([point(None, 1.0), point(0.0, 1.0), point(1.0, 0.95), point(2.0, 0.5)])["multiple"]
        1.0
    """
    best = None
    for point in points[1:]:
        shares = [*point["kept"], point["named"]] if "named" in point else point["kept"]
        before = [points[0]["readable"]["value"], *(1.0 for _ in shares)]
        after = [point["readable"]["value"], *(figure["value"] for figure in shares)]
        if not all(now >= share * then for then, now in zip(before, after, strict=True)):
            break
        best = point
    return best
