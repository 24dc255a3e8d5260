"""Activation shards on disk: ``layer-<l>/<nnnnnn>.tar`` of safetensors, and ``manifest.json``, written last.

Shard ``n`` holds the clips of audio shard ``n`` and depends on nothing else. Ranks therefore write disjoint shards, and
a killed run resumes with the missing ones. A shard is complete once ``shards/<nnnnnn>.json`` exists, which is written
after its tars.
"""

import errno
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import torch
import webdataset as wds
from torch import Tensor

from ard.activations.tar import Written, write_tar
from ard.files import LOCK, claim, in_use
from ard.results import sealed, unsealed, write_json
from ard.run import MANIFEST, write_parquet
from ard.types import Failure, UserError


class Shard(NamedTuple):
    """The description of one shard: its clips, those left out, and the size and checksum of each layer's tar."""

    number: int
    clip_ids: tuple[str, ...]  # in the order of the tars
    num_tokens: tuple[int, ...]  # of each clip
    offsets: tuple[int, ...]  # byte at which the activations of each clip begin in a tar, the same in every layer
    failures: tuple[Failure, ...]
    num_bytes: Mapping[int, int]  # by layer
    xxh3: Mapping[int, str]  # by layer: XXH3-64 of the tar, checked at every read


class Manifest(NamedTuple):
    """What a folder of activation shards holds."""

    model: str
    layers: tuple[int, ...]
    d_in: int
    dtype: torch.dtype
    shards: tuple[Shard, ...]

    @property
    def clip_ids(self) -> tuple[str, ...]:
        """The id of every clip, in the order of the shards: a clip's row is its place here."""
        return tuple(clip_id for shard in self.shards for clip_id in shard.clip_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens of all clips, in one layer."""
        return sum(sum(shard.num_tokens) for shard in self.shards)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The clips that were left out."""
        return tuple(failure for shard in self.shards for failure in shard.failures)


def read_manifest(folder: Path | str) -> Manifest:
    """Read the manifest of a finished extraction.

    Args:
        folder: a path, a URL that fsspec opens (``s3://...``), or a command that prints a file (``pipe:cat /folder``).

    Raises:
        UserError: if the extraction has not finished, or its manifest is damaged.
    """
    try:
        with open_file(folder, MANIFEST) as file:
            content = file.read()
        saved = unsealed(content) if content else None  # empty if a command failed
    except OSError:
        saved = None
    except ValueError as error:
        raise _damaged(folder, MANIFEST, error) from error
    if saved is None:
        raise UserError(f"{str(folder)!r} holds no finished extraction (no {MANIFEST}): run `ard extract` (it resumes)")
    try:
        shards = tuple(map(_shard, saved["shards"]))
        return Manifest(saved["model"], tuple(saved["layers"]), saved["d_in"], getattr(torch, saved["dtype"]), shards)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, MANIFEST, error) from error


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that is in use for anything but activation shards.

    Raises:
        UserError: if it is.
    """
    path = folder / MANIFEST
    try:
        is_ours = "layers" in unsealed(path.read_bytes()) if path.is_file() else (folder / LOCK).is_file()
    except ValueError:
        is_ours = False
    if in_use(folder) and not is_ours:
        raise UserError(f"folder {str(folder)!r} is in use, and not by activation shards: choose another")


def shard_path(folder: Path, layer: int, shard: int) -> Path:
    """Return the path of a layer's shard."""
    return folder / f"layer-{layer}" / f"{shard:06d}.tar"


def remove_shards(folder: Path) -> None:
    """Remove activation shards and the files that list them; leave everything else in the folder."""
    numbered = "[0-9]" * 6
    with claim(folder, refuse=refuse_foreign):
        markers = folder / MANIFEST, *(folder / "shards").glob(f"{numbered}.json")
        for path in (*markers, *folder.glob(f"layer-*/{numbered}.tar")):
            path.unlink(missing_ok=True)


def keep_shards(folder: Path, audio: Sequence[str]) -> int:
    """Keep the activation shards whose audio shards are as they were; remove the others and the manifest.

    What is kept is what an extraction from the start would give, since a shard depends on nothing but its clips.

    Args:
        folder: folder of the shards.
        audio: the checksum of the clips of each audio shard.

    Returns:
        How many shards are kept.
    """
    kept = 0
    with claim(folder, refuse=refuse_foreign):
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in sorted((folder / "shards").glob("*.json")):
            try:
                older = unsealed(path.read_bytes())["about"]["audio"]
            except (KeyError, TypeError, ValueError):
                older = None
            if older in audio[int(path.stem) :][:1]:
                kept += 1
                continue
            path.unlink()
            for tar in folder.glob(f"layer-*/{path.stem}.tar"):
                tar.unlink()
    return kept


def finished_shards(folder: Path, about: Mapping[str, Any], audio: Sequence[str] = ()) -> dict[int, Shard]:
    """Return the shards whose tars are there in full length in every layer; an interrupted extraction skips them.

    Args:
        folder: folder of the shards.
        about: everything that determines what the shards hold: the model, the layers and so on.
        audio: the checksum of the clips of each audio shard, in the place of that of all of them in ``about``.

    Raises:
        UserError: if the folder holds shards of another extraction.
    """
    finished: dict[int, Shard] = {}
    for path in sorted((folder / "shards").glob("*.json")):
        try:
            saved = unsealed(path.read_bytes())
            shard = _shard(saved["shard"])
            older = dict(saved["about"])
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # damaged: the shard is rebuilt
        current = about_shard(about, audio, shard.number)
        differing = [f"{key} {older.get(key)!r}, now {now!r}" for key, now in current.items() if older.get(key) != now]
        if differing:
            raise UserError(
                f"{str(folder)!r} holds shards of another extraction ({'; '.join(differing)}): "
                "choose another folder, or delete it"
            )
        tars = {layer: shard_path(folder, layer, shard.number) for layer in shard.num_bytes}
        if all(p.is_file() and p.stat().st_size == shard.num_bytes[layer] for layer, p in tars.items()):
            finished[shard.number] = shard
    return finished


def about_shard(about: Mapping[str, Any], audio: Sequence[str], number: int) -> dict[str, Any]:
    """Return everything that determines what one shard holds; the arguments are those of :func:`finished_shards`."""
    return {**about, "audio": audio[number] if number < len(audio) else None} if audio else dict(about)


def write_shard(
    folder: Path,
    index: int,
    clips: Sequence[tuple[dict[str, Any], Mapping[int, Tensor]]],
    failures: Sequence[Failure],
    about: Mapping[str, Any],
) -> None:
    """Write one shard: the layers' tars at once, each whole or not at all, then the file that marks it as complete.

    Args:
        folder: folder of the shards.
        index: number of the shard.
        clips: for each clip its metadata, and [tokens, d_in] for every layer on the CPU.
        failures: the clips that were left out.
        about: see :func:`finished_shards`.

    Raises:
        UserError: if the disk is full or the folder cannot be written; shards already written stay.
    """
    layers = about["layers"] if clips else []

    def write(layer: int) -> Written:
        samples = ((metadata, activations[layer]) for metadata, activations in clips)
        return write_tar(shard_path(folder, layer, index), samples)

    try:
        with ThreadPoolExecutor(max(1, len(layers))) as threads:
            written = dict(zip(layers, threads.map(write, layers), strict=True))
        num_bytes, checksums = ({layer: of[place] for layer, of in written.items()} for place in (0, 1))
        offsets = written[layers[0]].offsets if layers else ()
        rows = [metadata for metadata, _ in clips]
        ids, num_tokens = tuple(clip["id"] for clip in rows), tuple(clip["num_tokens"] for clip in rows)
        shard = Shard(index, ids, num_tokens, offsets, tuple(failures), num_bytes, checksums)
        content = {"about": about, "shard": _plain(shard), "clips": rows}
        write_json(folder / "shards" / f"{index:06d}.json", sealed(content))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full" if full else f"cannot be written ({error.strerror})"
        raise UserError(
            f"activations folder {str(folder)!r}: {reason}: make room or choose another, and run the same command "
            "again (whole shards are kept)"
        ) from error


def write_manifest(
    folder: Path, num_shards: int, d_in: int, about: Mapping[str, Any], audio: Sequence[str] = ()
) -> None:
    """Write the manifest of an extraction whose shards are all complete."""
    finished = finished_shards(folder, about, audio)
    shards = [finished[index] for index in range(num_shards)]
    content = {
        **about,
        "d_in": d_in,
        "version": version("ard-audio"),
        "num_clips": sum(len(shard.clip_ids) for shard in shards),
        "num_tokens": sum(sum(shard.num_tokens) for shard in shards),
        "num_failures": sum(len(shard.failures) for shard in shards),
        "shards": [_plain(shard) for shard in shards],
    }
    write_json(folder / MANIFEST, sealed(content))


def read_clips_metadata(folder: Path | str) -> list[dict[str, Any]]:
    """Return the metadata of every clip of a finished extraction, in row order."""
    return [clip for shard in read_manifest(folder).shards for clip in read_clip_metadata(folder, shard)]


def read_clip_metadata(folder: Path | str, shard: Shard) -> list[dict[str, Any]]:
    """Return the metadata of the clips of a shard, in order.

    Raises:
        UserError: if its file is missing or damaged.
    """
    name = f"shards/{shard.number:06d}.json"
    try:
        with open_file(folder, name) as file:
            clips: list[dict[str, Any]] = unsealed(file.read())["clips"]
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(folder, name, error) from error
    return clips


def _damaged(folder: Path | str, name: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:100]
    return UserError(
        f"{f'{folder}/{name}'!r} is missing or damaged ({reason}): delete it and run `ard extract` again, "
        "which rebuilds it"
    )


def open_file(folder: Path | str, name: str) -> Any:
    """Open a file below a folder: a path, a URL, or a command."""
    if _is_local(folder):
        return Path(folder, name).open("rb")
    url = f"{folder}/{name}"
    return wds.gopen(url) if is_command(folder) else fsspec.open(url, "rb").open()


def _is_local(folder: Path | str) -> bool:
    return isinstance(folder, Path) or Path(folder).is_dir()  # even one whose name looks like a URL, such as a::b


def is_command(folder: Path | str) -> bool:
    """Return whether a folder is a command that prints its files."""
    return not _is_local(folder) and str(folder).startswith("pipe:")


def write_clips_table(folder: Path, path: Path, split: str) -> None:
    """Write the metadata of every clip of an extraction, one row a clip; representatives refer to these rows."""
    columns = ("id", "dataset", "split", "duration_s", "sample_rate_hz", "num_tokens", "seconds_per_token")
    optional = ("labels", "caption", "emotion", "gender", "transcript", "group", "events")
    clips = ({"split": split, **clip} for clip in read_clips_metadata(folder))
    write_parquet(({name: clip.get(name) for name in columns + optional} for clip in clips), path)


def _plain(shard: Shard) -> dict[str, Any]:
    return {**shard._asdict(), "failures": [failure._asdict() for failure in shard.failures]}


def _shard(saved: Mapping[str, Any]) -> Shard:
    """Return a shard from its JSON, whose keys are strings."""
    return Shard(
        saved["number"],
        tuple(saved["clip_ids"]),
        tuple(saved["num_tokens"]),
        tuple(saved["offsets"]),
        tuple(Failure(**failure) for failure in saved["failures"]),
        {int(layer): size for layer, size in saved["num_bytes"].items()},
        {int(layer): checksum for layer, checksum in saved["xxh3"].items()},
    )
