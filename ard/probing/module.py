"""Turn whole clips into codes and scores, once for all evaluators, as a LightningModule."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, cast

import torch
from lightning import LightningModule
from torch import nn

from ard.activations import ActivationDataModule, ProbeBatch
from ard.probing.functional import ClipScores, clip_scores
from ard.run import Cell
from ard.sae import Dictionary, load_dictionary
from ard.types import Codes, UserError

SPLITS = ("probe", "eval")  # in the order of `test`'s data loaders


class Scored(NamedTuple):
    """A batch of whole clips, the codes of their tokens, and their scores for every feature."""

    batch: ProbeBatch
    codes: Codes
    scores: ClipScores


@torch.inference_mode()
def score(dictionary: Dictionary, batch: ProbeBatch) -> Scored:
    """Encode a batch of whole clips and score them."""
    codes = dictionary.encode(batch.x)
    return Scored(batch, codes, clip_scores(codes, batch.clip_of_token, len(batch.rows), dictionary.d_sae))


class Encoding(LightningModule):
    """Turn whole clips into codes and scores (`test`) for the evaluators, which are callbacks.

    The dictionaries of several cells of a layer encode the same batches: the clips are read once for all of them.

    Args:
        cell: folder of the cell, ``OUT/layer-<l>/e<e>``, or ``OUT/layer-<l>/poly`` for the raw coordinates; or several
            folders.
        d_in: width of the residual stream.
        dictionary: a custom dictionary to use instead of the cell's SAE.

    Raises:
        UserError: if a cell has no SAE, a dictionary has another width, or the cells are of several layers.
    """

    def __init__(self, cell: Path | list[Path], d_in: int, dictionary: Dictionary | None = None) -> None:
        super().__init__()
        self.cells = [Cell.at(Path(folder)) for folder in (cell if isinstance(cell, list) else [cell])]
        if len(layers := {cell.layer for cell in self.cells}) > 1:
            raise UserError(f"the cells are of layers {sorted(layers)}: give cells of one layer")
        if dictionary is not None and len(self.cells) > 1:
            raise UserError(f"one dictionary is given for {len(self.cells)} cells: give one cell")
        self.dictionaries = nn.ModuleList(dictionary or load_dictionary(cell.source, d_in) for cell in self.cells)
        for given in self._dictionaries:
            if given.d_in != d_in:
                raise UserError(
                    f"the dictionary is for a width of {given.d_in}, and d_in is {d_in}: give one that was made for "
                    "this model"
                )

    @property
    def _dictionaries(self) -> list[Dictionary]:
        return list(cast("Iterable[Dictionary]", self.dictionaries))

    def setup(self, stage: str) -> None:
        """Refuse activations of the wrong width before anything is encoded."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ActivationDataModule):
            data.check_width(self._dictionaries[0].d_in)

    def test_step(self, batch: ProbeBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, list[Scored]]:
        """Return a batch with the codes and scores of each cell's dictionary, under ``scored``."""
        return {"scored": [score(dictionary, batch) for dictionary in self._dictionaries]}

    def configure_optimizers(self) -> None:
        """Nothing is trained here."""
