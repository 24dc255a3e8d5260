"""Names against the labels of clips that nothing was trained on (Table 1)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ard.embedding import EMBEDDED
from ard.evaluation.functional import LabelText, label_text
from ard.evaluation.matching import DEFAULT, AveragePrecisionKind, MatchReading
from ard.evaluation.metric import Clips, ConceptAveragePrecision, ConceptMatching
from ard.evaluation.scores import Active, ActiveBy, Labelled, active_concepts, predicted, read_labelled
from ard.monosemanticity import Selection, read_selections
from ard.naming import read_names
from ard.probing import Evaluator
from ard.results import Figure, Result, Row
from ard.run import Cell
from ard.types import UserError

METHODS = {"mean": "Mean Act.", "coverage": "Coverage", "random": "Rand. Rep."}  # by scorer, as the paper names them
METRICS = {"precision": "precision", "recall": "recall", "f1": "F1", "map": "mAP", "map_at_matches": "mAP at matches"}
AT_MATCHES: AveragePrecisionKind = "references"
EmbedText = Callable[[Sequence[str]], Tensor]


class Predictions(NamedTuple):
    """The texts predicted for every clip, as row numbers of ``space``, the embeddings of all predicted texts."""

    of_clips: Clips
    space: Float[Tensor, "texts d"]


class MatchLabels(Evaluator):
    """Write ``matching.json``: precision, recall, F1 and mAP of every method (Sec. 4, Table 1).

    A clip's predictions are the distinct names of the selected concepts that are active in it; its references are its
    labels. They are compared by the cosine of their CLAP text embeddings and matched as the ``reading`` says. Two rows
    show what an SAE's figures are worth: its names shuffled among its concepts, and as a ceiling the clips' own labels
    as predictions.

    Args:
        clap: the CLAP model.
        reading: how Sec. 4 is read where it leaves a choice.
        activity: the number that the rule ``active_by`` takes; 0, as a share or a quantile, takes every clip with a
            positive score.
        active_by: when a concept is active in a clip, see :data:`~ard.evaluation.scores.ActiveBy`.
        labels: how a label is spelled for CLAP, see :func:`~ard.evaluation.functional.label_text`.
        num_shuffles: how often the names are shuffled.
        result: name of the result, so that one cell can hold several readings.
        seed: seed of the shuffles and the bootstrap.

    Raises:
        UserError: if ``activity`` is out of range for ``active_by``.
    """

    needs = ("representatives", "selections", "names", "scores")
    results = ("matching",)

    def __init__(
        self,
        *,
        clap: str = EMBEDDED,
        reading: MatchReading = DEFAULT,
        activity: float = 0.0,
        active_by: ActiveBy = "share",
        labels: LabelText = "space",
        num_shuffles: int = 10,
        result: str = "matching",
        seed: int = 0,
    ) -> None:
        if activity < 0 or (activity > 1 and active_by != "top"):
            raise UserError(
                f"activity {activity} is out of range for {active_by!r}: give a number from 0"
                + " to 1" * (active_by != "top")
            )
        super().__init__(clap=clap, seed=seed)
        self.reading = reading
        self.activity, self.active_by, self.labels = activity, active_by, labels
        self.num_shuffles, self.result = num_shuffles, result

    def evaluate(self, cell: Cell) -> Result | None:
        """Match the names of every method, one row each; None without labelled clips."""
        labelled = read_labelled(cell, "eval")
        return None if labelled is None else self.match(cell, labelled, self.clap().text)

    def match(self, cell: Cell, labelled: Labelled, embed: EmbedText) -> Result:
        """Match the names of a cell's concepts to the labels of clips.

        Args:
            cell: the cell whose concepts are matched.
            labelled: scores and labels of the clips.
            embed: embeds texts in the space where they are compared.
        """
        vocabulary = labelled.vocabulary
        index = {label: i for i, label in enumerate(vocabulary)}
        references = [torch.tensor([index[label] for label in dict.fromkeys(of)]) for of in labelled.labels]
        if self.reading.scope != "clip":
            references = [torch.arange(len(vocabulary))]
        truth = Predictions(references, embed([label_text(label, self.labels) for label in vocabulary]))
        stored, selections, names = cell.tensors("representatives"), read_selections(cell), read_names(cell)
        rows, num_silent = [], {}
        for scorer, draws in selections.items():
            active = self._active(labelled, stored, scorer, draws[0])
            predictions = [self._predict(active, named, len(labelled.labels), embed) for named in names[scorer]]
            row = self._row(predictions, truth, replace(cell.row({}), method=METHODS.get(scorer, cell.method)))
            highest = np.array([float(draw.m.max()) for draw in draws])
            note = f"{row.note}, MS {highest.std():.3f}" if row.note else None
            rows.append(replace(row, figures={"ms": self._highest(draws), **row.figures}, note=note))
            num_silent[row.method] = sum(len(of_clip) == 0 for of_clip in predictions[0].of_clips)
        if "random" in selections:
            active, rng = self._active(labelled, stored, "ard", selections["ard"][0]), np.random.default_rng(self.seed)
            own = np.array(names["ard"][0], dtype=object)
            predictions = [
                self._predict(active, rng.permutation(own).tolist(), len(labelled.labels), embed)
                for _ in range(self.num_shuffles)
            ]
            rows.append(self._row(predictions, truth, cell.row({}, control="names shuffled")).as_control())
            rows.append(self._row([truth], truth, replace(cell.row({}), method="Labels as names")).as_control())
        details = {
            "num_clips": len(labelled.labels),
            "num_labels": len(vocabulary),
            "num_concepts_without_name": {scorer: draws[0].count(None) for scorer, draws in names.items()},
            "num_clips_without_prediction": num_silent,
        }
        choices = {
            **asdict(self.reading),
            "activity": self.activity,
            "active_by": self.active_by,
            "clap": self.clap_name,
            "label_text": self.labels,
        }
        return Result(self.result, tuple(rows), choices, details)

    def _active(self, labelled: Labelled, stored: Mapping[str, Tensor], scorer: str, selection: Selection) -> Active:
        kept = "ard" if scorer == "random" else scorer  # Rand. Rep. only gives AR&D's features other names
        weakest = stored[f"{kept}/top_scores"][selection.features, -1].float()
        return active_concepts(labelled.scores, kept, selection.features, weakest, self.activity, self.active_by)

    def _predict(self, active: Active, named: Sequence[str | None], num_clips: int, embed: EmbedText) -> Predictions:
        """Return the names of the active concepts as predictions; a concept without a name predicts nothing."""
        vocabulary = sorted({name for name in named if name is not None})
        word = {name: i for i, name in enumerate(vocabulary)}
        words = np.array([-1 if name is None else word[name] for name in named], dtype=np.int64)
        of_clips: Clips
        if self.reading.scope == "clip":
            of_clips = predicted(active, words, num_clips)
        else:
            named_words = torch.from_numpy(words[words >= 0])
            of_clips = [named_words if self.reading.scope == "vocabulary" else named_words.unique()]
        return Predictions(of_clips, embed(vocabulary))

    def _row(self, draws: Sequence[Predictions], truth: Predictions, row: Row) -> Row:
        """Return the row with its figures; over several draws, their means, with the spread in its note."""
        kinds = (self.reading.average_precision, AT_MATCHES)
        values = []
        for draw in draws:
            similarity = draw.space @ truth.space.T
            alone = {
                "seed": self.seed,
                "sync_on_compute": False,
            }  # other ranks would not answer
            metrics = (
                ConceptMatching(similarity, self.reading, **alone),
                ConceptAveragePrecision(similarity, self.reading, kinds=kinds, **alone),
            )
            for metric in metrics:
                metric.update(draw.of_clips, truth.of_clips)
            values.append(np.concatenate([metric.compute().numpy() for metric in metrics], axis=1))
        mean, num_clips = np.mean(values, axis=0), len(truth.of_clips)
        figures = {
            name: Figure.resampled(mean[:, i], num_clips, "share", over="clips") for i, name in enumerate(METRICS)
        }
        if len(draws) == 1:
            return replace(row, figures=figures)
        spread = np.std([of_draw[0] for of_draw in values], axis=0)
        deviations = ", ".join(f"{name} {value:.3f}" for name, value in zip(METRICS.values(), spread, strict=True))
        note = f"mean of {len(draws)} draws; standard deviation over draws: {deviations}"
        return replace(row, figures=figures, note=note)

    def _highest(self, draws: Sequence[Selection]) -> Figure:
        """Return the highest m and its interval over concepts; over several draws, the mean and its interval."""
        unit = "pooled standard deviations"
        if len(draws) == 1:
            return Figure.estimate(draws[0].m.numpy(), np.max, unit, over="concepts", seed=self.seed)
        highest = np.array([float(draw.m.max()) for draw in draws])
        return Figure.estimate(highest, np.mean, unit, over="draws", seed=self.seed)
