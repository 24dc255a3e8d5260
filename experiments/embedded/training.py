"""What the trainings of both models share: the options, the start, the optimizer and the run."""

import argparse
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from experiments.embedded.features import Features, compute_features


def options(
    description: str | None, out: str, *, num_steps: int, batch_size: int, learning_rate: float
) -> argparse.ArgumentParser:
    """Return the options that both trainings have, with the defaults of one."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--features", type=Path, default=Path(gettempdir()) / "ard-embedded-features")
    parser.add_argument("--num-clips", type=int, default=12_000)
    parser.add_argument("--num-steps", type=int, default=num_steps)
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def start(args: argparse.Namespace) -> Features:
    """Seed everything, and return the features of the clips."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    lightning.seed_everything(args.seed)
    torch.set_flush_denormal(True)  # the optimizer's moments of rare tokens fade into them, and they are slow
    return compute_features("embedded", args.num_clips, seed=args.seed, folder=args.features, num_workers=2)


def one_cycle(parameters: Iterable[Any], learning_rate: float, num_steps: int) -> dict[str, Any]:
    """Return AdamW, whose weights decay where a group does not say otherwise, and one cycle of the learning rate."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=num_steps, pct_start=0.1)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(module: lightning.LightningModule, loader: DataLoader[int], num_steps: int) -> float:
    """Train, and return the seconds that it took."""
    trainer = lightning.Trainer(
        max_steps=num_steps,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    started = time.monotonic()
    trainer.fit(module, loader)
    return time.monotonic() - started
