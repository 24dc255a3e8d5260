"""Names and features against the labels of clips that nothing was trained on (Table 1)."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import load_file
from torch import Tensor

from ard.activations import ActivationDataModule, ProbeBatch
from ard.embedding import EMBEDDED, load_clap
from ard.evaluation.functional import auroc, precision_recall_f1_map
from ard.evaluation.metric import ConceptMatching
from ard.monosemanticity import Selection, read_selections
from ard.naming import read_names
from ard.representatives import SCORERS, clip_scores
from ard.sae import Encoding
from ard.types import Codes, Figure, Result, Row

METHODS = {"mean": "Mean Act.", "coverage": "Coverage", "random": "Rand. Rep."}  # by scorer, as the paper names them
METRICS = ("precision", "recall", "f1", "map", "map_at_matches")


PROBING, EVALUATION = 0, 1  # the loaders of `test`


class _Entries(NamedTuple):
    """Scores that are not zero: one entry a clip and feature."""

    clips: Int[Tensor, " entries"]
    features: Int[Tensor, " entries"]
    values: Float[Tensor, "entries scorers"]


class LabelledScores:
    """The scores of labelled clips for every feature, kept sparse while they stream by, and the clips' labels."""

    def __init__(self, num_features: int) -> None:
        self.num_features = num_features
        self.labels: list[list[str]] = []
        self._entries: list[_Entries] = []

    def add(self, codes: Codes, batch: ProbeBatch) -> None:
        """Score the clips of a batch and keep those that have labels."""
        scores = clip_scores(codes, batch.clip_of_token, len(batch.rows), self.num_features)
        labelled = [index for index, known in enumerate(batch.metadata) if known.get("labels")]
        clips, features = scores.mean[labelled].nonzero(as_tuple=True)
        values = torch.stack([getattr(scores, scorer)[labelled][clips, features] for scorer in SCORERS], dim=1)
        self._entries.append(_Entries((clips + len(self.labels)).cpu(), features.cpu(), values.float().cpu()))
        self.labels += [batch.metadata[index]["labels"] for index in labelled]

    @property
    def vocabulary(self) -> list[str]:
        """The labels that occur, in alphabetical order."""
        return sorted({label for labels in self.labels for label in labels})

    def dense(self, scorer: str, features: Int[Tensor, " chosen"]) -> Float[Tensor, "clips chosen"]:
        """Return the scores of a few features, dense."""
        if len(self._entries) > 1:
            self._entries = [_Entries(*(torch.cat(parts) for parts in zip(*self._entries, strict=True)))]
        (entries,) = self._entries
        column = torch.full((self.num_features,), -1).index_copy_(0, features, torch.arange(len(features)))
        wanted = column[entries.features] >= 0
        dense = torch.zeros(len(self.labels), len(features))
        values = entries.values[wanted, SCORERS.index(scorer)]
        dense[entries.clips[wanted], column[entries.features[wanted]]] = values
        return dense


class MatchLabels(Callback):
    """Write ``matching.json``: precision, recall, F1 and mAP of every method (Sec. 4, Table 1).

    A clip's predictions are the names, without doubles, of the selected concepts that are active in it; its references
    are its labels. They are compared by the cosine of their CLAP text embeddings, matched by the Hungarian algorithm,
    and a match counts from gamma on; counts are summed over clips before precision and recall are taken.

    Args:
        out: folder of this dictionary's results.
        clap: the CLAP model.
        gamma: least cosine of a match (the paper's 0.7).
        activity: a concept is active in a clip whose score reaches this share of the score of the weakest clip in H^k;
            0 takes every clip whose score is positive.
        seed: of the bootstrap.
    """

    def __init__(
        self, out: Path, *, clap: str = EMBEDDED, gamma: float = 0.7, activity: float = 0.0, seed: int = 0
    ) -> None:
        self.out, self.clap, self.gamma, self.activity, self.seed = Path(out), clap, gamma, activity, seed

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start empty."""
        assert isinstance(pl_module, Encoding)
        pl_module.refuse_ranks()
        self._scores = LabelledScores(pl_module.coder.d_sae)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ProbeBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the scores of the evaluation set."""
        if dataloader_idx == EVALUATION:
            self._scores.add(outputs["codes"], batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Match and write; without labelled clips there is nothing to write."""
        assert isinstance(pl_module, Encoding)
        if not trainer.is_global_zero or not self._scores.labels:
            return
        started = time.monotonic()
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ActivationDataModule)
        clap = load_clap(self.clap, device=str(pl_module.device))
        labels = self._scores.vocabulary
        index = {label: i for i, label in enumerate(labels)}
        references = [[index[label] for label in of_clip] for of_clip in self._scores.labels]
        stored = load_file(self.out / "representatives.safetensors")
        selections, names = read_selections(self.out), read_names(self.out)
        rows = []
        for scorer, draws in selections.items():
            counts, highest = [], []
            for selection, named in zip(draws, names[scorer], strict=True):
                vocabulary = sorted({name for name in named if name is not None})
                similarity = clap.text(vocabulary) @ clap.text(labels).T
                metric = ConceptMatching(similarity, self.gamma)
                metric.update(self._predict(stored, scorer, selection, named, vocabulary), references)
                counts.append(metric.compute().numpy())
                highest.append(selection.m.numpy())
            method = METHODS.get(scorer, pl_module.method)
            figures = self._figures(np.stack(counts, axis=1), np.stack(highest, axis=1))
            rows.append(Row(method, data.layer, pl_module.expansion, figures, note=_spread(np.stack(counts))))
        choices = {
            "scope": "clip",
            "average": "micro",
            "gamma": self.gamma,
            "hungarian": "maximal sum, threshold after",
            "activity": self.activity,
            "similarity": f"text-text cosine of CLAP {self.clap!r}, no template",
            "map": "per clip, all prediction-reference pairs ranked by similarity, precision averaged over all ranks",
            "map_at_matches": "the same ranking, precision summed at the matches, over the number of references",
        }
        details = {"num_clips": len(references), "num_labels": len(labels)}
        seconds = time.monotonic() - started
        Result("matching", tuple(rows), choices, self.seed, seconds, details).save(self.out / "matching.json")
        for row in rows:
            pl_module.log(f"matching/{row.method}/f1", row.figures["f1"].value)

    def _predict(
        self,
        stored: dict[str, Tensor],
        scorer: str,
        selection: Selection,
        named: list[str | None],
        vocabulary: list[str],
    ) -> list[Tensor]:
        """Return the indices of the names that each clip's active concepts predict, without doubles."""
        kept = "ard" if scorer == "random" else scorer  # Rand. Rep. names AR&D's features otherwise, no more
        weakest = stored[f"{kept}/top_scores"][selection.features, -1].float()
        dense = self._scores.dense(kept, selection.features)
        active = (dense > 0) & (dense >= self.activity * weakest)
        word = {name: i for i, name in enumerate(vocabulary)}
        said = torch.zeros(len(dense), len(vocabulary), dtype=torch.bool)
        for column, name in enumerate(named):
            if name is not None:
                said[:, word[name]] |= active[:, column]
        return [clip.nonzero()[:, 0] for clip in said]

    def _figures(self, counts: np.ndarray, m: np.ndarray) -> dict[str, Figure]:
        """Return figures from counts [clips, draws, 5] and m [concepts, draws]: means over the draws."""

        def mean_of(metric: int, clips: np.ndarray) -> float:
            per_draw = [precision_recall_f1_map(clips[:, draw])[metric] for draw in range(clips.shape[1])]
            return float(np.mean(per_draw))

        figures = {
            name: Figure.estimate(counts, lambda clips, i=i: mean_of(i, clips), "share", seed=self.seed)  # type: ignore[misc]
            for i, name in enumerate(METRICS)
        }
        highest = Figure.estimate(
            m, lambda x: float(x.max(axis=0).mean()), "pooled standard deviations", seed=self.seed
        )
        return {"ms": highest, **figures}


def _spread(counts: np.ndarray) -> str | None:
    """Say the spread over draws [draws, clips, 5], where there are several."""
    if len(counts) == 1:
        return None
    spread = np.std([precision_recall_f1_map(draw) for draw in counts], axis=0)
    said = ", ".join(f"{name} {value:.3f}" for name, value in zip(METRICS, spread, strict=True))
    return f"mean of {len(counts)} draws; standard deviation over draws: {said}"


class FindLabels(Callback):
    """Write ``label_auroc.json``: which labels some feature finds, by its representativeness in unseen clips.

    A label's feature is the one of highest AUROC on the probing set; its figure is that feature's AUROC on the
    evaluation set, so that the best of many features is not flattered.

    Args:
        out: folder of this dictionary's results.
        found: least AUROC of a label that counts as found.
        seed: of the bootstrap.
    """

    def __init__(self, out: Path, *, found: float = 0.9, seed: int = 0) -> None:
        self.out, self.found, self.seed = Path(out), found, seed

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start empty."""
        assert isinstance(pl_module, Encoding)
        pl_module.refuse_ranks()
        self._sets = {loader: LabelledScores(pl_module.coder.d_sae) for loader in (PROBING, EVALUATION)}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ProbeBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the scores of both sets."""
        self._sets[dataloader_idx].add(outputs["codes"], batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare every feature with every label, a few hundred features at a time."""
        assert isinstance(pl_module, Encoding)
        probing, evaluation = self._sets[PROBING], self._sets[EVALUATION]
        if not trainer.is_global_zero or not probing.labels or not evaluation.labels:
            return
        started = time.monotonic()
        labels = evaluation.vocabulary
        truth = [np.array([[label in known for label in labels] for known in s.labels]) for s in (probing, evaluation)]
        best, feature, figure = np.full((3, len(labels)), np.nan)
        for features in torch.arange(pl_module.coder.d_sae).split(256):
            chosen = np.nan_to_num(auroc(probing.dense("ard", features).numpy(), truth[0]), nan=-1)
            winner = chosen.argmax(axis=0), np.arange(len(labels))
            measured = auroc(evaluation.dense("ard", features[winner[0]].unique()).numpy(), truth[1])
            column = np.searchsorted(features[winner[0]].unique().numpy(), features.numpy()[winner[0]])
            better = ~(chosen[winner] <= best) & (chosen[winner] >= 0)
            best = np.where(better, chosen[winner], best)
            feature = np.where(better, features.numpy()[winner[0]], feature)
            figure = np.where(better, measured[column, winner[1]], figure)
        known = ~np.isnan(figure)
        figures = {
            "share_found": Figure.estimate(figure[known] >= self.found, np.mean, "share of labels", seed=self.seed),
            "mean_auroc": Figure.estimate(figure[known], np.mean, "AUROC", seed=self.seed),
        }
        per_label = {
            label: {"auroc": figure[i], "feature": int(feature[i])} for i, label in enumerate(labels) if known[i]
        }
        details = {"per_label": per_label, "not_measured": [label for i, label in enumerate(labels) if not known[i]]}
        data = trainer.datamodule  # type: ignore[attr-defined]
        row = Row(pl_module.method, data.layer, pl_module.expansion, figures)
        choices = {
            "score": "representativeness (Eq. 2)",
            "found": self.found,
            "split": "feature chosen on the probing set, measured on the evaluation set",
        }
        seconds = time.monotonic() - started
        Result("label_auroc", (row,), choices, self.seed, seconds, details).save(self.out / "label_auroc.json")
        pl_module.log("label_auroc/share_found", figures["share_found"].value)
