"""A concept's m beside that of chance: histograms in an SVG's coordinates, drawn once for all concepts."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ard.reports.concepts import finite
from ard.reports.doses import Mark
from ard.reports.effects import round_below
from ard.run import Cell

WIDTH, HEIGHT = 320, 90
NUM_BINS = 40
TAIL = 0.005
"""The lowest and the highest of this share are drawn at the ends."""


class Chance(NamedTuple):
    """Histograms of m: of random clips (``chance``, empty if it is not stored) and of all live features, as paths."""

    low: float
    high: float
    chance: str
    live: str
    ticks: list[Mark]
    num_live: int

    def at(self, m: float) -> float:
        """Return where an m lies on the drawing."""
        return round(min(max((m - self.low) / (self.high - self.low), 0.0), 1.0) * WIDTH, 1)


def chance_of(cell: Cell) -> Chance | None:
    """Draw m of a cell's live features and of random clips in their place; None where there is no m."""
    if not cell.path("selections").is_file():
        return None
    stored = {name: tensor.numpy() for name, tensor in cell.tensors("selections").items()}
    m = stored["ard/m"][np.isfinite(stored["ard/m"])] if "ard/m" in stored else np.empty(0)
    if len(m) == 0:
        return None
    by_chance = stored.get("ard/m_by_chance", np.empty(0))
    by_chance = by_chance[np.isfinite(by_chance)]
    low, high = np.quantile(np.concatenate([m, by_chance]), [TAIL, 1 - TAIL]).tolist()
    if high <= low:
        low, high = low - 1, high + 1
    step = round_below((high - low) / 3)
    ticks = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    drawn = Chance(low, high, _bars(by_chance, low, high), _bars(m, low, high), [], len(m))
    return drawn._replace(ticks=[Mark(drawn.at(tick), f"{tick:g}") for tick in ticks.round(10).tolist()])


def said_of(row: Mapping[str, Any], rate: float) -> str:
    """Say whether chance explains the m of a concept, at a false-discovery rate."""
    q = finite(row.get("q_value"))
    if q is None:
        return "It was not compared with chance."
    if q <= rate:
        return f"Chance does not explain it: q = {q:.2g}, at most {rate:g} among all live features."
    return f"Chance may explain it: q = {q:.2g}, above {rate:g}."


def _bars(values: Float[np.ndarray, " values"], low: float, high: float) -> str:
    """Draw a histogram as one outline from left to right, as high as the drawing at its mode."""
    if len(values) == 0:
        return ""
    counts, edges = np.histogram(values.clip(low, high), NUM_BINS, (low, high))
    tops = HEIGHT * (1 - counts / counts.max())
    x = (edges - low) / (high - low) * WIDTH
    steps = "".join(f"V{top:.1f}H{right:.1f}" for top, right in zip(tops, x[1:], strict=True))
    return f"M0 {HEIGHT}{steps}V{HEIGHT}z"
