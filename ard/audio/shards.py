"""Audio shards: WebDataset tars of ``<clip_id>.flac`` and ``<clip_id>.json``, and a manifest that is written last."""

import io
import json
import logging
import math
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import webdataset as wds
import xxhash
from webdataset.tariterators import group_by_keys, tar_file_expander

from ard.audio.decoding import decode
from ard.files import LOCK, claim, in_use
from ard.results import replacing, write_json
from ard.run import MANIFEST
from ard.types import Clip, Failure, UserError

SHARD = re.compile(r"\d{6}\.tar")


def clip_metadata(clip: Clip) -> dict[str, Any]:
    """Return what the shards' JSON says of a clip: everything but its samples; unknown fields are left out."""
    known = {
        "id": clip.id,
        "dataset": clip.dataset,
        "duration_s": round(clip.duration_s, 4),
        "sample_rate_hz": clip.sample_rate_hz,
        "caption": clip.caption,
        "labels": list(clip.labels),
        "emotion": clip.emotion,
        "gender": clip.gender,
        "transcript": clip.transcript,
    }
    return {key: value for key, value in known.items() if value not in (None, [])}


def write_audio_shards(
    source: Iterable[Clip | Failure], out: Path, clips_per_shard: int = 128
) -> tuple[int, list[Failure]]:
    """Write a source of clips as audio shards and return how many clips were written and what was left out.

    The shards take their names together, the manifest last: a killed run leaves no half set. An older set of shards in
    the folder is replaced; whatever else lies there is not touched. Clips keep their sample rate; samples are stored as
    16-bit FLAC.

    Raises:
        UserError: if the folder holds anything but audio shards, is in use by another process or cannot be written.
    """
    with claim(out, refuse=_refuse_foreign):
        return _write(source, out.resolve(), clips_per_shard)


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder that is in use and not by audio shards: those of a killed run have a lock and no manifest."""
    is_ours = (out / LOCK).is_file() and all(SHARD.fullmatch(name) for name in in_use(out))
    if in_use(out) and not is_ours and _stored(out / MANIFEST) is None:
        raise UserError(f"folder {str(out)!r} is in use, and not by audio shards: choose a new or empty one as --out")


def _write(source: Iterable[Clip | Failure], out: Path, clips_per_shard: int) -> tuple[int, list[Failure]]:
    failures: list[Failure] = []
    num_clips = 0
    digest = xxhash.xxh3_64()
    written: list[str] = []
    with ExitStack() as partials:

        def opened(name: str) -> str:
            written.append(name)
            return str(partials.enter_context(replacing(out / name)))

        with wds.ShardWriter(
            "%06d.tar", maxcount=clips_per_shard, maxsize=math.inf, verbose=0, mtime=0, opener=opened
        ) as shards:
            for item in source:
                if isinstance(item, Failure):
                    failures.append(item)
                    continue
                flac, known = _flac(item), json.dumps(clip_metadata(item)).encode()
                shards.write({"__key__": item.id, "flac": flac, "json": known})
                digest.update(flac + known)
                num_clips += 1
        older = _stored(out / MANIFEST) or {}
        (out / MANIFEST).unlink(missing_ok=True)
    for name in set(older.get("shards", filter(SHARD.fullmatch, in_use(out)))) - set(written):
        (out / name).unlink(missing_ok=True)
    about = {"num_clips": num_clips, "xxh3": digest.hexdigest(), "shards": written}
    write_json(out / MANIFEST, {**about, "failures": [failure._asdict() for failure in failures]})
    return num_clips, failures


class AudioManifest(NamedTuple):
    """What a folder of audio shards holds, and what was left out of it."""

    num_clips: int
    xxh3: str  # XXH3-64 of all clips, in order
    failures: list[Failure]


def read_audio_manifest(folder: Path) -> AudioManifest:
    """Read the manifest of a finished set of audio shards.

    Raises:
        UserError: if the folder holds no finished set.
    """
    saved = _stored(folder / MANIFEST)
    if saved is None:
        raise UserError(f"{str(folder)!r} holds no finished audio shards (no {MANIFEST}): make them with `ard shards`")
    failures = [Failure(**failure) for failure in saved["failures"]]
    return AudioManifest(saved["num_clips"], saved["xxh3"], failures)


def _stored(path: Path) -> dict[str, Any] | None:
    """Return what a manifest says; None where there is none, or it is not that of audio shards."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return saved if isinstance(saved, dict) and saved.keys() >= {"num_clips", "xxh3", "failures"} else None


def read_clips(folder: Path) -> Iterator[Clip]:
    """Read the clips of a folder of audio shards, in order; what cannot be heard is passed over, with a warning.

    Raises:
        UserError: if the folder holds no finished set of shards.
    """
    read_audio_manifest(folder)
    for path in sorted(folder.glob("*.tar")):
        for clip in read_shard(path):
            if isinstance(clip, Clip):
                yield clip
            else:
                logging.getLogger(__name__).warning("clip %r of %s is passed over: %s", clip.id, path, clip.reason)


def read_shard(path: Path) -> Iterator[Clip | Failure]:
    """Read the clips of one audio shard, in order; what cannot be decoded or heard comes out as a failure.

    Raises:
        UserError: if the shard itself cannot be read.
    """
    try:
        with path.open("rb") as file:  # a name such as a#b is no URL
            yield from map(_decoded, group_by_keys(tar_file_expander([{"url": str(path), "stream": file}])))
    except (tarfile.ReadError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"audio shard {str(path)!r} is damaged ({reason}): make the shards anew") from error


def _decoded(sample: dict[str, Any]) -> Clip | Failure:
    known = json.loads(sample["json"])
    suffix = next(key for key in ("flac", "wav", "ogg", "mp3") if key in sample)
    recording = decode(sample[suffix], known["id"])
    if isinstance(recording, Failure):
        return recording
    return Clip(
        id=known["id"],
        waveform=recording.waveform,
        sample_rate_hz=recording.sample_rate_hz,
        dataset=known["dataset"],
        caption=known.get("caption"),
        labels=tuple(known.get("labels", ())),
        emotion=known.get("emotion"),
        gender=known.get("gender"),
        transcript=known.get("transcript"),
    )


def _flac(clip: Clip) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(clip.waveform, -1, 1), clip.sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
