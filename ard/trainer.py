"""Run Lightning's commands on the YAML files of a preset."""

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import wandb
import yaml
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ard.console import console
from ard.files import accept, claim
from ard.presets import ascii_yaml
from ard.probing import Encoding, Evaluator
from ard.sae import SAETraining, SaveSAE, check_checkpoint


class CLI(LightningCLI):
    """LightningCLI with the defaults of this project: any model and data by class_path, a fixed seed, one device."""

    def __init__(self, args: list[str], *, run: bool = True) -> None:
        try:
            super().__init__(
                LightningModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=None,  # a run keeps the resolved YAML itself
                seed_everything_default=0,
                trainer_defaults={"devices": 1},  # Lightning's default is all of them
                auto_configure_optimizers=False,
                args=args,
                run=run,
            )
        except SIGTERMException:
            console.print(
                "ard: stopped; the same command goes on from its checkpoint, `fit` with --ckpt_path", style="red"
            )
            raise SystemExit(143) from None

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it, and claim the folders that its callbacks with an ``out`` and its evaluators write to.

        With ``fast_dev_run``, which tries everything on one batch, these callbacks are left out: what they would write
        is not a result.
        """
        trainer = cast(Any, self.trainer)
        writers = [
            callback for callback in trainer.callbacks if hasattr(callback, "out") or isinstance(callback, Evaluator)
        ]
        if trainer.fast_dev_run:
            trainer.callbacks = [callback for callback in trainer.callbacks if callback not in writers]
            console.print("fast_dev_run: nothing is written", highlight=False)
            writers = []
        with ExitStack() as stack:
            stack.callback(wandb.finish)  # or a later logger would continue this run, and its log would grow
            for writer in writers if subcommand != "validate" else ():
                stack.enter_context(claim(*self._folders(writer), refuse=getattr(writer, "refuse", accept)))
            super()._run_subcommand(subcommand)

    def _folders(self, writer: Any) -> list[Path]:
        """Return where a callback writes: into the cell, or to its ``out``, a folder or a file."""
        if isinstance(writer, Evaluator):
            return [cell.folder for cell in self.model.cells] if isinstance(self.model, Encoding) else []
        if isinstance(writer, SaveSAE) and isinstance(self.model, SAETraining):
            return [writer.folder(expansion) for expansion in self.model.expansions]
        return [writer.out.parent if writer.out.suffix in (".json", ".ckpt") else writer.out]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse a missing or damaged checkpoint before Lightning reads its hyperparameters."""
        super().parse_arguments(parser, args)
        checkpoint = self.config.get(f"{self.config.get('subcommand')}.ckpt_path")
        if checkpoint:
            check_checkpoint(Path(checkpoint))


def run_config(command: str, name: str, config: Mapping[str, Any]) -> None:
    """Run one of Lightning's commands on a resolved YAML file of that name."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / name
        file.write_text(ascii_yaml(yaml.safe_dump(dict(config), sort_keys=False)), encoding="utf-8")
        CLI([command, "--config", str(file)])
