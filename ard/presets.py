"""The YAML files of a preset, the facts that they share, and Lightning's commands on them."""

import importlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb
import yaml
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ard.sae import check_checkpoint
from ard.types import UserError

CONFIGS = next(
    folder
    for folder in (Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs")
    if folder.is_dir()
)


def preset_facts(preset: str, changes: Mapping[str, Any]) -> DictConfig:
    """Return the facts of a preset's ``run.yaml``, with some changed; what refers to another is resolved when read.

    Raises:
        UserError: if there is no such preset.
    """
    path = CONFIGS / preset / "run.yaml"
    if not path.is_file():
        known = sorted(folder.parent.name for folder in CONFIGS.glob("*/run.yaml"))
        raise UserError(f"preset {preset!r} does not exist: choose one of {known}")
    merged = _merged(OmegaConf.load(path), changes)
    return OmegaConf.create({"run": merged}).run  # inside a root, so that ${run.<fact>} is found


def preset_files(preset: str, changes: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the facts of a preset and, under their names, the content of some of its files, all resolved."""
    facts = preset_facts(preset, changes)
    files = {name: OmegaConf.load(CONFIGS / preset / f"{name}.yaml") for name in names}
    resolved = OmegaConf.to_container(OmegaConf.create({"run": facts, **files}), resolve=True)
    assert isinstance(resolved, dict)
    return {**resolved.pop("run"), **resolved}


def plain(facts: DictConfig) -> dict[str, Any]:
    """Return facts as a plain dict, with their references to one another resolved."""
    resolved = OmegaConf.to_container(OmegaConf.create({"run": facts}), resolve=True)
    assert isinstance(resolved, dict)
    return resolved["run"]


class CLI(LightningCLI):
    """LightningCLI with the defaults of this project: any model and data by class_path, a fixed seed."""

    def __init__(self, args: list[str], *, run: bool = True) -> None:
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

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse a checkpoint that is not there or damaged, before Lightning reads its hyperparameters."""
        super().parse_arguments(parser, args)
        checkpoint = self.config.get(f"{self.config.get('subcommand')}.ckpt_path")
        if checkpoint:
            check_checkpoint(Path(checkpoint))


def resolve(path: Path, facts: DictConfig, changes: Mapping[str, Any]) -> str:
    """Return a YAML file with the facts of a run, some of them changed, in the places that refer to them."""
    return _resolved(path, _merged(facts, changes))


def run_config(command: str, name: str, config: Mapping[str, Any], *options: str) -> None:
    """Run one of Lightning's commands on a resolved YAML file of that name."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / name
        file.write_text(_ascii(yaml.safe_dump(dict(config), sort_keys=False)), encoding="utf-8")
        try:
            CLI([command, "--config", str(file), *options])
        finally:
            wandb.finish()  # a logger that comes later would go on in the same run


def import_class(path: str) -> type:
    """Return the class that a ``class_path`` names.

    Raises:
        UserError: if there is none.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"class_path {path!r} names no class ({error}): write it as package.module.Class") from error
    assert isinstance(found, type)
    return found


def split_facts(args: Sequence[str]) -> tuple[list[str], DictConfig]:
    """Take ``--run.<fact> VALUE`` and ``--run.<fact>=VALUE`` out of a command line: return the rest, and the facts."""
    rest: list[str] = []
    facts: list[str] = []
    words = iter(args)
    for word in words:
        if word.startswith("--run."):
            name, equals, value = word.removeprefix("--run.").partition("=")
            facts.append(f"{name}={value if equals else next(words, '')}")
        else:
            rest.append(word)
    return rest, OmegaConf.from_dotlist(facts)


@contextmanager
def resolved_arguments(args: Sequence[str]) -> Iterator[list[str]]:
    """Turn a command line with ``--config FILE`` and ``--run.<fact> VALUE`` into one that LightningCLI understands.

    In a YAML file ``${run.<fact>}`` is a fact of the ``run.yaml`` beside it.

    Raises:
        UserError: if a file does not exist, or does not resolve.
    """
    rest, facts = split_facts(args)
    passed: list[str] = []
    words = iter(rest)
    for word in words:
        if word in ("--config", "-c"):
            passed += ["--config", next(words, "")]
        elif word.startswith("--config="):
            passed += ["--config", word.removeprefix("--config=")]
        else:
            passed.append(word)
    with tempfile.TemporaryDirectory() as scratch:
        for index, word in enumerate(passed):
            if index and passed[index - 1] == "--config":
                path = Path(word)
                if not path.is_file():
                    raise UserError(
                        f"configuration {word!r} does not exist: give a YAML file, such as configs/demo/fit.yaml"
                    )
                beside = path.parent / "run.yaml"
                known = OmegaConf.load(beside) if beside.is_file() else OmegaConf.create()
                resolved = Path(scratch) / path.name
                resolved.write_text(_ascii(_resolved(path, _merged(known, facts))), encoding="utf-8")
                passed[index] = str(resolved)
        yield passed


def _ascii(resolved: str) -> str:
    """Return the same YAML in ASCII: Lightning's parser reads files in the encoding of the locale."""
    return resolved if resolved.isascii() else yaml.safe_dump(yaml.safe_load(resolved), sort_keys=False)


def _merged(facts: Any, changes: Any) -> DictConfig:
    merged = OmegaConf.merge(facts, changes)
    assert isinstance(merged, DictConfig)
    return merged


def _resolved(path: Path, facts: DictConfig) -> str:
    """Return a YAML file with the facts of the run in the places that refer to them."""
    try:
        config = OmegaConf.merge(OmegaConf.create({"run": facts}), OmegaConf.load(path))
        OmegaConf.resolve(config)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"configuration {str(path)!r} cannot be read ({reason}): mend the file") from error
    assert isinstance(config, DictConfig)
    del config["run"]
    return OmegaConf.to_yaml(config)
