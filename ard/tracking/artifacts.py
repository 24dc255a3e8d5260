"""Files of a run as W&B artifacts, and which of them each W&B run was made from."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import wandb

from ard.activations import ActivationDataModule
from ard.run import MANIFEST, Cell, Run
from ard.tracking.logger import WandbLogger

CATALOGUE = ("concepts", "names", "detection")


def log_training_artifacts(logger: WandbLogger, data: ActivationDataModule, saes: Iterable[Path]) -> None:
    """Keep trained SAEs, and the manifests of the activations that they were trained on, which stay where they are."""
    for shards in [data.activations, *([data.evaluation] if data.evaluation else [])]:
        if isinstance(shards, Path) or ":" not in shards:
            folder = Path(shards).absolute()
            _log(logger, [folder.name], "activations", refers_to=folder / MANIFEST, is_input=True)
    for sae in saes:
        if (sae / "cfg.json").is_file():
            _log_sae(logger, sae)


def log_cell_artifacts(logger: WandbLogger, cell: Cell, types: Iterable[str]) -> None:
    """Keep what was measured on a cell, of some types; its dictionary, if it was trained, is what it was made from."""
    if cell.has_sae and not cell.control:
        _log_sae(logger, cell.sae, is_input=True)
    parts: Mapping[str, list[Path]] = {
        "representatives": [cell.path("representatives"), cell.path("selections")],
        "catalogue": [cell.path(file) for file in CATALOGUE],
        "results": cell.result_files,
    }
    for type_ in types:
        files = parts[type_]
        if there := [path for path in files if path.is_file()]:
            _log(logger, [f"layer-{cell.layer}", cell.label, type_], type_, there)


def log_report_artifact(logger: WandbLogger, run: Run) -> None:
    """Keep the run's tables, and its report with all that it shows."""
    _log(logger, ["report"], "report", [run.table(1).parent, run.report.parent])


def _log_sae(logger: WandbLogger, folder: Path, *, is_input: bool = False) -> None:
    """Log an SAE in SAELens' layout; it has one name wherever it is made or used."""
    files = [folder / "cfg.json", folder / "sae_weights.safetensors"]
    _log(logger, [*folder.absolute().parts[-3:-1], "sae"], "sae", files, is_input=is_input)


def _log(
    logger: WandbLogger,
    name: Iterable[str],
    type_: str,
    paths: Iterable[Path] = (),
    *,
    refers_to: Path | None = None,
    is_input: bool = False,
) -> None:
    """Log files and folders as what the W&B run made or used."""
    folder = logger.cell.run.folder.absolute()
    named = re.sub(r"[^A-Za-z0-9_.-]", "-", "-".join((folder.name, *name)))  # W&B takes few characters
    artifact = wandb.Artifact(named, type_)
    with logger.copies():
        for path in paths:
            if path.is_dir():
                artifact.add_dir(str(path), name=path.name)
            elif path.is_file():
                artifact.add_file(str(path))
    if refers_to is not None:
        artifact.add_reference(refers_to.as_uri(), name=refers_to.name)
    run: Any = logger.experiment  # its `use_artifact` does the same, but refuses to work offline
    run._log_artifact(artifact, is_user_created=is_input, use_after_commit=is_input)
