"""Audio shards as batches for extraction, and activation shards as batches for training and probing."""

import logging
import math
import signal
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ard.activations.module import ClipBatch, Extraction
from ard.activations.store import Layer, finished_shards, read_clip_metadata, read_layer, read_manifest
from ard.audio import clip_metadata, read_audio_manifest, read_shard
from ard.audiollm import AudioPrompter
from ard.types import Clip, Failure, UserError


class ProbeBatch(NamedTuple):
    """The activations of a few whole clips, tokens one after another."""

    x: Float[Tensor, "tokens d_in"]
    clip_of_token: Int[Tensor, " tokens"]  # index into the clips of this batch
    rows: Int[Tensor, " clips"]  # row of each clip in the manifest, hence in clips.parquet
    metadata: list[dict[str, Any]]


class _Clips(IterableDataset[ClipBatch]):
    """Batches of clips of like length, prepared in the worker that reads their shard.

    The batches of a shard depend on that shard alone: a run that was stopped computes the rest as it would have.
    """

    def __init__(self, shards: Mapping[int, Path], prompter: AudioPrompter, batch_tokens: int) -> None:
        self.shards = shards
        self.prompter = prompter
        self.batch_tokens = batch_tokens

    def __iter__(self) -> Iterator[ClipBatch]:
        """Return the batches of this worker's share of the shards."""
        worker = get_worker_info()
        for index in list(self.shards)[worker.id if worker else 0 :: worker.num_workers if worker else 1]:
            read = list(enumerate(read_shard(self.shards[index])))
            failures = [clip for _, clip in read if isinstance(clip, Failure)]
            batches = list(self._batches([(place, clip) for place, clip in read if isinstance(clip, Clip)]))
            for number, batch in enumerate(batches or [[]]):
                places, clips = [place for place, _ in batch], [clip for _, clip in batch]
                yield ClipBatch(
                    self.prompter(clips) if clips else None,
                    [clip_metadata(clip) for clip in clips],
                    places,
                    failures if number == 0 else [],
                    index,
                    number >= len(batches) - 1,
                )

    def _batches(self, clips: list[tuple[int, Clip]]) -> Iterator[list[tuple[int, Clip]]]:
        """Cut clips, the longest first, into batches of at most ``batch_tokens`` tokens with their padding."""
        batch: list[tuple[int, Clip]] = []
        for place, clip in sorted(clips, key=lambda item: -item[1].duration_s):
            if batch and (len(batch) + 1) * self._num_tokens(batch[0][1].duration_s) > self.batch_tokens:
                yield batch
                batch = []
            batch.append((place, clip))
        if batch:
            yield batch

    def _num_tokens(self, duration_s: float) -> float:
        """Return the length of the prompt of a clip, which grows evenly with the clip up to the model's window."""
        span_s, (half, whole) = self._measured
        return half + (whole - half) * (min(duration_s, self.prompter.window_s) / span_s - 0.5) * 2

    @cached_property
    def _measured(self) -> tuple[float, list[int]]:
        """A span of time, and the length of the prompts of half of it and of all of it."""
        span_s, rate_hz = min(self.prompter.window_s, 10.0), self.prompter.sample_rate_hz
        silence = np.zeros(int(span_s * rate_hz), dtype=np.float32)
        halves = [Clip("silence", part, rate_hz, "measure") for part in (silence[: len(silence) // 2], silence)]
        return span_s, [self.prompter([clip]).valid.shape[1] for clip in halves]


class ClipDataModule(LightningDataModule):
    """Audio shards for extraction (`predict`), each rank its own; those whose activations are stored are passed over.

    Args:
        audio: folder of audio shards.
        activations: where the activations go.
        batch_tokens: tokens in a forward pass at most, prompts and padding included, unless a lone clip has more.
        num_workers: processes that decode audio and compute features.
    """

    def __init__(self, audio: Path, *, activations: Path, batch_tokens: int = 4096, num_workers: int = 0) -> None:
        super().__init__()
        self.audio = Path(audio)
        self.activations = Path(activations)
        self.batch_tokens = batch_tokens
        self.num_workers = num_workers

    @property
    def num_shards(self) -> int:
        """How many audio shards there are."""
        return len(self._paths())

    def about(self, module: Extraction) -> dict[str, Any]:
        """Return what decides the activations of every shard: the extraction's model and so on, and the clips."""
        return {**module.about, "audio": read_audio_manifest(self.audio).xxh3}

    def predict_dataloader(self) -> DataLoader[ClipBatch]:
        """Return the clips of this rank whose shards have no activations yet."""
        assert self.trainer is not None
        module = self.trainer.lightning_module
        assert isinstance(module, Extraction)
        missing = self.missing(module)
        mine = dict(list(missing.items())[self.trainer.global_rank :: self.trainer.world_size])
        return DataLoader(self.batches(module, mine), batch_size=None, num_workers=self.num_workers)

    def missing(self, module: Extraction) -> dict[int, Path]:
        """Return the audio shards that have no activations yet, by number."""
        finished = finished_shards(self.activations, self.about(module))
        return {index: path for index, path in enumerate(self._paths()) if index not in finished}

    def batches(self, module: Extraction, shards: Mapping[int, Path]) -> IterableDataset[ClipBatch]:
        """Return the batches of some audio shards."""
        return _Clips(shards, module.audiollm.prompter, self.batch_tokens)

    def _paths(self) -> list[Path]:
        return sorted(self.audio.glob("*.tar"))


def dry_run(module: Extraction, data: ClipDataModule) -> Iterator[str]:
    """Look at all that an extraction needs, without weights and without writing, and say what is there, line by line.

    Raises:
        UserError: at the first thing that would stop it.
    """
    module.load(device="meta")
    audiollm = module.audiollm
    size = sum(parameter.numel() for parameter in audiollm.model.parameters())
    said = f"model {module.model!r}: {size:,} parameters, width {audiollm.d_in}"
    yield f"{said}, layers {module.layers} of {len(audiollm.layers)}"
    missing, num_shards = data.missing(module), data.num_shards
    yield f"audio {str(data.audio)!r}: {read_audio_manifest(data.audio).num_clips} clips in {num_shards} shards"
    yield f"activations {str(data.activations)!r}: {num_shards - len(missing)} shards are there, {len(missing)} to do"
    for batch in islice(data.batches(module, missing), 1):
        tokens = batch.prompts.audio.sum(dim=1).tolist() if batch.prompts else []
        yield f"first batch: {len(tokens)} clips of {min(tokens, default=0)} to {max(tokens, default=0)} audio tokens"


class _Shuffled(IterableDataset[Tensor]):
    """Batches of tokens without end, mixed over many clips.

    The tokens of all epochs, each with its shards in another order, are one stream. It is cut into buffers, each buffer
    is mixed and cut into batches. What a buffer holds depends on the seed and its number alone, so the stream can go on
    from any batch, and workers take turns, a buffer each. A layer that fits into the buffer is read once and mixed as
    a whole, every epoch anew.

    Tokens that are not finite keep their place in the stream, and are left out of the batches that they fall into.
    ``not_finite`` counts them, clip by clip, as they are found; it is shared with the workers.
    """

    def __init__(
        self, source: Layer, batch_tokens: int, buffer_tokens: int, seed: int, skip_not_finite: bool, start: int = 0
    ) -> None:
        self.source = source
        self.skip_not_finite = skip_not_finite
        self.clips = [(shard, place) for shard in source.shards for place in range(len(shard.clip_ids))]
        self.first_clip = {shard.number: row for row, (shard, place) in enumerate(self.clips) if place == 0}
        self.not_finite = torch.zeros(len(self.clips), dtype=torch.int32).share_memory_()
        self.batch_tokens = batch_tokens
        self.batches_per_buffer = max(1, buffer_tokens // batch_tokens)
        self.fits = source.num_tokens <= buffer_tokens
        self.seed = seed
        self.start = start

    def __iter__(self) -> Iterator[Float[Tensor, "tokens d_in"]]:
        """Return the batches of this worker, from the first that is not yet consumed."""
        worker = get_worker_info()
        num_workers = worker.num_workers if worker else 1
        turn = (self.start + (worker.id if worker else 0)) % num_workers  # the first worker is asked first
        mine = count(-(-(self.start - turn) // num_workers))  # this worker's own batches
        if self.fits:
            x = torch.cat([x.clone() for x in self._read()])
            for number in mine:
                yield self._cut(x, self._rows(number * num_workers + turn))
        buffer = torch.empty(self.batches_per_buffer * self.batch_tokens, self.source.d_in, dtype=self.source.dtype)
        filled = -1
        for number in mine:
            own, place = divmod(number, self.batches_per_buffer)
            if own != filled:
                filled = own
                self._fill(buffer, own * num_workers + turn)
                order = torch.randperm(len(buffer), generator=self._generator(1, own * num_workers + turn))
            yield self._cut(buffer, order[place * self.batch_tokens :][: self.batch_tokens])

    def _read(self, order: Iterable[int] | None = None) -> Iterator[Float[Tensor, "tokens d_in"]]:
        """Read clip after clip of some shards, and look for what is not finite."""
        for shard, xs in self.source.read(order):
            for row, x in enumerate(xs, start=self.first_clip[shard.number]):
                if not all(map(math.isfinite, x.aminmax())):  # which NaN goes through; it is as fast as copying
                    self.not_finite[row] = int((~x.isfinite().all(dim=1)).sum())
                    if not self.skip_not_finite:
                        raise UserError(
                            f"{self.name(row)}: delete the shard and run `ard extract` again, which leaves such clips "
                            "out, or set the data's skip_not_finite to true"
                        )
                yield x

    def name(self, row: int) -> str:
        """Return how a message names a clip with tokens that are not finite."""
        shard, place = self.clips[row]
        num_bad, num_tokens = int(self.not_finite[row]), shard.num_tokens[place]
        said = f"clip {shard.clip_ids[place]!r} of {self.source.said(shard)}"
        return f"{said} holds NaN or infinity in {num_bad} of {num_tokens} tokens"

    def _cut(
        self, x: Float[Tensor, "tokens d_in"], rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch_or_fewer d_in"]:
        """Return the tokens of a batch, as many as are finite."""
        batch = x.index_select(0, rows)
        if self.not_finite.any():
            batch = batch[batch.isfinite().all(dim=1)]
        if len(batch) == 0:
            raise UserError(
                f"{str(self.source.folder)!r}: a batch of {len(rows)} tokens holds only NaN or infinity: "
                "run `ard extract` anew"
            )
        return batch

    def _rows(self, batch: int) -> Int[Tensor, " tokens"]:
        """Return the tokens of a batch where the whole layer is mixed: it may end one epoch and begin the next."""
        num_tokens, first = self.source.num_tokens, batch * self.batch_tokens
        epochs = range(first // num_tokens, (first + self.batch_tokens - 1) // num_tokens + 1)
        mixed = torch.cat([torch.randperm(num_tokens, generator=self._generator(0, epoch)) for epoch in epochs])
        return mixed[first - epochs[0] * num_tokens :][: self.batch_tokens]

    def _fill(self, buffer: Float[Tensor, "tokens d_in"], number: int) -> None:
        """Fill the buffer with its part of the stream, which begins somewhere in an epoch and may run into the next."""
        epoch, skip = divmod(number * len(buffer), self.source.num_tokens)
        filled = 0
        while filled < len(buffer):
            order = torch.randperm(len(self.source.shards), generator=self._generator(0, epoch)).tolist()
            sizes = np.cumsum([sum(self.source.shards[place].num_tokens) for place in order])
            begun = int(np.searchsorted(sizes, skip, side="right"))
            skip -= int(sizes[begun - 1]) if begun else 0
            for x in self._read(order[begun:]):
                part = x[skip : skip + len(buffer) - filled]
                buffer[filled : filled + len(part)] = part
                filled, skip = filled + len(part), max(0, skip - len(x))
                if filled == len(buffer):
                    return
            epoch, skip = epoch + 1, 0

    def _generator(self, *key: int) -> torch.Generator:
        return torch.Generator().manual_seed(
            int(np.random.SeedSequence([self.seed, *key]).generate_state(1, np.uint64)[0])
        )


class _InOrder(IterableDataset[Tensor]):
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


class _Probe(IterableDataset[ProbeBatch]):
    """Whole clips in the order of the manifest, each with its row."""

    def __init__(self, source: Layer, clips_per_batch: int) -> None:
        self.source = source
        self.clips_per_batch = clips_per_batch
        self.row = {clip_id: row for row, clip_id in enumerate(read_manifest(source.folder).clip_ids)}

    def __iter__(self) -> Iterator[ProbeBatch]:
        """Return the clips, a few at a time, none of them across two shards."""
        for shard, xs in self.source.read():
            known = read_clip_metadata(self.source.folder, shard)
            for first in range(0, len(xs), self.clips_per_batch):
                clips = slice(first, first + self.clips_per_batch)
                lengths = torch.tensor(shard.num_tokens[clips])
                yield ProbeBatch(
                    torch.cat(xs[clips]).float(),
                    torch.arange(len(lengths)).repeat_interleave(lengths),
                    torch.tensor([self.row[clip_id] for clip_id in shard.clip_ids[clips]]),
                    known[clips],
                )


class ActivationDataModule(LightningDataModule):
    """Activation shards of one layer: shuffled tokens to `fit` and `validate`, whole clips to `test`.

    `test` gets one loader for the probing set (``activations``) and, if there is one, a second for the evaluation set.

    Args:
        activations: folder of activation shards, the probing set; it also trains the SAE (Sec. 3).
        layer: the layer to read.
        evaluation: folder of activation shards of clips that nothing was trained on; None where there are none.
        batch_tokens: tokens in a training batch.
        buffer_tokens: tokens that are mixed before batches are cut; a worker holds these and one shard.
        clips_per_batch: clips in a probing batch.
        num_workers: processes that read and mix; another number gives the batches in another order.
        skip_not_finite: leave tokens that hold NaN or infinity out of training batches, name their clips once and log
            how many there were (``train/skipped_tokens``, on the first rank), where training else stops.
        seed: of the order of shards and of the buffer.
    """

    def __init__(
        self,
        activations: Path | str,
        *,
        layer: int,
        evaluation: Path | str | None = None,
        batch_tokens: int = 4096,
        buffer_tokens: int = 131072,
        clips_per_batch: int = 32,
        num_workers: int = 0,
        skip_not_finite: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.activations = activations
        self.layer = layer
        self.evaluation = evaluation
        self.batch_tokens = batch_tokens
        self.buffer_tokens = buffer_tokens
        self.clips_per_batch = clips_per_batch
        self.num_workers = num_workers
        self.skip_not_finite = skip_not_finite
        self.seed = seed
        self.num_skipped = 0
        self.named: set[int] = set()
        self.tokens: _Shuffled | None = None

    def about(self) -> dict[str, Any]:
        """Return what is trained on and measured on: facts to keep with an SAE."""
        measured = "held-out clips" if self.evaluation else "the clips that it was trained on"
        return {"model_name": read_manifest(self.activations).model, "layer": self.layer, "metrics_on": measured}

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return endless shuffled batches [batch_tokens, d_in], from the first that the Trainer has not seen."""
        start = self.trainer.global_step * self.trainer.accumulate_grad_batches if self.trainer else 0
        settings = self.batch_tokens, self.buffer_tokens, self.seed, self.skip_not_finite
        self.tokens = _Shuffled(self._layer(self.activations), *settings, start)
        return DataLoader(
            self.tokens, batch_size=None, num_workers=self.num_workers, worker_init_fn=_leave_ctrl_c_to_the_trainer
        )

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Return the tokens of the evaluation set in order, or of the probing set if there is no other."""
        source = self._layer(self.evaluation or self.activations)
        return DataLoader(_InOrder(source, self.batch_tokens), batch_size=None)

    def test_dataloader(self) -> list[DataLoader[ProbeBatch]]:
        """Return whole clips: the probing set, then the evaluation set if there is one."""
        folders = [self.activations, *([self.evaluation] if self.evaluation else [])]
        return [DataLoader(_Probe(self._layer(folder), self.clips_per_batch), batch_size=None) for folder in folders]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Go on in float32, on the device: half as many bytes travel. A batch that came short is accounted for."""
        if isinstance(batch, Tensor) and self.trainer and self.trainer.training and len(batch) < self.batch_tokens:
            self._log_skipped(self.batch_tokens - len(batch), self.trainer)
        return batch.float() if isinstance(batch, Tensor) else batch

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: how many tokens were skipped."""
        return {"num_skipped": self.num_skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.num_skipped = state_dict["num_skipped"]

    def _log_skipped(self, num_tokens: int, trainer: Trainer) -> None:
        assert self.tokens is not None
        self.num_skipped += num_tokens
        for row in set(self.tokens.not_finite.nonzero().flatten().tolist()) - self.named:
            self.named.add(row)
            logging.getLogger(__name__).warning("%s: skipped", self.tokens.name(row))
        for logger in trainer.loggers:
            logger.log_metrics({"train/skipped_tokens": self.num_skipped}, step=trainer.global_step)

    def _layer(self, folder: Path | str) -> Layer:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return read_layer(folder, self.layer, rank, world_size)


def _leave_ctrl_c_to_the_trainer(_: int) -> None:
    """Let a worker go on at Ctrl-C, which the terminal sends to it as well: the step that waits for it is finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
