"""The base class of evaluations: settings, and a function from a cell to a result. All plumbing is here."""

import copy
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ard.activations import ActivationDataModule, ProbeBatch, read_manifest
from ard.activations.layer import read_layer
from ard.activations.stream import Probe
from ard.console import at_work
from ard.embedding import EMBEDDED, Clap, embed_clips, load_clap
from ard.files import turn
from ard.probing.module import SPLITS, Encoding, Scored, score
from ard.ranks import Ranks
from ard.results import Result
from ard.run import FILES, Cell
from ard.sae import Dictionary, load_dictionary
from ard.stamps import Stamp, write_stamp
from ard.types import UserError

STAMPS: ContextVar[Sequence[Sequence[tuple[Path, Stamp]]]] = ContextVar("STAMPS", default=())
"""For each cell of a `test`, the stamps that its evaluators write, each when it is done, in their order; set by the
caller."""

CLIPS_PER_BATCH = 32  # without a DataModule to define it


class Evaluator(Callback):
    """The base of all evaluations of a dictionary.

    As a callback of `test`, it takes part in the pass over the clips that all evaluators share, on every rank, and
    writes its result when the pass has ended. If the pass is for several cells, a copy of it works on each. It can also
    be called without a Trainer, on a cell whose files exist: ``MatchLabels(...)(cell)`` writes and returns the result.

    An evaluation implements :meth:`evaluate`. One that needs the activations themselves implements :meth:`start`,
    :meth:`update` and :meth:`gather` too.

    Attributes:
        needs: names of ``ard.run.FILES`` that :meth:`evaluate` reads.
        makes: names of ``ard.run.FILES`` that it writes.
        results: names of the results that it writes, if the cell has the data for them.
        reads_made: whether it reads the activations of clips that were made to test names, where there are any.
        compares_texts: whether it compares texts by CLAP, and cannot do without.
        embeds: splits whose CLAP embeddings it needs: ``probe``, or ``unseen``, the split on which names are tested.

    Args:
        clap: the CLAP model; None for an evaluation that does without.
        seed: seed for draws and the bootstrap.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[tuple[str, ...]] = ()
    results: ClassVar[tuple[str, ...]] = ()
    embeds: ClassVar[tuple[str, ...]] = ()
    reads_made: ClassVar[bool] = False
    compares_texts: ClassVar[bool] = False

    def __init__(self, *, clap: str | None = EMBEDDED, seed: int = 0) -> None:
        self.clap_name, self.seed = clap, seed
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.ranks = Ranks()
        self._dictionary: Dictionary | None = None
        self._on_cells: list[tuple[Cell, Evaluator]] = []

    def check(self, cell: Cell) -> None:
        """Fail before any work if something is known to be missing."""

    def start(self, cell: Cell, dictionary: Dictionary) -> None:
        """Prepare for the pass."""

    def update(self, split: str, scored: Scored) -> None:
        """Take in a batch of clips."""

    def gather(self) -> None:
        """Combine what all ranks took in."""

    @abstractmethod
    def evaluate(self, cell: Cell) -> Result | None:
        """Return the result, or None if the cell has nothing to evaluate. Time and seed are added by the caller.

        It also writes any other files. It runs on the first rank only, which may hand out work by
        ``self.ranks.together``.
        """

    def helper(self, cell: Cell) -> Callable[..., object]:
        """Return what does this rank's share of a task that the first rank hands out while it evaluates."""
        return lambda *task: None

    @classmethod
    def lacks(cls, settings: Mapping[str, Any]) -> str | None:
        """Return what it cannot work without and its settings do not give; it is then left out. None if nothing."""
        return "a CLAP model that reads texts" if cls.compares_texts and settings.get("clap", "") is None else None

    @classmethod
    def streams(cls) -> bool:
        """Whether it takes part in the pass over the clips."""
        return cls.update is not Evaluator.update

    def dictionary(self, cell: Cell) -> Dictionary:
        """Return the dictionary of the cell, on the device."""
        if self._dictionary is None:
            d_in = read_manifest(cell.probe).d_in
            self._dictionary = load_dictionary(cell.source, d_in).to(self.device)
        return self._dictionary

    def clap(self) -> Clap:
        """Return the CLAP model, loaded once per process.

        Raises:
            UserError: if there is none.
        """
        if self.clap_name is None:
            raise UserError(f"{_name(self)} needs a CLAP model, and its clap is null: give it one, or leave it out")
        return load_clap(self.clap_name, device=self.device)

    def embeddings(self, cell: Cell, split: str, ranks: Ranks = Ranks()) -> Tensor:  # noqa: B008
        """Return the embeddings [clips, d] of a split's clips, each computed once per run, by ranks that call this.

        The split ``made`` has the clips that were made to test names.
        """
        folder = cell.made if split == "made" else cell.splits[split]
        assert folder is not None
        clip_ids, clap = read_manifest(folder).clip_ids, self.clap()
        path = cell.run.embeddings(clap.name, split)
        audio = cell.run.audio(split)
        with turn(path):
            ranks.barrier()
            return embed_clips(
                clap,
                audio,
                clip_ids,
                path,
                num_workers=ranks.num_workers,
                rank=ranks.rank,
                world_size=ranks.size,
                barrier=ranks.barrier,
            )

    def __call__(self, cell: Cell, dictionary: Dictionary | None = None) -> Result | None:
        """Evaluate a cell without a Trainer: pass over the clips if needed, then write and return the result.

        Args:
            cell: the cell to evaluate.
            dictionary: a dictionary to use instead of the cell's SAE.

        Raises:
            UserError: if a file that it needs is missing.
        """
        for file in self.needs:
            if not cell.path(file).is_file():
                raise UserError(_missing(self, file, cell))
        self._dictionary = dictionary.to(self.device) if dictionary else None
        if dictionary is not None:
            cell = _of(cell, dictionary)
        self.check(cell)
        started = time.monotonic()
        if self.streams():
            self._pass(cell)
        return self._conclude(cell, started)

    @torch.inference_mode()
    def _pass(self, cell: Cell) -> None:
        dictionary = self.dictionary(cell)
        self.start(cell, dictionary)
        for split, folder in cell.splits.items():
            for batch in Probe(read_layer(folder, cell.layer), CLIPS_PER_BATCH):
                x, clip_of_token, rows = (part.to(self.device) for part in batch[:3])
                self.update(split, score(dictionary, ProbeBatch(x, clip_of_token, rows, batch.metadata)))
        self.gather()

    def _conclude(self, cell: Cell, started: float) -> Result | None:
        result = self.evaluate(cell)
        if result is None:
            for evaluation in self.results:  # of other clips, or other settings
                cell.result_path(evaluation).unlink(missing_ok=True)
            return None
        precision = getattr(self._dictionary, "metadata", {}).get("precision")
        choices = {**result.choices, **({"trained_in": precision} if precision else {})}
        result = replace(result, choices=choices, seed=self.seed, wall_time_s=time.monotonic() - started)
        result.save(cell.result_path(result.evaluation))
        return result

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work, before anything is done by any evaluator: an order, or something that is missing."""
        cells, evaluators = _cells(trainer, pl_module), _evaluators(trainer)
        place = evaluators.index(self)
        before, after = evaluators[:place], evaluators[place + 1 :]
        for file in self.needs:
            if any(file in earlier.makes for earlier in before):
                continue
            late = next((later for later in after if file in later.makes), None)
            if late is not None:
                raise UserError(
                    f"{_name(self)} needs {FILES[file]}, which {_name(late)} makes: list {_name(late)} before it"
                )
            if lacking := [cell for cell in cells if not cell.path(file).is_file()]:
                raise UserError(_missing(self, file, lacking[0]))
        if trainer.is_global_zero:
            for cell in cells:
                self.check(cell)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Embed this rank's share of the clips, and prepare for the pass."""
        assert isinstance(pl_module, Encoding)
        cells, self.device = _cells(trainer, pl_module), str(pl_module.device)
        self._seconds = 0.0
        num_workers = trainer.datamodule.num_workers  # type: ignore[attr-defined]
        strategy = trainer.strategy
        self.ranks = Ranks(trainer.global_rank, trainer.world_size, strategy.barrier, strategy.broadcast, num_workers)
        for split in self.embeds if self.clap_name is not None else ():
            self.embeddings(cells[0], cells[0].unseen if split == "unseen" else split, self.ranks)
        self._on_cells = [(cell, copy.copy(self)) for cell in cells]
        for (cell, own), dictionary in zip(self._on_cells, pl_module.dictionaries, strict=True):
            started = time.monotonic()
            own._dictionary = dictionary  # type: ignore[assignment]
            if self.streams():
                own.start(cell, dictionary)  # type: ignore[arg-type]
            own._seconds = time.monotonic() - started

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Mapping[str, Scored] | Any,
        batch: ProbeBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in a batch."""
        if self.streams():
            for (_, own), scored in zip(self._on_cells, outputs["scored"], strict=True):
                started = time.monotonic()
                own.update(SPLITS[dataloader_idx], scored)
                own._seconds += time.monotonic() - started

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Combine the ranks; the first one evaluates and writes, the others help."""
        stamps, number, num = STAMPS.get(), _evaluators(trainer).index(self), len(_evaluators(trainer))
        for place, (cell, own) in enumerate(self._on_cells):
            started = time.monotonic() - own._seconds
            if self.streams():
                own.gather()
            if not trainer.is_global_zero:
                own.ranks.follow(own.helper(cell))
                continue
            with own.ranks.leading():
                if not stamps:
                    self._place_of_stamp(trainer, cell).unlink(missing_ok=True)  # done by hand: it is no longer true
                with at_work(f"{_name(self)}, {number + 1} of {num}"):
                    result = own._conclude(cell, started)
                if stamps:  # until now there was the one from before, which says other settings
                    path, stamp = stamps[place][number]
                    write_stamp(path, stamp._replace(results=(result.evaluation,) if result else ()))
        self._on_cells = []

    def _place_of_stamp(self, trainer: Trainer, cell: Cell) -> Path:
        """Return where its stamp is; the second evaluator of a class has a number."""
        alike = [evaluator for evaluator in _evaluators(trainer) if type(evaluator) is type(self)]
        return cell.stamp(numbered(_name(self), alike.index(self) + 1))


def numbered(name: str, number: int) -> str:
    """Return what the stamp of an evaluator is called, which may be one of several of its class."""
    return name if number == 1 else f"{name}-{number}"


def _evaluators(trainer: Trainer) -> list[Evaluator]:
    return [callback for callback in trainer.callbacks if isinstance(callback, Evaluator)]  # type: ignore[attr-defined]


def _cells(trainer: Trainer, module: LightningModule) -> list[Cell]:
    """Return the cells, with the activations that this `test` reads."""
    assert isinstance(module, Encoding)
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, ActivationDataModule)
    for cell in module.cells:
        if data.layer != cell.layer:
            raise UserError(
                f"the data are of layer {data.layer} and the cell {str(cell.folder)!r} is of layer {cell.layer}: give "
                "both the same"
            )
    read = {"probe": data.activations, "evaluation": data.evaluation}
    return [
        _of(replace(cell, **read), dictionary)  # type: ignore[arg-type]
        for cell, dictionary in zip(module.cells, module.dictionaries, strict=True)
    ]


def _of(cell: Cell, dictionary: Dictionary) -> Cell:
    """Return the cell with the expansion, method and role that its dictionary declares."""
    expansion, method, is_baseline = dictionary.expansion, dictionary.method, dictionary.is_baseline
    return replace(cell, expansion=expansion, method=method, is_baseline=is_baseline)


def _name(evaluator: Evaluator) -> str:
    return type(evaluator).__name__


def _missing(evaluator: Evaluator, file: str, cell: Cell) -> str:
    return (
        f"{_name(evaluator)} needs {FILES[file]}, which is not in '{cell.folder}': "
        "list the evaluator that makes it before this one, or run it first"
    )
