"""Lightning's own commands, on YAML files; `ard extract` is its `predict`."""

from rich.console import Console

from ard.activations import ClipDataModule, Extraction, dry_run
from ard.presets import resolved_arguments
from ard.trainer import CLI
from ard.types import UserError


def main(words: list[str]) -> None:
    """Run a LightningCLI command, or say what `extract` would do."""
    args = ["predict" if words[0] == "extract" else words[0], *words[1:]]
    with resolved_arguments([arg for arg in args if arg != "--dry-run"]) as passed:
        if "--dry-run" not in args:
            CLI(passed)
            return
        if args[0] != "predict":
            raise UserError("--dry-run belongs to `ard extract`: leave it out")
        made = CLI(passed[1:], run=False)
        module, data = made.model, made.datamodule
        if not isinstance(module, Extraction) or not isinstance(data, ClipDataModule):
            raise UserError("--dry-run needs the YAML file of an extraction, such as configs/demo/extract.yaml")
        for line in dry_run(module, data):
            Console().print(line, highlight=False, soft_wrap=True)
