"""Pairs of a label and a feature in time: which are measured, what each clip tells of them, and the figures of it."""

from collections.abc import Iterable, Mapping, Sequence
from math import nan
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ard.evaluation.timing import Entries, auroc_in_time, heard_tokens, onset_lags, overlap, weighted_median
from ard.results import Better, Figure

LEAST_TOKENS = 3  # of a clip in which a label is heard, and in which it is not: 0.12 s of Qwen2-Audio
REACH_S = 0.25  # how far from an onset a feature may begin to fire and still be taken to answer it
NUM_RESAMPLES = 1000
OWN, SHIFTED = range(2)  # with a clip's events as they are, and with these shifted in time
UNITS: Mapping[str, tuple[str, Better]] = {
    "auroc": ("AUROC", "higher"),
    "iou": ("IoU", "higher"),
    "lag_ms": ("ms", "neither"),
    "onsets_met": ("share of onsets", "higher"),
}
"""The figures of a pair, with their units and which way is better."""


class TimedClip(NamedTuple):
    """A clip with events: its row, its group, its time, and the labels that are heard in some of its tokens alone."""

    row: int
    group: str
    seconds_per_token: float
    labels: list[str]
    heard: Bool[np.ndarray, "labels tokens"]

    @classmethod
    def of(cls, row: int, clip: Mapping[str, Any]) -> "TimedClip":
        """Return a clip by its metadata."""
        seconds_per_token = clip["seconds_per_token"]
        heard = heard_tokens(clip["events"], clip["num_tokens"], seconds_per_token)
        partly = {label: of for label, of in heard.items() if LEAST_TOKENS <= of.sum() <= len(of) - LEAST_TOKENS}
        tokens = np.array([*partly.values()], dtype=bool).reshape(-1, clip["num_tokens"])
        return cls(row, str(clip.get("group", clip["id"])), seconds_per_token, [*partly], tokens)

    def among(self, labels: Iterable[str]) -> "TimedClip":
        """Return the clip with some of its labels."""
        kept = [place for place, label in enumerate(self.labels) if label in labels]
        return self._replace(labels=[self.labels[place] for place in kept], heard=self.heard[kept])


class Pairs(NamedTuple):
    """The pairs that are measured, sorted by label and then by feature."""

    labels: Int[np.ndarray, " pairs"]
    features: Int[np.ndarray, " pairs"]

    def of(self, label: int) -> slice:
        """Return where the pairs of a label are."""
        return slice(*np.searchsorted(self.labels, [label, label + 1]).tolist())


def choose_pairs(
    auroc: Float[np.ndarray, "labels features"], selected: Int[np.ndarray, " concepts"]
) -> tuple[Pairs, list[int], dict[int, int | None]]:
    """Choose the feature with the highest AUROC for each label, and the label for each selected feature.

    Ties go to the first. A feature above chance for no label gets none.

    Returns:
        The pairs, the place among them of each label's, and that of each selected feature's.
    """
    num_labels, num_features = auroc.shape
    of_label = np.arange(num_labels) * num_features + auroc.argmax(axis=1)
    best = auroc[:, selected].argmax(axis=0)
    of_feature, has_label = best * num_features + selected, auroc[best, selected] > 0.5
    keys = np.unique(np.concatenate([of_label, of_feature[has_label]]))
    places = np.searchsorted(keys, of_feature).tolist()
    chosen = {
        feature: place if is_chosen else None
        for feature, place, is_chosen in zip(selected.tolist(), places, has_label.tolist(), strict=True)
    }
    return Pairs(keys // num_features, keys % num_features), np.searchsorted(keys, of_label).tolist(), chosen


class Told(NamedTuple):
    """What a clip tells of the pairs of a label: with its events as they are, and with these shifted in time."""

    group: str
    auroc: Float[np.ndarray, "2 pairs"]
    both: Float[np.ndarray, "2 pairs"]  # tokens where the feature fires and the label is heard; mean over shifts
    either: Float[np.ndarray, "2 pairs"]
    lags_ms: list[list[Float[np.ndarray, " onsets"]]]  # of each pair; NaN for an onset not answered; of the first shift


def tell(
    clip: TimedClip,
    z: Float[np.ndarray, "tokens pairs"],
    fires: Bool[np.ndarray, "tokens pairs"],
    heard: Bool[np.ndarray, "versions tokens"],
) -> Told:
    """Return what a clip tells of the pairs of a label.

    Args:
        clip: the clip.
        z: the features' activations.
        fires: where these are at their thresholds or above.
        heard: where the label is heard, and then the same shifted, once or several times.
    """
    tokens, columns = z.nonzero()
    present, areas = auroc_in_time(Entries(tokens, columns, z[tokens, columns]), heard)
    auroc = np.full((len(heard), z.shape[1]), 0.5)
    auroc[:, present] = areas
    sides = auroc, *overlap(fires, heard)
    auroc, both, either = (np.stack([of[0], of[1:].mean(axis=0)]) for of in sides)
    most, ms_per_token = round(REACH_S / clip.seconds_per_token), 1000 * clip.seconds_per_token
    lags = [[onset_lags(column, version, most) * ms_per_token for column in fires.T] for version in heard[:2]]
    return Told(clip.group, auroc, both, either, lags)


class Measured(NamedTuple):
    """The figures of a pair: with events as they are and shifted, and by how much its AUROC is above that of these."""

    num_clips: int
    num_onsets: int
    figures: tuple[Mapping[str, Figure], Mapping[str, Figure]]
    above: Figure

    @property
    def is_told(self) -> bool:
        """Whether the feature tells when the label is heard: its AUROC is above that of shifted events."""
        return self.above.low > 0

    def plain(self) -> dict[str, Any]:
        """Return them for the details of a result: each figure and its interval, and the value with events shifted."""
        own, shifted = self.figures
        counts = {"num_clips": self.num_clips, "num_onsets": self.num_onsets, "told": self.is_told}
        figures = {**own, "above_shifted": self.above}
        ends = {f"{name}_{end}": getattr(of, end) for name, of in figures.items() for end in ("low", "high")}
        beside = {f"{name}_shifted": of.value for name, of in shifted.items()}
        return counts | {name: of.value for name, of in figures.items()} | ends | beside


def measure_pairs(told: Sequence[Told], own: int, seed: int) -> list[Measured]:
    """Return the figures of a label's pairs over its clips, with intervals in which whole groups are resampled.

    Args:
        told: what the clips tell.
        own: the pair of the label's own feature; of all others, ``above`` alone has an interval.
        seed: seed of the resamples.
    """
    names, group = np.unique([of.group for of in told], return_inverse=True)
    num_groups = len(names)
    drawn = np.random.default_rng(seed).multinomial(num_groups, np.full(num_groups, 1 / num_groups), NUM_RESAMPLES)
    weights = np.concatenate([np.ones((1, num_groups)), drawn])[:, group]
    columns = [of.auroc for of in told], [of.both for of in told], [of.either for of in told]
    auroc, both, either = (np.tensordot(weights, np.stack(column), axes=1) for column in columns)
    auroc /= weights.sum(axis=1)[:, None, None]
    iou = both / np.maximum(either, 1)

    def figure(values: Float[np.ndarray, " resamples"], unit: str, better: Better) -> Figure:
        rest = values[1:][~np.isnan(values[1:])]
        low, high = np.quantile(rest, [0.025, 0.975]).tolist() if num_groups > 1 and len(rest) else (nan, nan)
        return Figure(float(values[0]), low, high, len(told), unit, better, over="clips")

    measured = []
    for pair in range(auroc.shape[2]):
        sides, shown = [], slice(None if pair == own else 1)
        for side in (OWN, SHIFTED):
            lags = [of.lags_ms[side][pair] for of in told]
            answers = _lags(np.concatenate(lags), weights[shown].repeat(list(map(len, lags)), axis=1))
            values = dict(zip(UNITS, (auroc[shown, side, pair], iou[shown, side, pair], *answers), strict=True))
            sides.append({name: figure(of, *UNITS[name]) for name, of in values.items()})
        above = figure(auroc[:, OWN, pair] - auroc[:, SHIFTED, pair], "AUROC", "higher")
        num_onsets = sum(len(of.lags_ms[OWN][pair]) for of in told)
        measured.append(Measured(len(told), num_onsets, (sides[OWN], sides[SHIFTED]), above))
    return measured


def _lags(
    lags_ms: Float[np.ndarray, " onsets"], weights: Float[np.ndarray, "resamples onsets"]
) -> tuple[Float[np.ndarray, " resamples"], Float[np.ndarray, " resamples"]]:
    """Return the median lag of the onsets that are answered, and their share; NaN where there are none."""
    met, total = ~np.isnan(lags_ms), weights.sum(axis=1)
    share = np.divide(weights @ met, total, out=np.full(len(total), nan), where=total > 0)
    return weighted_median(lags_ms[met], weights[:, met]), share
