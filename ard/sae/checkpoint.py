"""Checkpoints that are never half-written, and one when training is stopped, so that nothing is lost on resuming."""

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
    """Return whether a checkpoint is complete and undamaged: every part of its zip matches its CRC, and it loads."""
    try:
        with ZipFile(path) as file:
            if file.testzip() or any(part.external_attr for part in file.infolist()):  # torch skips directories
                return False
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise
    except Exception:  # a flipped byte can raise nearly anything
        return False
    return True


def check_checkpoint(path: Path) -> None:
    """Refuse a checkpoint that training cannot resume from.

    Raises:
        UserError: if it is missing, truncated or damaged.
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
    """Write checkpoints whole or not at all, even if killed, and refuse to load truncated or damaged ones.

    Lightning itself writes to the system's temporary folder and moves the file. Between disks, that move is a copy.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write to a temporary file, which replaces the checkpoint once every byte is on disk."""
        assert storage_options is None
        with replacing(Path(path)) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)  # not the path: torch would write its name into the file

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint that passes :func:`check_checkpoint`."""
        check_checkpoint(Path(path))
        return super().load_checkpoint(path, map_location, weights_only)


class SaveWhenStopped(Callback):
    """Write a checkpoint when training is stopped by SIGTERM or Ctrl-C; both wait for the step to end.

    Lightning waits on SIGTERM but not on Ctrl-C, so Ctrl-C is turned into SIGTERM. A second Ctrl-C stops at once.

    Args:
        out: path of the checkpoint, which is deleted when training has ended.

    Attributes:
        by_ctrl_c: whether it was Ctrl-C.
    """

    def __init__(self, out: Path) -> None:
        self.out = Path(out)
        self.by_ctrl_c = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the Ctrl-C handler; Lightning removes it when training ends."""

        def stop(*_: Any) -> None:
            self.by_ctrl_c = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.kill(os.getpid(), signal.SIGTERM)

        signal.signal(signal.SIGINT, stop)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write it only between steps: not in validation, which may swap weights, nor while gradients accumulate."""
        stepped = trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0
        if isinstance(exception, SIGTERMException) and trainer.training and stepped:
            trainer.save_checkpoint(self.out)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Delete it: the SAE has been written."""
        if trainer.is_global_zero:
            self.out.unlink(missing_ok=True)
