"""The clips of concepts as a report plays them: audio, spectrogram, and the feature's activation along time."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ard.reports.concepts import finite, read_timelines
from ard.reports.sounds import Shown
from ard.run import Cell

LEVELS = 255
"""A page says an activation as so many parts of the feature's maximum over the probing clips."""


class Activity(NamedTuple):
    """Where in a clip a feature is active: start, end, and the middle of its strongest token, as shares of the clip."""

    start: float
    end: float
    strongest: float


class Strip(NamedTuple):
    """One clip of a concept: the AudioLLM's ``caption``, and the caption or labels of its corpus (``reference``).

    ``levels`` are the activations along time, two hexadecimal digits a token of ``seconds_per_token``, empty if they
    are not stored. Where they are not, ``activity`` says what is known.
    """

    id: str
    caption: str | None
    reference: str | None
    duration_s: float | None
    sound: Shown | None
    levels: str
    seconds_per_token: float | None
    activity: Activity | None

    @property
    def label(self) -> str:
        """What it is called by someone who cannot see it."""
        return self.caption or self.reference or self.id


class Strips:
    """Makes the strips of any concept of a cell.

    Args:
        cell: the dictionary's cell.
        clips: the rows of clips.parquet, by id.
        sounds: the clips that can be heard.
    """

    def __init__(self, cell: Cell, clips: Mapping[str, Mapping[str, Any]], sounds: Mapping[str, Shown]) -> None:
        self.clips, self.sounds = clips, sounds
        stored = cell.tensors("representatives") if cell.path("representatives").is_file() else {}
        places = [f"ard/top_{name}" for name in ("first", "last", "strongest")]
        self._places = [stored[name].numpy() for name in places] if places[0] in stored else []
        self._most = stored["max_activation"].numpy() if "max_activation" in stored else None
        self._timelines = read_timelines(cell)

    @property
    def has_levels(self) -> bool:
        """Whether activations along time are stored."""
        return bool(self._timelines)

    @property
    def has_places(self) -> bool:
        """Whether it is stored where features are active."""
        return bool(self._places)

    def top(self, row: Mapping[str, Any]) -> list[Strip]:
        """Return the most representative clips of a concept, best first."""
        ids, captions, feature = row["top_ids"] or [], row["captions"] or [], row["feature"]
        return [
            self._strip(
                clip_id,
                captions[place] if place < len(captions) else None,
                self._levels(feature, place),
                self._activity(clip_id, feature, place),
            )
            for place, clip_id in enumerate(ids)
        ]

    def bottom(self, row: Mapping[str, Any]) -> list[Strip]:
        """Return the least representative clips of a concept, the least first."""
        return [self._strip(clip_id, None, "", None) for clip_id in row["bottom_ids"] or []]

    def _strip(self, clip_id: str, caption: str | None, levels: str, activity: Activity | None) -> Strip:
        row = self.clips.get(clip_id, {})
        reference = row.get("caption") or ", ".join(map(spaced, row.get("labels") or ())) or None
        duration_s, seconds_per_token = (finite(row.get(key)) for key in ("duration_s", "seconds_per_token"))
        levels = levels if seconds_per_token else ""
        sound = self.sounds.get(clip_id)
        return Strip(clip_id, caption, reference, duration_s, sound, levels, seconds_per_token, activity)

    def _levels(self, feature: int, place: int) -> str:
        along = self._timelines.get(feature, ())
        if place >= len(along):
            return ""
        most = float(self._most[feature]) if self._most is not None else 0.0
        return hexadecimal(along[place], most or float(along[place].max(initial=0.0)))

    def _activity(self, clip_id: str, feature: int, place: int) -> Activity | None:
        """Turn tokens into shares of the duration; None if the feature is silent or the clip's times are unknown."""
        row = self.clips.get(clip_id, {})
        seconds_per_token, duration_s = (finite(row.get(key)) for key in ("seconds_per_token", "duration_s"))
        if not self._places or place >= self._places[0].shape[1] or not seconds_per_token or not duration_s:
            return None
        first, last, strongest = (int(of[feature, place]) for of in self._places)
        if first < 0:
            return None
        token = seconds_per_token / duration_s
        return Activity(first * token, min((last + 1) * token, 1.0), min((strongest + 0.5) * token, 1.0))


def hexadecimal(activations: Float[np.ndarray, " tokens"], most: float) -> str:
    """Write activations as shares of ``most``, two digits a token; what is active at all is at least 01."""
    if most <= 0:
        return "00" * len(activations)
    shares = np.rint(activations.astype(np.float64) / most * LEVELS).clip(0, LEVELS)
    return np.where(activations > 0, np.maximum(shares, 1), 0).astype(np.uint8).tobytes().hex()


def spaced(label: str) -> str:
    """Return a label in words: corpora join them by underscores, so that a browser breaks them anywhere."""
    return label.replace("_", " ")


def clips_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, None]:
    """Return the ids of all clips of some concepts, without repeats."""
    return dict.fromkeys(clip_id for row in rows for side in ("top_ids", "bottom_ids") for clip_id in row[side] or ())
