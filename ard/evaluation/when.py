"""Whether concepts are active at the time when something is heard, on clips that they were not chosen on."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from math import nan
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ard.activations import read_clips_metadata
from ard.activations.layer import read_layer
from ard.evaluation.pairs import (
    LEAST_TOKENS,
    NUM_RESAMPLES,
    OWN,
    REACH_S,
    SHIFTED,
    UNITS,
    Measured,
    Pairs,
    TimedClip,
    Told,
    choose_pairs,
    measure_pairs,
    tell,
)
from ard.evaluation.timing import Entries, auroc_in_time, best_level
from ard.monosemanticity import read_selections
from ard.probing import Evaluator
from ard.results import Better, Figure, Result
from ard.run import Cell

LEVELS = 64  # of a feature's activation, equally spaced, that are tried as its threshold
SHIFTS = 16  # of the events of a clip, by any number of tokens and by none: the mean AUROC of all is .5
KEPT_TOKENS = 2**16  # whose codes are kept in memory: 200 MB if 250 features are active in a token
CLIPS_PER_BATCH = 32

Encoded = tuple[TimedClip, Entries]
Features = Float[np.ndarray, " features"]


class TimeConcepts(Evaluator):
    """Write ``timing.json``, and ``timing.parquet`` with a row for every selected feature.

    Clips say when their labels are heard (``Clip.events``). In a clip that tells something of a label, where it is
    heard in some tokens and not in others:

    - ``auroc``: the chance that the feature is more active in a token where the label is heard than in one where it is
      not; mean over clips. It compares tokens of one clip alone: knowing which clips have the label gives .5.
    - ``iou``: tokens where the feature fires and the label is heard, over those where either is the case, all clips
      together. It fires from a threshold on, the best of 64 on probing clips.
    - ``lag_ms``: by how much the feature begins to fire after an onset, in ms: the median over onsets, of which each is
      paired with the nearest beginning within 250 ms; negative if it is early. ``onsets_met``: the share of the onsets
      that have one.

    For each label it takes the feature, of all, with the highest ``auroc`` on probing clips; for each selected feature,
    named or not, the label. Both are measured on evaluation clips. A second row has the same with the events of each
    clip shifted in time, round its end, by random amounts: what a feature has that knows nothing of when. ``told`` is
    the share of labels whose AUROC is above that of shifted events, by the interval of the paired difference over
    clips; groups are resampled together. ``concepts_*`` are of the selected features. In ``details.per_label`` each
    label has its feature, clips, onsets and figures, with intervals over clips.

    Labels with fewer clips than ``least_clips`` in either split are left out, and so are clips in which a label is
    heard all the time. The clips are read again after the pass, one by one; where there are more than ``most_clips``
    of a split, that many are drawn. It writes nothing where no label has events in both splits.

    Args:
        least_clips: fewest clips of a label in either split.
        most_clips: most clips of a split that are read.
        seed: seed of the shifts, the draw and the bootstrap.
    """

    needs = ("selections",)
    makes = ("timing",)
    results = ("timing",)

    def __init__(self, *, least_clips: int = 5, most_clips: int = 5000, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.least_clips, self.most_clips = least_clips, most_clips

    def evaluate(self, cell: Cell) -> Result | None:
        """Choose pairs and thresholds on probing clips, and measure them on evaluation clips."""
        cell.path("timing").unlink(missing_ok=True)
        if cell.evaluation is None:
            return None
        timed = [self._timed(cell, split) for split in ("probe", "eval")]
        every = sorted({label for clips in timed for clip in clips for label in clip.labels})
        labels = [label for label in every if all(self._enough(clips, label) for clips in timed)]
        if not labels:
            return None
        probing, unseen = ([clip for clip in (one.among(labels) for one in clips) if clip.labels] for clips in timed)
        read = self._twice(cell, "probe", probing)
        auroc, least, most = self._auroc(read(), labels, self.dictionary(cell).d_sae)
        selected = read_selections(cell)["ard"][0].features.sort().values.numpy()
        pairs, of_label, of_feature = choose_pairs(auroc, selected)
        thresholds = self._thresholds(read(), labels, pairs, least, most)
        told = self._measure(cell, unseen, labels, pairs, thresholds)
        own = [place - pairs.of(label).start for label, place in enumerate(of_label)]
        measured = [pair for of_one, at in zip(told, own, strict=True) for pair in measure_pairs(of_one, at, self.seed)]
        of_labels = [measured[place] for place in of_label]
        of_features = {feature: None if place is None else measured[place] for feature, place in of_feature.items()}
        concepts = [pair for pair in of_features.values() if pair is not None]
        rows = (
            cell.row(self._figures(of_labels, concepts, OWN)),
            cell.row(self._figures(of_labels, concepts, SHIFTED), control="events shifted").as_control(),
        )
        names = {feature: None if at is None else labels[pairs.labels[at]] for feature, at in of_feature.items()}
        cell.save_rows("timing", [_row(feature, names[feature], pair) for feature, pair in of_features.items()])
        chosen = {
            label: {"feature": int(pairs.features[place]), "threshold": float(thresholds[place])}
            for label, place in zip(labels, of_label, strict=True)
        }
        details = {
            "per_label": {label: chosen[label] | pair.plain() for label, pair in zip(labels, of_labels, strict=True)},
            "not_measured": [label for label in every if label not in chosen],
            "num_clips": {"probe": len(probing), "eval": len(unseen)},
            "num_concepts": len(selected),
            "num_concepts_with_label": len(concepts),
        }
        return Result("timing", rows, self._choices(), details)

    def _enough(self, clips: Sequence[TimedClip], label: str) -> bool:
        return sum(label in clip.labels for clip in clips) >= self.least_clips

    def _timed(self, cell: Cell, split: str) -> list[TimedClip]:
        """Return the clips of a split in which some label is heard at times, or as many of them as are read."""
        described = enumerate(read_clips_metadata(cell.splits[split]))
        timed = [TimedClip.of(row, clip) for row, clip in described if clip.get("events") and clip["seconds_per_token"]]
        timed = [clip for clip in timed if clip.labels]
        drawn = np.random.default_rng(self.seed).permutation(len(timed))[: self.most_clips]
        return [timed[place] for place in np.sort(drawn)]

    def _encoded(self, cell: Cell, split: str, clips: Sequence[TimedClip]) -> Iterator[Encoded]:
        """Read clips, and return the codes of each."""
        dictionary, waiting = self.dictionary(cell), iter(clips)
        stored = read_layer(cell.splits[split], cell.layer).read_clips([clip.row for clip in clips])
        while batch := [x.to(self.device, torch.float32, copy=True) for _, x in islice(stored, CLIPS_PER_BATCH)]:
            with torch.inference_mode():
                codes = dictionary.encode(torch.cat(batch))
            of_clips = zip(*(column.cpu().split([len(x) for x in batch]) for column in codes), strict=True)
            for clip, (values, indices) in zip(islice(waiting, len(batch)), of_clips, strict=True):
                tokens, places = values.numpy().nonzero()
                yield clip, Entries(tokens, indices.numpy()[tokens, places], values.numpy()[tokens, places])

    def _twice(self, cell: Cell, split: str, clips: Sequence[TimedClip]) -> Callable[[], Iterable[Encoded]]:
        """Return what reads clips as often as it is called; the codes of a few are kept rather than made again."""
        if sum(clip.heard.shape[1] for clip in clips) > KEPT_TOKENS:
            return partial(self._encoded, cell, split, clips)
        kept = list(self._encoded(cell, split, clips))
        return lambda: kept

    def _auroc(
        self, clips: Iterable[Encoded], labels: Sequence[str], d_sae: int
    ) -> tuple[Float[np.ndarray, "labels features"], Features, Features]:
        """Return every feature's AUROC for every label on probing clips, and its least and largest activation there."""
        total, num_clips = np.zeros((len(labels), d_sae)), np.zeros((len(labels), 1))
        least, most = np.zeros((2, d_sae), dtype=np.float32)
        for clip, entries in clips:
            rows = np.searchsorted(labels, clip.labels)
            features, areas = auroc_in_time(entries, clip.heard)
            total[rows[:, None], features] += areas - 0.5
            num_clips[rows] += 1
            np.minimum.at(least, entries.features, entries.values)
            np.maximum.at(most, entries.features, entries.values)
        return 0.5 + total / num_clips, least, most

    def _thresholds(
        self,
        clips: Iterable[Encoded],
        labels: Sequence[str],
        pairs: Pairs,
        least: Features,
        most: Features,
    ) -> Float[np.ndarray, " pairs"]:
        """Return from which activation on each pair's feature fires, for the largest overlap on probing clips."""
        low, step = least[pairs.features], np.maximum(most - least, 1e-9)[pairs.features] / LEVELS
        counts = np.zeros((2, len(low), LEVELS), dtype=np.int64)
        for clip, entries in clips:
            for label, heard in zip(clip.labels, clip.heard, strict=True):
                own = pairs.of(labels.index(label))
                z = entries.dense(pairs.features[own], len(heard))
                level = ((z - low[own]) / step[own]).astype(np.int64).clip(0, LEVELS - 1)
                np.add.at(counts, (heard[:, None].astype(np.int64), np.arange(own.start, own.stop), level), 1)
        return low + step * best_level(counts[1], counts[0])

    def _measure(
        self,
        cell: Cell,
        clips: Sequence[TimedClip],
        labels: Sequence[str],
        pairs: Pairs,
        thresholds: Float[np.ndarray, " pairs"],
    ) -> list[list[Told]]:
        """Return for each label what the evaluation clips tell of its pairs."""
        told: list[list[Told]] = [[] for _ in labels]
        for clip, entries in self._encoded(cell, "eval", clips):
            shifts = np.random.default_rng([self.seed, clip.row]).integers(clip.heard.shape[1], size=SHIFTS)
            for label, heard in zip(clip.labels, clip.heard, strict=True):
                own = pairs.of(labels.index(label))
                z = entries.dense(pairs.features[own], len(heard))
                versions = np.stack([heard, *(np.roll(heard, by) for by in shifts)])
                told[labels.index(label)].append(tell(clip, z, z >= thresholds[own], versions))
        return told

    def _figures(self, labels: Sequence[Measured], concepts: Sequence[Measured], side: int) -> dict[str, Figure]:
        """Return the figures over labels, and those over selected features."""
        figures = {}
        for prefix, over, pairs in (("", "labels", labels), ("concepts_", "concepts", concepts)):
            for name, (unit, better) in UNITS.items():
                samples = np.array([pair.figures[side][name].value for pair in pairs])
                statistic = np.median if name == "lag_ms" else np.mean
                figures[prefix + name] = self._over(samples[~np.isnan(samples)], statistic, unit, over, better)
            if side == OWN:
                told = np.array([pair.is_told for pair in pairs])
                share = Figure.estimate(told, np.mean, f"share of {over}", over=over, seed=self.seed)
                figures[f"{prefix}told"] = share
        return figures

    def _over(
        self,
        samples: Float[np.ndarray, " n"],
        statistic: Callable[..., np.ndarray],
        unit: str,
        over: str,
        better: Better,
    ) -> Figure:
        """Return a statistic of samples with its bootstrap interval, all resamples at once."""
        drawn = np.random.default_rng(self.seed).integers(max(len(samples), 1), size=(NUM_RESAMPLES, len(samples)))
        low, high = np.quantile(statistic(samples[drawn], axis=1), [0.025, 0.975]) if len(samples) > 1 else (nan, nan)
        value = float(statistic(samples)) if len(samples) else nan
        return Figure(value, float(low), float(high), len(samples), unit, better, over=over)

    def _choices(self) -> dict[str, Any]:
        return {
            "pairs": "chosen by AUROC on the probing set, measured on the evaluation set",
            "auroc": "within clips, mean over clips",
            "iou": f"all tokens of the label's clips, at the best of {LEVELS} thresholds on the probing set",
            "lag": f"median over onsets answered within {REACH_S * 1000:g} ms, from token to token",
            "shifted": f"each clip's events by {SHIFTS} random numbers of tokens, round the end of the clip",
            "told": "the 95 % interval of the AUROC minus that of shifted events is above 0",
            "least_tokens": LEAST_TOKENS,
            "least_clips": self.least_clips,
            "most_clips": self.most_clips,
        }


def _row(feature: int, event: str | None, pair: Measured | None) -> Mapping[str, Any]:
    """Return a selected feature's row of the table; it may have no label."""
    own, shifted = (
        {name: nan if pair is None else pair.figures[side][name].value for name in UNITS} for side in (OWN, SHIFTED)
    )
    return {
        "feature": feature,
        "event": event,
        "n_event_clips": 0 if pair is None else pair.num_clips,
        "event_told": pair is not None and pair.is_told,
        **{f"event_{name}": value for name, value in own.items()},
        **{f"event_{name}_shifted": shifted[name] for name in ("auroc", "iou")},
    }
