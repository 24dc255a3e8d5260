"""Lightning's W&B logger, with one W&B run for each training and each evaluated cell of a run."""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import wandb
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_only

from ard.results import git_commit, write_json
from ard.run import Cell
from ard.stamps import read_stamp

Stage = Literal["fit", "evaluate"]

PACKAGES = ("torch", "transformers", "lightning", "wandb")


class WandbLogger(LightningWandbLogger):
    """Log the training of a cell, or its evaluations, as one W&B run; all those of a run's folder are one group.

    The id of the W&B run is kept in the cell's folder, so that what is resumed or done again goes on in the same one.
    Nothing is sent anywhere unless ``WANDB_MODE=online`` is set: ``wandb sync`` uploads what is in the run's folder.

    Args:
        cell: folder of the cell, ``OUT/layer-<l>/<label>``.
        stage: ``fit`` for a training, ``evaluate`` for what is measured on a dictionary.
        project: the W&B project.
        entity: the W&B user or team; by default one's own.
        audio_mb: how many megabytes of clips the table of concepts may hold.
    """

    def __init__(
        self,
        cell: Path | str,
        *,
        stage: Stage = "evaluate",
        project: str = "ard",
        entity: str | None = None,
        audio_mb: float = 50.0,
    ) -> None:
        self.cell, self.stage, self.audio_mb = Cell.at(Path(cell)), stage, audio_mb
        self.entry, self._is_described = Entry(self.cell, stage), False
        out, where = self.cell.run.folder, f"layer-{self.cell.layer}/{self.cell.label}"
        self.entry.project, self.entry.entity = project, entity
        super().__init__(
            project=project,
            entity=entity,
            name=f"{where} {stage}" if stage == "fit" else where,
            id=self.entry.id,
            group=str(out),
            job_type=stage,
            tags=[stage, f"layer-{self.cell.layer}", self.cell.label, self.cell.method],
            save_dir=out,
            mode=None if "WANDB_MODE" in os.environ else "offline",
            reinit="create_new",
            settings=wandb.Settings(x_disable_stats=stage != "fit", x_save_requirements=stage == "fit", console="off"),
        )
        del self._wandb_init["anonymous"]  # W&B warns of it

    @classmethod
    def kept(cls, cell: Cell) -> "WandbLogger | None":
        """Return a logger for what is measured on a cell later on; None if nothing of it has been logged."""
        entry = Entry(cell, "evaluate")
        return cls(cell.folder, project=entry.project, entity=entry.entity) if entry.logged else None

    def of(self, cell: Cell) -> "WandbLogger":
        """Return the logger of a cell: this one, or one of the same settings."""
        if cell.folder.absolute() == self.cell.folder.absolute():
            return self  # Lightning has begun its W&B run already
        settings = {name: self._wandb_init[name] for name in ("project", "entity")}
        return WandbLogger(cell.folder, stage=self.stage, audio_mb=self.audio_mb, **settings)

    @contextmanager
    def copies(self) -> Iterator[None]:
        """Have W&B keep its copies of files, which it needs until they are uploaded, with its logs in the run's folder.

        A folder that the user has named by ``WANDB_DATA_DIR`` comes first.
        """
        named = "WANDB_DATA_DIR" in os.environ
        os.environ.setdefault("WANDB_DATA_DIR", str(self.cell.run.folder.absolute() / "wandb"))
        try:
            yield
        finally:
            if not named:
                del os.environ["WANDB_DATA_DIR"]

    def describe(self, settings: Mapping[str, Any], **more: Any) -> None:
        """Write into the W&B run's config what it is of, with which settings, and what they were run with."""
        config = {f"settings/{name}": value for name, value in settings.items()}
        self.experiment.config.update(_plain(self.about() | config | more), allow_val_change=True)
        if self.entry.summary:  # `wandb sync` keeps what was logged last, and forgets the rest
            self.experiment.summary.update(self.entry.summary)
        self.entry.id = self.experiment.id  # an agent of a sweep gives its own
        self._is_described = True
        if not self.experiment.disabled:
            self.entry.save()

    def about(self) -> dict[str, Any]:
        """Return what the W&B run is of: facts of the run and the cell, versions, and the stamps of what was done."""
        cell = self.cell
        facts = dict(cell.run.facts) if cell.run.path.is_file() else {}
        stamps = {path.stem: read_stamp(path) for path in cell.stamps}
        return {
            **{name: facts.get(name) for name in ("preset", "model", "data", "seed")},
            "layer": cell.layer,
            "expansion": cell.expansion,
            "method": cell.method,
            "run": facts,
            "versions": {"ard": version("ard-audio"), **{name: version(name) for name in PACKAGES}},
            "commit": git_commit(),
            "digests": {name: stamp.digest for name, stamp in stamps.items() if stamp},
        }

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the W&B run with the command, or a later one would go on in it."""
        super().finalize(status)
        self.finish()

    def finish(self) -> None:
        """End the W&B run, if it was begun."""
        run: Any = self._experiment
        if run is None:
            return
        if self._is_described and not run.disabled:  # by WANDB_MODE
            self.entry.summary |= _plain(run.summary._as_dict())
            self.entry.save()
        run.finish()
        self._experiment = None


def _plain(value: Any) -> Any:
    """Return settings as JSON has them."""
    return json.loads(json.dumps(value, default=str))


class Entry:
    """What a cell's ``wandb.json`` holds of a stage: its W&B run, what that shows, and the checksums of what it has."""

    def __init__(self, cell: Cell, stage: Stage) -> None:
        self.path, self.stage = cell.tracking, stage
        kept = self._all().get(stage, {})
        self.id: str = kept.get("id") or secrets.token_hex(4)
        self.project: str = kept.get("project") or "ard"
        self.entity: str | None = kept.get("entity")
        self.logged: dict[str, str] = kept.get("logged", {})
        self.summary: dict[str, Any] = kept.get("summary", {})

    def save(self) -> None:
        """Keep it."""
        kept = {name: getattr(self, name) for name in ("id", "project", "entity", "logged", "summary")}
        write_json(self.path, self._all() | {self.stage: kept})

    def _all(self) -> dict[str, Any]:
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}
