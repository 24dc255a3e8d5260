"""Whether a name predicts in which clips its feature fires, on clips that naming never saw."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ard.embedding import EMBEDDED
from ard.evaluation.functional import paired_auroc
from ard.evaluation.scores import read_unseen
from ard.monosemanticity import Selection, read_selections
from ard.naming import read_names
from ard.probing import Evaluator, read_scores
from ard.results import Figure, Result
from ard.run import Cell


class _Unseen(NamedTuple):
    """Clips that naming never saw, and which of the selected features fire in them."""

    rows: Int[Tensor, " clips"]  # row numbers in their activations' manifest
    fires: Bool[Tensor, "clips concepts"]


class DetectConcepts(Evaluator):
    """Write ``detection.json``, and ``detection.parquet`` with a row for every selected feature.

    On clips that naming never saw, does the CLAP cosine of clip and name predict whether the feature fires? A concept's
    figure is the AUROC of that prediction. A second row gives every name to another concept: it shows what unrelated
    names score. Concepts without a name are counted and left out. So are those that fire in no clip or in all from the
    figure ``auroc``; in ``auroc_all`` they count .5, as nothing can be predicted of them.
    ``detection.parquet`` has each feature's AUROC (``detection``) and the number of clips where it fires
    (``n_active_unseen``).

    The clips are the evaluation set; where there is none, those of the probing set that are in no selected feature's
    H^k.

    Args:
        clap: the CLAP model.
        activity: a feature fires in a clip if its score reaches this share of its score on the weakest clip in H^k; 0
            takes every clip with a positive score.
        seed: seed of the shuffle and the bootstrap.
    """

    needs = ("representatives", "selections", "names", "scores")
    makes = ("detection",)
    results = ("detection",)
    compares_texts = True
    embeds = ("unseen",)

    def __init__(self, *, clap: str = EMBEDDED, activity: float = 0.0, seed: int = 0) -> None:
        super().__init__(clap=clap, seed=seed)
        self.activity = activity

    def evaluate(self, cell: Cell) -> Result | None:
        """Measure how well the cosines of the names predict where the features fire."""
        selection, names = read_selections(cell)["ard"][0], read_names(cell)["ard"][0]
        has_name = torch.tensor([name is not None for name in names], dtype=torch.bool)
        unseen = self._unseen(cell, selection)
        clips = self.embeddings(cell, cell.unseen)[unseen.rows]
        similarity = (clips @ self.clap().text([name for name in names if name is not None]).T).numpy()
        fires = unseen.fires[:, has_name].numpy()
        own = paired_auroc(similarity, fires)
        others = paired_auroc(similarity[:, self._shuffled(fires.shape[1])], fires)
        measurable = ~np.isnan(own)
        rows = (
            cell.row(self._figures(own)),
            cell.row(self._figures(others), control="names shuffled").as_control(),
        )
        choices = {
            "clips": "the evaluation set"
            if cell.evaluation
            else "clips of the probing set that are in no concept's H^k",
            "fires": "score above 0" if not self.activity else "score from a share of the weakest clip in H^k on",
            "activity": self.activity,
            "similarity": f"audio-text cosine of CLAP {self.clap_name!r}, no template",
        }
        details = {
            "num_clips": len(unseen.rows),
            "num_concepts": len(names),
            "num_without_name": int((~has_name).sum()),
            "num_fire_never_or_always": int((~measurable).sum()),
        }
        detection = torch.full((len(names),), torch.nan)
        detection[has_name] = torch.from_numpy(own).float()
        columns = selection.features.tolist(), detection.tolist(), unseen.fires.sum(dim=0).tolist()
        fields = ("feature", "detection", "n_active_unseen")
        cell.save_rows("detection", (dict(zip(fields, row, strict=True)) for row in zip(*columns, strict=True)))
        return Result("detection", rows, choices, details)

    def _unseen(self, cell: Cell, selection: Selection) -> _Unseen:
        """Find where the selected features fire."""
        scores = read_scores(cell, cell.unseen)
        assert scores is not None
        rows = read_unseen(cell, selection.top_ids)
        of_selected = scores.dense("ard", selection.features)[rows]
        weakest = cell.tensors("representatives")["ard/top_scores"][selection.features, -1]
        return _Unseen(rows, (of_selected > 0) & (of_selected >= (self.activity * weakest).float()))

    def _shuffled(self, count: int) -> Int[np.ndarray, " concepts"]:
        """Return for each concept the index of another one; its own if it is the only one."""
        order = np.random.default_rng(self.seed).permutation(count)
        shuffled = np.empty(count, dtype=np.int64)
        shuffled[order] = np.roll(order, 1)
        return shuffled

    def _figures(self, areas: Float[np.ndarray, " concepts"]) -> dict[str, Figure]:
        every = {"auroc": areas[~np.isnan(areas)], "auroc_all": np.nan_to_num(areas, nan=0.5)}
        return {
            name: Figure.estimate(values, np.mean, "AUROC", over="concepts", seed=self.seed)
            for name, values in every.items()
        }
