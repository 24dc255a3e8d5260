"""Whether a feature is active when something is heard: activations along time against events (numpy only)."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


def heard_tokens(
    events: Iterable[Mapping[str, Any]], num_tokens: int, seconds_per_token: float
) -> dict[str, Bool[np.ndarray, " tokens"]]:
    """Return for every label the tokens in which it is heard: those whose middle lies within one of its events.

    An event that holds no token's middle is heard in the token where its own middle lies, so that no click is lost.

    Args:
        events: ``onset_s``, ``offset_s`` and ``label`` of each.
        num_tokens: tokens of the clip; token t covers the time from t to t + 1 times ``seconds_per_token``.
        seconds_per_token: see above.

    Example:
        >>> from ard.evaluation.timing import heard_tokens
        >>> bark = {"onset_s": 0.04, "offset_s": 0.12, "label": "dog"}
        >>> heard_tokens([bark], num_tokens=4, seconds_per_token=0.04)["dog"].tolist()
        [False, True, True, False]
    """
    heard: dict[str, Bool[np.ndarray, " tokens"]] = {}
    for event in events:
        onset, offset = (float(event[name]) / seconds_per_token for name in ("onset_s", "offset_s"))
        first, end = (math.ceil(round(at, 6) - 0.5) for at in (onset, offset))
        if first == end:
            first = int((onset + offset) / 2)
            end = first + 1
        heard.setdefault(str(event["label"]), np.zeros(num_tokens, dtype=bool))[first:end] = True
    return heard


class Entries(NamedTuple):
    """The codes of a clip that are not 0, one entry each, in any order; no feature twice in a token."""

    tokens: Int[np.ndarray, " entries"]
    features: Int[np.ndarray, " entries"]
    values: Float[np.ndarray, " entries"]

    def among(self, kept: Bool[np.ndarray, " features"]) -> "Entries":
        """Return the entries of some features."""
        return Entries(*(column[kept[self.features]] for column in self))

    def dense(self, features: Int[np.ndarray, " chosen"], num_tokens: int) -> Float[np.ndarray, "tokens chosen"]:
        """Return the activations of a few features, given in ascending order, at every token."""
        values = np.zeros((num_tokens, len(features)), dtype=np.float32)
        places = np.searchsorted(features, self.features).clip(max=max(len(features) - 1, 0))
        own = features[places] == self.features if len(features) else np.zeros(0, dtype=int)
        values[self.tokens[own], places[own]] = self.values[own]
        return values


def auroc_in_time(
    entries: Entries, heard: Bool[np.ndarray, "labels tokens"]
) -> tuple[Int[np.ndarray, " present"], Float[np.ndarray, "labels present"]]:
    """Return the features active in a clip, and the AUROC of their activations for when each label is heard.

    It is the chance that a feature is more active in a token where the label is heard than in one where it is not, ties
    counting half (Mann and Whitney's U over the number of pairs). A feature that is not active in the clip has .5. Each
    label must be heard in some tokens and not in others.

    Only the entries are sorted: all tokens without one are tied at 0.
    """
    num_tokens = heard.shape[1]
    by_value = np.argsort(entries.values)
    small = entries.features[by_value].astype(np.min_scalar_type(int(entries.features.max(initial=0))))
    order = by_value[np.argsort(small, kind="stable")]  # linear up to 16 bits
    tokens, features, values = (column[order] for column in entries)
    first = np.flatnonzero(np.diff(features, prepend=-1))
    size = np.diff(np.append(first, len(features)))
    group = np.repeat(np.arange(len(first)), size)
    num_silent = num_tokens - size
    rank = np.arange(len(features)) - first[group] + 1 + np.where(values > 0, num_silent[group], 0)
    tie = np.cumsum(np.append(True, (values[1:] != values[:-1]) | (group[1:] != group[:-1]))[: len(values)]) - 1
    rank = (np.bincount(tie, weights=rank) / np.bincount(tie))[tie] if len(tie) else rank.astype(float)
    silent_rank = np.bincount(group, weights=values < 0, minlength=len(first)) + (num_silent + 1) / 2
    above = rank - silent_rank[group]
    num_heard = heard.sum(axis=1, keepdims=True)
    sums = [np.bincount(group, weights=above * of_label[tokens], minlength=len(first)) for of_label in heard]
    rank_sums = np.array(sums).reshape(len(heard), len(first)) + num_heard * silent_rank
    areas = (rank_sums - num_heard * (num_heard + 1) / 2) / (num_heard * (num_tokens - num_heard))
    return features[first], areas


def overlap(
    fires: Bool[np.ndarray, "tokens pairs"], heard: Bool[np.ndarray, "versions tokens"]
) -> tuple[Float[np.ndarray, "versions pairs"], Float[np.ndarray, "versions pairs"]]:
    """Return in how many tokens a feature fires and the label is heard, and in how many either: IoU is their ratio."""
    fires, heard = fires.astype(float), heard.astype(float)
    both = heard @ fires
    return both, heard.sum(axis=1, keepdims=True) + fires.sum(axis=0) - both


def best_level(
    heard: Int[np.ndarray, "pairs levels"], not_heard: Int[np.ndarray, "pairs levels"]
) -> Int[np.ndarray, " pairs"]:
    """Return the level from which on firing overlaps most with what is heard, the lowest of equally good ones.

    Args:
        heard: number of tokens in which the label is heard, by level of the activation.
        not_heard: number of tokens in which it is not.
    """
    from_level, others = (np.cumsum(of[:, ::-1], axis=1)[:, ::-1] for of in (heard, not_heard))
    return np.argmax(from_level / np.maximum(from_level[:, :1] + others, 1), axis=1)


def onset_lags(
    fires: Bool[np.ndarray, " tokens"], heard: Bool[np.ndarray, " tokens"], most: int
) -> Float[np.ndarray, " onsets"]:
    """Return for every onset by how many tokens the nearest token in which the feature begins to fire is later.

    It is negative for one that is earlier, which also wins a tie, and NaN if none is as near as ``most`` tokens. What
    is there from the first token on, an event or firing, has no beginning in the clip.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation.timing import onset_lags
        >>> heard = np.array([0, 1, 1, 0, 0, 1, 1, 0], dtype=bool)
        >>> onset_lags(np.roll(heard, 1), heard, most=3).tolist()
        [1.0, 1.0]
    """
    onsets = np.flatnonzero(heard[1:] & ~heard[:-1]) + 1
    begins = np.flatnonzero(fires[1:] & ~fires[:-1]) + 1
    if not len(begins):
        return np.full(len(onsets), np.nan)
    lags = begins[None, :] - onsets[:, None]
    nearest = lags[np.arange(len(onsets)), np.abs(lags).argmin(axis=1)].astype(float)
    return np.where(np.abs(nearest) <= most, nearest, np.nan)


def weighted_median(
    values: Float[np.ndarray, " n"], weights: Float[np.ndarray, "resamples n"]
) -> Float[np.ndarray, " resamples"]:
    """Return the median of values of which each counts as often as its weight says; NaN where all weights are 0."""
    order = np.argsort(values, kind="stable")
    values, cumulative = values[order], np.cumsum(weights[:, order], axis=1)
    total = cumulative[:, -1:] if len(values) else np.zeros((len(weights), 1))
    places = [np.minimum((cumulative < half).sum(axis=1), len(values) - 1) for half in (total / 2, total / 2 + 1e-9)]
    return (
        np.where(total[:, 0] > 0, (values[places[0]] + values[places[1]]) / 2, np.nan)
        if len(values)
        else total[:, 0] * np.nan
    )
