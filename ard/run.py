"""A run's folder: the path of every file in it, stated once, and how the files are read and written."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tarfile import TarError
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ard.results import CONTROL_METHODS, OWN_METHOD, Control, Figure, Result, Row, replacing, write_json
from ard.types import UserError

FILES: Mapping[str, str] = {
    "representatives": "representatives.safetensors",
    "scores": "scores.safetensors",
    "selections": "monosemanticity.safetensors",
    "names": "names.parquet",
    "concepts": "concepts.parquet",
    "detection": "detection.parquet",
    "axes": "axes.parquet",
    "timelines": "timelines.safetensors",
    "timing": "timing.parquet",
    "name_embeddings": "name_embeddings.safetensors",
    "effects": "effects.parquet",
    "directions": "directions.safetensors",
    "active": "active.safetensors",
    "modality": "modality.parquet",
    "resamples": "matching_resamples.safetensors",
}
"""Files of a cell that one evaluator makes and others need, by the name that they refer to them by."""

STATED = ("preset", "seed", "model", "data", "layers", "expansions", "layer", "expansion", "p", "num_selected")
"""Facts that every run has."""

POLY_METHOD = "Poly. Feats."  # the paper's name for raw coordinates as features
RAW_METHODS: Mapping[str, str] = {"poly": POLY_METHOD, "half-waves": f"{POLY_METHOD}, half-waves"}
"""The methods of the dictionaries that need no files, by the name of the cell's folder."""

MANIFEST = "manifest.json"  # of shards; it is written last


def write_parquet(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write rows as parquet; the file appears whole or not at all."""
    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(list(rows)), partial)


@dataclass(frozen=True)
class Run:
    """The folder of a run, and the facts in its ``run.json``, once there is one.

    Reading a fact raises :class:`~ard.types.UserError` if the folder is not a run's.
    """

    folder: Path

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """Return an existing run.

        Raises:
            UserError: if the folder holds no complete ``run.json``.
        """
        run = cls(folder)
        for name in STATED:
            run.fact(name)
        return run

    @classmethod
    def open(cls, folder: Path, facts: Mapping[str, Any]) -> "Run":
        """Write the facts of a run into its folder and return it; the folder is made if it is missing.

        Raises:
            UserError: if the folder holds a run of another preset, or the folder cannot be written.
        """
        run = cls(folder)
        if run.path.is_file() and run.preset != facts["preset"]:
            raise UserError(
                f"{str(folder)!r} holds a run of preset {run.preset!r}, not {facts['preset']!r}: choose another --out"
            )
        try:
            write_json(run.path, facts)
        except OSError as error:
            raise UserError(
                f"output folder {str(folder)!r} cannot be written ({error.strerror}): choose another --out"
            ) from error
        return cls(folder)

    @property
    def path(self) -> Path:
        """The file of the facts."""
        return self.folder / "run.json"

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """What ``run.json`` says."""
        if not self.path.is_file():
            raise UserError(f"'{self.folder}' holds no run.json: give the --out folder of `ard demo` or `ard run`")
        try:
            facts = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"'{self.path}' is damaged ({error}): run `ard demo` or `ard run` again") from error
        if not isinstance(facts, dict):
            raise UserError(f"'{self.path}' is not a run.json of ard: run `ard demo` or `ard run` again")
        return facts

    def fact(self, name: str) -> Any:
        """Look up one of the facts."""
        if name not in self.facts:
            raise UserError(
                f"'{self.path}' is not a run.json of ard (it lacks {name!r}): run `ard demo` or `ard run` again"
            )
        return self.facts[name]

    @property
    def preset(self) -> str:
        """The folder of `configs` that was run."""
        return str(self.fact("preset"))

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.fact("seed"))

    @property
    def model(self) -> str:
        """The AudioLLM that is studied."""
        return str(self.fact("model"))

    @property
    def data(self) -> str:
        """The clips, in one sentence."""
        return str(self.fact("data"))

    @property
    def layers(self) -> tuple[int, ...]:
        """Decoder layers whose activations were extracted."""
        return tuple(self.fact("layers"))

    @property
    def expansions(self) -> tuple[int, ...]:
        """Expansions e of Table 4."""
        return tuple(self.fact("expansions"))

    @property
    def layer(self) -> int:
        """The layer of Tables 1 to 3."""
        return int(self.fact("layer"))

    @property
    def expansion(self) -> int:
        """The expansion of Tables 1 to 3."""
        return int(self.fact("expansion"))

    @property
    def p(self) -> int:
        """Representative clips of a feature."""
        return int(self.fact("p"))

    def audio(self, split: str) -> Path:
        """Audio shards of a split."""
        return self.folder / "audio" / split

    @property
    def audio_folders(self) -> list[Path]:
        """The folders of all splits, finished or not."""
        return sorted((self.folder / "audio").glob("*"))

    @property
    def audio_splits(self) -> list[Path]:
        """The splits whose audio shards are finished."""
        return [folder for folder in self.audio_folders if (folder / MANIFEST).is_file()]

    def activations(self, split: str) -> Path:
        """Activation shards of a split, if the run keeps them itself."""
        return self.folder / ("activations" if split == "probe" else f"activations-{split}")

    def embeddings(self, clap: str, split: str) -> Path:
        """Embeddings of a split's clips by a CLAP model."""
        return (
            self.folder / f"embeddings-{clap.replace('/', '--')}{'' if split == 'probe' else f'-{split}'}.safetensors"
        )

    @property
    def clips(self) -> Path:
        """One row per clip of the probing set; representatives refer to clips by row."""
        return self.folder / "clips.parquet"

    @property
    def captions(self) -> Path:
        """Captions of clips, shared by all cells."""
        return self.folder / "captions.parquet"

    @property
    def answers(self) -> Path:
        """Answers of the steered model, shared by all cells."""
        return self.folder / "answers.jsonl"

    @property
    def failures(self) -> Path:
        """Every clip that was left out, and why."""
        return self.folder / "failures.json"

    @property
    def study(self) -> Path:
        """The rating study."""
        return self.folder / "study" / "study.sqlite"

    @property
    def report(self) -> Path:
        """The page of the concept report."""
        return self.folder / "report" / "index.html"

    def stamp(self, name: str) -> Path:
        """The stamp of a step on a split of clips."""
        return self.folder / "stamps" / f"{name}.json"

    def table(self, number: int, suffix: str = "json") -> Path:
        """One of the paper's tables; number 0 is that of the gains, which the paper does not have."""
        return self.folder / "tables" / (f"table{number}.{suffix}" if number else f"gains.{suffix}")

    def cell(self, layer: int, of: int | str | None) -> "Cell":
        """Return the cell of a dictionary.

        Args:
            layer: the layer whose activations it reads.
            of: an expansion; None for the raw coordinates (`Poly. Feats.`); or the name of the cell's folder.
        """
        facts = self.facts if self.path.is_file() else {}
        probe = self._place(facts["activations"]) if "activations" in facts else self.activations("probe")
        held_out: Path | str | None = self.activations("eval")
        if "evaluation" in facts:
            held_out = facts["evaluation"] and self._place(facts["evaluation"])
        elif not (self.activations("eval") / MANIFEST).is_file():
            held_out = None
        label = "poly" if of is None else f"e{of}" if isinstance(of, int) else of
        of_expansion = _EXPANSION.fullmatch(label)
        expansion = int(of_expansion[1]) if of_expansion else None
        method = (
            CONTROL_METHODS[of_expansion[2]] if of_expansion and of_expansion[2] else RAW_METHODS.get(label, OWN_METHOD)
        )
        return Cell(self, layer, label, expansion, probe, held_out, method, method != OWN_METHOD)

    def _place(self, path: str) -> Path | str:
        """Return a path that is relative to the run's folder; a URL or a command stays as it is."""
        return path if ":" in path else self.folder / path

    @property
    def own(self) -> "Cell":
        """The cell of Tables 1 to 3."""
        return self.cell(self.layer, self.expansion)

    def controls(self, layer: int, expansion: int) -> list["Cell"]:
        """Return the cells of the dictionaries beside an SAE that were never trained, draw by draw."""
        folders = sorted((self.folder / f"layer-{layer}").glob(f"e{expansion}-*"))
        return [cell for folder in folders if (cell := self.cell(layer, folder.name)).control]

    @property
    def evaluated(self) -> list["Cell"]:
        """The cells that have results."""
        folders = sorted(path for path in self.folder.glob("layer-*/*") if _CELL.fullmatch("/".join(path.parts[-2:])))
        return [cell for folder in folders if (cell := Cell.at(folder)).result_files]

    def cells_with(self, file: str) -> list[str]:
        """Return the folders, relative to the run's, of the cells that hold one of ``FILES``."""
        return sorted(
            str(path.parent.relative_to(self.folder)) for path in self.folder.glob(f"layer-*/*/{FILES[file]}")
        )

    def results(self, evaluation: str, layers: Iterable[int], expansions: Iterable[int]) -> list[Result]:
        """Read one evaluation's results, layer by layer, raw coordinates first, without those that do not exist.

        The controls that were never trained are not among them (:meth:`controls`).
        """
        labels = [*RAW_METHODS, *(f"e{expansion}" for expansion in sorted(expansions))]
        cells = [self.cell(layer, label) for layer in sorted(layers) for label in labels]
        results = (cell.result(evaluation) for cell in cells)
        return [result for result in results if result is not None]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Let an error in reading a file of a run say which file it is.

    Raises:
        UserError: if the file cannot be read, or holds something else than it should.
    """
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError, TarError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system; a reader's own have no number
            raise UserError(f"'{path}' cannot be read ({error.strerror}): make it readable for you") from error
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"'{path}' is damaged ({reason}): delete it, and run what made it again") from error


_CELL = re.compile(r"layer-(\d+)/([\w-]+)")
_EXPANSION = re.compile(rf"e(\d+)(?:-({'|'.join(CONTROL_METHODS)})-\d+)?")


@dataclass(frozen=True)
class Cell:
    """One dictionary of a run: its layer, its expansion, and everything measured on it.

    Args:
        run: the run that it belongs to.
        layer: the layer whose activations it reads.
        label: the name of its folder: ``e8`` for an expansion of 8, ``e8-untrained-0`` for the first control of it that
            was never trained, ``poly`` and ``half-waves`` for the raw coordinates, or a name of your own.
        expansion: e; None if it has none, like the raw coordinates.
        probe: activation shards of the probing set: a folder or a URL.
        evaluation: activation shards of clips that nothing was trained on; None if there are none.
        method: the method in the rows of its results.
        is_baseline: whether others are compared with it, and it is itself measured without baselines and controls.
    """

    run: Run
    layer: int
    label: str
    expansion: int | None
    probe: Path | str
    evaluation: Path | str | None
    method: str
    is_baseline: bool

    @classmethod
    def at(cls, folder: Path) -> "Cell":
        """Return the cell of a folder ``OUT/layer-<l>/<label>``.

        Raises:
            UserError: if the folder is not named like that.
        """
        match = _CELL.fullmatch("/".join(folder.absolute().parts[-2:]))
        if match is None:
            raise UserError(
                f"the name of cell {str(folder)!r} does not tell its layer: give OUT/layer-<l>/e<e>, or "
                "OUT/layer-<l>/poly for the raw coordinates"
            )
        layer, label = match.groups()
        return Run(folder.parent.parent).cell(int(layer), label)

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.run.folder / f"layer-{self.layer}" / self.label

    @property
    def control(self) -> Control | None:
        """The kind of dictionary that was never trained, if it is one."""
        of_expansion = _EXPANSION.fullmatch(self.label)
        return cast(Control | None, of_expansion[2]) if of_expansion else None

    @property
    def source(self) -> str | Path:
        """What its dictionary is loaded from: its SAE, or the name of a dictionary that needs no files."""
        return self.label if self.label in RAW_METHODS else self.sae

    def row(self, figures: Mapping[str, Figure], *, control: str = "", **more: Any) -> Row:
        """Return a row of a result for this cell's method, or for a control of it, with any further fields."""
        method = f"{self.method}, {control}" if control else self.method
        return Row(method, self.layer, self.expansion, figures, **more)

    @property
    def name(self) -> str:
        """Its name in messages."""
        name = self.label if self.control else f"expansion {self.expansion}" if self.expansion else self.method
        return f"layer {self.layer}, {name}"

    @property
    def sae(self) -> Path:
        """The SAE, in SAELens' layout."""
        return self.folder / "sae"

    @property
    def has_sae(self) -> bool:
        """Whether the SAE is there; its configuration is written last."""
        return (self.sae / "cfg.json").is_file()

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of its training."""
        return self.folder / "checkpoints"

    @property
    def stamps(self) -> list[Path]:
        """The stamps that there are."""
        return sorted((self.folder / "stamps").glob("*.json"))

    def stamp(self, name: str) -> Path:
        """The stamp of a step, or of an evaluator."""
        return self.folder / "stamps" / f"{name}.json"

    @property
    def tracking(self) -> Path:
        """What is kept of it for an experiment tracker: the ids of its W&B runs."""
        return self.folder / "wandb.json"

    def clear(self) -> None:
        """Remove everything that ard made of it but its W&B runs' ids, and nothing that somebody else put there."""
        sae = self.sae / "cfg.json", *self.sae.glob("*.safetensors")
        for path in (*sae, *self.result_files, *self.stamps, *map(self.path, FILES), *self.checkpoints.glob("*.ckpt")):
            path.unlink(missing_ok=True)

    @property
    def splits(self) -> dict[str, Path | str]:
        """The activation shards that it is measured on, by split."""
        return {"probe": self.probe} | ({} if self.evaluation is None else {"eval": self.evaluation})

    @property
    def made(self) -> Path | None:
        """Activation shards of new clips that were made to test names; None if there are none."""
        folder = self.run.activations("made")
        return folder if (folder / MANIFEST).is_file() else None

    @property
    def unseen(self) -> str:
        """The split on whose clips names are tested."""
        return "probe" if self.evaluation is None else "eval"

    def path(self, file: str) -> Path:
        """Return where one of ``FILES`` lies."""
        return self.folder / FILES[file]

    def tensors(self, file: str) -> dict[str, Tensor]:
        """Read one of ``FILES`` that holds tensors.

        Raises:
            UserError: if it is not there, or damaged.
        """
        with readable(path := self._existing(file)):
            return load_file(path)

    def rows(self, file: str) -> list[dict[str, Any]]:
        """Read one of ``FILES`` that is a table.

        Raises:
            UserError: if it is not there, or damaged.
        """
        with readable(path := self._existing(file)):
            return pq.read_table(path).to_pylist()

    def _existing(self, file: str) -> Path:
        path = self.path(file)
        if not path.is_file():
            raise UserError(f"'{self.folder}' holds no {path.name}: run `lightning test` or `ard table` on it first")
        return path

    def save_tensors(self, file: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
        """Write one of ``FILES`` that holds tensors."""
        on_cpu = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        with replacing(self.path(file)) as partial:
            save_file(on_cpu, partial, metadata=dict(metadata) if metadata else None)

    def save_rows(self, file: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one of ``FILES`` that is a table."""
        write_parquet(rows, self.path(file))

    @property
    def result_files(self) -> list[Path]:
        """The files of all results that there are; their names are those of the evaluations."""
        return sorted(path for path in self.folder.glob("*.json") if path != self.tracking)

    def result_path(self, evaluation: str) -> Path:
        """Return where the result of an evaluation lies."""
        return self.folder / f"{evaluation}.json"

    def result(self, evaluation: str) -> Result | None:
        """Read the result of an evaluation; None where there is none.

        Raises:
            UserError: if it is damaged.
        """
        path = self.result_path(evaluation)
        with readable(path):
            return Result.load(path) if path.is_file() else None
