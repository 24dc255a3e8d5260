"""How many features a label takes, and where the feature that stands for it stays silent."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from ard.evaluation.functional import paired_auroc
from ard.evaluation.probes import (
    Probes,
    Stratum,
    choose_features,
    f1_scores,
    fit_probes,
    is_general,
    of_labels,
    predicted_shares,
    strata,
)
from ard.evaluation.scores import ActiveBy, Labelled, active_features, read_labelled
from ard.probing import SCORERS, Evaluator, SparseScores
from ard.results import Better, Figure, Result
from ard.run import Cell

SIZES = (1, 2, 4)
DENSE = "dense"
SPLIT_GAIN = 0.03  # of F1 by a second feature; the threshold of Chanin et al.
MOST_CLIPS = 5000  # probing clips that probes are fitted on; more are drawn from
NUM_ABSORBING = 3
C_SPARSE, C_DENSE = 1.0, 0.1  # inverse strengths of the penalty: all features overfit


class _Fitted(NamedTuple):
    """The probes of all labels: those on 1, 2 and 4 features, and the dense one."""

    features: Int[np.ndarray, "labels k"]
    sparse: dict[int, Probes]
    dense: Probes


class _Evaluated(NamedTuple):
    """The evaluation clips: where a label is, where the dense probe finds it, where its main feature is active."""

    truth: Bool[np.ndarray, "clips labels"]
    detected: Bool[np.ndarray, "clips labels"]
    active: Bool[np.ndarray, "clips labels"]  # at the threshold in use
    alone: Bool[np.ndarray, "clips labels"]  # by the probe on the main feature


class ProbeLabels(Evaluator):
    """Write ``probes.json``: how many features tell a label, and where its main feature stays silent.

    For each label, logistic regressions on the mean activations of a clip are fitted on probing clips and measured on
    evaluation clips: on 1, 2 and 4 features (k-sparse probes, Gurnee et al. 2023, arXiv 2305.01610) and on all of them
    (dense). Features are chosen on probing clips by :func:`~ard.evaluation.probes.choose_features`. The first is the
    label's *main feature*. A label is *split* if a second feature adds more than .03 to the F1 of the first.

    The main feature is *absorbed* in a clip that has the label if the dense probe finds the label there and the feature
    is silent, at the threshold by which concepts are active everywhere else (``activity``, ``active_by``). That follows
    Chanin et al. 2024, arXiv 2409.14507, whose probe reads x. So that a feature is not taken for the label because it
    ranks clips well, its recall at that threshold is given in every *stratum* of the label: its clips that have a
    certain other label too, or none. A feature is *general* if its recall in every stratum is at least
    ``least_recall``; with less than two strata nothing is claimed.

    Figures, as means or shares over labels: ``f1_k1``, ``f1_k2``, ``f1_k4``, ``f1_dense`` (at a probability of .5);
    ``auroc_k1`` to ``auroc_dense``; ``recall``, of the main feature; ``absorption``, lower is better;
    ``absorption_k1``, the same where the probe on the main feature misses the label, which is a threshold of its own;
    ``share_split``, lower is better; ``share_general``, of the labels with two strata or more. In ``details.per_label``
    is the same for each label, with its strata, features, and under ``absorbed_by`` those that add most to the dense
    probe where the main one is silent. Labels with fewer clips than ``least_clips`` in either split are left out.

    It writes nothing where the two splits share no label.

    Args:
        activity: the number that the rule ``active_by`` takes.
        active_by: when a feature is active in a clip, see :data:`~ard.evaluation.scores.ActiveBy`.
        least_recall: recall in every stratum from which a feature counts as general.
        least_clips: fewest clips of a label, and of a stratum.
        seed: seed of the bootstrap, and of the draw where there are more than 5000 probing clips.
    """

    needs = ("representatives", "scores")
    results = ("probes",)

    def __init__(
        self,
        *,
        activity: float = 0.0,
        active_by: ActiveBy = "share",
        least_recall: float = 0.5,
        least_clips: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(seed=seed)
        self.activity, self.active_by = activity, active_by
        self.least_recall, self.least_clips = least_recall, least_clips

    def evaluate(self, cell: Cell) -> Result | None:
        """Fit on the probing clips, measure on the evaluation clips."""
        probing, evaluation = read_labelled(cell, "probe"), read_labelled(cell, "eval")
        if probing is None or evaluation is None:
            return None
        probing = self._drawn(probing)
        every = sorted({*probing.vocabulary, *evaluation.vocabulary})
        labels = [label for label in every if self._enough(probing, label) and self._enough(evaluation, label)]
        if not labels:
            return None
        fit, truth = probing.have(labels), evaluation.have(labels)
        scale = _scale(probing.scores)
        x, unseen = _matrix(probing.scores, scale), _matrix(evaluation.scores, scale)
        fitted = _fit(x, fit)
        f1, auroc = _quality(fitted, unseen, truth)
        active = active_features(cell, evaluation.scores, fitted.features[:, 0], self.activity, self.active_by)
        alone = predicted_shares(of_labels(unseen, fitted.features[:, :1]), fitted.sparse[1]) >= 0.5
        detected = predicted_shares(unseen, fitted.dense) >= 0.5
        vocabulary = evaluation.vocabulary
        of_strata = [
            strata(evaluation.have(vocabulary), vocabulary, vocabulary.index(label), active[:, i], self.least_clips)
            for i, label in enumerate(labels)
        ]
        per_label = {
            label: self._label(i, fitted, f1, auroc, _Evaluated(truth, detected, active, alone), unseen, of_strata[i])
            for i, label in enumerate(labels)
        }
        details = {"per_label": per_label, "not_measured": [label for label in every if label not in per_label]}
        choices = {
            "score": "mean activation of a clip, over its standard deviation",
            "probe": f"logistic regression, C = {C_SPARSE:g} ({C_DENSE:g} if dense), at a probability of .5",
            "features": "the highest correlation with the label, then with what is left (matching pursuit)",
            "dense": "all features",
            "activity": self.activity,
            "active_by": self.active_by,
            "least_recall": self.least_recall,
            "least_clips": self.least_clips,
            "split_gain": SPLIT_GAIN,
            "split": "chosen and fitted on the probing set, measured on the evaluation set",
        }
        return Result("probes", (cell.row(self._figures(per_label, f1, auroc)),), choices, details)

    def _drawn(self, probing: Labelled) -> Labelled:
        if len(probing.labels) <= MOST_CLIPS:
            return probing
        drawn = torch.randperm(len(probing.labels), generator=torch.Generator().manual_seed(self.seed))
        rows = drawn[:MOST_CLIPS].sort().values
        return Labelled(probing.scores.among(rows), [probing.labels[row] for row in rows.tolist()])

    def _enough(self, labelled: Labelled, label: str) -> bool:
        having = sum(label in of_clip for of_clip in labelled.labels)
        return self.least_clips <= having < len(labelled.labels)

    def _label(
        self,
        i: int,
        fitted: _Fitted,
        f1: dict[str, np.ndarray],
        auroc: dict[str, np.ndarray],
        evaluated: _Evaluated,
        unseen: csr_array,
        parts: list[Stratum],
    ) -> dict[str, Any]:
        """Return what is measured of one label."""
        main, has, active = int(fitted.features[i, 0]), evaluated.truth[:, i], evaluated.active[:, i]
        right = has & evaluated.detected[:, i]
        absorbed, missed = right & ~active, right & ~evaluated.alone[:, i]
        return {
            "num_clips": int(has.sum()),
            "features": fitted.features[i].tolist(),
            "f1": {name: float(of[i]) for name, of in f1.items()},
            "auroc": {name: float(of[i]) for name, of in auroc.items()},
            "split": bool(f1["k2"][i] - f1["k1"][i] > SPLIT_GAIN),
            "recall": float(active[has].mean()),
            "general": is_general(parts, self.least_recall),
            "num_found": int(right.sum()),
            "num_absorbed": int(absorbed.sum()),
            "num_missed": int(missed.sum()),
            "absorption": _share(absorbed, right),
            "absorption_k1": _share(missed, right),
            "absorbed_by": _absorbing(unseen[absorbed.nonzero()[0]], fitted.dense.weights[:, i], main),
            "strata": {
                part.name: {
                    "num_clips": len(part.clips),
                    "recall": part.recall,
                    "num_found": int(right[part.clips].sum()),
                    "num_absorbed": int(absorbed[part.clips].sum()),
                    "num_missed": int(missed[part.clips].sum()),
                    "absorption": _share(absorbed[part.clips], right[part.clips]),
                }
                for part in parts
            },
        }

    def _figures(
        self, per_label: dict[str, dict[str, Any]], f1: dict[str, np.ndarray], auroc: dict[str, np.ndarray]
    ) -> dict[str, Figure]:
        """Return the means over labels."""
        figures = {f"f1_{name}": self._over_labels(of, "F1") for name, of in f1.items()}
        figures |= {f"auroc_{name}": self._over_labels(of, "AUROC") for name, of in auroc.items()}
        means: tuple[tuple[str, str, str, Better], ...] = (
            ("recall", "recall", "recall", "higher"),
            ("absorption", "absorption", "share of the clips where the dense probe finds the label", "lower"),
            ("absorption_k1", "absorption_k1", "share of the clips where the dense probe finds the label", "lower"),
            ("share_split", "split", "share of labels", "lower"),
            ("share_general", "general", "share of the labels with two strata or more", "higher"),
        )
        for name, key, unit, better in means:
            samples = np.array([of[key] for of in per_label.values() if of[key] is not None], dtype=float)
            figures[name] = self._over_labels(samples, unit, better)
        return figures

    def _over_labels(self, samples: Float[np.ndarray, " labels"], unit: str, better: Better = "higher") -> Figure:
        return Figure.estimate(samples, np.mean, unit, over="labels", seed=self.seed, better=better)


def _scale(scores: SparseScores) -> Float[np.ndarray, " features"]:
    """Return one over every feature's standard deviation over the clips; 0 where it never varies."""
    features, values = scores.features.long(), scores.values[:, SCORERS.index("mean")].double()
    total, square = (
        torch.zeros(scores.num_features, dtype=torch.float64).index_add_(0, features, of) / scores.num_clips
        for of in (values, values**2)
    )
    spread = (square - total**2).clamp_min(0).sqrt()
    return torch.where(spread > 0, 1 / spread, 0).numpy()


def _matrix(scores: SparseScores, scale: Float[np.ndarray, " features"]) -> csr_array:
    """Return the scaled mean activations [clips, features], sparse."""
    features = scores.features.numpy()
    values = scores.values[:, SCORERS.index("mean")].numpy() * scale[features]
    return csr_array((values, (scores.clips.numpy(), features)), shape=(scores.num_clips, scores.num_features))


def _fit(x: csr_array, truth: Bool[np.ndarray, "clips labels"]) -> _Fitted:
    features = choose_features(x, truth, SIZES)
    columns = of_labels(x, features)
    return _Fitted(
        features, {k: fit_probes(columns[:, :, :k], truth, c=C_SPARSE) for k in SIZES}, fit_probes(x, truth, c=C_DENSE)
    )


def _quality(
    fitted: _Fitted, unseen: csr_array, truth: Bool[np.ndarray, "clips labels"]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return F1 and AUROC of every label on unseen clips, by probe."""
    columns = of_labels(unseen, fitted.features)
    shares = {f"k{k}": predicted_shares(columns[:, :, :k], probes) for k, probes in fitted.sparse.items()}
    shares[DENSE] = predicted_shares(unseen, fitted.dense)
    return (
        {name: f1_scores(of >= 0.5, truth) for name, of in shares.items()},
        {name: paired_auroc(of, truth) for name, of in shares.items()},
    )


def _absorbing(x: csr_array, weights: Float[np.ndarray, " features"], main: int) -> list[int]:
    """Return the features, other than the main one, that add most to a probe's logit in these clips, most first."""
    added = np.asarray(x.sum(axis=0)).reshape(-1) * weights
    added[main] = 0
    most = np.argsort(-added, kind="stable")[:NUM_ABSORBING]
    return [int(feature) for feature in most if added[feature] > 0]


def _share(part: Bool[np.ndarray, " clips"], of: Bool[np.ndarray, " clips"]) -> float | None:
    return float(part.sum() / of.sum()) if of.any() else None
