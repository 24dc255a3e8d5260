"""Whether a feature hears or reads: its activity while audio and words agree, are neutral, or contradict each other.

Every activity is a number of 0 or more; where it is read is said by :class:`~ard.evaluation.HearOrRead`.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

CONDITIONS = ("audio", "text", "both", "neither", "conflict", "other_words")
"""What a prompt holds: the concept's audio with neutral words; neutral audio with the concept's words; both; neither;
the concept's audio with another concept's words; and neutral audio with these, the control of ``text``."""

Activity = Float[np.ndarray, "*resamples"]


class Index(NamedTuple):
    """A figure of one feature with its 95 % interval over pairs; NaN where it cannot be told."""

    value: float
    low: float
    high: float


def hearing_index(audio: Activity, text: Activity, neither: Activity) -> Activity:
    """Return how much of what a feature adds to its activity under neither is due to audio.

    h = (a - n)+ / ((a - n)+ + (t - n)+), where ( )+ is 0 below 0. It is 1 if the feature only hears, 0 if it only
    reads, and NaN if it does neither.

    Args:
        audio: a, the activity under the concept's audio with neutral words.
        text: t, under neutral audio with the concept's words.
        neither: n, under neutral audio with neutral words.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation import hearing_index
        >>> hearing_index(np.array([5.0, 1.0, 3.0, 1.0]), np.array([1.0, 4.0, 3.0, 1.0]), np.ones(4)).tolist()
        [1.0, 0.0, 0.5, nan]
    """
    return _share(np.maximum(audio - neither, 0), np.maximum(text - neither, 0))


def audio_wins(both: Activity, neither: Activity, conflict: Activity) -> Activity:
    """Return what is left of a feature's activity when the words contradict its audio instead of agreeing with it.

    w = (c - n)+ / (b - n)+, at most 1: 1 if the words change nothing, so that audio wins, and 0 if the feature is as
    silent as without audio, so that words win. It is NaN if audio and words together do not activate the feature.

    Args:
        both: b, the activity under the concept's audio with the concept's words.
        neither: n, under neutral audio with neutral words.
        conflict: c, under the concept's audio with another concept's words.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation import audio_wins
        >>> audio_wins(np.array([5.0, 5.0, 5.0, 1.0]), np.ones(4), np.array([5.0, 1.0, 3.0, 2.0])).tolist()
        [1.0, 0.0, 0.5, nan]
    """
    kept = np.minimum(np.maximum(conflict - neither, 0), np.maximum(both - neither, 0))
    return _share(kept, np.maximum(both - neither, 0) - kept)


def over_pairs(
    activity: Float[np.ndarray, "pairs conditions"], seed: int, num_resamples: int = 1000
) -> dict[str, Index]:
    """Return the figures of a feature's mean activities over pairs, with percentile intervals over resampled pairs.

    ``hearing`` is the index, ``hearing_shuffled`` the same with another concept's words in the place of its own, and
    ``audio_wins`` says who wins a conflict. Resamples without a figure do not count. One pair gives no interval.

    Args:
        activity: the activity in every pair, in the order of :data:`CONDITIONS`; NaN where there are no other words.
        seed: seed of the resamples.
        num_resamples: number of resamples.
    """
    num_pairs = len(activity)
    drawn = np.random.default_rng(seed).multinomial(num_pairs, np.full(num_pairs, 1 / num_pairs), num_resamples)
    means = np.concatenate([activity.mean(axis=0, keepdims=True), drawn @ activity / num_pairs])
    audio, text, both, neither, conflict, other_words = means.T
    return {
        "hearing": _interval(hearing_index(audio, text, neither), num_pairs),
        "hearing_shuffled": _interval(hearing_index(audio, other_words, neither), num_pairs),
        "audio_wins": _interval(audio_wins(both, neither, conflict), num_pairs),
    }


def _share(part: Activity, rest: Activity) -> Activity:
    whole = part + rest
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _interval(values: Float[np.ndarray, " figures"], num_pairs: int) -> Index:
    """Return the first value, with the interval of the others."""
    resamples: Any = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or num_pairs == 1 or not len(resamples):
        return Index(float(values[0]), np.nan, np.nan)
    low, high = np.quantile(resamples, [0.025, 0.975]).tolist()
    return Index(float(values[0]), low, high)
