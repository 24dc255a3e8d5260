"""The YAML files of a preset, the facts that they share, and Lightning's commands on them."""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import wandb
import yaml
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from ard.files import accept, claim
from ard.sae import SAETraining, SaveSAE, check_checkpoint
from ard.types import UserError

console = Console(stderr=True)
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
    merged = _merged(OmegaConf.load(path), _facts(changes))
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

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it with the folders claimed that its callbacks write to: those that have an ``out``.

        With ``fast_dev_run``, which tries everything on one batch, these callbacks are left out: what they would write
        is no result.
        """
        trainer = cast(Any, self.trainer)
        writers = [callback for callback in trainer.callbacks if hasattr(callback, "out")]
        if trainer.fast_dev_run:
            trainer.callbacks = [callback for callback in trainer.callbacks if callback not in writers]
            console.print("fast_dev_run: nothing is written", highlight=False)
            writers = []
        with ExitStack() as claimed:
            for writer in writers if subcommand != "validate" else ():
                claimed.enter_context(claim(*self._folders(writer), refuse=getattr(writer, "refuse", accept)))
            super()._run_subcommand(subcommand)

    def _folders(self, writer: Any) -> list[Path]:
        """Return where a callback writes, whose ``out`` is a folder or a file."""
        if isinstance(writer, SaveSAE) and isinstance(self.model, SAETraining):
            return [writer.folder(expansion) for expansion in self.model.expansions]
        return [writer.out.parent if writer.out.suffix in (".json", ".ckpt") else writer.out]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse a checkpoint that is not there or damaged, before Lightning reads its hyperparameters."""
        super().parse_arguments(parser, args)
        checkpoint = self.config.get(f"{self.config.get('subcommand')}.ckpt_path")
        if checkpoint:
            check_checkpoint(Path(checkpoint))


def run_preset(command: str, path: Path, facts: DictConfig, changes: Mapping[str, Any], **settings: str) -> str:
    """Run one of Lightning's commands on a YAML file with the facts of a run; return the resolved YAML.

    Args:
        command: ``fit``, ``test`` or ``predict``.
        path: the YAML file.
        facts: of the run.
        changes: facts that are others here; they refer to none.
        settings: further arguments of the command, such as ``ckpt_path``.
    """
    resolved = yaml.safe_dump({**_resolved(path, _merged(facts, _literal(changes))), **settings}, sort_keys=False)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / path.name
        file.write_text(resolved)
        try:
            CLI([command, "--config", str(file)])
        finally:
            wandb.finish()  # a logger that comes later would go on in the same run
    return resolved


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
    given = OmegaConf.to_container(OmegaConf.from_dotlist(facts))
    assert isinstance(given, dict)
    return rest, OmegaConf.create(_facts({str(name): value for name, value in given.items()}))


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
                resolved.write_text(yaml.safe_dump(_resolved(path, _merged(known, facts)), sort_keys=False))
                passed[index] = str(resolved)
        yield passed


def _merged(facts: Any, changes: Any) -> DictConfig:
    merged = OmegaConf.merge(facts, changes)
    assert isinstance(merged, DictConfig)
    return merged


def _literal(value: Any, *, but: str = "$^") -> Any:
    """Return values as OmegaConf must be told them for ``${`` to stand for itself, unless what follows is ``but``."""
    if isinstance(value, str):
        return re.sub(rf"(\\*)\$\{{(?!{but})", lambda found: 2 * found[1] + r"\${", value)
    if isinstance(value, Mapping):
        return {key: _literal(item, but=but) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(item, but=but) for item in value]
    return value


def _facts(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts as OmegaConf must be told them: ``${run.<fact>}`` refers to another; the run's folder to none."""
    return {name: _literal(value, but="$^" if name == "out" else r"run\.") for name, value in given.items()}


def _resolved(path: Path, facts: DictConfig) -> dict[str, Any]:
    """Return the content of a YAML file with the facts of the run in the places that refer to them."""
    try:
        config = OmegaConf.merge(OmegaConf.create({"run": facts}), OmegaConf.load(path))
        resolved = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"configuration {str(path)!r} cannot be read ({reason}): mend the file") from error
    assert isinstance(resolved, dict)
    return {str(name): value for name, value in resolved.items() if name != "run"}
