"""Lightning's commands on the YAML files of a preset."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
import yaml
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ard.console import console
from ard.presets import ascii_yaml
from ard.sae import check_checkpoint


class CLI(LightningCLI):
    """LightningCLI with the defaults of this project: any model and data by class_path, a fixed seed."""

    def __init__(self, args: list[str], *, run: bool = True) -> None:
        try:
            super().__init__(
                LightningModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=None,  # a run keeps the resolved YAML itself
                seed_everything_default=0,
                auto_configure_optimizers=False,
                args=args,
                run=run,
            )
        except SIGTERMException:
            console.print(
                "ard: stopped; the same command goes on from its checkpoint, `fit` with --ckpt_path", style="red"
            )
            raise SystemExit(143) from None

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse a checkpoint that is not there or damaged, before Lightning reads its hyperparameters."""
        super().parse_arguments(parser, args)
        checkpoint = self.config.get(f"{self.config.get('subcommand')}.ckpt_path")
        if checkpoint:
            check_checkpoint(Path(checkpoint))


def run_config(command: str, name: str, config: Mapping[str, Any], *options: str) -> None:
    """Run one of Lightning's commands on a resolved YAML file of that name."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / name
        file.write_text(ascii_yaml(yaml.safe_dump(dict(config), sort_keys=False)), encoding="utf-8")
        try:
            CLI([command, "--config", str(file), *options])
        finally:
            wandb.finish()  # a logger that comes later would go on in the same run
