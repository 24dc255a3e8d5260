"""The commands. `ard` and `lightning` are two names of one entry point: the one file that knows every stage.

`fit`, `validate`, `test` and `predict` (which `ard extract` calls) are LightningCLI's own, on the YAML files of a
preset; `demo`, `run` and `table` chain them, each step in the run's folder and skipped where it is done.
"""

import hashlib
import inspect
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import transformers
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from ard.activations import ClipDataModule, Extraction, dry_run
from ard.audio import (
    FSD50K,
    IEMOCAP,
    AudioBench,
    FolderClips,
    SyntheticCorpus,
    WavCaps,
    check_audio_shards,
    read_audio_manifest,
    write_audio_shards,
)
from ard.audiollm import EMBEDDED, load_audiollm
from ard.chain import Chain, console, say_failures, tracked
from ard.plan import plan as plan_preset
from ard.plan import render_plan
from ard.presets import CLI, preset_files, resolved_arguments
from ard.reports import Order, Run, find_concepts, render_concepts, write_report, write_tables
from ard.sae.formats import Format
from ard.sae.formats import convert as convert_sae
from ard.types import UserError

LIGHTNING = {
    "fit": "train one SAE from a YAML file (Lightning)",
    "validate": "reconstruction on held-out tokens (Lightning)",
    "test": "retrieve, score, name and evaluate with the callbacks of a YAML file (Lightning)",
    "predict": "Lightning's predict; `extract` is its name here",
    "extract": "audio shards to activation shards, all layers in one pass; resumes; --dry-run looks at what it needs",
}
SOURCES: dict[str, Callable[..., Any]] = {
    "folder": FolderClips,
    "wavcaps": WavCaps,
    "iemocap": IEMOCAP,
    "fsd50k": FSD50K,
    "audiobench": AudioBench,
    "synthetic": SyntheticCorpus,
}
PAPER_LAYER = 26 / 32  # depth of the layer of Tables 1 to 3
LEAST_CLIPS = 4  # two in H^k and two in L^k
LONGEST_S = 30.0  # of a clip, also where a model would hear an hour at once
MOST_LINES = 20  # of a list that may have thousands


def main(args: list[str] | None = None) -> None:
    """Run a command; bad input ends with one line on stderr and exit code 2 (``--debug`` shows the traceback)."""
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    warnings.filterwarnings("ignore", module="lightning|wandb|torch")
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


def demo(out: Path = Path("runs/demo"), seed: int = 0) -> None:
    """Run the whole method on the embedded default: Tables 1, 3 and 4 in miniature and the HTML report.

    Args:
        out: the run's folder; a second call goes on where the first was stopped.
        seed: of the sounds, the SAEs and every draw.
    """
    chain = Chain("demo", {"out": str(out), "seed": seed})
    chain.synthesise()
    for table_number in (4, 1, 3):
        chain.table(table_number)
    chain.finish()


def table(number: int, preset: str = "demo", out: Path | None = None, seed: int = 0) -> None:
    """Run what table N needs and is missing, and write it.

    Args:
        number: 1, 3 or 4.
        preset: a folder of `configs`.
        out: the run's folder, ``runs/<preset>`` if not given.
        seed: of the sounds, the SAEs and every draw.
    """
    if number not in (1, 3, 4):
        raise UserError(f"table {number} cannot be made: there are tables 1, 3 and 4")
    chain = Chain(preset, {"out": str(out or Path("runs") / preset), "seed": seed})
    chain.synthesise()
    chain.table(number)
    chain.finish()


def run(
    audio: Path,
    model: str = EMBEDDED,
    out: Path = Path("runs/mine"),
    *,
    clap: str = EMBEDDED,
    layer: int | None = None,
    expansion: int = 8,
    k: int | None = None,
    seed: int = 0,
) -> None:
    """Run the whole method on a folder of your own sounds: named concepts with audio players.

    Args:
        audio: a folder of wav, flac, ogg or mp3 files, at any depth.
        model: a Qwen2-Audio-class model, a local folder or hub id; ``embedded`` is the small one that is shipped.
        out: the run's folder.
        clap: a CLAP model, a local folder or hub id; ``embedded`` is the small one that is shipped.
        layer: decoder layer, 0-based; by default the one at the depth of the paper's layer 26 of 32.
        expansion: e, features of the SAE per dimension of the model.
        k: features that a token keeps; by default the paper's share of the model's width, at least 16.
        seed: of the SAE and every draw.
    """
    source = FolderClips(audio)
    audiollm = load_audiollm(model)
    source.segment_s = min(audiollm.prompter.window_s, LONGEST_S)
    chosen = int(PAPER_LAYER * len(audiollm.layers)) if layer is None else layer
    if not 0 <= chosen < len(audiollm.layers):
        raise UserError(f"layer {chosen} does not exist in {model!r}: it has layers 0 to {len(audiollm.layers) - 1}")
    facts = {
        "out": str(out),
        "seed": seed,
        "model": model,
        "clap": clap,
        "d_in": audiollm.d_in,
        "data": f"the sounds in {audio.resolve().name!r} ({_fingerprint(audio)})",
        "audio": {},
        "layers": [chosen],
        "layer": chosen,
        "expansions": [expansion],
        "expansion": expansion,
        "k": k or max(16, audiollm.d_in * 250 // 4096),
        "evaluation": None,
        "embeddings": (embeddings := f"{out}/embeddings-{clap.replace('/', '--')}.safetensors"),
        "unseen": "probe",  # less the clips that names were made of
        "embeddings_unseen": embeddings,
        "tasks": [],
    }
    chain = Chain("demo", facts)
    chain.write_audio("probe", source)
    num_clips = read_audio_manifest(out / "audio" / "probe").num_clips
    if num_clips < LEAST_CLIPS:
        chain.report_failures()
        raise UserError(
            f"{num_clips} usable clips in {str(audio)!r}, at least {LEAST_CLIPS} are needed: "
            f"see {out / 'failures.json'} for what was left out and why"
        )
    chain.facts.p = min(4, num_clips // 2)
    chain.table(4)
    chain.describe()
    chain.finish()


def shards(chosen: Namespace) -> None:
    """Write a corpus as WebDataset audio shards, or check a set of them."""
    if chosen.check is not None:
        checked = check_audio_shards(chosen.check)
        for dataset, count in sorted(checked.num_clips.items()):
            Console().print(f"{dataset}: {count} clips", highlight=False)
        problems = checked.problems
        for problem in problems[:MOST_LINES]:
            console.print(f"  {problem}", markup=False, highlight=False, soft_wrap=True)
        if problems:
            shown = f", the first {MOST_LINES} of them above" if len(problems) > MOST_LINES else ""
            raise UserError(f"faults in {str(chosen.check)!r}: {len(problems)}{shown}; mend the source, write it anew")
        return
    if chosen.source is None:
        raise UserError(f"a source is missing: give one of {', '.join(SOURCES)}, or --check DIR")
    asked = chosen[chosen.source].as_dict()
    out = asked.pop("out")
    written, failures = write_audio_shards(tracked(SOURCES[chosen.source](**asked), "audio"), out)
    say_failures(failures)
    console.print(f"{written} clips in {out}")


def plan(preset: str = "paper", gpu: str = "H100", utilisation: float = 0.4, out: Path | None = None) -> None:
    """Say what a preset will cost before anything runs: clips, tokens, bytes, FLOPs, hours, and if the disk holds it.

    Args:
        preset: a folder of `configs`.
        gpu: the GPU by name.
        utilisation: the share of the GPU's peak that is reached.
        out: the run's folder, ``runs/<preset>`` if not given; what it holds already is not counted again.
    """
    folder = out or Path("runs") / preset
    facts = preset_files(preset, {"out": str(folder)}, ("extract", "fit", "test", "steer"))
    Console().print(render_plan(plan_preset(facts, gpu=gpu, utilisation=utilisation, disk=folder)))


def convert(src: str, dst: Path, to: Format) -> None:
    """Write an SAE in the format of another library: SAELens, sparsify or dictionary_learning.

    Args:
        src: folder or hub id of an SAE in any of the formats, which its files tell.
        dst: a new folder.
        to: the format.
    """
    convert_sae(src, dst, to)
    console.print(f"{to}: {dst}", highlight=False)


def report(run: Path) -> None:
    """Write the tables and the HTML report of a run's folder again, from its files alone.

    Args:
        run: the run's folder.
    """
    if not (run / "run.json").is_file():
        raise UserError(f"{str(run)!r} is not the folder of a run (no run.json): make one with `ard demo` or `ard run`")
    write_tables(run)
    Console().print(f"report: {write_report(run)}", soft_wrap=True)


def concepts(
    run: Path,
    *,
    search: str = "",
    sort: Order = "m",
    layer: int | None = None,
    expansion: int | None = None,
    most: int = MOST_LINES,
) -> None:
    """List the named concepts of a run, searched by a word and sorted.

    Args:
        run: the run's folder.
        search: a word in their names or captions.
        sort: by this column, best first.
        layer: of the dictionary, if not the run's own.
        expansion: of the dictionary, if not the run's own.
        most: lines to show.
    """
    about = Run.load(run)
    chosen = (about.layer if layer is None else layer, about.expansion if expansion is None else expansion)
    found = find_concepts(about, *chosen, search, sort)
    Console().print(render_concepts(found[:most]))
    console.print(f"{len(found[:most])} of {len(found)} concepts, layer {chosen[0]}, expansion {chosen[1]}")


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
    commands = parser.add_subcommands(required=True, metavar="COMMAND")
    for name, function in OWN.items():
        summary = _summary(function)
        subparser = ArgumentParser(description=summary)
        positional = POSITIONAL.get(name, {})
        for argument, (type_, said) in positional.items():
            subparser.add_argument(argument, type=type_, help=said)
        subparser.add_function_arguments(function, as_positional=False, skip=set(positional))
        commands.add_subcommand(name, subparser, help=summary)
    _add_shards(commands)
    for name, summary in LIGHTNING.items():
        commands.add_subcommand(name, ArgumentParser(), help=summary)
    parsed = parser.instantiate_classes(parser.parse_args(args))
    chosen = parsed[parsed.subcommand]
    if parsed.subcommand == "shards":
        shards(chosen)
    else:
        OWN[parsed.subcommand](**chosen.as_dict())


def _add_shards(commands: Any) -> None:
    """Add `ard shards`: every corpus has the options of its class."""
    parser = ArgumentParser(description=_summary(shards))
    parser.add_argument(
        "--check", type=Path | None, help="check these shards instead: counts, clips that cannot be read, duplicates"
    )
    commands.add_subcommand("shards", parser, help=_summary(shards))
    sources = parser.add_subcommands(required=False, dest="source", metavar="SOURCE")
    for name, corpus in SOURCES.items():
        subparser = ArgumentParser(description=_summary(corpus))
        subparser.add_class_arguments(corpus, as_positional=False)
        subparser.add_argument("--out", type=Path, required=True, help="folder of the shards")
        sources.add_subcommand(name, subparser, help=_summary(corpus))


def _summary(documented: object) -> str:
    return str(inspect.getdoc(documented)).partition("\n")[0]


OWN: dict[str, Callable[..., None]] = {
    "demo": demo,
    "run": run,
    "table": table,
    "concepts": concepts,
    "report": report,
    "plan": plan,
    "convert": convert,
}
POSITIONAL: dict[str, dict[str, tuple[Any, str]]] = {
    "table": {"number": (int, "1, 3 or 4")},
    "convert": {"src": (str, "folder or hub id of an SAE in any of the formats"), "dst": (Path, "a new folder")},
}


def _fingerprint(folder: Path) -> str:
    """Return a hash of the names, sizes and times of a folder's files, so that a changed folder is another run."""
    listed = [
        f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()[:12]
