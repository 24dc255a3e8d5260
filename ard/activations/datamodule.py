"""Audio shards as batches for extraction, and activation shards as batches for training and probing."""

import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ard.activations.layer import Layer, read_layer
from ard.activations.module import ClipBatch, Extraction
from ard.activations.store import finished_shards, read_manifest
from ard.activations.stream import InOrder, Probe, ProbeBatch, Shuffled, ShuffledOnDevice
from ard.audio import clip_metadata, read_audio_manifest, read_shard
from ard.audiollm import AudioPrompter, where
from ard.types import Clip, Failure, UserError
from ard.workers import prepared, share


class _Clips(IterableDataset[ClipBatch]):
    """Batches of clips of similar length, prepared in the worker that reads their shard.

    The batches of a shard depend on that shard alone, so a resumed run computes the rest as the first would have.
    """

    def __init__(self, shards: Mapping[int, Path], prompter: AudioPrompter, batch_tokens: int) -> None:
        self.shards = shards
        self.prompter = prompter
        self.batch_tokens = batch_tokens

    def __iter__(self) -> Iterator[ClipBatch]:
        """Return the batches of this worker's share of the shards."""
        for index in share(list(self.shards)):
            items = list(enumerate(read_shard(self.shards[index])))
            failures = [clip for _, clip in items if isinstance(clip, Failure)]
            batches = list(self._batches([(place, clip) for place, clip in items if isinstance(clip, Clip)]))
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
        """Cut clips, longest first, into batches of at most ``batch_tokens`` tokens, padding included."""
        batch: list[tuple[int, Clip]] = []
        for place, clip in sorted(clips, key=lambda item: -item[1].duration_s):
            if batch and (len(batch) + 1) * self._num_tokens(batch[0][1].duration_s) > self.batch_tokens:
                yield batch
                batch = []
            batch.append((place, clip))
        if batch:
            yield batch

    def _num_tokens(self, duration_s: float) -> float:
        """Return the length of a clip's prompt, which grows linearly with the clip up to the model's window."""
        span_s, (half, whole) = self._reference_lengths
        return half + (whole - half) * (min(duration_s, self.prompter.window_s) / span_s - 0.5) * 2

    @cached_property
    def _reference_lengths(self) -> tuple[float, list[int]]:
        """A duration, and the lengths of the prompts for half of it and for all of it."""
        span_s, rate_hz = min(self.prompter.window_s, 10.0), self.prompter.sample_rate_hz
        silence = np.zeros(int(span_s * rate_hz), dtype=np.float32)
        halves = [Clip("silence", part, rate_hz, "measure") for part in (silence[: len(silence) // 2], silence)]
        return span_s, [self.prompter([clip]).valid.shape[1] for clip in halves]


class ClipDataModule(LightningDataModule):
    """Audio shards for extraction (`predict`), divided among the ranks; those with stored activations are skipped.

    Args:
        audio: folder of audio shards.
        activations: folder for the activations.
        batch_tokens: most tokens in a forward pass, prompts and padding included; a single clip may have more.
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

    @property
    def shards_xxh3(self) -> list[str]:
        """The checksum of the clips of each audio shard."""
        return read_audio_manifest(self.audio).shards_xxh3

    def about(self, module: Extraction) -> dict[str, Any]:
        """Return everything that determines the activations: the extraction's settings and the clips."""
        return {**module.about, "audio": read_audio_manifest(self.audio).xxh3}

    def predict_dataloader(self) -> DataLoader[ClipBatch]:
        """Return this rank's clips whose shards have no activations yet."""
        assert self.trainer is not None
        module = self.trainer.lightning_module
        assert isinstance(module, Extraction)
        missing = self.missing(module)
        mine = dict(list(missing.items())[self.trainer.global_rank :: self.trainer.world_size])
        return prepared(self.batches(module, mine), self.num_workers)

    def count(self, module: Extraction) -> tuple[int, int]:
        """Return how many clips have been extracted or left out, and how many there are."""
        finished = finished_shards(self.activations, self.about(module), self.shards_xxh3)
        num_done = sum(len(shard.clip_ids) + len(shard.failures) for shard in finished.values())
        return num_done, read_audio_manifest(self.audio).num_clips

    def missing(self, module: Extraction) -> dict[int, Path]:
        """Return the audio shards that have no activations yet, by number."""
        finished = finished_shards(self.activations, self.about(module), self.shards_xxh3)
        return {index: path for index, path in enumerate(self._paths()) if index not in finished}

    def batches(self, module: Extraction, shards: Mapping[int, Path]) -> IterableDataset[ClipBatch]:
        """Return the batches of some audio shards."""
        return _Clips(shards, module.audiollm.prompter, self.batch_tokens)

    def _paths(self) -> list[Path]:
        return sorted(self.audio.glob("*.tar"))


def dry_run(module: Extraction, data: ClipDataModule) -> Iterator[str]:
    """Check all that an extraction needs, without loading weights or writing, and report it line by line.

    Raises:
        UserError: at the first thing that would stop the extraction.
    """
    module.load(device="meta")
    audiollm = module.audiollm
    size = sum(parameter.numel() for parameter in audiollm.model.parameters())
    summary = f"model {module.model!r}: {size:,} parameters, width {audiollm.d_in}"
    yield f"{summary}, layers {module.layers} of {len(audiollm.layers)}"
    missing, num_shards = data.missing(module), data.num_shards
    yield f"audio {str(data.audio)!r}: {read_audio_manifest(data.audio).num_clips} clips in {num_shards} shards"
    yield f"activations {str(data.activations)!r}: {num_shards - len(missing)} shards done, {len(missing)} to do"
    for batch in islice(data.batches(module, missing), 1):
        prompts, kind = batch.prompts, "tokens" if module.tokens == "all" else f"{module.tokens} tokens"
        tokens = where(module.tokens, prompts.valid, prompts.audio).sum(dim=1).tolist() if prompts else []
        yield f"first batch: {len(tokens)} clips of {min(tokens, default=0)} to {max(tokens, default=0)} {kind}"


class ActivationDataModule(LightningDataModule):
    """Activation shards of one layer: shuffled tokens to `fit` and `validate`, whole clips to `test`.

    `test` gets one loader for the probing set (``activations``) and, if there is one, a second for the evaluation set.

    Args:
        activations: folder of activation shards: the probing set, on which the SAE is also trained (Sec. 3).
        layer: the layer to read.
        evaluation: folder of activation shards of clips that nothing was trained on; None if there are none.
        batch_tokens: tokens in a training batch, over all ranks.
        buffer_tokens: tokens mixed before batches are cut; every worker of every rank holds these and one shard. On a
            GPU, without workers, its memory holds them twice: one half is filled while the other is used.
        clips_per_batch: clips in a probing batch.
        num_workers: processes that read and mix for `fit`, where another number changes the order of the batches, and
            that decode clips for a CLAP model in `test`.
        skip_not_finite: leave tokens that hold NaN or infinity out of training batches, name their clips once and log
            how many there were (``train/skipped_tokens``); if false, such a token stops training.
        seed: seed for the order of shards and for the mixing of buffers.
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
        self.tokens: Shuffled | None = None

    def about(self) -> dict[str, Any]:
        """Return what the SAE is trained and measured on, to keep with it."""
        measured = "held-out clips" if self.evaluation else "the clips that it was trained on"
        return {"model_name": read_manifest(self.activations).model, "layer": self.layer, "metrics_on": measured}

    def count(self) -> int:
        """Return how many clips `test` reads."""
        return sum(len(read_manifest(folder).clip_ids) for folder in self._folders())

    def check_width(self, d_in: int) -> None:
        """Refuse a dictionary whose width is not that of the activations.

        Raises:
            UserError: if the widths differ.
        """
        width = read_manifest(self.activations).d_in
        if width != d_in:
            raise UserError(
                f"the SAE is for a width of {d_in}, and the activations in {str(self.activations)!r} are {width} wide: "
                "give the model's own d_in, and an SAE that was trained on it"
            )

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return endless shuffled batches [batch_tokens, d_in], starting with the first that the Trainer has not seen.

        Raises:
            UserError: if the ranks cannot share a batch evenly.
        """
        start = self.trainer.global_step * self.trainer.accumulate_grad_batches if self.trainer else 0
        rank, world_size = self._rank()
        if self.batch_tokens % world_size:
            raise UserError(
                f"batch_tokens is {self.batch_tokens}, which {world_size} ranks cannot share evenly: give a multiple "
                f"of {world_size}, or another number of trainer.devices"
            )
        settings = self.batch_tokens, self.buffer_tokens, self.seed, self.skip_not_finite
        layer = read_layer(self.activations, self.layer)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if device.type == "cuda" and self.num_workers == 0:
            self.tokens = ShuffledOnDevice(layer, *settings, start, rank=rank, world_size=world_size, device=device)
            return DataLoader(self.tokens, batch_size=None)
        self.tokens = Shuffled(layer, *settings, start, rank=rank, world_size=world_size)
        return prepared(self.tokens, self.num_workers)

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Return the tokens of the evaluation set in order, or of the probing set if there is none."""
        source = self._layer(self.evaluation or self.activations)
        return DataLoader(InOrder(source, self.batch_tokens), batch_size=None)

    def test_dataloader(self) -> list[DataLoader[ProbeBatch]]:
        """Return whole clips: the probing set, then the evaluation set if there is one."""
        layers = [self._layer(folder) for folder in self._folders()]
        return [DataLoader(Probe(layer, self.clips_per_batch), batch_size=None) for layer in layers]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Cast to float32 after the transfer, which halves the bytes copied; count the tokens that a batch lacks."""
        if isinstance(batch, Tensor) and self.skip_not_finite and self.trainer and self.trainer.training:
            num_tokens = len(batch)
            if self.trainer.world_size > 1:
                of_rank = torch.tensor(num_tokens, device=batch.device)
                num_tokens = int(self.trainer.strategy.reduce(of_rank, reduce_op="sum"))
            if num_tokens < self.batch_tokens:
                self._log_skipped(self.batch_tokens - num_tokens, self.trainer)
        if isinstance(batch, ProbeBatch):
            return batch._replace(x=batch.x.float())
        return batch.float() if isinstance(batch, Tensor) else batch

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the number of skipped tokens."""
        return {"num_skipped": self.num_skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume the count of skipped tokens."""
        self.num_skipped = state_dict["num_skipped"]

    def _log_skipped(self, num_tokens: int, trainer: Trainer) -> None:
        assert self.tokens is not None
        self.num_skipped += num_tokens
        for row in set(self.tokens.not_finite.nonzero().flatten().tolist()) - self.named:
            self.named.add(row)
            logging.getLogger(__name__).warning("%s: skipped", self.tokens.name(row))
        for logger in trainer.loggers:
            logger.log_metrics({"train/skipped_tokens": self.num_skipped}, step=trainer.global_step)

    def _folders(self) -> list[Path | str]:
        return [self.activations, *([self.evaluation] if self.evaluation else [])]

    def _layer(self, folder: Path | str) -> Layer:
        return read_layer(folder, self.layer, *self._rank())

    def _rank(self) -> tuple[int, int]:
        """Return this rank and the number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
