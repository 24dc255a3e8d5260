"""Activation shards as streams of tokens: shuffled and endless, in order, or as whole clips."""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from ctypes import c_int32
from itertools import count
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ard.activations.layer import Layer
from ard.activations.store import read_clip_metadata, read_manifest
from ard.types import UserError


class ProbeBatch(NamedTuple):
    """The activations of a few whole clips, with their tokens concatenated."""

    x: Float[Tensor, "tokens d_in"]
    clip_of_token: Int[Tensor, " tokens"]  # index into the clips of this batch
    rows: Int[Tensor, " clips"]  # row of each clip in the manifest, hence in clips.parquet
    metadata: list[dict[str, Any]]


class Shuffled(IterableDataset[Tensor]):
    """Endless batches of tokens, mixed over many clips.

    The tokens of all epochs form one stream; each epoch has its shards in another order. The stream is cut into
    buffers, and each buffer is mixed and cut into batches. A buffer depends only on the seed and its number, so the
    stream can resume at any batch, and workers take turns, one buffer each. A layer that fits into the buffer is read
    once and mixed as a whole, again in every epoch.

    Several ranks read the same stream and take turns at the tokens of each batch: together they get what one would.

    Tokens that are not finite keep their place in the stream, but are left out of its batches. ``not_finite`` counts
    them, clip by clip, as they are read; it is shared with the workers.
    """

    def __init__(
        self,
        source: Layer,
        batch_tokens: int,
        buffer_tokens: int,
        seed: int,
        skip_not_finite: bool,
        start: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.source = source
        self.rank, self.world_size = rank, world_size
        self.skip_not_finite = skip_not_finite
        self.clips = [(shard, place) for shard in source.shards for place in range(len(shard.clip_ids))]
        self.first_clip = {shard.number: row for row, (shard, place) in enumerate(self.clips) if place == 0}
        self._not_finite = RawArray(c_int32, max(len(self.clips), 1))  # in /dev/shm only where there is room
        self.batch_tokens = batch_tokens
        self.batches_per_buffer = max(1, buffer_tokens // batch_tokens)
        self.fits = source.num_tokens <= buffer_tokens
        self.seed = seed
        self.start = start
        self._mixed: dict[int, Tensor] = {}  # the order of the tokens of the last epochs, where all are mixed

    @property
    def not_finite(self) -> Int[Tensor, " clips"]:
        """How many tokens of every clip are not finite, as far as clips have been read."""
        return torch.frombuffer(self._not_finite, dtype=torch.int32)

    def __iter__(self) -> Iterator[Float[Tensor, "tokens d_in"]]:
        """Return this worker's batches, from the first that is not yet consumed."""
        worker = get_worker_info()
        num_workers = worker.num_workers if worker else 1
        turn = (self.start + (worker.id if worker else 0)) % num_workers  # worker 0 is asked first
        mine = count(-(-(self.start - turn) // num_workers))  # this worker's own batches
        if self.fits:
            x = torch.cat([x.clone() for x in self._read()])
            for number in mine:
                yield self._cut(x, self._rows(number * num_workers + turn))
        buffer = self._empty()
        filled = -1
        for number in mine:
            own, place = divmod(number, self.batches_per_buffer)
            if own != filled:
                filled = own
                self._fill(buffer, own * num_workers + turn)
                order = self._order(own * num_workers + turn)
            yield self._cut(buffer, order[place * self.batch_tokens :][: self.batch_tokens])

    def _empty(self, device: torch.device | None = None) -> Float[Tensor, "tokens d_in"]:
        num_tokens = self.batches_per_buffer * self.batch_tokens
        return torch.empty(num_tokens, self.source.d_in, dtype=self.source.dtype, device=device)

    def _order(self, number: int) -> Int[Tensor, " tokens"]:
        """Return the order in which the tokens of a buffer are taken."""
        return torch.randperm(self.batches_per_buffer * self.batch_tokens, generator=self._generator(1, number))

    _copied: Callable[[], object] | None = None

    def _read(self, order: Iterable[int] | None = None) -> Iterator[Float[Tensor, "tokens d_in"]]:
        """Read shards clip by clip, and check for values that are not finite."""
        for shard, xs in self.source.read(order, copied=self._copied):
            for row, x in enumerate(xs, start=self.first_clip[shard.number]):
                if not all(map(math.isfinite, x.aminmax())):  # aminmax passes NaN on and is as fast as copying
                    self.not_finite[row] = int((~x.isfinite().all(dim=1)).sum())
                    if not self.skip_not_finite:
                        raise UserError(
                            f"{self.name(row)}: delete the shard and run `ard extract` again, which leaves such clips "
                            "out, or set the data's skip_not_finite to true"
                        )
                yield x

    def name(self, row: int) -> str:
        """Return a clip's name and its count of tokens that are not finite, for messages."""
        shard, place = self.clips[row]
        num_bad, num_tokens = int(self.not_finite[row]), shard.num_tokens[place]
        clip = f"clip {shard.clip_ids[place]!r} of {self.source.said(shard)}"
        return f"{clip} holds NaN or infinity in {num_bad} of {num_tokens} tokens"

    def _cut(
        self, x: Float[Tensor, "tokens d_in"], rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch_or_fewer d_in"]:
        """Return this rank's share of the finite tokens of a batch."""
        finite = rows[x.index_select(0, rows).isfinite().all(dim=1)] if self.not_finite.any() else rows
        if len(finite) < self.world_size:
            raise UserError(
                f"{str(self.source.folder)!r}: a batch of {len(rows)} tokens holds only NaN or infinity: "
                "run `ard extract` again"
            )
        return x.index_select(0, finite[self.rank :: self.world_size])

    def _rows(self, batch: int) -> Int[Tensor, " tokens"]:
        """Return the tokens of a batch when the whole layer is mixed; the batch may span epochs."""
        num_tokens, first = self.source.num_tokens, batch * self.batch_tokens
        epochs = range(first // num_tokens, (first + self.batch_tokens - 1) // num_tokens + 1)
        self._mixed = {
            epoch: self._mixed[epoch]
            if epoch in self._mixed
            else torch.randperm(num_tokens, generator=self._generator(0, epoch))
            for epoch in epochs
        }
        return torch.cat([*self._mixed.values()])[first - epochs[0] * num_tokens :][: self.batch_tokens]

    def _fill(self, buffer: Float[Tensor, "tokens d_in"], number: int) -> None:
        """Fill the buffer with its part of the stream, which may begin within an epoch and run into the next."""
        epoch, skip = divmod(number * len(buffer), self.source.num_tokens)
        filled = 0
        while filled < len(buffer):
            order = torch.randperm(len(self.source.shards), generator=self._generator(0, epoch)).tolist()
            sizes = np.cumsum([sum(self.source.shards[place].num_tokens) for place in order])
            begun = int(np.searchsorted(sizes, skip, side="right"))
            ended = int(np.searchsorted(sizes, skip + len(buffer) - filled)) + 1
            skip -= int(sizes[begun - 1]) if begun else 0
            for x in self._read(order[begun:ended]):
                part = x[skip : skip + len(buffer) - filled]
                buffer[filled : filled + len(part)].copy_(part, non_blocking=True)
                filled, skip = filled + len(part), max(0, skip - len(x))
                if filled == len(buffer):
                    return
            epoch, skip = epoch + 1, 0

    def _generator(self, *key: int) -> torch.Generator:
        return torch.Generator().manual_seed(
            int(np.random.SeedSequence([self.seed, *key]).generate_state(1, np.uint64)[0])
        )


class ShuffledOnDevice(Shuffled):
    """The same batches in the same order, mixed in the memory of a GPU.

    A thread reads and checks the clips and has them copied to one buffer while batches are cut from another. The host
    waits only where reading is slower than training.
    """

    def __init__(self, *args: Any, device: torch.device, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.device = device
        self.copying: Any = torch.cuda.Stream(device)
        self.stopped = False

    def __iter__(self) -> Iterator[Float[Tensor, "tokens d_in"]]:
        """Return the batches, from the first that is not yet consumed."""
        if self.fits:
            x = torch.cat([x.clone() for x in self._read()]).to(self.device)
            for number in count(self.start):
                yield self._cut(x, self._on_device(self._rows(number)))
        self.stopped, self._copied = False, lambda: self.copying.record_event().synchronize()
        buffers = [self._empty(self.device) for _ in range(2)]
        first, skipped = divmod(self.start, self.batches_per_buffer)
        with ThreadPoolExecutor(1) as reader:
            try:
                filled = reader.submit(
                    self._fill_ahead, buffers[first % 2], first, torch.cuda.current_stream().record_event()
                )
                for number in count(first):
                    buffer = buffers[number % 2]
                    torch.cuda.current_stream().wait_event(filled.result())
                    # The other buffer's batches have all been cut, though the GPU may not yet have got so far.
                    free = torch.cuda.current_stream().record_event()
                    filled = reader.submit(self._fill_ahead, buffers[(number + 1) % 2], number + 1, free)
                    order = self._on_device(self._order(number))
                    for rows in order.split(self.batch_tokens)[skipped if number == first else 0 :]:
                        yield self._cut(buffer, rows)
            finally:
                self.stopped = True  # the thread ends with the clip that it is reading

    def _fill_ahead(self, buffer: Float[Tensor, "tokens d_in"], number: int, free: Any) -> Any:
        """Fill a buffer once it is free, and return the event that it is full."""
        with torch.cuda.stream(self.copying):
            self.copying.wait_event(free)
            self._fill(buffer, number)
            return self.copying.record_event()

    def _read(self, order: Iterable[int] | None = None) -> Iterator[Float[Tensor, "tokens d_in"]]:
        for x in super()._read(order):
            if self.stopped:
                raise CancelledError
            yield x

    def _on_device(self, rows: Int[Tensor, " tokens"]) -> Int[Tensor, " tokens"]:
        return rows.pin_memory().to(self.device, non_blocking=True)


class InOrder(IterableDataset[Tensor]):
    """Every token once, in order."""

    def __init__(self, source: Layer, batch_tokens: int) -> None:
        self.source = source
        self.batch_tokens = batch_tokens

    def __iter__(self) -> Iterator[Float[Tensor, "tokens d_in"]]:
        waiting: list[Tensor] = []
        for _, xs in self.source.read():
            *whole, rest = torch.cat([*waiting, *xs]).split(self.batch_tokens)
            yield from whole
            waiting = [rest]
        yield from waiting


class Probe(IterableDataset[ProbeBatch]):
    """Whole clips in the order of the manifest, each with its row."""

    def __init__(self, source: Layer, clips_per_batch: int) -> None:
        self.source = source
        self.clips_per_batch = clips_per_batch
        self.row = {clip_id: row for row, clip_id in enumerate(read_manifest(source.folder).clip_ids)}

    def __iter__(self) -> Iterator[ProbeBatch]:
        """Return the clips, a few at a time; no batch spans two shards."""
        for shard, xs in self.source.read():
            metadata = read_clip_metadata(self.source.folder, shard)
            for first in range(0, len(xs), self.clips_per_batch):
                clips = slice(first, first + self.clips_per_batch)
                lengths = torch.tensor(shard.num_tokens[clips])
                yield ProbeBatch(
                    torch.cat(xs[clips]),
                    torch.arange(len(lengths)).repeat_interleave(lengths),
                    torch.tensor([self.row[clip_id] for clip_id in shard.clip_ids[clips]]),
                    metadata[clips],
                )
