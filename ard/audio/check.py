"""Check a set of audio shards: counts against the published ones, clips that cannot be read, and duplicates."""

import hashlib
import math
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from ard.audio.decoding import Recording, decode
from ard.audio.shards import AudioManifest, parse_description, read_audio_manifest, read_members
from ard.types import Failure

PUBLISHED: Mapping[str, int] = {
    "AudioSet_SL": 108317,
    "BBC_Sound_Effects": 31201,
    "FreeSound": 262300,
    "SoundBible": 1232,
    "IEMOCAP": 10039,
    "FSD50K-dev": 40966,
    "FSD50K-eval": 10231,
    "IEMOCAP-Emotion": 1004,
    "VoxCeleb1-Gender": 4874,
}
"""Number of clips of every data set, by the name that its clips carry."""


@dataclass
class AudioCheck:
    """The contents of a set of audio shards, and what is wrong with it.

    ``num_clips`` counts the clips of each data set. ``unreadable`` lists clips that cannot be decoded or heard, half
    clips (sound or description alone) and shards that break off. ``duplicate_ids`` lists ids that an earlier clip has
    too, and ``duplicate_sounds`` pairs of a clip and the first one with the same samples at the same rate.
    ``events_after_end`` lists clips with an event that begins when the clip has ended, whose times are thus of another
    sound. ``is_as_written`` says whether the content has the manifest's checksum.
    """

    manifest: AudioManifest
    num_clips: Counter[str] = field(default_factory=Counter)
    unreadable: list[Failure] = field(default_factory=list)
    duplicate_ids: list[str] = field(default_factory=list)
    duplicate_sounds: list[tuple[str, str]] = field(default_factory=list)
    events_after_end: list[str] = field(default_factory=list)
    is_as_written: bool = True

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, one line each; an intact set has no problems."""
        num_found, num_written = self.num_clips.total(), self.manifest.num_clips
        lines = [f"{num_found} clips found, {num_written} written"] if num_found != num_written else []
        for dataset, count in sorted(self.num_clips.items()):
            published = PUBLISHED.get(dataset, count)
            if count != published:
                left_out = len(self.manifest.failures)
                lines.append(f"{dataset}: {count} clips of {published}; {left_out} were left out when it was written")
        lines += [f"{name}: {reason}" for name, _, reason in self.unreadable]
        lines += [f"{clip_id}: an earlier clip has the same id" for clip_id in self.duplicate_ids]
        lines += [f"{clip_id}: sounds the same as {first}" for clip_id, first in self.duplicate_sounds]
        lines += [f"{clip_id}: has an event that begins after its end" for clip_id in self.events_after_end]
        return lines if lines or self.is_as_written else ["the content does not match the manifest's checksum"]


def check_audio_shards(folder: Path) -> AudioCheck:
    """Read a set of audio shards once and report what it holds. Memory holds only an id and a hash for each clip.

    Args:
        folder: what :func:`~ard.audio.write_audio_shards` wrote.

    Raises:
        UserError: if the folder holds no finished set.
    """
    check = AudioCheck(read_audio_manifest(folder))
    described: set[str] = set()
    sounding: set[str] = set()
    first: dict[bytes, str] = {}
    digest = xxhash.xxh3_64()
    for clip_id, suffix, content in _read_members(sorted(folder.glob("*.tar")), check.unreadable):
        digest.update(content)
        if suffix == "json":
            description = parse_description(content)
            if description is None:
                check.unreadable.append(Failure(clip_id, "audio", "its description is damaged"))
            else:
                check.num_clips[description["dataset"]] += 1
                end_s = description.get("duration_s", math.inf)
                if any(event["onset_s"] >= end_s for event in description.get("events", ())):
                    check.events_after_end.append(clip_id)
            if clip_id in described:
                check.duplicate_ids.append(clip_id)
            described.add(clip_id)
            continue
        sounding.add(clip_id)
        recording = decode(content, clip_id)
        if isinstance(recording, Failure):
            check.unreadable.append(recording)
        elif (fingerprint := _fingerprint(recording)) in first:
            check.duplicate_sounds.append((clip_id, first[fingerprint]))
        else:
            first[fingerprint] = clip_id
    check.unreadable += [Failure(name, "audio", "has no sound") for name in sorted(described - sounding)]
    check.unreadable += [Failure(name, "audio", "has no description") for name in sorted(sounding - described)]
    check.is_as_written = digest.hexdigest() == check.manifest.xxh3
    return check


def _read_members(shards: list[Path], broken: list[Failure]) -> Iterator[tuple[str, str, bytes]]:
    """Read the files of all shards as clip id, suffix and content; stop a shard where it breaks off, and note it."""
    for shard in shards:
        try:
            yield from read_members(shard)
        except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, MemoryError) as error:
            broken.append(Failure(shard.name, "audio", f"breaks off: {error}"))


def _fingerprint(recording: Recording) -> bytes:
    """Hash the samples and their rate."""
    rate = str(recording.sample_rate_hz).encode()
    return hashlib.blake2b(recording.waveform.tobytes(), digest_size=16, salt=rate[:16]).digest()
