"""Activation shards on disk: ``layer-<l>/<nnnnnn>.tar`` of safetensors, and ``manifest.json``, written last.

Shard ``n`` holds the clips of audio shard ``n`` and depends on nothing else. Ranks therefore write disjoint shards, and
a killed run resumes with the missing ones. A shard is complete once ``shards/<nnnnnn>.json`` exists, which is written
after its tars.
"""

import errno
import json
import math
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import torch
import webdataset as wds
import xxhash
from torch import Tensor

from ard.files import LOCK, claim, in_use
from ard.results import replacing, sealed, unsealed, write_json
from ard.run import MANIFEST, write_parquet
from ard.types import Failure, UserError

SAFETENSORS_DTYPE = {torch.bfloat16: "BF16", torch.float32: "F32"}


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
        with _open(folder, MANIFEST) as file:
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
        return _write_tar(shard_path(folder, layer, index), samples)

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


class Written(NamedTuple):
    """A tar that was written."""

    num_bytes: int
    xxh3: str
    offsets: tuple[int, ...]  # byte at which the activations of each clip begin


def _write_tar(path: Path, samples: Iterable[tuple[dict[str, Any], Tensor]]) -> Written:
    """Write one tar, whole or not at all, with the checksum taken on the way.

    It is what webdataset's ``TarWriter`` makes of safetensors and JSON, without its copies.
    """
    digest, num_bytes, offsets = xxhash.xxh3_64(), 0, []
    with replacing(path) as partial, partial.open("wb") as file:

        def put(*parts: bytes | memoryview) -> None:
            nonlocal num_bytes
            for part in parts:
                digest.update(part)
                file.write(part)
                num_bytes += len(part)

        for metadata, x in samples:
            brief = {name: value for name, value in metadata.items() if name != "events"}  # as long as the clip
            description = json.dumps(brief).encode()
            tensor = x.contiguous().reshape(-1).view(torch.uint8).numpy().data
            header = _safetensors_header(x.dtype, x.shape)
            put(_member(f"{metadata['id']}.json", len(description)), description, _padding(len(description)))
            put(_member(f"{metadata['id']}.safetensors", len(header) + len(tensor)), header)
            offsets.append(num_bytes)
            put(tensor, _padding(len(header) + len(tensor)))
        put(bytes(2 * tarfile.BLOCKSIZE))
        put(bytes(-num_bytes % tarfile.RECORDSIZE))
    return Written(num_bytes, digest.hexdigest(), tuple(offsets))


def _member(name: str, num_bytes: int) -> bytes:
    """Return the header of a file in a tar, as webdataset writes it."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = num_bytes, 0o444, "bigdata", "bigdata"
    return info.tobuf(encoding="utf-8")


def _padding(num_bytes: int) -> bytes:
    """Return what fills the last block of a file in a tar."""
    return bytes(-num_bytes % tarfile.BLOCKSIZE)


def _safetensors_header(dtype: torch.dtype, shape: Sequence[int]) -> bytes:
    """Return what stands before the bytes of a tensor in a safetensors file that holds it alone, under ``x``."""
    num_bytes = math.prod(shape) * dtype.itemsize
    about = {"dtype": SAFETENSORS_DTYPE[dtype], "shape": list(shape), "data_offsets": [0, num_bytes]}
    header = json.dumps({"x": about}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


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


AGAIN = "delete it and run `ard extract` again, which rebuilds it"
READERS = 3
"""Threads that read shards for a GPU: one copies 3 to 4 GB/s, and a step may want 5."""


class Layer(NamedTuple):
    """One layer of a folder of activation shards, or a rank's share of it."""

    folder: Path | str
    layer: int
    d_in: int
    dtype: torch.dtype
    shards: tuple[Shard, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of all clips."""
        return sum(sum(shard.num_tokens) for shard in self.shards)

    def read(
        self, order: Iterable[int] | None = None, *, copied: Callable[[], object] | None = None
    ) -> Iterator[tuple[Shard, list[Tensor]]]:
        """Read shard after shard: x [tokens, d_in] of every clip, in the stored dtype.

        A shard is read whole and checked before any of it is used. The next shard reuses its memory: the tensors are
        valid only until then.

        Args:
            order: places of the shards to read, in this order; all of them by default.
            copied: waits until what was copied from the tensors is copied; with it, they are in pinned memory, from
                which a GPU copies by itself.

        Raises:
            UserError: if a shard is missing or damaged.
        """
        shards = [self.shards[place] for place in (range(len(self.shards)) if order is None else order)]
        for shard, memory in self._loaded([shard for shard in shards if shard.clip_ids], copied):
            yield (
                shard,
                [
                    torch.frombuffer(memory, dtype=self.dtype, count=num_tokens * self.d_in, offset=offset).view(
                        num_tokens, self.d_in
                    )
                    for num_tokens, offset in zip(shard.num_tokens, shard.offsets, strict=True)
                ],
            )

    def read_clips(self, rows: Collection[int]) -> Iterator[tuple[int, Tensor]]:
        """Read single clips of a whole layer: the row and x [tokens, d_in] of each, in the order of the rows.

        Only their own bytes are read, of which the clip's length and dtype are checked and nothing more; of a command's
        output, shards are read as :meth:`read` does. A tensor is valid until the next one.

        Raises:
            UserError: if a shard is missing or damaged.
        """
        first, wanted = 0, np.unique(np.fromiter(rows, dtype=np.int64, count=len(rows)))
        for place, shard in enumerate(self.shards):
            begin, end = np.searchsorted(wanted, [first, first + len(shard.clip_ids)])
            places = (wanted[begin:end] - first).tolist()
            if places and _is_command(self.folder):
                ((_, xs),) = self.read([place])
                yield from ((first + own, xs[own]) for own in places)
            elif places:
                with self._opened(shard) as file:
                    for own in places:
                        yield first + own, self._read_clip(file, shard, own)
            first += len(shard.clip_ids)

    def _read_clip(self, file: Any, shard: Shard, place: int) -> Tensor:
        """Read a clip from the middle of a shard."""
        shape = shard.num_tokens[place], self.d_in
        header = _safetensors_header(self.dtype, shape)
        memory = bytearray(len(header) + math.prod(shape) * self.dtype.itemsize)
        file.seek(shard.offsets[place] - len(header))
        if _fill(file, memory) < len(memory) or memory[: len(header)] != header:
            clip = f"clip {shard.clip_ids[place]!r} of {self.said(shard)}"
            raise UserError(f"{clip} is damaged: {AGAIN}")
        return torch.frombuffer(memory, dtype=self.dtype, offset=len(header)).view(shape)

    def _loaded(
        self, shards: Sequence[Shard], copied: Callable[[], object] | None
    ) -> Iterator[tuple[Shard, bytearray | Any]]:
        """Load shard after shard into memory; with ``copied``, threads load the next ones meanwhile."""
        num_bytes = max((shard.num_bytes[self.layer] for shard in shards), default=0) + 1  # to see one that has grown
        if copied is None:
            memory = bytearray(num_bytes)
            for shard in shards:
                self._load(shard, memory)
                yield shard, memory
            return
        memories = [pinned(num_bytes) for _ in range(READERS + 1)]
        with ThreadPoolExecutor(READERS) as ahead:
            loading: list[Future[None]] = []
            for place, shard in enumerate(shards):
                for following in range(place + len(loading), min(place + READERS + 1, len(shards))):
                    loading.append(ahead.submit(self._load, shards[following], memories[following % len(memories)]))
                loading.pop(0).result()
                yield shard, memories[place % len(memories)]
                copied()

    def said(self, shard: Shard) -> str:
        """Return how a message names a shard."""
        return f"activation shard {f'{self.folder}/{self._name(shard)}'!r}"

    def _name(self, shard: Shard) -> str:
        return f"layer-{self.layer}/{shard.number:06d}.tar"

    def _opened(self, shard: Shard) -> Any:
        try:
            return _open(self.folder, self._name(shard))
        except FileNotFoundError as error:
            raise UserError(f"{self.said(shard)} is missing: run `ard extract` again, which rebuilds it") from error

    def _load(self, shard: Shard, memory: Any) -> None:
        name, expected = self.said(shard), shard.num_bytes[self.layer]
        with self._opened(shard) as file:
            size = _fill(file, memory)
        if size != expected:
            raise UserError(f"{name} is cut short or has grown ({size} of {expected} bytes): {AGAIN}")
        if xxhash.xxh3_64_hexdigest(memoryview(memory)[:size]) != shard.xxh3[self.layer]:
            raise UserError(f"{name} is damaged (its checksum does not match): {AGAIN}")


def pinned(num_bytes: int) -> Any:
    """Return memory that a GPU reads by itself, while the CPU goes on."""
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True).numpy()


def read_layer(folder: Path | str, layer: int, rank: int = 0, world_size: int = 1) -> Layer:
    """Return a layer of a finished extraction, or one rank's share of its shards.

    Raises:
        UserError: if the extraction has not finished, lacks the layer or has no tokens.
    """
    manifest = read_manifest(folder)
    if layer not in manifest.layers:
        raise UserError(f"layer {layer} was not extracted to {str(folder)!r}: it holds {manifest.layers}")
    if manifest.num_tokens == 0:
        raise UserError(f"{str(folder)!r} holds no tokens: see the failures in its manifest")
    return Layer(folder, layer, manifest.d_in, manifest.dtype, manifest.shards[rank::world_size])


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
        with _open(folder, name) as file:
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


def _open(folder: Path | str, name: str) -> Any:
    """Open a file below a folder: a path, a URL, or a command."""
    if _is_local(folder):
        return Path(folder, name).open("rb")
    url = f"{folder}/{name}"
    return wds.gopen(url) if _is_command(folder) else fsspec.open(url, "rb").open()


def _is_local(folder: Path | str) -> bool:
    return isinstance(folder, Path) or Path(folder).is_dir()  # even one whose name looks like a URL, such as a::b


def _is_command(folder: Path | str) -> bool:
    return not _is_local(folder) and str(folder).startswith("pipe:")


def _fill(file: Any, memory: Any) -> int:
    """Read a file into memory, as much as fits, and return the number of bytes."""
    view, size = memoryview(memory), 0
    stream = getattr(file, "stream", file)  # of a command's output
    while got := stream.readinto(view[size:]):
        size += got
    return size


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
