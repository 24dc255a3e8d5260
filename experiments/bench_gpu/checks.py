"""What must hold on a GPU, tried on it: the same bits again, the CPU's batches, and no wait in a step."""

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ard.activations import ActivationDataModule
from ard.activations.layer import read_layer
from ard.activations.stream import Shuffled, ShuffledOnDevice
from ard.sae import SAETraining, TopKSAE
from ard.sae.products import ways
from experiments.bench_gpu.measure import Row, Shape, arithmetic
from experiments.bench_gpu.training import write_store

D_IN, EXPANSION, K, TOKENS, STEPS = 256, 8, 16, 512, 8
SHARDS, BUFFER_TOKENS = 1, 4096
LEAST_ALIKE = 0.98
"""Share of features that must be selected alike among tokens of mere noise, where many are close calls."""


def checks(shape: Shape) -> Iterator[Row]:
    """Each is tried at a small size: d_in 256, d_sae 2048, K 16, batches of 512 tokens."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_store(folder, D_IN, SHARDS)
        for way in ways(torch.empty(0, device=shape.device)):
            for precision in ("32-true", "bf16-mixed"):
                same = all(
                    torch.equal(a, b)
                    for a, b in zip(*(_trained(folder, shape, way, precision) for _ in range(2)), strict=True)
                )
                yield {"check": f"a training again gives the same bits: {way}, {precision}", "holds": _said(same)}
        for robust in (False, True):
            module = SAETraining(D_IN, EXPANSION, k=K, robust=robust)
            watch = NoWaits(shape.device)
            try:
                _fit(module, folder, shape, "bf16-mixed", [watch])
                problem = ""
            except RuntimeError as error:
                problem = str(error)[:200]
            said = f"a step waits for nothing{': robust' if robust else ''}"
            yield {"check": said, "holds": _said(not problem), "what came out": problem}
        if shape.device.type == "cuda":
            settings = read_layer(folder, 0), TOKENS, BUFFER_TOKENS, 0, False
            pairs = zip(
                islice(Shuffled(*settings), 24),
                islice(ShuffledOnDevice(*settings, device=shape.device), 24),
                strict=True,
            )
            same = all(torch.equal(a, b.cpu()) for a, b in pairs)
            yield {"check": "batches are those of the CPU", "holds": _said(same)}
        share = _selected_alike(folder, shape)
        yield {
            "check": "bfloat16 selects the features of float32",
            "holds": _said(share > LEAST_ALIKE),
            "what came out": f"{share:.4f}",
        }


def _said(holds: bool) -> str:
    return "yes" if holds else "NO"


class NoWaits(Callback):
    """Let whatever waits for the GPU fail, from the third step to the last but one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Tensor, batch_idx: int) -> None:
        """Set how it fails."""
        if self.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error" if 2 <= batch_idx < STEPS - 1 else "default")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let waits pass again."""
        if self.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def _fit(module: SAETraining, folder: Path, shape: Shape, precision: str, callbacks: list[Callback]) -> None:
    data = ActivationDataModule(folder, layer=0, batch_tokens=TOKENS, buffer_tokens=BUFFER_TOKENS)
    Trainer(
        max_steps=STEPS,
        accelerator=shape.device.type,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=1.0,
        log_every_n_steps=1000,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    ).fit(module, data)


def _trained(folder: Path, shape: Shape, way: str, precision: str) -> list[Tensor]:
    module = SAETraining(D_IN, EXPANSION, k=K, lr=1e-3, robust=True, products=way)  # type: ignore[arg-type]
    _fit(module, folder, shape, precision, [])
    return [parameter.detach() for parameter in module.parameters()]


def _selected_alike(folder: Path, shape: Shape) -> float:
    """Return the share of features that an SAE selects in bfloat16 as in float32, on shards' own tokens."""
    sae = TopKSAE(D_IN, EXPANSION * D_IN, k=K, generator=torch.Generator().manual_seed(0)).to(shape.device)
    x = next(iter(Shuffled(read_layer(folder, 0), TOKENS, BUFFER_TOKENS, 0, False))).float().to(shape.device)
    with torch.no_grad(), arithmetic("float32", shape.device):
        exact = sae.encode(x).indices
    with torch.no_grad(), arithmetic("bfloat16", shape.device):
        rounded = sae.encode(x).indices
    return float((exact[:, :, None] == rounded[:, None, :]).any(dim=2).float().mean())
