"""The commands. `ard` and `lightning` are two names of one entry point: the one file that knows every stage.

`fit`, `validate`, `test` and `predict` (which `ard extract` calls) are LightningCLI's own, on the YAML files of a
preset; `demo`, `run` and `table` chain them, each step in the run's folder and skipped where it is done.
"""

import hashlib
import inspect
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sized
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import transformers
import yaml
from jsonargparse import ArgumentParser
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import track

from ard.activations import read_manifest, write_clips_table
from ard.audio import FolderClips, SyntheticCorpus, read_audio_manifest, write_audio_shards
from ard.audiollm import EMBEDDED, load_audiollm
from ard.reports import log_tables, render_table, write_report, write_tables
from ard.types import Clip, Failure, UserError, write_json

LIGHTNING = {
    "fit": "train one SAE from a YAML file (Lightning)",
    "validate": "reconstruction on held-out tokens (Lightning)",
    "test": "retrieve, score, name and evaluate with the callbacks of a YAML file (Lightning)",
    "predict": "Lightning's predict; `extract` is its name here",
    "extract": "audio shards to activation shards, several layers in one pass; resumes",
}
CONFIGS = next(
    folder
    for folder in (Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs")
    if folder.is_dir()
)
PAPER_LAYER = 26 / 32  # depth of the layer of Tables 1 to 3
LEAST_CLIPS = 4  # two in H^k and two in L^k
console = Console(stderr=True)


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
    except KeyboardInterrupt:
        console.print("ard: stopped; the same command goes on from what is finished", style="red")
        raise SystemExit(130) from None


def demo(out: Path = Path("runs/demo"), seed: int = 0) -> None:
    """Run the whole method on the embedded default: Tables 1, 3 and 4 in miniature and the HTML report.

    Args:
        out: the run's folder; a second call goes on where the first was stopped.
        seed: of the sounds, the SAEs and every draw.
    """
    run_folder = _Run("demo", {"out": str(out), "seed": seed})
    run_folder.synthesise()
    for table_number in (4, 1, 3):
        run_folder.table(table_number)
    run_folder.finish()


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
    run_folder = _Run(preset, {"out": str(out or Path("runs") / preset), "seed": seed})
    run_folder.synthesise()
    run_folder.table(number)
    run_folder.finish()


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
    source.segment_s = audiollm.prompter.window_s
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
        "embeddings": f"{out}/embeddings-{clap.replace('/', '--')}.safetensors",
        "tasks": [],
    }
    run_folder = _Run("demo", facts)
    run_folder.write_audio("probe", source)
    num_clips = read_audio_manifest(out / "audio" / "probe").num_clips
    if num_clips < LEAST_CLIPS:
        run_folder.report_failures()
        raise UserError(
            f"{num_clips} usable clips in {str(audio)!r}, at least {LEAST_CLIPS} are needed: "
            f"see {out / 'failures.json'} for what was left out and why"
        )
    run_folder.facts.p = min(4, num_clips // 2)
    run_folder.table(4)
    run_folder.describe()
    run_folder.finish()


def shards(
    source: Literal["folder", "synthetic"],
    out: Path,
    root: Path | None = None,
    segment_s: float | None = None,
    split: str = "probe",
    num_clips: int = 1200,
    speech_share: float = 0.3,
    seed: int = 0,
) -> None:
    """Write a corpus as WebDataset audio shards.

    Args:
        source: ``folder`` (sounds under ``--root``) or ``synthetic`` (made from a seed).
        out: folder of the shards.
        root: folder of sounds.
        segment_s: cut files of a folder into pieces of at most this length.
        split: name of a synthetic split; no two share a clip.
        num_clips: clips of a synthetic split.
        speech_share: share of voices in a synthetic split.
        seed: of a synthetic split.
    """
    if source == "folder" and root is None:
        raise UserError("source 'folder' needs the folder of sounds: give --root DIR")
    clips: Iterable[Clip | Failure] = (
        SyntheticCorpus(split, num_clips, seed=seed, speech_share=speech_share)
        if root is None
        else FolderClips(root, segment_s)
    )
    written, failures = write_audio_shards(_tracked(clips, "audio"), out)
    _say_failures(failures)
    console.print(f"{written} clips in {out}")


def report(run: Path) -> None:
    """Write the tables and the HTML report of a run's folder again, from its files alone.

    Args:
        run: the run's folder.
    """
    if not (run / "run.json").is_file():
        raise UserError(f"{str(run)!r} is not the folder of a run (no run.json): make one with `ard demo` or `ard run`")
    write_tables(run)
    Console().print(f"report: {write_report(run)}", soft_wrap=True)


class _Run:
    """A run's folder: the facts it was started with, and the steps that fill it, each done once.

    Args:
        preset: a folder of `configs`.
        facts: what differs from the preset's ``run.yaml``.
    """

    def __init__(self, preset: str, facts: dict[str, Any]) -> None:
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
        os.environ.setdefault("WANDB_SILENT", "true")
        self.configs = CONFIGS / preset
        if not (self.configs / "run.yaml").is_file():
            known = sorted(folder.parent.name for folder in CONFIGS.glob("*/run.yaml"))
            raise UserError(f"preset {preset!r} does not exist: choose one of {known}")
        merged = _merged(OmegaConf.load(self.configs / "run.yaml"), facts)
        self.facts = OmegaConf.create({"run": merged}).run  # inside a root, so that ${run.<fact>} is found
        self.out = Path(self.facts.out)
        wanted = {"preset": preset, **_plain(self.facts)}
        path = self.out / "run.json"
        if path.is_file() and json.loads(path.read_text()) != json.loads(json.dumps(wanted)):
            raise UserError(
                f"{str(self.out)!r} holds another run (see its run.json): choose another --out, or delete it"
            )
        try:
            write_json(path, wanted)
        except OSError as error:
            raise UserError(
                f"output folder {str(self.out)!r} cannot be written ({error.strerror}): choose another --out"
            ) from error

    def synthesise(self) -> None:
        """Make the clips of every split of the preset."""
        for split, settings in self.facts.audio.items():
            self.write_audio(split, SyntheticCorpus(split, seed=self.facts.seed, **settings))

    def write_audio(self, split: str, source: Iterable[Clip | Failure]) -> None:
        """Write the audio shards of a split."""
        folder = self.out / "audio" / split
        if not folder.is_dir():
            _, failures = write_audio_shards(_tracked(source, f"audio: {split}"), folder)
            _say_failures(failures)

    def table(self, number: int) -> None:
        """Fill the cells that a table needs."""
        self.extract()
        if number == 4:
            for layer in self.facts.layers:
                for expansion in self.facts.expansions:
                    self.train(layer, expansion)
                    self.step("score", layer, expansion)
                self.step("score", layer, None)
        elif self.facts.evaluation:
            self.train(self.facts.layer, self.facts.expansion)
            self.describe()
            self.step("test", self.facts.layer, None)

    def describe(self) -> None:
        """Retrieve, score, name and evaluate on the run's main cell."""
        self.step("test", self.facts.layer, self.facts.expansion)

    def extract(self) -> None:
        """Extract the probing set and, if there is one, the evaluation set."""
        sets = {"probe": self.facts.activations, "eval": self.facts.evaluation}
        for split, folder in sets.items():
            if folder and not (Path(folder) / "manifest.json").is_file():
                _say(f"activations: {split}, layers {list(self.facts.layers)} in one pass")
                self._lightning("predict", "extract", {"split": split, "activations": folder})
        write_clips_table(Path(self.facts.activations), self.out / "clips.parquet", "probe")
        self.report_failures()

    def train(self, layer: int, expansion: int) -> None:
        """Train the SAE of a cell."""
        if not (self._cell(layer, expansion) / "sae" / "cfg.json").is_file():
            _say(f"SAE: layer {layer}, expansion {expansion}")
            self._lightning("fit", "fit", self._cell_facts(layer, expansion))

    def step(self, config: str, layer: int, expansion: int | None) -> None:
        """Run a test configuration on a cell, or on the raw coordinates; its resolved YAML marks that it is done."""
        done = self._cell(layer, expansion) / f"{config}.yaml"
        if not done.is_file():
            _say(f"{config}: layer {layer}, " + (f"expansion {expansion}" if expansion else "Poly. Feats."))
            resolved = self._lightning("test", config, self._cell_facts(layer, expansion))
            done.write_text(resolved)

    def report_failures(self) -> None:
        """Gather what was left out of the run, by whatever stage."""
        failures = [
            f for folder in sorted((self.out / "audio").iterdir()) for f in read_audio_manifest(folder).failures
        ]
        for extracted in (self.facts.activations, self.facts.evaluation):
            if extracted and (Path(extracted) / "manifest.json").is_file():
                failures += read_manifest(Path(extracted)).failures
        write_json(self.out / "failures.json", {"failures": [failure._asdict() for failure in failures]})

    def finish(self) -> None:
        """Write tables and report, show them, and send the tables to W&B."""
        tables = write_tables(self.out)
        logger = WandbLogger(project="ard", group=str(self.out), name="tables", offline=True, save_dir=self.out)
        log_tables(logger, tables)
        logger.experiment.finish()
        for made in tables:
            Console().print(render_table(made))
        Console().print(f"report: {write_report(self.out)}", soft_wrap=True)

    def _cell(self, layer: int, expansion: int | None) -> Path:
        return self.out / f"layer-{layer}" / (f"e{expansion}" if expansion else "poly")

    def _cell_facts(self, layer: int, expansion: int | None) -> dict[str, Any]:
        cell = {"layer": layer, "expansion": expansion, "cell": str(self._cell(layer, expansion))}
        return cell if expansion else {**cell, "sae": "poly"}

    def _lightning(self, command: str, config: str, facts: dict[str, Any]) -> str:
        """Run a LightningCLI command on a file of the preset with the facts of this run; return the resolved YAML."""
        resolved = _resolved(self.configs / f"{config}.yaml", _merged(self.facts, facts))
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"{config}.yaml"
            path.write_text(resolved)
            _CLI([command, "--config", str(path)])
        return resolved


class _CLI(LightningCLI):
    """LightningCLI with the defaults of this project: any model and data by class_path, a fixed seed."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,  # a run keeps the resolved YAML itself
            seed_everything_default=0,
            auto_configure_optimizers=False,
            args=args,
        )


def _lightning(args: list[str]) -> None:
    """Run a LightningCLI command; in its YAML files ``${run.<fact>}`` is a fact of the ``run.yaml`` beside them.

    ``--run.<fact> VALUE`` changes a fact.
    """
    facts: list[str] = []
    passed: list[str] = []
    words = iter(args)
    for word in words:
        if word.startswith("--run."):
            name, equals, value = word.removeprefix("--run.").partition("=")
            facts.append(f"{name}={value if equals else next(words, '')}")
        elif word in ("--config", "-c"):
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
                resolved.write_text(_resolved(path, _merged(known, OmegaConf.from_dotlist(facts))))
                passed[index] = str(resolved)
        _CLI(passed)


def _merged(facts: Any, changes: Any) -> DictConfig:
    merged = OmegaConf.merge(facts, changes)
    assert isinstance(merged, DictConfig)
    return merged


def _plain(facts: DictConfig) -> dict[str, Any]:
    """Return the facts with their references to one another resolved."""
    resolved = OmegaConf.to_container(OmegaConf.create({"run": facts}), resolve=True)
    assert isinstance(resolved, dict)
    return resolved["run"]


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


def _command(args: list[str]) -> None:
    """Parse and run one of this project's own commands."""
    parser = ArgumentParser(prog="ard", description="Find, name and test the concepts inside audio language models.")
    parser.add_argument("--version", action="version", version=f"ard-audio {version('ard-audio')}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subcommands(required=True, metavar="COMMAND")
    for name, function in OWN.items():
        summary = str(inspect.getdoc(function)).partition("\n")[0]
        subparser = ArgumentParser(description=summary)
        positional = POSITIONAL.get(name)
        if positional:
            subparser.add_argument(positional[0], type=positional[1], help=positional[2])
        subparser.add_function_arguments(function, as_positional=False, skip={positional[0]} if positional else None)
        commands.add_subcommand(name, subparser, help=summary)
    for name, summary in LIGHTNING.items():
        commands.add_subcommand(name, ArgumentParser(), help=summary)
    parsed = parser.instantiate_classes(parser.parse_args(args))
    OWN[parsed.subcommand](**parsed[parsed.subcommand].as_dict())


OWN: dict[str, Callable[..., None]] = {"demo": demo, "run": run, "shards": shards, "table": table, "report": report}
POSITIONAL: dict[str, tuple[str, Any, str]] = {
    "table": ("number", int, "1, 3 or 4"),
    "shards": ("source", Literal["folder", "synthetic"], "sounds under --root, or sounds made from a seed"),
}


def _tracked(source: Iterable[Any], description: str) -> Iterable[Any]:
    """Show progress while a source is read."""
    total = len(source) if isinstance(source, Sized) else None
    return track(source, description, total=total, console=console, transient=True)


def _say(step: str) -> None:
    console.print(f"[bold]·[/bold] {step}", highlight=False)


def _say_failures(failures: list[Failure]) -> None:
    """Show what was left out, and why."""
    if failures:
        console.print(f"{len(failures)} left out:", style="yellow", highlight=False)
    for failure in failures:
        console.print(f"  {failure.id}: {failure.reason}", markup=False, highlight=False, soft_wrap=True)


def _fingerprint(folder: Path) -> str:
    """Return a hash of the names, sizes and times of a folder's files, so that a changed folder is another run."""
    listed = [
        f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()[:12]
