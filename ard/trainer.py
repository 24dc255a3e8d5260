"""Run Lightning's commands on the YAML files of a preset."""

import signal
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import wandb
import yaml
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ard.activations import ActivationDataModule, ClipDataModule, Extraction, ProbeBatch
from ard.activations.module import ClipBatch
from ard.console import Progress, console
from ard.files import accept, claim
from ard.presets import ascii_yaml
from ard.probing import Encoding, Evaluator, numbered
from ard.sae import SAETraining, SaveSAE, SaveWhenStopped, check_checkpoint
from ard.stamps import settings_of
from ard.tracking import LogCells, WandbLogger


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
            savers = [
                callback for callback in cast(Any, self.trainer).callbacks if isinstance(callback, SaveWhenStopped)
            ]
            console.print(
                "ard: stopped; the same command goes on from its checkpoint, `fit` with --ckpt_path",
                style="red",
                soft_wrap=True,
            )
            number = signal.SIGINT if any(saver.by_ctrl_c for saver in savers) else signal.SIGTERM
            raise SystemExit(128 + number) from None
        except SystemExit as stopped:
            if isinstance(stopped.__context__, KeyboardInterrupt):  # Lightning has put its own exit into its place
                signal.signal(signal.SIGINT, signal.default_int_handler)
                raise KeyboardInterrupt from None
            raise

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Show progress as the other stages do, unless the YAML file has another bar or wants none."""
        listed = config.get("callbacks") or []
        has_own = any(isinstance(one, ProgressBar) for one in (listed if isinstance(listed, list) else [listed]))
        if config.get("enable_progress_bar") is not False and not has_own:
            callbacks = [*callbacks, ShowProgress()]
        return super()._instantiate_trainer(config, callbacks)

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
        elif subcommand == "test":
            trainer.callbacks.append(LogCells(self._evaluators_settings()))
        with ExitStack() as stack:
            stack.callback(wandb.finish)  # or a later logger of Lightning's own would continue this run
            for writer in writers if subcommand != "validate" else ():
                stack.enter_context(claim(*self._folders(writer), refuse=getattr(writer, "refuse", accept)))
            for logger in trainer.loggers if subcommand == "fit" and not trainer.fast_dev_run else ():
                if isinstance(logger, WandbLogger):
                    settings = settings_of(self._settings(), logger.cell.run.folder)
                    logger.describe(
                        {"fit": settings}, expansion=self._settings()["model"]["init_args"].get("expansion")
                    )
            super()._run_subcommand(subcommand)

    def _settings(self) -> dict[str, Any]:
        """Return the resolved YAML of the command that is run."""
        return dict(self.config[self.config["subcommand"]].as_dict())

    def _evaluators_settings(self) -> dict[str, Any]:
        """Return the settings of every evaluator, by its name."""
        names = Counter[str]()
        settings = {}
        for callback in self._settings()["trainer"]["callbacks"] or []:
            name = callback["class_path"].rpartition(".")[2]
            names[name] += 1
            settings[numbered(name, names[name])] = callback.get("init_args") or {}
        return settings

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


class ShowProgress(ProgressBar):
    """Show how far `fit`, `predict` or `test` is: steps of a training, clips of a pass over the clips."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._is_shown = True

    def disable(self) -> None:
        """Show nothing: Lightning calls it on every rank but the first."""
        self._is_shown = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the step from which training goes on."""
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self._start(Progress("training", total, "steps", done=trainer.global_step, disable=not self._is_shown))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Count the steps."""
        if self._progress:
            self._progress.advance(trainer.global_step - self._progress.done)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        self._stop()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the clips of the shards that are left."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ClipDataModule) and isinstance(pl_module, Extraction):
            num_done, total = data.count(pl_module)
            self._start(Progress("activations", total, done=num_done, disable=not self._is_shown))

    def on_predict_batch_end(self, trainer: Trainer, _: Any, outputs: Any, batch: Any, *__: Any) -> None:
        """Count the clips, as if the other ranks were as far."""
        if self._progress and isinstance(batch, ClipBatch):
            self._progress.advance((len(batch.places) + len(batch.failures)) * trainer.world_size)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        self._stop()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, if the whole pass is made."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ActivationDataModule) and trainer.limit_test_batches == 1.0:
            self._start(Progress("codes", data.count(), disable=not self._is_shown))

    def on_test_batch_end(self, trainer: Trainer, _: Any, outputs: Any, batch: Any, *__: Any) -> None:
        """Count the clips, as if the other ranks were as far; the evaluations that follow have bars of their own."""
        if self._progress and isinstance(batch, ProbeBatch):
            self._progress.advance(len(batch.rows) * trainer.world_size)
            if self._progress.done >= (self._progress.total or 0):
                self._stop()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the bar away."""
        self._stop()

    def _start(self, progress: Progress) -> None:
        self._progress = progress.__enter__()

    def _stop(self) -> None:
        if self._progress:
            self._progress.__exit__(None, None, None)
            self._progress = None
