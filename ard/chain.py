"""The stages chained in a run's folder: what `ard demo`, `ard run` and `ard table` do, each step once."""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.progress import track

from ard.activations import read_manifest, write_clips_table
from ard.audio import MANIFEST, Corpora, read_audio_manifest, write_audio_shards
from ard.audiollm import EMBEDDED
from ard.evaluation import MatchReading
from ard.evaluation.study import FILE, Store, score_study
from ard.files import LOCK, claim, in_use
from ard.presets import CONFIGS, plain, preset_facts, run_preset
from ard.reports import log_tables, render_table, write_report, write_tables
from ard.results import write_json, write_text
from ard.sae import PLACEHOLDER, is_whole
from ard.types import Clip, Failure, UserError

console = Console(stderr=True)


def claim_run(out: Path) -> AbstractContextManager[None]:
    """Keep a run's folder to this process; refuse one that holds anything but a run, or audio shards to start from."""
    return claim(out, refuse=_refuse_foreign)


def _refuse_foreign(out: Path) -> None:
    is_ours = (out / "run.json").is_file() or any((out / "audio").glob(f"*/{LOCK}"))
    if in_use(out) and not is_ours:
        raise UserError(f"folder {str(out)!r} is in use, and not by a run: choose a new or empty one as --out")


class Chain:
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
        facts = {name: _spelled_alike(name, value) for name, value in facts.items()}
        self.facts = preset_facts(preset, facts)
        self._check_reading()
        self.out = Path(self.facts.out)
        # of paths in the folder it says where they lie there, so that the folder may be called or moved as one likes
        self._about = {"preset": preset, **plain(preset_facts(preset, {**facts, "out": "."}))}

    @contextmanager
    def begun(self) -> Iterator["Chain"]:
        """Keep the run's folder to this process, and write ``run.json`` there, or see that it is of this very run.

        Raises:
            UserError: if the folder holds anything else, is in use by another process, or cannot be written.
        """
        with claim_run(self.out):
            path = self.out / "run.json"
            if not path.is_file():
                write_json(path, self._about)
            elif _read(path) != json.loads(json.dumps(self._about)):
                raise UserError(
                    f"{str(self.out)!r} holds another run (see its run.json): choose another --out, or delete it"
                )
            yield self

    def _check_reading(self) -> None:
        """Refuse a reading of Table 1 that does not exist, before anything is written."""
        reading = plain(self.facts)["matching"]
        try:
            MatchReading(**reading)
        except TypeError as error:
            raise UserError(
                f"`matching` {reading} of the run is no reading ({error}): see ard.evaluation.MatchReading"
            ) from error

    def prepare(self, *splits: str) -> None:
        """Write the audio shards of splits that the preset says where to find, unless they are there.

        Raises:
            UserError: if a corpus is missing, before anything is written.
        """
        sources = {}
        for split in splits:
            if split in self.facts.audio and not self._has_audio(split):
                try:
                    sources[split] = Corpora(plain(self.facts)["audio"][split])
                except UserError as error:
                    raise UserError(
                        f"split {split!r}, which the preset has under `audio`, cannot be made: {error}"
                    ) from error
        for split, source in sources.items():
            self.write_audio(split, source)

    def write_audio(self, split: str, source: Iterable[Clip | Failure]) -> None:
        """Write the audio shards of a split, unless they are there."""
        if not self._has_audio(split):
            write_split(self.out, split, source)

    def _has_audio(self, split: str) -> bool:
        return (self.out / "audio" / split / MANIFEST).is_file()

    def table(self, number: int) -> None:
        """Fill the cells that a table needs."""
        self.prepare(*(self.facts.audio if number == 3 else ("probe", "eval")))
        self.extract()
        if number == 4:
            for layer in self.facts.layers:
                self.train(layer, self.facts.expansions)
                for expansion in self.facts.expansions:
                    self.step("score", layer, expansion)
                self.step("score", layer, None)
        elif self.facts.evaluation:
            self.train(self.facts.layer, [self.facts.expansion])
            for expansion in (self.facts.expansion, None):
                self.step("test", self.facts.layer, expansion)
                if number == 3:
                    self.step("steer", self.facts.layer, expansion)
            for layer in self.facts.layers if number == 1 else ():
                self.train(layer, [self.facts.expansion])
                self.step("test", layer, self.facts.expansion)
            if number == 2:
                self.score_study()

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

    def train(self, layer: int, expansions: Iterable[int]) -> None:
        """Train the SAEs of a layer that are not there yet, side by side: each becomes what it would alone."""
        missing = [e for e in expansions if not (self._cell(layer, e) / "sae" / "cfg.json").is_file()]
        if not missing:
            return
        _say(f"SAE: layer {layer}, expansion {', '.join(map(str, missing))}")
        facts = self._cell_facts(layer, missing[0]) | {"sae": str(self._cell(layer, PLACEHOLDER) / "sae")}
        if len(missing) > 1:
            facts |= {"expansion": missing, "cell": str(self._cell(layer, "-".join(map(str, missing))))}
        whole = newest_whole(Path(facts["cell"]) / "checkpoints")
        self._lightning("fit", "fit", facts, **({"ckpt_path": str(whole)} if whole else {}))

    def step(self, config: str, layer: int, expansion: int | None) -> None:
        """Run a test configuration on a cell, or on the raw coordinates; its resolved YAML marks that it is done."""
        done = self._cell(layer, expansion) / f"{config}.yaml"
        if not done.is_file():
            _say(f"{config}: layer {layer}, " + (f"expansion {expansion}" if expansion else "Poly. Feats."))
            resolved = self._lightning("test", config, self._cell_facts(layer, expansion))
            write_text(done, resolved)

    def score_study(self) -> None:
        """Score the answers of people and language models to the run's study, if there are any."""
        store = Store(self.out / FILE) if (self.out / FILE).is_file() else None
        if store and any(answer.label for answer in store.answers()):
            _say(f"study: {store.path}")
            result = self._cell(self.facts.layer, self.facts.expansion) / "study.json"
            facts = {key: self.facts[key] for key in ("clap", "bertscore", "seed")}
            score_study(store, result, **facts)

    def report_failures(self) -> None:
        """Gather what was left out of the run, by whatever stage."""
        failures = [
            f for folder in sorted((self.out / "audio").iterdir()) for f in read_audio_manifest(folder).failures
        ]
        for extracted in (self.facts.activations, self.facts.evaluation):
            if extracted and (Path(extracted) / "manifest.json").is_file():
                failures += read_manifest(Path(extracted)).failures
        write_failures(self.out, failures)

    def finish(self) -> None:
        """Write tables and report, show them, and send the tables to W&B."""
        tables = write_tables(self.out)
        logger = WandbLogger(project="ard", group=str(self.out), name="tables", offline=True, save_dir=self.out)
        log_tables(logger, tables)
        logger.experiment.finish()
        for made in tables:
            Console().print(render_table(made))
        Console().print(f"report: {write_report(self.out)}", soft_wrap=True)

    def _cell(self, layer: int, expansion: int | str | None) -> Path:
        return self.out / f"layer-{layer}" / (f"e{expansion}" if expansion else "poly")

    def _cell_facts(self, layer: int, expansion: int | None) -> dict[str, Any]:
        cell: dict[str, Any] = {"layer": layer, "expansion": expansion, "cell": str(self._cell(layer, expansion))}
        if layer != self.facts.layer:  # of other layers Table 1 has AR&D alone
            cell |= {"baselines": False}
        return cell if expansion else {**cell, "sae": "poly"}

    def _lightning(self, command: str, config: str, facts: dict[str, Any], **settings: str) -> str:
        return run_preset(command, self.configs / f"{config}.yaml", self.facts, facts, **settings)


def write_split(out: Path, split: str, source: Iterable[Clip | Failure]) -> int:
    """Write the audio shards of a split of a run, anew if they are there, and return the number of its clips."""
    num_clips, failures = write_audio_shards(tracked(source, f"audio: {split}"), out / "audio" / split)
    say_failures(failures)
    return num_clips


def write_failures(out: Path, failures: Iterable[Failure]) -> None:
    """Write what was left out of a run."""
    write_json(out / "failures.json", {"failures": [failure._asdict() for failure in failures]})


def _spelled_alike(name: str, value: Any) -> Any:
    """Return a fact; what names a folder here by its one absolute path."""
    is_path = name in ("model", "clap", "bertscore", "root") and value not in (None, EMBEDDED) and Path(value).exists()
    return str(Path(value).resolve()) if is_path else value


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{str(path)!r} is no run.json of a run ({error}): choose another --out") from error


def newest_whole(folder: Path) -> Path | None:
    """Return the newest checkpoint that is whole, if any, and show which newer ones are not."""
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if is_whole(path):
            _say(f"goes on from {path}")
            return path
        _say(f"{path} is cut short or damaged: passed over")
    return None


def tracked(source: Iterable[Any], description: str) -> Iterable[Any]:
    """Show progress while a source is read."""
    total = len(source) if isinstance(source, Sized) else None
    return track(source, description, total=total, console=console, transient=True)


def _say(step: str) -> None:
    console.print(f"[bold]·[/bold] {step}", highlight=False, soft_wrap=True)


def say_failures(failures: list[Failure], most: int = 20) -> None:
    """Show what was left out, and why: how many for each reason, and the first of them by name."""
    if not failures:
        return
    console.print(f"{len(failures)} left out:", style="yellow", highlight=False)
    for failure in failures[:most]:
        console.print(f"  {failure.id}: {failure.reason}", markup=False, highlight=False, soft_wrap=True)
    if len(failures) > most:
        console.print("  and more; in all:", highlight=False)
        for reason, count in Counter(failure.reason for failure in failures).most_common(most):
            console.print(f"  {count} x {reason}", markup=False, highlight=False, soft_wrap=True)
