"""Checkpoints that are whole, and one when training is stopped, so that it goes on as if nothing had happened."""

import os
import signal
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ard.results import replacing
from ard.types import UserError


def is_whole(path: Path) -> bool:
    """Return whether a checkpoint is neither cut short nor damaged: every part of its zip has its CRC, and it loads."""
    try:
        with ZipFile(path) as file:
            if file.testzip() or any(part.external_attr for part in file.infolist()):  # torch passes over directories
                return False
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise
    except Exception:  # a flipped byte makes them raise nearly anything
        return False
    return True


def check_checkpoint(path: Path) -> None:
    """Refuse a checkpoint that training cannot go on from.

    Raises:
        UserError: if it is missing, cut short or damaged.
    """
    try:
        whole = is_whole(path)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {str(path)!r} does not exist: see which .ckpt files are there") from error
    if not whole:
        raise UserError(
            f"checkpoint {str(path)!r} is cut short or damaged: delete it and go on from the one before, or without"
        )


class WholeCheckpoints(TorchCheckpointIO):
    """Write checkpoints whole or not at all, also when killed, and load none that is cut short or damaged.

    Lightning's own writes to the system's temporary folder and moves the file; from another disk, that is a copy.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write beside the file, and take its place when every byte is on the disk."""
        assert storage_options is None
        with replacing(Path(path)) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)  # not by its name, which torch would write into it

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load what :func:`check_checkpoint` lets pass."""
        check_checkpoint(Path(path))
        return super().load_checkpoint(path, map_location, weights_only)


class SaveWhenStopped(Callback):
    """Write a checkpoint when training is stopped by SIGTERM or Ctrl-C, which both wait for the end of the step.

    Lightning waits for it at SIGTERM, but not at Ctrl-C, so Ctrl-C becomes a SIGTERM; a second one stops at once.

    Args:
        out: the checkpoint; it goes when training has ended.
    """

    def __init__(self, out: Path) -> None:
        self.out = Path(out)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch for Ctrl-C; Lightning takes the watch off when training ends."""

        def stop(*_: Any) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.kill(os.getpid(), signal.SIGTERM)

        signal.signal(signal.SIGINT, stop)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write it between two steps: not in a validation, which may swap weights, nor while gradients add up."""
        stepped = trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0
        if isinstance(exception, SIGTERMException) and trainer.training and stepped:
            trainer.save_checkpoint(self.out)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take it away: the SAE is there."""
        if trainer.is_global_zero:
            self.out.unlink(missing_ok=True)
