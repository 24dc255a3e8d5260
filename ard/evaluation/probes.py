"""Linear probes of labels on clip scores, and how far a single feature stands for a label."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import softplus

LABELS_AT_ONCE = 32


class Probes(NamedTuple):
    """Logistic regressions, one for each label: p(label) = sigmoid(x w + b)."""

    weights: Float[np.ndarray, "features labels"]
    biases: Float[np.ndarray, " labels"]


def fit_probes(
    x: csr_array | Float[np.ndarray, "labels clips k"], truth: Bool[np.ndarray, "clips labels"], *, c: float = 1.0
) -> Probes:
    """Fit one logistic regression for each label: least sum of log losses + |w|^2 / 2c; the bias goes free.

    This is scikit-learn's ``LogisticRegression(C=c)``. L-BFGS fits a few dozen labels at once.

    Args:
        x: the scores, sparse [clips, features] and the same for all labels, or dense and each label's own.
        truth: which clips have which label.
        c: inverse strength of the penalty.
    """
    parts = [slice(start, start + LABELS_AT_ONCE) for start in range(0, truth.shape[1], LABELS_AT_ONCE)]
    shared = _Sparse(x) if isinstance(x, csr_array) else None
    fitted = [_fit(shared or _Dense(torch.from_numpy(x[part])), truth[:, part], c) for part in parts]
    return Probes(np.concatenate([f.weights for f in fitted], axis=1), np.concatenate([f.biases for f in fitted]))


class _Sparse:
    """Scores that all labels share: their products with weights, and the gradient's."""

    def __init__(self, x: csr_array) -> None:
        self.x, self.transposed, self.num_weights = x, csr_array(x.T), x.shape[1]

    def logits(self, weights: Tensor) -> Tensor:
        return torch.from_numpy(self.x @ weights.numpy())

    def gradient(self, residuals: Tensor) -> Tensor:
        return torch.from_numpy(self.transposed @ residuals.numpy())


class _Dense:
    """Scores of which every label has its own: [labels, clips, k]."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.num_weights = x.double(), x.shape[2]

    def logits(self, weights: Tensor) -> Tensor:
        return torch.einsum("lck,kl->cl", self.x, weights)

    def gradient(self, residuals: Tensor) -> Tensor:
        return torch.einsum("lck,cl->kl", self.x, residuals)


def _fit(x: _Sparse | _Dense, truth: Bool[np.ndarray, "clips labels"], c: float) -> Probes:
    y = torch.from_numpy(truth).double()
    parameters = torch.zeros(x.num_weights + 1, truth.shape[1], dtype=torch.float64)
    share = y.mean(dim=0).clamp(1e-6, 1 - 1e-6)
    parameters[-1] = share.logit()
    parameters.grad = torch.zeros_like(parameters)
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=300,
        history_size=20,
        tolerance_grad=1e-4,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        assert parameters.grad is not None
        weights, logits = parameters[:-1], x.logits(parameters[:-1]) + parameters[-1]
        residuals = logits.sigmoid() - y
        parameters.grad[:-1] = c * x.gradient(residuals) + weights
        parameters.grad[-1] = c * residuals.sum(dim=0)
        return c * (softplus(logits) - y * logits).sum() + 0.5 * weights.square().sum()

    with torch.no_grad():
        optimizer.step(loss)
    return Probes(parameters[:-1].numpy(), parameters[-1].numpy())


def choose_features(
    x: csr_array, truth: Bool[np.ndarray, "clips labels"], sizes: Sequence[int]
) -> Int[np.ndarray, "labels k"]:
    """Return for each label the features of its k-sparse probe for the largest k, in the order of choice.

    The first has the highest correlation with the label: it must be one that is active where the label is. Each further
    one has the highest correlation, of either sign, with what the probe of those before it leaves unexplained
    (orthogonal matching pursuit), so that it adds what they lack. Probes of smaller k take the first of them. Where a
    dictionary has fewer features, there are as many as it has.

    Args:
        x: the scores, each feature's at a standard deviation of 1, or 0 throughout.
        truth: which clips have which label.
        sizes: the values of k.
    """
    residuals = truth - truth.mean(axis=0)
    most, labels = min(max(sizes), x.shape[1]), np.arange(truth.shape[1])
    chosen = np.empty((truth.shape[1], 0), dtype=np.int64)
    dead = np.diff(x.tocsc().indptr) == 0
    for k in range(most):
        products = np.asarray(x.T @ residuals) - _means(x)[:, None] * residuals.sum(axis=0)
        strength = products if k == 0 else np.abs(products)
        strength[dead] = -np.inf
        strength[chosen.T, labels] = -np.inf
        chosen = np.column_stack([chosen, strength.argmax(axis=0)])
        if k + 1 < most:
            columns = of_labels(x, chosen)
            residuals = truth - predicted_shares(columns, fit_probes(columns, truth))
    return chosen


def of_labels(x: csr_array, features: Int[np.ndarray, "labels k"]) -> Float[np.ndarray, "labels clips k"]:
    """Return each label's own features as a dense block."""
    columns = x.tocsc()
    return np.stack([columns[:, of_label].toarray() for of_label in features])


def predicted_shares(x: csr_array | np.ndarray, probes: Probes) -> Float[np.ndarray, "clips labels"]:
    """Return the probability that each probe gives to each clip."""
    logits = x @ probes.weights if isinstance(x, csr_array) else np.einsum("lck,kl->cl", x, probes.weights)
    return 1 / (1 + np.exp(-np.clip(np.asarray(logits) + probes.biases, -500, 500)))


def _means(x: csr_array) -> Float[np.ndarray, " features"]:
    return np.asarray(x.sum(axis=0)).reshape(-1) / x.shape[0]


def f1_scores(
    said: Bool[np.ndarray, "clips labels"], truth: Bool[np.ndarray, "clips labels"]
) -> Float[np.ndarray, " labels"]:
    """Return the F1 of every label: harmonic mean of precision and recall; NaN where nothing is said, nor true."""
    with np.errstate(invalid="ignore"):
        return 2 * (said & truth).sum(axis=0) / (said.sum(axis=0) + truth.sum(axis=0))


class Stratum(NamedTuple):
    """A part of the clips that have a label, and in how many of them its feature is active."""

    name: str
    clips: Int[np.ndarray, " clips"]
    num_active: int

    @property
    def recall(self) -> float:
        """Share of its clips in which the feature is active."""
        return self.num_active / len(self.clips)


ALONE = "no other label"


def strata(
    truth: Bool[np.ndarray, "clips labels"],
    labels: Sequence[str],
    label: int,
    active: Bool[np.ndarray, " clips"],
    least: int,
) -> list[Stratum]:
    """Split a label's clips by the other labels that they have, and count those where its feature is active.

    A stratum is the clips that have one other label too, or no other; a clip of three labels is in two. Strata of fewer
    clips than ``least`` are left out.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation.probes import strata
        >>> truth = np.array([[True, True, False], [True, True, False], [True, False, True], [True, False, True]])
        >>> parts = strata(truth, ["man", "sad", "angry"], 0, np.array([True, True, True, False]), 2)
        >>> [(part.name, part.recall) for part in parts]
        [('sad', 1.0), ('angry', 0.5)]
    """
    of_label = truth[:, label]
    parts = {name: of_label & truth[:, other] for other, name in enumerate(labels) if other != label}
    parts[ALONE] = of_label & (truth.sum(axis=1) == 1)
    return [
        Stratum(name, clips, int(active[clips].sum()))
        for name, having in parts.items()
        if len(clips := having.nonzero()[0]) >= least
    ]


def is_general(parts: Sequence[Stratum], least_recall: float) -> bool | None:
    """Return whether a feature is active in enough of every stratum's clips; None where there is but one stratum.

    A feature can separate a label's clips from others (AUROC) while it is active in one kind of them alone: the rest
    have scores just above 0.
    """
    return all(part.recall >= least_recall for part in parts) if len(parts) > 1 else None
