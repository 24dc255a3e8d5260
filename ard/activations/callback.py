"""Write what `Trainer.predict` extracts as activation shards."""

from collections.abc import Sequence
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from ard.activations.datamodule import ClipBatch
from ard.activations.module import Extracted, Extraction
from ard.activations.store import ShardWriter


class ActivationWriter(BasePredictionWriter):
    """Write activation shards batch by batch; shards that an earlier run finished are kept.

    Args:
        out: the folder of the shards and their manifest.
        clips_per_shard: how many clips make a shard.
    """

    def __init__(self, out: Path, clips_per_shard: int = 256) -> None:
        super().__init__("batch")
        self.out = Path(out)
        self.clips_per_shard = clips_per_shard

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out what is there already."""
        assert isinstance(pl_module, Extraction)
        self._writer = ShardWriter(self.out, pl_module.layers, self.clips_per_shard)

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
        """Hand the clips of one batch to the shards, with how many seconds each of their tokens stands for."""
        assert isinstance(pl_module, Extraction)
        for index, metadata in enumerate(batch.metadata):
            activations = {layer: xs[index] for layer, xs in prediction.activations.items()}
            num_tokens = len(next(iter(activations.values())))
            heard_s = min(metadata["duration_s"], pl_module.audiollm.prompter.window_s)
            timed = {**metadata, "num_tokens": num_tokens, "seconds_per_token": heard_s / max(num_tokens, 1)}
            self._writer.add(timed, activations)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the manifest, last."""
        assert isinstance(pl_module, Extraction)
        about = {
            "revision": getattr(pl_module.audiollm.model.config, "_commit_hash", None),
            "dtype": str(pl_module.store_dtype).removeprefix("torch."),
            "prompt": "chat template with the audio and an empty user text",
            "tokens": "audio placeholders only",
        }
        self._writer.close(pl_module.model, pl_module.audiollm.d_in, about)
