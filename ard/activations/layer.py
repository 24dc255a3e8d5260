"""One layer of the activation shards, read back shard by shard or clip by clip."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor

from ard.activations.store import Shard, is_command, open_file, read_manifest
from ard.activations.tar import safetensors_header
from ard.types import UserError

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
            if places and is_command(self.folder):
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
        header = safetensors_header(self.dtype, shape)
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
            return open_file(self.folder, self._name(shard))
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


def _fill(file: Any, memory: Any) -> int:
    """Read a file into memory, as much as fits, and return the number of bytes."""
    view, size = memoryview(memory), 0
    stream = getattr(file, "stream", file)  # of a command's output
    while got := stream.readinto(view[size:]):
        size += got
    return size
