"""The clips that a report shows: their audio, copied out of the shards, their spectrograms and their waveforms."""

import io
import itertools
import json
import re
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float

from ard.reports.spectrogram import spectrogram_png
from ard.results import replacing
from ard.run import readable

SUFFIXES = (".flac", ".wav", ".ogg", ".mp3")
FILE = re.compile(r"\d{4,}\.(flac|wav|ogg|mp3|png)")
NUM_BARS = 96
HEIGHT = 40
MOST_BYTES = 100_000
"""A report holds a larger file as MP3, so that 500 concepts fit into 100 MB."""
MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
AT_ONCE = 32
"""Clips that are in memory at once."""


class Sound(NamedTuple):
    """One clip's audio in a folder: its key there, its file, and its waveform as an SVG path."""

    key: str
    file: str
    path: str


class Shown(NamedTuple):
    """One clip in a report's ``audio`` folder: its audio, its spectrogram, and whether the audio is a smaller copy."""

    file: str
    spectrogram: str
    is_smaller: bool


class Audio(NamedTuple):
    """The audio of a clip: the suffix of its file, the bytes in it, and what they decode to."""

    suffix: str
    content: bytes
    mono: Float[np.ndarray, " samples"]
    sample_rate_hz: int


def copy_sounds(splits: Sequence[Path], wanted: Collection[str], out: Path) -> dict[str, Sound]:
    """Copy the audio of the wanted clips from folders of shards, unchanged, and draw each waveform.

    A clip that no shard holds, or whose audio cannot be read, is left out. Files are numbered, since a clip's id may
    hold characters that a file name may not.
    """
    keys = {clip_id: f"{number:04d}" for number, clip_id in enumerate(wanted)}
    sounds = {}
    for clip_id, suffix, content in _stored(splits, keys):
        if (audio := _decoded(suffix, content)) is not None:
            sounds[clip_id] = Sound(keys[clip_id], keys[clip_id] + suffix, waveform_path(audio.mono))
            _write(out / sounds[clip_id].file, content)
    return sounds


def show_sounds(splits: Sequence[Path], wanted: Collection[str], out: Path) -> dict[str, Shown]:
    """Write the audio of the wanted clips into a report's folder, and the spectrogram of each; remove older ones.

    Audio is copied unchanged unless its file is larger than ``MOST_BYTES``; then it becomes mono MP3. A clip that no
    shard holds, or whose audio cannot be read, is left out.
    """
    keys = {clip_id: f"{number:04d}" for number, clip_id in enumerate(wanted)}

    def show(stored: tuple[str, str, bytes]) -> tuple[str, Shown] | None:
        clip_id, suffix, content = stored
        audio = _decoded(suffix, content)
        if audio is None:
            return None
        if is_smaller := len(content) > MOST_BYTES and audio.sample_rate_hz in MP3_RATES_HZ:
            suffix, content = ".mp3", _mp3(audio)
        shown = Shown(keys[clip_id] + suffix, f"{keys[clip_id]}.png", is_smaller)
        _write(out / shown.file, content)
        _write(out / shown.spectrogram, spectrogram_png(audio.mono, audio.sample_rate_hz))
        return clip_id, shown

    clips, sounds = _stored(splits, keys), dict[str, Shown]()
    with ThreadPoolExecutor() as threads:
        while some := list(itertools.islice(clips, AT_ONCE)):
            sounds.update(one for one in threads.map(show, some) if one is not None)
    _remove_others(out, {file for shown in sounds.values() for file in (shown.file, shown.spectrogram)})
    return sounds


def _stored(splits: Sequence[Path], keys: Mapping[str, str]) -> Iterator[tuple[str, str, bytes]]:
    """Yield id, suffix and bytes of each wanted clip, once."""
    left = set(keys)
    for shard in (shard for split in splits for shard in sorted(split.glob("*.tar"))):
        if not left:
            return
        for clip_id, suffix, _, read in stored_sounds(shard, left):
            left.discard(clip_id)
            yield clip_id, suffix, read()


def _decoded(suffix: str, content: bytes) -> Audio | None:
    try:
        samples, sample_rate_hz = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.SoundFileError:
        return None
    return Audio(suffix, content, samples.mean(axis=1), sample_rate_hz)


def _mp3(audio: Audio) -> bytes:
    content = io.BytesIO()
    options = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.9}
    soundfile.write(content, audio.mono, audio.sample_rate_hz, **options)
    return content.getvalue()


def _write(path: Path, content: bytes) -> None:
    with replacing(path, synced=False) as partial:
        partial.write_bytes(content)


def _remove_others(folder: Path, shown: Collection[str]) -> None:
    """Remove files that :func:`show_sounds` wrote and the report no longer shows; leave all others."""
    for path in folder.glob("*"):
        if FILE.fullmatch(path.name) and path.name not in shown:
            path.unlink()


def waveform_path(samples: Float[np.ndarray, " samples"]) -> str:
    """Draw a clip as ``NUM_BARS`` upright bars in a box of width 2 ``NUM_BARS`` and height ``HEIGHT``.

    A bar shows the peak of its stretch of time relative to the clip's own peak, as a square root, so that quiet parts
    are visible. Silence is a row of dots.
    """
    edges = np.linspace(0, len(samples), NUM_BARS + 1).astype(int)
    peaks = np.array([np.abs(samples[a:b]).max(initial=0) for a, b in itertools.pairwise(edges)])
    heights = np.sqrt(peaks / max(peaks.max(initial=0), 1e-9)) * (HEIGHT / 2 - 1)
    bars = (f"M{2 * i + 1} {HEIGHT / 2 - h:.1f}v{2 * h:.1f}" for i, h in enumerate(np.maximum(heights, 0.3)))
    return "".join(bars)


class StoredSound(NamedTuple):
    """A clip's audio in a shard: its suffix, its size in bytes, and a function that reads it."""

    clip_id: str
    suffix: str
    size: int
    read: Callable[[], bytes]


def stored_sounds(shard: Path, wanted: Collection[str]) -> Iterator[StoredSound]:
    """Yield the audio of the wanted clips of a shard, to be read before the next; the JSON beside it holds the id."""
    with readable(shard), tarfile.open(shard) as tar:
        members = {member.name: member for member in tar if member.isfile()}
        for name, member in members.items():
            if not name.endswith(".json") or (metadata := tar.extractfile(member)) is None:
                continue
            clip_id = json.loads(metadata.read()).get("id")
            stem = name.removesuffix(".json")
            suffix = next((suffix for suffix in SUFFIXES if stem + suffix in members), None)
            if clip_id in wanted and suffix and (audio := tar.extractfile(members[stem + suffix])):
                yield StoredSound(clip_id, suffix, members[stem + suffix].size, audio.read)
