"""Write what `Trainer.predict` extracts to activation shards."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from ard.activations.datamodule import ClipDataModule
from ard.activations.module import ClipBatch, Extracted, Extraction
from ard.activations.store import about_shard, refuse_foreign, write_manifest, write_shard
from ard.audiollm import AudioPrompts, where
from ard.types import Failure


class ActivationWriter(BasePredictionWriter):
    """Write activation shards while the next batches are computed; rank 0 writes the manifest last.

    Memory holds the clips of the shards being filled (one for each data worker) and of one shard being written.

    Args:
        out: the folder of the shards and their manifest.
    """

    def __init__(self, out: Path) -> None:
        super().__init__("batch")
        self.out = Path(out)
        self._clips: dict[int, list[tuple[int, dict[str, Any], dict[int, Tensor]]]] = defaultdict(list)
        self._failures: dict[int, list[Failure]] = defaultdict(list)
        self._writing: Future[None] | None = None

    def refuse(self, out: Path) -> None:
        """Refuse a folder that holds anything but activation shards."""
        refuse_foreign(out)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the writer thread; Lightning would keep all that it predicts, to return it."""
        trainer.predict_loop.return_predictions = False
        self._thread = ThreadPoolExecutor(max_workers=1)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Extracted,
        batch_indices: Sequence[int] | None,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Collect the clips of a batch and the seconds that each of their tokens covers; write a complete shard."""
        assert isinstance(pl_module, Extraction)
        self._failures[batch.shard] += batch.failures
        for index, (metadata, activations, reason) in enumerate(zip(batch.metadata, *prediction, strict=True)):
            if reason:
                self._failures[batch.shard].append(Failure(metadata["id"], "activations", reason))
                continue
            assert batch.prompts is not None
            num_captured = len(next(iter(activations.values())))
            is_audio = _is_audio(pl_module, batch.prompts, index, num_captured)
            kept = pl_module.audiollm.prompter.without_filling(is_audio, metadata["duration_s"])
            stored = {layer: x if kept.all() else x[kept] for layer, x in activations.items()}
            token_s = None  # text has no place in time
            if pl_module.tokens == "audio":
                _, token_s = pl_module.audiollm.prompter.timing(metadata["duration_s"], num_captured)
            timed = {**metadata, "num_tokens": int(kept.sum()), "seconds_per_token": token_s}
            self._clips[batch.shard].append((batch.places[index], timed, stored))
        if batch.last:
            clips = sorted(self._clips.pop(batch.shard, []), key=lambda clip: clip[0])
            failures = self._failures.pop(batch.shard)
            self._wait()
            data = _data(trainer)
            about = about_shard(data.about(pl_module), data.shards_xxh3, batch.shard)
            self._writing = self._thread.submit(
                write_shard, self.out, batch.shard, [clip[1:] for clip in clips], failures, about
            )

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for all shards of all ranks, then write the manifest."""
        assert isinstance(pl_module, Extraction)
        self._wait()
        trainer.strategy.barrier("activation shards are written")
        if trainer.is_global_zero:
            data = _data(trainer)
            width, about = pl_module.audiollm.d_in, data.about(pl_module)
            write_manifest(self.out, data.num_shards, width, about, data.shards_xxh3)
        trainer.strategy.barrier("the manifest is written")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the thread finish writing."""
        if stage == "predict" and hasattr(self, "_thread"):
            self._thread.shutdown()

    def _wait(self) -> None:
        """Wait for the shard being written, and raise any error in writing it."""
        if self._writing:
            self._writing.result()


def _is_audio(module: Extraction, prompts: AudioPrompts, clip: int, num_captured: int) -> Bool[Tensor, " tokens"]:
    """Return which captured tokens of a clip stand for sound; of an encoder all do, whose prompts may count others."""
    if module.tokens == "audio":
        return torch.ones(num_captured, dtype=torch.bool)
    valid, audio = prompts.valid[clip], prompts.audio[clip]
    return audio[where(module.tokens, valid, audio)]


def _data(trainer: Trainer) -> ClipDataModule:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, ClipDataModule)
    return data
