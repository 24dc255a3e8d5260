"""Keep the trained SAE as a folder that others can open."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from ard.sae.module import SAETraining


class SaveSAE(Callback):
    """Write the SAE in SAELens' layout when training ends.

    Args:
        out: the folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = Path(out)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, once."""
        assert isinstance(pl_module, SAETraining)
        if trainer.is_global_zero:
            pl_module.sae.save_pretrained(self.out)
