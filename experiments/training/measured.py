"""What was measured of each setting, read back, and its means over half splits with their intervals."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import t

from ard.results import unsealed
from experiments.training.measure import SCORES
from experiments.training.settings import Setting


class Estimate(NamedTuple):
    """A mean over half splits with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it with a sign, as a difference."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def estimate(splits: Float[np.ndarray, " splits"]) -> Estimate:
    """Return a mean over half splits, with an interval for other clips of the same source.

    Splits of the same clips overlap, so that their spread alone is too small: the variance of the mean is
    s^2 (1 / n + 1), where 1 is the other half's size over the first's (Nadeau and Bengio, 2003), with n - 1 degrees of
    freedom.
    """
    mean, n = float(splits.mean()), len(splits)
    reach = float(t.ppf(0.975, n - 1) * splits.std(ddof=1) * np.sqrt(1 / n + 1))
    return Estimate(mean, mean - reach, mean + reach)


def _score(kind: str, key: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda split: split[kind][key]


FIGURES: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "f1": lambda split: split["f1_by"]["m"],
    "f1_live": lambda split: split["f1"],
    "f1_random": lambda split: split["f1_by"]["random"],
    "m_top_fifth": lambda split: split["m_top_fifth"],
    "above_chance": lambda split: split["above_chance"],
    "num_live": lambda split: split["num_live"],
    "feature_auroc": lambda split: split["feature_auroc"],
    "feature_f1": lambda split: split["feature_f1"],
    **{f"mean_{key}": _score("mean", key) for key in SCORES},
}
"""What is read of a dictionary on a split, by name."""


class Measured(NamedTuple):
    """A setting with all seeds that were measured."""

    setting: Setting
    seeds: list[int]
    cells: list[Mapping[str, Any]]  # a seed each

    def of(self, figure: str, who: str) -> Float[np.ndarray, "seeds splits"]:
        """Return a figure of the ``trained`` SAEs, of the ``untrained`` ones (mean over draws), or the ``gain``."""
        if who == "gain":
            return self.of(figure, "trained") - self.of(figure, "untrained")
        read = FIGURES[figure]
        by_seed = [
            [[read(split) for split in one["splits"]] for one in ([cell[who]] if who == "trained" else cell[who])]
            for cell in self.cells
        ]
        return np.array([np.mean(draws, axis=0) for draws in by_seed], dtype=float)

    def mean(self, figure: str, who: str) -> float:
        """Return a figure's mean over splits and seeds."""
        return float(self.of(figure, who).mean())

    def gain(self, figure: str) -> Estimate:
        """Return trained minus untrained, with its interval over half splits."""
        return estimate(self.of(figure, "gain").mean(axis=0))

    def quality(self, figure: str, who: str) -> float:
        """Return FVU or L0, the mean over seeds and draws."""
        return float(np.mean([np.mean([x[figure] for x in np.atleast_1d(cell[who])]) for cell in self.cells]))


def read_work(work: Path) -> list[Measured]:
    """Read what a work folder has measured, in the order of the grid."""
    cells = [unsealed(path.read_bytes()) for path in sorted(work.glob("*/measured.json"))]
    by_setting: dict[Setting, list[Mapping[str, Any]]] = {}
    for cell in sorted(cells, key=lambda cell: cell["seed"]):
        by_setting.setdefault(Setting(**cell["setting"]), []).append(cell)
    # The plainest settings first.
    order = sorted(by_setting, key=lambda s: (s.batch_top_k, s.matryoshka, s.anneal_from or 0, s.objective != "robust"))
    order.sort(key=lambda s: (s.variation, s.steps, -s.expansion, -s.k))
    return [Measured(s, [cell["seed"] for cell in by_setting[s]], by_setting[s]) for s in order]


def paired(one: Measured, other: Measured) -> tuple[Measured, Measured] | None:
    """Return two settings with the seeds that both have; None if there are none."""
    shared = [seed for seed in one.seeds if seed in other.seeds]
    if not shared:
        return None
    a, b = (Measured(x.setting, shared, [x.cells[x.seeds.index(seed)] for seed in shared]) for x in (one, other))
    return a, b


def as_json(one: Measured) -> dict[str, Any]:
    """Return what training.json keeps of a setting: F1 by seed and split, means of the rest."""
    both = ("trained", "untrained")
    f1 = {
        figure: {who: one.of(figure, who).round(4).tolist() for who in both}
        for figure in ("f1", "f1_live", "f1_random")
    }
    means = {figure: {who: round(one.mean(figure, who), 4) for who in both} for figure in FIGURES if figure not in f1}
    quality = {figure: {who: round(one.quality(figure, who), 4) for who in both} for figure in ("fvu", "l0")}
    return {"setting": one.setting._asdict(), "seeds": one.seeds, **quality, **means, **f1}
