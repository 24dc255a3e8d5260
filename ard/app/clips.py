"""The clips that one can listen to and steer: those of the run, and those that were dropped on the page."""

import io
import secrets
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import soundfile

from ard.audio import StoredClips
from ard.run import Run
from ard.types import Clip, UserError

MOST_SAMPLES = 2**26
"""Samples of dropped clips that are kept in memory, 256 MiB of them; the oldest clips go first."""

MOST_FOUND = 50
"""Clips that a search returns."""


class Found(NamedTuple):
    """A clip of the run that a search found: its split, its id, its caption or else its labels, and its length."""

    split: str
    id: str
    caption: str
    duration_s: float


class Chosen(NamedTuple):
    """A clip, and where a command finds it: the folder of audio shards it is in, or None if it was dropped."""

    clip: Clip
    shards: Path | None


class Clips:
    """The clips of a run by split and id, and those that were dropped by a key that nobody can guess."""

    def __init__(self, run: Run) -> None:
        self._folders = {folder.name: folder for folder in run.audio_splits}
        self._stored: dict[str, StoredClips] = {}
        self._dropped: dict[str, Clip] = {}
        self._dropping, self._reading = Lock(), Lock()  # a split of many clips takes a while to read

    @property
    def splits(self) -> list[str]:
        """The run's splits, those of the clips that answers are steered on first."""
        return sorted(self._folders, key=lambda name: (not name.startswith("steer"), name))

    def find(self, split: str, search: str = "", most: int = MOST_FOUND) -> list[Found]:
        """Return the first clips of a split with all words of a search in their id or caption.

        Raises:
            UserError: if there is no such split, or its shards cannot be read.
        """
        stored, words = self._of(split), search.casefold().split()
        found = []
        for clip_id, duration_s in stored.durations_s.items():
            caption = stored.captions[clip_id] or ", ".join(stored.labels[clip_id])
            if all(word in f"{clip_id} {caption}".casefold() for word in words):
                found.append(Found(split, clip_id, caption, duration_s))
                if len(found) == most:
                    break
        return found

    def keep(self, clip: Clip) -> str:
        """Keep a dropped clip in memory, and return its key."""
        key = secrets.token_urlsafe(16)
        with self._dropping:
            self._dropped[key] = clip
            while len(self._dropped) > 1 and sum(len(c.waveform) for c in self._dropped.values()) > MOST_SAMPLES:
                del self._dropped[next(iter(self._dropped))]
        return key

    def get(self, place: object) -> Chosen:
        """Return a clip by where it is: ``{"split": ..., "id": ...}`` or ``{"dropped": key}``.

        Raises:
            UserError: if there is no such clip.
        """
        named = place if isinstance(place, Mapping) else {}
        key, split, clip_id = (named.get(name) for name in ("dropped", "split", "id"))
        if isinstance(key, str):
            if (dropped := self._dropped.get(key)) is None:
                raise UserError("this clip is no longer here: drop it again")
            return Chosen(dropped, None)
        if not isinstance(split, str) or not isinstance(clip_id, str):
            raise UserError("no clip is chosen: choose one")
        stored = self._of(split)
        clip = next(stored([clip_id]), None) if clip_id in stored.durations_s else None
        if clip is None:
            raise UserError(f"the run's split {split!r} has no clip {clip_id!r} that can be heard: choose another")
        return Chosen(clip, self._folders[split])

    def _of(self, split: str) -> StoredClips:
        if split not in self._folders:
            raise UserError(f"the run has no clips of split {split!r}: it has those of {self.splits}")
        with self._reading:
            if split not in self._stored:
                self._stored[split] = StoredClips(self._folders[split])
        return self._stored[split]


def as_wav(clip: Clip) -> bytes:
    """Return a clip as the content of a WAV file, which every browser plays, whatever file it was read from."""
    content = io.BytesIO()
    soundfile.write(content, clip.waveform, clip.sample_rate_hz, format="WAV", subtype="PCM_16")
    return content.getvalue()
