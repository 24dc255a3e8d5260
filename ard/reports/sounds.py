"""The clips that a report shows: their audio, copied out of the shards, and their waveforms as SVG paths."""

import io
import itertools
import json
import re
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float

from ard.results import replacing

SUFFIXES = (".flac", ".wav", ".ogg", ".mp3")
FILE = re.compile(r"\d{4,}\.(flac|wav|ogg|mp3)")
NUM_BARS = 96
HEIGHT = 40


class Sound(NamedTuple):
    """One clip's audio in the report: its key there, its file in ``audio/``, and its waveform as an SVG path."""

    key: str
    file: str
    path: str


def copy_sounds(splits: Sequence[Path], wanted: Collection[str], out: Path) -> dict[str, Sound]:
    """Copy the audio of the wanted clips from folders of shards, unchanged, and draw each waveform.

    A clip that no shard holds, or whose audio cannot be read, is left out. Files are numbered, since a clip's id may
    hold characters that a file name may not.
    """
    numbers = {clip_id: number for number, clip_id in enumerate(wanted)}
    sounds: dict[str, Sound] = {}
    out.mkdir(parents=True, exist_ok=True)
    for shard in (shard for split in splits for shard in sorted(split.glob("*.tar"))):
        for clip_id, suffix, _, read in stored_sounds(shard, numbers.keys() - sounds.keys()):
            audio = read()
            try:
                samples, _ = soundfile.read(io.BytesIO(audio), dtype="float32", always_2d=True)
            except soundfile.SoundFileError:
                continue
            key = f"{numbers[clip_id]:04d}"
            with replacing(out / (key + suffix)) as partial:
                partial.write_bytes(audio)
            sounds[clip_id] = Sound(key, key + suffix, waveform_path(samples.mean(axis=1)))
        if len(sounds) == len(numbers):
            break
    return sounds


def remove_sounds(folder: Path, shown: Collection[str]) -> None:
    """Remove files that :func:`copy_sounds` wrote and the report no longer shows; leave all others."""
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
    with tarfile.open(shard) as tar:
        members = {member.name: member for member in tar if member.isfile()}
        for name, member in members.items():
            if not name.endswith(".json") or (metadata := tar.extractfile(member)) is None:
                continue
            clip_id = json.loads(metadata.read()).get("id")
            stem = name.removesuffix(".json")
            suffix = next((suffix for suffix in SUFFIXES if stem + suffix in members), None)
            if clip_id in wanted and suffix and (audio := tar.extractfile(members[stem + suffix])):
                yield StoredSound(clip_id, suffix, members[stem + suffix].size, audio.read)
