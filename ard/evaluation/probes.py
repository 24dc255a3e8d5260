"""Linear probes of labels on clip scores, and how far a single feature stands for a label."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from scipy.special import expit

LABELS_AT_ONCE = 64
MOST_STEPS = 50
TOLERANCE = 1e-4  # of the gradient, relative to the first


class Probes(NamedTuple):
    """Logistic regressions, one for each label: p(label) = sigmoid(x w + b)."""

    weights: Float[np.ndarray, "features labels"]
    biases: Float[np.ndarray, " labels"]


def fit_probes(
    x: csr_array | Float[np.ndarray, "labels clips k"], truth: Bool[np.ndarray, "clips labels"], *, c: float = 1.0
) -> Probes:
    """Fit one logistic regression for each label: least c * sum of log losses + |w|^2 / 2; the bias goes free.

    This is scikit-learn's ``LogisticRegression(C=c)``, by Newton's method. A few dozen labels are fitted at once, each
    with steps of its own.

    Args:
        x: the scores, sparse [clips, features] and the same for all labels, or dense and each label's own.
        truth: which clips have which label.
        c: inverse strength of the penalty.
    """
    parts = [slice(start, start + LABELS_AT_ONCE) for start in range(0, truth.shape[1], LABELS_AT_ONCE)]
    shared = _Shared(x) if isinstance(x, csr_array) else None
    fitted = [_fit(shared or _Own(x[part]), truth[:, part], c) for part in parts]
    return Probes(np.concatenate([f.weights for f in fitted], axis=1), np.concatenate([f.biases for f in fitted]))


class _Shared:
    """Scores that all labels share."""

    def __init__(self, x: csr_array) -> None:
        self.x, self.transposed = x, csr_array(x.T)
        self.squares = self.transposed.power(2)
        self.num_weights = x.shape[1]

    def of(self, labels: Int[np.ndarray, " some"]) -> "_Shared":
        """Return the scores of some labels."""
        return self

    def logits(self, weights: Float[np.ndarray, "k labels"]) -> Float[np.ndarray, "clips labels"]:
        """Return x w."""
        return self.x @ weights

    def summed(self, values: Float[np.ndarray, "clips labels"]) -> Float[np.ndarray, "k labels"]:
        """Return x^T v."""
        return self.transposed @ values

    def summed_squares(self, values: Float[np.ndarray, "clips labels"]) -> Float[np.ndarray, "k labels"]:
        """Return (x^2)^T v."""
        return self.squares @ values


class _Own:
    """Scores of which every label has its own: [labels, clips, k]."""

    def __init__(self, x: Float[np.ndarray, "labels clips k"]) -> None:
        self.x, self.num_weights = x, x.shape[2]

    def of(self, labels: Int[np.ndarray, " some"]) -> "_Own":
        """Return the scores of some labels."""
        return _Own(self.x[labels])

    def logits(self, weights: Float[np.ndarray, "k labels"]) -> Float[np.ndarray, "clips labels"]:
        """Return x w."""
        return np.matmul(self.x, weights.T[:, :, None])[:, :, 0].T

    def summed(self, values: Float[np.ndarray, "clips labels"]) -> Float[np.ndarray, "k labels"]:
        """Return x^T v."""
        return np.matmul(values.T[:, None], self.x)[:, 0].T

    def summed_squares(self, values: Float[np.ndarray, "clips labels"]) -> Float[np.ndarray, "k labels"]:
        """Return (x^2)^T v."""
        return np.matmul(values.T[:, None], self.x**2)[:, 0].T


def _fit(x: _Shared | _Own, truth: Bool[np.ndarray, "clips labels"], c: float) -> Probes:
    """Minimise by Newton's method with conjugate gradients (truncated Newton), every label on its own."""
    y = truth.astype(float)
    parameters = np.zeros((x.num_weights + 1, truth.shape[1]))  # the bias is the last
    share = np.clip(y.mean(axis=0), 1e-6, 1 - 1e-6)
    parameters[-1] = np.log(share / (1 - share))
    logits = np.tile(parameters[-1], (len(y), 1))
    going, first = np.arange(truth.shape[1]), np.zeros(0)
    for _ in range(MOST_STEPS):
        own, w, z = x.of(going), parameters[:, going], logits[:, going]
        shares = expit(z)
        gradient = _with_bias(own, c * (shares - y[:, going]), w)
        size = np.linalg.norm(gradient, axis=0)
        first = first if len(first) else np.maximum(size, 1e-12)
        left = size > TOLERANCE * first[going]
        if not left.any():
            break
        going = going[left]
        own, w, z, shares, gradient = x.of(going), w[:, left], z[:, left], shares[:, left], gradient[:, left]
        curvature = c * shares * (1 - shares)
        step = _newton_step(own, curvature, gradient, np.minimum(0.1, np.sqrt(size[left] / first[going])))
        along = own.logits(step[:-1]) + step[-1]
        length = _step_length(c, y[:, going], w, z, step, along, (gradient * step).sum(axis=0))
        parameters[:, going] = w + length * step
        logits[:, going] = z + length * along
    return Probes(parameters[:-1], parameters[-1])


def _with_bias(x: _Shared | _Own, of_clips: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return a sum over clips for every weight and the bias, with the penalty's part for the weights."""
    return np.concatenate([x.summed(of_clips) + w[:-1], of_clips.sum(axis=0)[None]])


def _newton_step(
    x: _Shared | _Own, curvature: np.ndarray, gradient: np.ndarray, precision: Float[np.ndarray, " labels"]
) -> np.ndarray:
    """Solve H d = -g for every label by conjugate gradients, each scaled by the diagonal of H."""
    diagonal = np.concatenate([x.summed_squares(curvature) + 1, np.maximum(curvature.sum(axis=0), 1e-9)[None]])
    step, residual = np.zeros_like(gradient), -gradient
    scaled = residual / diagonal
    direction, product = scaled, (residual * scaled).sum(axis=0)
    goal = precision * np.linalg.norm(gradient, axis=0)
    for _ in range(MOST_STEPS):
        bent = _with_bias(x, curvature * (x.logits(direction[:-1]) + direction[-1]), direction)
        length = np.where(product > 0, product / np.maximum((direction * bent).sum(axis=0), 1e-300), 0)
        step, residual = step + length * direction, residual - length * bent
        if (np.linalg.norm(residual, axis=0) <= goal).all():
            break
        scaled = residual / diagonal
        last, product = product, (residual * scaled).sum(axis=0)
        direction = scaled + product / np.maximum(last, 1e-300) * direction
    return step


def _step_length(
    c: float,
    y: np.ndarray,
    w: np.ndarray,
    z: np.ndarray,
    step: np.ndarray,
    along: np.ndarray,
    slope: Float[np.ndarray, " labels"],
) -> Float[np.ndarray, " labels"]:
    """Return for each label 1, 1/2, 1/4, ..., the first at which the loss falls enough (Armijo)."""

    def loss(length: np.ndarray) -> np.ndarray:
        logits = z + length * along
        penalty = 0.5 * ((w + length * step)[:-1] ** 2).sum(axis=0)
        return c * (np.logaddexp(0, logits) - y * logits).sum(axis=0) + penalty

    length, before = np.ones(len(slope)), loss(np.zeros(len(slope)))
    for _ in range(30):
        short = loss(length) > before + 1e-4 * length * slope + 1e-9 * np.abs(before)
        if not short.any():
            break
        length[short] /= 2
    return length


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
        strength[dead] = np.finfo(float).min  # last, but before those that are chosen
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
    logits = (
        x @ probes.weights if isinstance(x, csr_array) else np.einsum("lck,kl->cl", x, probes.weights, optimize=True)
    )
    return expit(np.asarray(logits) + probes.biases)


def _means(x: csr_array) -> Float[np.ndarray, " features"]:
    return np.asarray(x.sum(axis=0)).reshape(-1) / x.shape[0]


def f1_scores(
    predicted: Bool[np.ndarray, "clips labels"], truth: Bool[np.ndarray, "clips labels"]
) -> Float[np.ndarray, " labels"]:
    """Return the F1 of every label: harmonic mean of precision and recall; NaN where nothing is said, nor true."""
    with np.errstate(invalid="ignore"):
        return 2 * (predicted & truth).sum(axis=0) / (predicted.sum(axis=0) + truth.sum(axis=0))


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
