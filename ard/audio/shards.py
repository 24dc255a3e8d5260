"""Audio shards: WebDataset tars of ``<clip_id>.flac`` and ``<clip_id>.json``, and a manifest, written last."""

import io
import json
import logging
import math
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import soundfile
import webdataset as wds
import xxhash

from ard.audio.decoding import and_also, decode, unusable
from ard.audio.paths import id_of, is_key, printable
from ard.files import LOCK, claim, in_use
from ard.results import replacing, sealed, unsealed, write_json
from ard.run import MANIFEST
from ard.types import Clip, Event, Failure, Mixture, Note, UserError

SHARD = re.compile(r"\d{6}\.tar")
SUFFIXES = ("flac", "wav", "ogg", "mp3")
Part = TypeVar("Part")  # of a file in a shard: what is read of it
OPTIONAL = ("caption", "emotion", "gender", "transcript", "group")


def clip_metadata(clip: Clip) -> dict[str, Any]:
    """Return the description of a clip in a shard's JSON: everything but its samples, without empty fields."""
    fields = {
        "id": clip.id,
        "dataset": clip.dataset,
        "duration_s": round(clip.duration_s, 4),
        "sample_rate_hz": clip.sample_rate_hz,
        "caption": clip.caption,
        "labels": list(clip.labels),
        "emotion": clip.emotion,
        "gender": clip.gender,
        "transcript": clip.transcript,
        "group": clip.group,
        "events": [event._asdict() for event in clip.events],
        "note": clip.note,
        "mixture": clip.mixture and clip.mixture._asdict(),
    }
    return {key: value for key, value in fields.items() if value not in (None, [])}


def write_audio_shards(
    source: Iterable[Clip | Failure], out: Path, clips_per_shard: int = 128
) -> tuple[int, list[Failure]]:
    """Write a source of clips as audio shards; return how many clips were written, and which were left out.

    The shards get their names together and the manifest is written last, so a killed run leaves no half set. Older
    shards in the folder are replaced; everything else there is left alone. Clips keep their sample rate. Samples are
    stored as 16-bit FLAC, or as 16-bit WAV at rates that FLAC does not support. Clips that could not be read back are
    left out, and repeated ids are numbered (see :func:`_storable`).

    Raises:
        UserError: if the folder holds anything but audio shards, is in use by another process or cannot be written.
    """
    with claim(out, refuse=_refuse_foreign):
        return _write(source, out.resolve(), clips_per_shard)


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder in use for anything but audio shards; those of a killed run have a lock and no manifest."""
    is_ours = (out / LOCK).is_file() and all(SHARD.fullmatch(name) for name in in_use(out))
    if in_use(out) and not is_ours and _stored(out / MANIFEST) is None:
        raise UserError(f"folder {str(out)!r} is in use, and not by audio shards: choose a new or empty one as --out")


def _write(source: Iterable[Clip | Failure], out: Path, clips_per_shard: int) -> tuple[int, list[Failure]]:
    failures: list[Failure] = []
    notes: list[Note] = []
    num_clips = 0
    digest = xxhash.xxh3_64()
    of_shards: list[Any] = []  # likewise
    names: list[str] = []
    with ExitStack() as partials:

        def opener(name: str) -> str:
            names.append(name)
            of_shards.append(xxhash.xxh3_64())
            return str(partials.enter_context(replacing(out / name)))

        with wds.ShardWriter(
            "%06d.tar", maxcount=clips_per_shard, maxsize=math.inf, verbose=0, mtime=0, opener=opener
        ) as shards:
            for item in _storable(source):
                if isinstance(item, Failure):
                    failures.append(item)
                    continue
                files = _encoded(item)
                shards.write({"__key__": item.id, **files})
                content = b"".join(files[suffix] for suffix in sorted(files))  # the order of the tar
                digest.update(content)
                of_shards[-1].update(content)
                num_clips += 1
                notes += [Note(item.id, "audio", item.note)] if item.note else []
        older = _stored(out / MANIFEST) or {}
        (out / MANIFEST).unlink(missing_ok=True)
    for name in set(older.get("shards", filter(SHARD.fullmatch, in_use(out)))) - set(names):
        (out / name).unlink(missing_ok=True)
    checksums = {"xxh3": digest.hexdigest(), "shards_xxh3": [of_shard.hexdigest() for of_shard in of_shards]}
    listed = {"failures": [f._asdict() for f in failures], "notes": [n._asdict() for n in notes]}
    write_json(out / MANIFEST, sealed({"num_clips": num_clips, **checksums, "shards": names, **listed}))
    return num_clips, failures


class AudioManifest(NamedTuple):
    """The contents of a folder of audio shards, and what was left out of it."""

    num_clips: int
    xxh3: str  # XXH3-64 of all clips, in order
    shards_xxh3: list[str]  # and of those of each shard
    failures: list[Failure]
    notes: list[Note]  # on clips that it holds


def read_audio_manifest(folder: Path) -> AudioManifest:
    """Read the manifest of a finished set of audio shards.

    Raises:
        UserError: if the folder holds no finished set, or its manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{str(folder)!r} holds no finished audio shards (no {MANIFEST}): make them with `ard shards`")
    try:
        saved = unsealed(path.read_bytes())
        failures = [Failure(**failure) for failure in saved["failures"]]
        notes = [Note(**note) for note in saved.get("notes", [])]
        return AudioManifest(saved["num_clips"], saved["xxh3"], _of_shards(saved), failures, notes)
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"manifest {str(path)!r} is damaged ({reason}): make the shards again") from error


def _of_shards(saved: Mapping[str, Any]) -> list[str]:
    """Return the checksum of each shard; where an older version wrote none, that of all, which changes with any."""
    return saved.get("shards_xxh3") or [saved["xxh3"]] * len(saved.get("shards", ()))


def _stored(path: Path) -> dict[str, Any] | None:
    """Return a manifest's content; None if there is no manifest, or not one of audio shards."""
    try:
        saved = unsealed(path.read_bytes())
    except (OSError, ValueError):
        return None
    return saved if saved.keys() >= {"num_clips", "xxh3", "failures"} else None


def read_clips(folder: Path) -> Iterator[Clip]:
    """Read the clips of a folder of audio shards, in order; skip unusable ones with a warning.

    Raises:
        UserError: if the folder holds no finished set of shards.
    """
    read_audio_manifest(folder)
    for path in sorted(folder.glob("*.tar")):
        for clip in read_shard(path):
            if isinstance(clip, Clip):
                yield clip
            else:
                _skipped(path, clip)


class StoredClips:
    """The clips of a folder of audio shards by their ids; each is read and decoded only when it is asked for.

    What is read at once are headers and descriptions. Clips without a description are left out with a warning.

    Args:
        folder: the folder.

    Attributes:
        durations_s: the length of every clip by its id, in order; 0 where its description says none.
        labels: the labels of every clip.
        captions: the caption of every clip; empty where there is none.

    Raises:
        UserError: if the folder holds no finished set of shards, or a shard is damaged.
    """

    def __init__(self, folder: Path) -> None:
        read_audio_manifest(folder)
        self._places: dict[str, tuple[Path, Mapping[str, slice]]] = {}
        self.durations_s: dict[str, float] = {}
        self.labels: dict[str, tuple[str, ...]] = {}
        self.captions: dict[str, str] = {}
        for path in sorted(folder.glob("*.tar")):
            with _named_if_damaged(path), path.open("rb") as file:
                for key, spans in _grouped(_members(path, lambda member, _: _span(member))):
                    description = parse_description(_within(file, spans["json"]) if "json" in spans else None)
                    if description is None:
                        _skipped(path, _decoded(key, {suffix: _within(file, span) for suffix, span in spans.items()}))
                        continue
                    self._places[description["id"]] = path, spans
                    self.durations_s[description["id"]] = description.get("duration_s", 0.0)
                    self.labels[description["id"]] = tuple(description.get("labels", ()))
                    self.captions[description["id"]] = description.get("caption") or ""

    def __call__(self, clip_ids: Iterable[str]) -> Iterator[Clip]:
        """Read clips in the order of their ids; skip unusable ones with a warning.

        Raises:
            KeyError: if there is no such clip.
            UserError: if a shard cannot be read.
        """
        for clip_id in clip_ids:
            path, spans = self._places[clip_id]
            with _named_if_damaged(path), path.open("rb") as file:
                clip = _decoded(clip_id, {suffix: _within(file, span) for suffix, span in spans.items()})
            if isinstance(clip, Clip):
                yield clip
            else:
                _skipped(path, clip)


def _span(member: tarfile.TarInfo) -> slice:
    return slice(member.offset_data, member.offset_data + member.size)


def _within(file: BinaryIO, span: slice) -> bytes:
    file.seek(span.start)
    return file.read(span.stop - span.start)


def read_shard(path: Path) -> Iterator[Clip | Failure]:
    """Read the clips of one audio shard, in order; one that cannot be decoded or heard comes out as a failure.

    Raises:
        UserError: if the shard itself cannot be read.
    """
    with _named_if_damaged(path):
        for key, files in _grouped(read_members(path)):
            yield _decoded(key, files)


@contextmanager
def _named_if_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(f"audio shard {str(path)!r} is damaged ({reason}): make the shards again") from error


def _skipped(path: Path, clip: Clip | Failure) -> None:
    assert isinstance(clip, Failure)
    logging.getLogger(__name__).warning("clip %r of %s is skipped: %s", clip.id, path, clip.reason)


def read_members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Read the files of a shard as key, suffix and content.

    WebDataset's own reader skips what it does not take for a sample, stops at a key that occurs twice in a row, and
    takes a damaged header for the end of the shard. This one loses nothing silently.

    Raises:
        tarfile.TarError: if the shard breaks off or is damaged; or an OSError, a ValueError or another error.
    """
    yield from _members(path, lambda member, members: file.read() if (file := members.extractfile(member)) else b"")


def _members(path: Path, read: Callable[[tarfile.TarInfo, tarfile.TarFile], Part]) -> Iterator[tuple[str, str, Part]]:
    """Go through the files of a shard, and return key, suffix and what is read of each; see :func:`read_members`."""
    size = path.stat().st_size
    with _Bounded(path) as file, tarfile.open(fileobj=file, mode="r:") as members:
        for member in members:
            if not member.isreg() or member.issparse() or member.size > size:
                raise tarfile.ReadError(f"{member.name!r} is not a plain file")
            folder, _, name = member.name.rpartition("/")
            key, _, suffix = name.partition(".")
            yield f"{folder}/{key}" if folder else key, suffix, read(member, members)
        file.seek(members.offset)
        end = file.read(tarfile.RECORDSIZE)
        if not end or any(end):
            raise tarfile.ReadError("it breaks off" if not end else "a header is damaged")


class _Bounded(io.FileIO):
    """A file that is never read beyond its end: a damaged size would ask for more memory than any machine has."""

    def read(self, size: int | None = -1, /) -> bytes:
        remaining = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(remaining if size is None or size < 0 else min(size, remaining)) or b""


def _grouped(members: Iterator[tuple[str, str, Part]]) -> Iterator[tuple[str, dict[str, Part]]]:
    """Group the consecutive files of each key."""
    files: dict[str, Part] = {}
    current = None
    for key, suffix, content in members:
        if current is not None and (key != current or suffix in files):
            yield current, files
            files = {}
        current, files = key, {**files, suffix: content}
    if current is not None:
        yield current, files


def _decoded(key: str, files: Mapping[str, bytes]) -> Clip | Failure:
    suffix = next((suffix for suffix in SUFFIXES if suffix in files), None)
    if suffix is None:
        return Failure(key, "audio", "has no sound")
    description = parse_description(files.get("json"))
    if description is None:
        return Failure(key, "audio", "has no description" if "json" not in files else "its description is damaged")
    recording = decode(files[suffix], description["id"])
    if isinstance(recording, Failure):
        return recording
    if description.get("sound_xxh3") not in (None, xxhash.xxh3_64_hexdigest(files[suffix])):
        return Failure(description["id"], "audio", "its sound is damaged: its checksum does not match")
    return Clip(
        id=description["id"],
        waveform=recording.waveform,
        sample_rate_hz=recording.sample_rate_hz,
        dataset=description["dataset"],
        labels=tuple(description.get("labels", ())),
        events=tuple(Event(**event) for event in description.get("events", ())),
        note=description.get("note") or recording.note,
        mixture=Mixture(**description["mixture"]) if description.get("mixture") else None,
        **{name: description.get(name) for name in OPTIONAL},
    )


def parse_description(content: bytes | None) -> dict[str, Any] | None:
    """Return a clip's description from a shard's JSON; None if it is something else, or not what was written."""
    try:
        description = unsealed(content or b"")
    except ValueError:
        return None
    labels = description.get("labels", [])
    has_names = all(isinstance(description.get(name), str) for name in ("id", "dataset"))
    has_labels = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    optional = [description.get(name) for name in (*OPTIONAL, "note", "sound_xxh3")]
    is_valid = has_names and has_labels and all(isinstance(value, str | None) for value in optional)
    mixture = description.get("mixture")
    is_mixture = mixture is None or (isinstance(mixture, dict) and mixture.keys() == {*Mixture._fields})
    is_valid = is_valid and is_mixture and _are_events(description.get("events", []))
    return description if is_valid else None


def _are_events(events: Any) -> bool:
    """Say whether events are what :func:`clip_metadata` writes."""
    return isinstance(events, list) and all(
        isinstance(event, dict)
        and event.keys() == set(Event._fields)
        and isinstance(event["label"], str)
        and all(type(event[name]) in (int, float) for name in ("onset_s", "offset_s"))
        and 0 <= event["onset_s"] <= event["offset_s"] < math.inf
        for event in events
    )


def _storable(source: Iterable[Clip | Failure]) -> Iterator[Clip | Failure]:
    """Make the clips of a source fit for shards, or refuse them, so that all that is written can be read back.

    An id that an earlier clip has gets a number, and one that WebDataset cannot keep as a key is replaced; both are
    noted. Invalid Unicode in text fields is escaped. A clip whose samples cannot be used, which reading would refuse,
    becomes a failure.
    """
    taken: set[str] = set()
    for item in source:
        if isinstance(item, Failure):
            yield Failure(*map(_text, item))
            continue
        reason = unusable(item.waveform, item.sample_rate_hz)
        if not reason and np.abs(item.waveform).max() > 1:
            reason = "has samples beyond [-1, 1]"
        if not reason and not _are_events([event._asdict() for event in item.events]):
            reason = "has an event that ends before it begins, or has no time"
        if reason or not item.id:
            yield Failure(_text(item.id), "audio", reason or "has no id")
            continue
        yield _sanitized(item, taken)


def _sanitized(clip: Clip, taken: set[str]) -> Clip:
    key, note = clip.id, clip.note
    if not is_key(key):
        key = id_of(key)
        note = and_also(f"its id '{printable(clip.id)}' cannot name a file in a shard: it is '{key}' there", note)
    clip_id, number = key, 2
    while clip_id in taken:
        clip_id, number = f"{key}-{number}", number + 1
    if clip_id != key:
        note = and_also(f"its id '{key}' was given to an earlier clip: it is '{clip_id}' here", note)
    taken.add(clip_id)
    texts = {name: _text(getattr(clip, name)) for name in (*OPTIONAL, "dataset")}
    labels, events = tuple(map(_text, clip.labels)), tuple(Event(*map(_text, event)) for event in clip.events)
    return replace(clip, id=clip_id, labels=labels, events=events, note=note, **texts)


def _text(value: Any) -> Any:
    """Escape invalid Unicode, such as half a surrogate pair."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _encoded(clip: Clip) -> dict[str, bytes]:
    """Return the files of a clip by suffix: its sound, and its description, with checksums of both."""
    for container in ("FLAC", "WAV"):
        buffer = io.BytesIO()
        try:
            soundfile.write(buffer, clip.waveform, clip.sample_rate_hz, format=container, subtype="PCM_16")
        except soundfile.SoundFileError:  # FLAC does not support every rate
            continue
        sound = buffer.getvalue()
        description = sealed({**clip_metadata(clip), "sound_xxh3": xxhash.xxh3_64_hexdigest(sound)})
        return {container.lower(): sound, "json": json.dumps(description).encode()}
    raise AssertionError(f"WAV holds any rate, but not {clip.sample_rate_hz} Hz")
