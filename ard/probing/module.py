"""Turn whole clips into codes and scores, once for all evaluators, as a LightningModule."""

from pathlib import Path
from typing import NamedTuple

import torch
from lightning import LightningModule

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

    Args:
        cell: folder of the cell, ``OUT/layer-<l>/e<e>``, or ``OUT/layer-<l>/poly`` for the raw coordinates.
        d_in: width of the residual stream.
        dictionary: a custom dictionary to use instead of the cell's SAE.

    Raises:
        UserError: if the cell has no SAE, or the dictionary has another width.
    """

    def __init__(self, cell: Path, d_in: int, dictionary: Dictionary | None = None) -> None:
        super().__init__()
        self.cell = Cell.at(Path(cell))
        self.dictionary = dictionary or load_dictionary(self.cell.source, d_in)
        if self.dictionary.d_in != d_in:
            raise UserError(
                f"the dictionary is for a width of {self.dictionary.d_in}, and d_in is {d_in}: give one that was made "
                "for this model"
            )

    def setup(self, stage: str) -> None:
        """Refuse activations of the wrong width before anything is encoded."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ActivationDataModule):
            data.check_width(self.dictionary.d_in)

    def test_step(self, batch: ProbeBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Scored]:
        """Return a batch with its codes and scores, under ``scored``."""
        return {"scored": score(self.dictionary, batch)}

    def configure_optimizers(self) -> None:
        """Nothing is trained here."""
