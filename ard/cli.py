"""The command line: `ard` and `lightning` are two names of one entry point.

`fit`, `validate`, `test` and `predict` (which `ard extract` calls) are LightningCLI's own, on the YAML files. The
others are functions of :mod:`ard.commands` and :mod:`ard.study.commands`.
"""

import inspect
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import transformers
from jsonargparse import ArgumentParser
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from ard import commands
from ard.activations import ClipDataModule, Extraction, dry_run
from ard.audio import SOURCES
from ard.chain import console
from ard.presets import CLI, plain, resolved_arguments, split_facts
from ard.study import commands as study
from ard.types import UserError

LIGHTNING = {
    "fit": "train one SAE from a YAML file (Lightning)",
    "validate": "reconstruction on held-out tokens (Lightning)",
    "test": "retrieve, score, name and evaluate with the callbacks of a YAML file (Lightning)",
    "predict": "Lightning's predict; `extract` is its name here",
    "extract": "audio shards to activation shards, all layers in one pass; resumes; --dry-run looks at what it needs",
}


def main(args: list[str] | None = None) -> None:
    """Run a command; bad input ends with one line on stderr and exit code 2 (``--debug`` shows the traceback)."""
    _degrade()
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    warnings.filterwarnings("ignore", module="lightning|wandb|torch")
    for talkative in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        transformers.utils.logging.disable_progress_bar()
        if args and args[0] in LIGHTNING:
            _lightning(["predict" if args[0] == "extract" else args[0], *args[1:]])
        else:
            _command(args)
    except UserError as error:
        if debug:
            raise
        console.print(f"ard: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from None
    except SIGTERMException:
        console.print("ard: stopped; the same command goes on from its checkpoint, `fit` with --ckpt_path", style="red")
        raise SystemExit(143) from None
    except KeyboardInterrupt:
        console.print("ard: stopped; the same command goes on from what is finished", style="red")
        raise SystemExit(130) from None


def _degrade() -> None:
    """Let a terminal that cannot show a character show another one in its place."""
    for stream, instead in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=instead)


def _lightning(args: list[str]) -> None:
    """Run a LightningCLI command, or say what `extract` would do."""
    with resolved_arguments([arg for arg in args if arg != "--dry-run"]) as passed:
        if "--dry-run" not in args:
            CLI(passed)
            return
        if args[0] != "predict":
            raise UserError("--dry-run belongs to `ard extract`: leave it out")
        made = CLI(passed[1:], run=False)
        module, data = made.model, made.datamodule
        if not isinstance(module, Extraction) or not isinstance(data, ClipDataModule):
            raise UserError("--dry-run wants the YAML file of an extraction, such as configs/demo/extract.yaml")
        for line in dry_run(module, data):
            Console().print(line, highlight=False, soft_wrap=True)


def _command(args: list[str]) -> None:
    """Parse and run one of this project's own commands."""
    parser = ArgumentParser(prog="ard", description="Find, name and test the concepts inside audio language models.")
    parser.add_argument("--version", action="version", version=f"ard-audio {version('ard-audio')}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subcommands = parser.add_subcommands(required=True, metavar="COMMAND")
    for name, function in OWN.items():
        summary = _summary(function)
        subparser = ArgumentParser(description=summary)
        positional = POSITIONAL.get(name, {})
        for argument, settings in positional.items():
            subparser.add_argument(argument, **settings)
        subparser.add_function_arguments(function, as_positional=False, skip=set(positional))
        subcommands.add_subcommand(name, subparser, help=summary)
    _add_shards(subcommands)
    for name, summary in LIGHTNING.items():
        subcommands.add_subcommand(name, ArgumentParser(), help=summary)
    _add_study(subcommands)
    args, facts = split_facts(args)
    told = ["--run", json.dumps(plain(facts))] if facts else []
    parsed = parser.instantiate_classes(parser.parse_args([*args, *told]))
    chosen = parsed[parsed.subcommand]
    if parsed.subcommand == "shards":
        commands.shards(chosen)
    elif parsed.subcommand == "study":
        STUDY[chosen.step](**chosen[chosen.step].as_dict())
    else:
        OWN[parsed.subcommand](**chosen.as_dict())


def _add_shards(subcommands: Any) -> None:
    """Add `ard shards`: every corpus has the options of its class."""
    parser = ArgumentParser(description=_summary(commands.shards))
    parser.add_argument(
        "--check", type=Path | None, help="check these shards instead: counts, clips that cannot be read, duplicates"
    )
    subcommands.add_subcommand("shards", parser, help=_summary(commands.shards))
    sources = parser.add_subcommands(required=False, dest="source", metavar="SOURCE")
    for name, corpus in SOURCES.items():
        subparser = ArgumentParser(description=_summary(corpus))
        subparser.add_class_arguments(corpus, as_positional=False)
        subparser.add_argument("--out", type=Path, required=True, help="folder of the shards")
        sources.add_subcommand(name, subparser, help=_summary(corpus))


def _add_study(subcommands: Any) -> None:
    """Add `ard study`: every step is a function's."""
    parser = ArgumentParser(
        description="Table 2's rating study: draw, rate by a language model, export, import, score."
    )
    subcommands.add_subcommand("study", parser, help="Table 2's rating study: make, rate, export, import, score")
    steps = parser.add_subcommands(required=True, dest="step", metavar="STEP")
    for name, function in STUDY.items():
        subparser = ArgumentParser(description=_summary(function))
        if name == "import":
            subparser.add_argument("file", type=Path, help="what `ard study export` or Label Studio wrote")
        subparser.add_function_arguments(function, as_positional=False, skip={"file"})
        steps.add_subcommand(name, subparser, help=_summary(function))


def _summary(documented: object) -> str:
    return str(inspect.getdoc(documented)).partition("\n")[0]


OWN: dict[str, Callable[..., None]] = {
    "demo": commands.demo,
    "run": commands.run,
    "table": commands.table,
    "seeds": commands.seeds,
    "concepts": commands.concepts,
    "steer": commands.steer,
    "report": commands.report,
    "app": study.app,
    "plan": commands.plan,
    "convert": commands.convert,
}
STUDY: dict[str, Callable[..., None]] = {
    "make": study.make,
    "rate": study.rate,
    "export": study.export,
    "import": study.import_,
    "score": study.score,
}
POSITIONAL: dict[str, dict[str, dict[str, Any]]] = {
    "table": {"number": {"type": int, "help": "1, 2, 3 or 4"}},
    "seeds": {"runs": {"type": Path, "nargs": "+", "help": "folders of runs; the first is held against all others"}},
    "convert": {
        "src": {"type": str, "help": "folder or hub id of an SAE in any of the formats"},
        "dst": {"type": Path, "help": "a new folder"},
    },
}
