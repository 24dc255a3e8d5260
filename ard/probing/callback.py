"""Outputs of the pass itself: the scores of the clips, and the norms of their activations."""

import math

import torch
from torch import Tensor

from ard.activations import read_manifest
from ard.probing.evaluator import Evaluator
from ard.probing.functional import ClipScores
from ard.probing.module import Scored
from ard.probing.scores import CollectScores
from ard.results import Figure, Result
from ard.run import Cell
from ard.sae import Dictionary
from ard.sae.metric import BETTER, NormByPosition, Quality

QUALITY_UNITS = {"fvu": "share of the variance", "l0": "features a token", "dead_share": "share of the features"}


class KeepScores(Evaluator):
    """Write ``scores.safetensors``: which features are active in which clips, and how much (Eq. 2).

    It holds all clips of the evaluation set, and the labelled clips of the probing set. Without an evaluation set, it
    holds all clips of the probing set. For each split: ``<split>/rows`` and ``<split>/features`` (one entry for every
    clip and feature whose mean activation is not 0), ``<split>/values`` [entries, scorers] (Eq. 2, mean and coverage)
    and ``<split>/num_clips``. ``num_features`` is the width of the dictionary.
    """

    makes = ("scores",)

    def __init__(self) -> None:
        super().__init__()

    def start(self, cell: Cell, dictionary: Dictionary) -> None:
        """Start empty."""
        self._num_features, self._all = dictionary.d_sae, {"eval"} if cell.evaluation else {"probe"}
        self._scores = {split: CollectScores().to(self.device) for split in cell.splits}
        for metric in self._scores.values():  # so that a rank without clips has an empty tensor to gather
            nothing = torch.zeros(0, dictionary.d_sae, dtype=torch.float64, device=self.device)
            no_rows = torch.zeros(0, dtype=torch.int64, device=self.device)
            metric.update(ClipScores(nothing, nothing, nothing), no_rows, no_rows.bool())

    def update(self, split: str, scored: Scored) -> None:
        """Add a batch."""
        every = split in self._all
        kept = torch.tensor([every or bool(clip.get("labels")) for clip in scored.batch.metadata], dtype=torch.bool)
        self._scores[split].update(scored.scores, scored.batch.rows, kept.to(scored.batch.rows.device))

    def gather(self) -> None:
        """Gather the entries of all ranks."""
        self._gathered = {split: metric.compute() for split, metric in self._scores.items()}
        for metric in self._scores.values():
            metric.reset()

    def evaluate(self, cell: Cell) -> Result | None:
        """Write the entries; they contain no figure to report."""
        tensors: dict[str, Tensor] = {"num_features": torch.tensor(self._num_features)}
        for split, entries in self._gathered.items():
            tensors |= {f"{split}/{name}": entry for name, entry in entries.items()}
            tensors[f"{split}/num_clips"] = torch.tensor(len(read_manifest(cell.splits[split]).clip_ids))
        cell.save_tensors("scores", tensors)
        del self._gathered
        return None


class MeasureReconstruction(Evaluator):
    """Write ``reconstruction.json``: how well the dictionary reconstructs the tokens that it was not trained on.

    They are those of the evaluation set; without one, those of the probing set (``tokens`` among the choices). The
    figures are ``fvu``, ``l0`` and ``dead_share`` of :class:`ard.sae.metric.Quality`; they have no interval.
    """

    results = ("reconstruction",)

    def __init__(self) -> None:
        super().__init__()

    def start(self, cell: Cell, dictionary: Dictionary) -> None:
        """Start empty."""
        self._split = cell.unseen
        self._own = dictionary
        self._quality = Quality(dictionary.d_in, dictionary.d_sae).to(self.device)

    def update(self, split: str, scored: Scored) -> None:
        """Add the tokens of a batch."""
        if split == self._split:
            x = scored.batch.x.float()
            self._quality.update(x, self._own.decode(scored.codes), scored.codes)

    def gather(self) -> None:
        """Gather the sums of all ranks."""
        self._num_tokens = int(self._quality.num_tokens)
        self._figures = {name: float(value) for name, value in self._quality.compute().items()}

    def evaluate(self, cell: Cell) -> Result | None:
        """Return the figures."""
        figures = {
            name: Figure(self._figures[name], math.nan, math.nan, self._num_tokens, unit, BETTER[name])
            for name, unit in QUALITY_UNITS.items()
        }
        return Result("reconstruction", (cell.row(figures),), {"tokens": self._split}, {})


class InputNorms(Evaluator):
    """Write ``input_norms.json``: mean and largest norm of x by position in the clip, to reveal outliers.

    Args:
        num_positions: first positions that are counted separately; all later ones are counted together.
    """

    results = ("input_norms",)

    def __init__(self, *, num_positions: int = 16) -> None:
        super().__init__()
        self.num_positions = num_positions

    def start(self, cell: Cell, dictionary: Dictionary) -> None:
        """Start empty."""
        self._norms = NormByPosition(self.num_positions).to(self.device)

    def update(self, split: str, scored: Scored) -> None:
        """Add the clips of a probing batch."""
        if split == "probe":
            self._norms.update(scored.batch.x, scored.batch.clip_of_token)

    def gather(self) -> None:
        """Gather the norms of all ranks."""
        self._gathered = {name: values.tolist() for name, values in self._norms.compute().items()}

    def evaluate(self, cell: Cell) -> Result | None:
        """Return the norms; the last entry is for all later positions."""
        return Result("input_norms", (), {"unit": "norm of x", "num_positions": self.num_positions}, self._gathered)
