"""Audio shards as batches for extraction, and activation shards as batches for training and probing."""

import json
from collections.abc import Iterable, Iterator
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from lightning import LightningDataModule
from safetensors.torch import load
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ard.activations.store import read_manifest, shard_path, stored_ids
from ard.audio import clip_metadata, read_clips, read_samples
from ard.audiollm import EMBEDDED, AudioPrompts, load_prompter
from ard.types import UserError


class ClipBatch(NamedTuple):
    """Clips as the AudioLLM takes them, and what is known about each."""

    prompts: AudioPrompts
    metadata: list[dict[str, Any]]


class ProbeBatch(NamedTuple):
    """The activations of a few whole clips, tokens one after another."""

    x: Float[Tensor, "tokens d_in"]
    clip_of_token: Int[Tensor, " tokens"]  # index into the clips of this batch
    rows: Int[Tensor, " clips"]  # row of each clip in the manifest, hence in clips.parquet
    metadata: list[dict[str, Any]]


def _in_batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


class _Clips(IterableDataset[ClipBatch]):
    """Batches of clips, prepared in the worker that reads them; clips whose activations are stored are passed over."""

    def __init__(self, audio: Path, model: str, clips_per_batch: int, stored: frozenset[str]) -> None:
        self.audio = audio
        self.clips_per_batch = clips_per_batch
        self.stored = stored
        self.prompter = load_prompter(model)

    def __iter__(self) -> Iterator[ClipBatch]:
        wanted = (clip for clip in read_clips(self.audio) if clip.id not in self.stored)
        for clips in _in_batches(wanted, self.clips_per_batch):
            yield ClipBatch(self.prompter(clips), [clip_metadata(clip) for clip in clips])


class ClipDataModule(LightningDataModule):
    """Audio shards for extraction (`predict`).

    Args:
        audio: folder of audio shards.
        activations: where the activations go; clips that are stored there in all layers are not read again.
        layers: the layers that are extracted.
        model: the model that will hear them.
        clips_per_batch: clips in a forward pass.
        num_workers: processes that decode audio and compute features.
    """

    def __init__(
        self,
        audio: Path,
        *,
        activations: Path,
        layers: list[int],
        model: str = EMBEDDED,
        clips_per_batch: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.audio = Path(audio)
        self.activations = Path(activations)
        self.layers = layers
        self.model = model
        self.clips_per_batch = clips_per_batch
        self.num_workers = num_workers

    def predict_dataloader(self) -> DataLoader[ClipBatch]:
        """Return the clips that have no activations yet."""
        stored = frozenset(clip_id for shard in stored_ids(self.activations, self.layers) for clip_id in shard)
        clips = _Clips(self.audio, self.model, self.clips_per_batch, stored)
        return DataLoader(clips, batch_size=None, num_workers=self.num_workers)


def _read_activations(shards: list[Path]) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Read clips from activation shards: x [tokens, d_in] in the dtype of the store, and the clip's metadata."""
    for sample in read_samples(shards):
        yield load(sample["safetensors"])["x"], json.loads(sample["json"])


class _Tokens(IterableDataset[Tensor]):
    """Batches of tokens, mixed over many clips by a buffer; endless where it is shuffled, one pass where not."""

    def __init__(
        self, shards: list[Path], num_tokens: int, batch_tokens: int, buffer_tokens: int, seed: int | None
    ) -> None:
        self.shards = shards
        self.num_tokens = num_tokens
        self.batch_tokens = batch_tokens
        self.buffer_tokens = buffer_tokens
        self.seed = seed

    def __iter__(self) -> Iterator[Float[Tensor, "tokens d_in"]]:
        if self.seed is None:
            yield from (x.float() for x in _in_tokens(_read_activations(self.shards), self.batch_tokens))
            return
        generator = torch.Generator().manual_seed(self.seed)
        rest: list[Tensor] = []
        for buffer in self._buffers(generator):
            mixed = torch.cat([*rest, buffer[torch.randperm(len(buffer), generator=generator)]])
            *whole, last = mixed.split(self.batch_tokens)
            yield from (batch.float() for batch in whole)
            rest = [last]

    def _buffers(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Fill the buffer without end: from the shards, each epoch in another order, or once if all tokens fit."""
        if self.num_tokens <= self.buffer_tokens:
            yield from repeat(torch.cat([x for x, _ in _read_activations(self.shards)]))
        for _ in count():
            order = torch.randperm(len(self.shards), generator=generator).tolist()
            yield from _in_tokens(_read_activations([self.shards[index] for index in order]), self.buffer_tokens)


def _in_tokens(clips: Iterable[tuple[Tensor, dict[str, Any]]], num_tokens: int) -> Iterator[Tensor]:
    """Join clips and cut them into tensors of ``num_tokens`` tokens; the last one is what is left."""
    waiting: list[Tensor] = []
    num_waiting = 0
    for x, _ in clips:
        waiting.append(x)
        num_waiting += len(x)
        if num_waiting >= num_tokens:
            joined = torch.cat(waiting)
            whole = num_waiting - num_waiting % num_tokens
            yield from joined[:whole].split(num_tokens)
            waiting, num_waiting = [joined[whole:]], num_waiting - whole
    if num_waiting:
        yield torch.cat(waiting)


class _Probe(IterableDataset[ProbeBatch]):
    """Whole clips in the order of the manifest, each with its row."""

    def __init__(self, folder: Path, shards: list[Path], clips_per_batch: int) -> None:
        self.shards = shards
        self.clips_per_batch = clips_per_batch
        self.row = {clip_id: row for row, clip_id in enumerate(read_manifest(folder).clip_ids)}

    def __iter__(self) -> Iterator[ProbeBatch]:
        for batch in _in_batches(_read_activations(self.shards), self.clips_per_batch):
            xs = [x.float() for x, _ in batch]
            metadata = [known for _, known in batch]
            lengths = torch.tensor([len(x) for x in xs])
            yield ProbeBatch(
                torch.cat(xs),
                torch.arange(len(xs)).repeat_interleave(lengths),
                torch.tensor([self.row[known["id"]] for known in metadata]),
                metadata,
            )


class ActivationDataModule(LightningDataModule):
    """Activation shards of one layer: shuffled tokens to `fit` and `validate`, whole clips to `test`.

    `test` gets one loader for the probing set (``activations``) and, if there is one, a second for the evaluation set.

    Args:
        activations: folder of activation shards, the probing set; it also trains the SAE (Sec. 3).
        layer: the layer to read.
        evaluation: folder of activation shards of clips that nothing was trained on; None where there are none.
        batch_tokens: tokens in a training batch.
        buffer_tokens: tokens that are mixed before batches are cut.
        clips_per_batch: clips in a probing batch.
        seed: of the order of shards and of the buffer.
    """

    def __init__(
        self,
        activations: Path,
        *,
        layer: int,
        evaluation: Path | None = None,
        batch_tokens: int = 4096,
        buffer_tokens: int = 131072,
        clips_per_batch: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.activations = Path(activations)
        self.layer = layer
        self.evaluation = Path(evaluation) if evaluation else None
        self.batch_tokens = batch_tokens
        self.buffer_tokens = buffer_tokens
        self.clips_per_batch = clips_per_batch
        self.seed = seed

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return endless shuffled batches [batch_tokens, d_in]."""
        return self._tokens(self.activations, self.seed)

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Return the tokens of the evaluation set in order, or of the probing set if there is no other."""
        return self._tokens(self.evaluation or self.activations, None)

    def test_dataloader(self) -> list[DataLoader[ProbeBatch]]:
        """Return whole clips: the probing set, then the evaluation set if there is one."""
        folders = [self.activations, *([self.evaluation] if self.evaluation else [])]
        return [
            DataLoader(_Probe(folder, self._shards(folder), self.clips_per_batch), batch_size=None)
            for folder in folders
        ]

    def _tokens(self, folder: Path, seed: int | None) -> DataLoader[Tensor]:
        num_tokens = read_manifest(folder).num_tokens
        tokens = _Tokens(self._shards(folder), num_tokens, self.batch_tokens, self.buffer_tokens, seed)
        return DataLoader(tokens, batch_size=None)

    def _shards(self, folder: Path) -> list[Path]:
        manifest = read_manifest(folder)
        if self.layer not in manifest.layers:
            raise UserError(f"layer {self.layer} was not extracted to {str(folder)!r}: it holds {manifest.layers}")
        if manifest.num_tokens == 0:
            raise UserError(f"{str(folder)!r} holds no tokens: see the failures in its manifest")
        return sorted(shard_path(folder, self.layer, 0).parent.glob("*.tar"))
