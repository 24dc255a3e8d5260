"""Agreement between raters."""

import krippendorff
import numpy as np
from jaxtyping import Float


def agreement(ratings: Float[np.ndarray, "concepts raters"], highest: int = 5) -> float:
    """Return Krippendorff's alpha of ratings on an ordinal scale from 0 to ``highest``; NaN is a missing rating.

    1 is perfect agreement, 0 is chance. NaN where it is undefined: no concept has two ratings, or all ratings that can
    be paired are equal.
    """
    paired = ratings[np.isfinite(ratings).sum(axis=1) > 1]
    if len(np.unique(paired[np.isfinite(paired)])) < 2:
        return float("nan")
    return float(
        krippendorff.alpha(
            reliability_data=paired.T, value_domain=list(range(highest + 1)), level_of_measurement="ordinal"
        )
    )
