"""The command line: `ard` and `lightning` are two names of one entry point.

Every command is a line of one table, and its module is imported only when it is run, so `ard --help` answers at once.
"""

import argparse
import io
import json
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ard import __version__


class Command(NamedTuple):
    """A command of `ard`.

    Its options are the parameters of its function, except for those in ``declared``, which come with their settings for
    `add_argument`. A function with ``own_parser`` is given the words of the command line unparsed.
    """

    function: str
    """``module:name``, with a module of this package."""
    summary: str
    declared: Mapping[str, Mapping[str, Any]] = {}
    own_parser: bool = False
    loads_models: bool = False


COMMANDS = {
    "demo": Command(
        "run:demo",
        "Run the whole method on the embedded default: Tables 1 to 4 in miniature and the HTML report.",
        loads_models=True,
    ),
    "run": Command(
        "run:run",
        "Run the whole method on a folder of your own sounds: named concepts with audio players.",
        loads_models=True,
    ),
    "table": Command(
        "run:table",
        "Run the missing steps of table N, and write it.",
        {
            "number": {"type": int, "help": "1, 2, 3 or 4"},
            "--dry-run": {
                "action": "store_true",
                "help": "list the steps, which of them are done, and why the others are not; nothing is run",
            },
        },
        loads_models=True,
    ),
    "jobs": Command(
        "jobs:jobs",
        "Print a script that fills a run's folder by several processes: what all cells share, the cells, the tables.",
        {"--slurm": {"action": "store_true", "help": "print a script that hands the jobs to SLURM"}},
    ),
    "seeds": Command(
        "seeds:seeds",
        "Measure what of a run comes back in runs with another --seed, beside nulls; Tables 3 and 4 then note it.",
        {"runs": {"type": Path, "nargs": "+", "help": "folders of runs; the first is compared with all others"}},
    ),
    "concepts": Command("report:concepts", "List the named concepts of a run, searched by a word and sorted."),
    "steer": Command(
        "steer:steer",
        "Ask the run's model about clips without and with features set, or a direction added, and print the answers.",
        {
            "--audio": {
                "type": Path,
                "nargs": "+",
                "required": True,
                "help": "the clips: sound files, folders of them, folders of audio shards",
            },
            "--dry-run": {
                "action": "store_true",
                "help": "say how many answers that will be, and load no model that answers",
            },
        },
        loads_models=True,
    ),
    "effects": Command(
        "effects:effects",
        "List features by how far setting them moves the answer from one class to another, with how well they hear it.",
        loads_models=True,
    ),
    "tables": Command(
        "report:tables",
        "Show the tables of a run, or one of them, from the run's files.",
        {
            "number": {"type": int, "nargs": "?", "help": "1 to 4, or 0 for what training gives; by default all"},
            "--notes": {
                "action": "store_true",
                "help": "show the notes too: where the figures are from, how the paper was read, what is not beaten",
            },
        },
    ),
    "runs": Command(
        "runs:runs",
        "List the runs under a folder: model, main figures, size, and what is unfinished and why.",
        {"folder": {"type": Path, "nargs": "?", "default": Path("runs"), "help": "the folder (default: runs)"}},
    ),
    "report": Command(
        "report:report", "Write the tables and the HTML report of a run's folder again, from its files alone."
    ),
    "dashboard": Command(
        "dashboard:dashboard", "Save a W&B workspace that shows the runs of a project, or write it to a file."
    ),
    "app": Command(
        "app:app",
        "Serve a run in the browser: its report, own clips to listen to, answers to steer, and its rating study.",
    ),
    "plan": Command(
        "plan:plan",
        "Estimate what a preset will cost: clips, tokens, bytes, FLOPs, hours, and whether it fits on the disk.",
    ),
    "convert": Command(
        "convert:convert",
        "Write an SAE in the format of another library: SAELens, sparsify or dictionary_learning.",
        {
            "src": {"type": str, "help": "folder or hub id of an SAE in any of the formats"},
            "dst": {"type": Path, "help": "a new folder"},
        },
    ),
    "shards": Command(
        "shards:main", "Write a corpus as WebDataset audio shards, or check a set of them.", own_parser=True
    ),
    **{
        name: Command("lightning:main", summary, own_parser=True, loads_models=True)
        for name, summary in {
            "fit": "Train one SAE from a YAML file (Lightning).",
            "validate": "Reconstruct held-out tokens (Lightning).",
            "test": "Retrieve, score, name and evaluate with the callbacks of a YAML file (Lightning).",
            "predict": "Lightning's predict; `extract` is its name in ard.",
            "extract": "Audio shards to activation shards, all layers in one pass; resumes; --dry-run checks what "
            "it needs.",
        }.items()
    },
    "study make": Command("study:make", "Draw the concepts of a rating study, AR&D's and those of Poly. Feats. mixed."),
    "study rate": Command(
        "study:rate",
        "Have a language model label and rate a study's concepts from captions; a row of its own in Table 2.",
    ),
    "study export": Command("study:export", "Write the answers to a study as CSV and as Label Studio's JSON."),
    "study import": Command(
        "study:import_",
        "Add answers from a CSV or Label Studio JSON file to a study: all of them, or none if one row is bad.",
        {"file": {"type": Path, "help": "what `ard study export` or Label Studio wrote"}},
    ),
    "study score": Command(
        "study:score",
        "Score the answers to a study and write Table 2: ratings, agreement, CLAP cosine, BERTScore.",
        loads_models=True,
    ),
}
GROUPS = {"study": "Table 2's rating study: make, rate, export, import, score."}

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""How OpenMP's threads wait for one another on a busy machine: they spin for microseconds, and then sleep.

By default they spin for milliseconds. That is fastest where nothing else runs, but on a busy machine it is time that
the thread they wait for does not get. `experiments/bench/busy.py` measures both.
"""


def others_are_busy() -> bool:
    """Whether other programs keep half of the cores or more busy right now; False where the kernel does not tell."""
    others = []
    for _ in range(5):
        try:
            running, _ = Path("/proc/loadavg").read_text(encoding="utf-8").split()[3].split("/")
            others.append(int(running) - 1)
        except (OSError, ValueError, IndexError):
            return False
        time.sleep(0.01)
    return statistics.median(others) >= (os.cpu_count() or 1) / 2


def main(args: list[str] | None = None) -> None:
    """Run a command.

    Bad input ends with one line on stderr and exit code 2 (``--debug`` shows the traceback), Ctrl-C with one and 130.
    """
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    warnings.filterwarnings("ignore", module="lightning|wandb|torch")
    os.environ.setdefault("WANDB_SILENT", "true")
    _degrade()
    try:
        name, words = _choose(args)
        if not {*WAITING, "KMP_BLOCKTIME"} & os.environ.keys() and others_are_busy():
            os.environ |= WAITING  # OpenMP reads it when torch is loaded, here and in the processes started from here
        _run_or_refuse(name, words, debug=debug)
    except KeyboardInterrupt:
        sys.stderr.write("ard: stopped; the same command goes on from what is finished\n")
        raise SystemExit(130) from None


def _run_or_refuse(name: str, words: list[str], *, debug: bool) -> None:
    from ard.console import at_work, console  # after the help, which need not wait for it

    command = COMMANDS[name]
    try:
        with at_work("loading the libraries"):
            module, _, function_name = command.function.partition(":")
            function: Callable[..., None] = getattr(import_module(f"ard.cli.{module}"), function_name)
            if command.loads_models:
                _silence()
        if command.own_parser:
            function([name, *words])
        else:
            function(**_arguments(name, function, words))
    except Exception as error:
        from ard.types import UserError

        line = str(error) if isinstance(error, UserError) else _out_of_memory(error)
        if debug or line is None:
            raise
        console.print(f"ard: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from None


def _degrade() -> None:
    """Let a terminal show a replacement for a character that it cannot show."""
    for stream, instead in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=instead)


def _out_of_memory(error: Exception) -> str | None:
    """Say in a line what to do if memory ran out, on the device or in a worker, which is then killed."""
    if not isinstance(error, RuntimeError):
        return None
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which may not be loaded
        reason = str(error).partition(". ")[0]
        return f"out of memory ({reason}): make the batches smaller, and run the same command again"
    if "DataLoader worker" in str(error):
        return (
            "a process that prepares batches was killed, most likely because memory ran out: give the data fewer "
            "num_workers or batch_tokens, and run the same command again; what is finished is kept"
        )
    return None


def _choose(args: list[str]) -> tuple[str, list[str]]:
    """Return the command and the words after it; a request for help ends here."""
    singles = {name: command.summary for name, command in COMMANDS.items() if " " not in name}
    parser = _listing("ard", "Find, name and test the concepts inside audio language models.", singles | GROUPS)
    parser.add_argument("--version", action="version", version=f"ard-audio {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    first = parser.parse_args(args[:1]).command
    if first not in GROUPS:
        return first, args[1:]
    steps = {n.split()[1]: command.summary for n, command in COMMANDS.items() if n.split()[0] == first and " " in n}
    step = _listing(f"ard {first}", GROUPS[first], steps).parse_args(args[1:2]).command
    return f"{first} {step}", args[2:]


def _listing(prog: str, description: str, commands: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=description)
    choices = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in commands.items():
        choices.add_parser(name, help=summary.replace("%", "%%"), add_help=False)
    return parser


def _silence() -> None:
    """Keep what Lightning, W&B and transformers say about themselves off the screen; their warnings stay."""
    import lightning.pytorch
    import wandb
    from transformers.utils.logging import disable_progress_bar

    for library in (lightning.fabric, lightning.pytorch):  # which set their level when they are imported
        logging.getLogger(library.__name__).setLevel(logging.WARNING)
    settings = wandb.Settings()
    settings.update_from_env_vars(dict(os.environ))
    wandb.termsetup(settings, None)  # or W&B heeds WANDB_SILENT only from its first run on
    disable_progress_bar()


def _arguments(name: str, function: Callable[..., None], words: list[str]) -> dict[str, Any]:
    """Parse the command line by a function's parameters; ``--run.<fact> VALUE`` is an entry of its ``run``."""
    from jsonargparse import ArgumentParser

    from ard.presets import plain, split_facts

    command = COMMANDS[name]
    parser = ArgumentParser(prog=f"ard {name}", description=command.summary)
    for argument, settings in command.declared.items():
        parser.add_argument(argument, **settings)
    declared: set[str | int] = {argument.removeprefix("--").replace("-", "_") for argument in command.declared}
    parser.add_function_arguments(function, as_positional=False, skip=declared)
    rest, facts = split_facts(words)
    given = ["--run", json.dumps(plain(facts))] if facts else []
    return dict(parser.instantiate_classes(parser.parse_args([*rest, *given])).as_dict())
