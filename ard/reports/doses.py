"""Drawings of steering's dose-response: the points of ``steering.json`` in the coordinates of an SVG."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ard.run import Run

WIDTH, HEIGHT, GAP = 320, 130, 34
"""Size of the upper panel (shares), and the gap to the lower one (perplexity), which is half as high."""
LEFT, RIGHT, TOP = 36, 8, 8
LOWER = HEIGHT // 2


class Mark(NamedTuple):
    """A tick: its position and its label."""

    at: float
    label: str


class Drawing(NamedTuple):
    """One task: paths of both panels (``d`` of SVG), ticks, and the numbers as rows for a table."""

    task: str
    n: int
    doses: list[Mark]
    chosen: float | None
    sensitivity: str
    interval: str
    readable: str
    perplexity: str
    unsteered: float | None
    perplexities: list[Mark]
    rows: list[tuple[str, str, str, str]]


def dose_drawings(run: Run) -> list[Drawing]:
    """Draw the dose-response of every task of the run's own dictionary; empty if none was measured."""
    results = run.results("steering", [run.layer], [run.expansion])
    tasks = [task for result in results for task in result.details.get("tasks", {}).items()]
    return [drawn(name, task) for name, task in tasks if task.get("dose_response")]


def drawn(name: str, task: Mapping[str, Any]) -> Drawing:
    """Put the points of one task into coordinates: doses at equal distances, perplexity on a logarithmic scale."""
    points: Sequence[Mapping[str, Any]] = task["dose_response"]
    unsteered = [point for point in points if point["multiple"] is None]
    steered = [point for point in points if point["multiple"] is not None]
    step = (WIDTH - LEFT - RIGHT) / max(len(steered) - 1, 1)
    places = [LEFT + index * step for index in range(len(steered))]
    most = max([10.0, *(p["perplexity"] for p in points if p["perplexity"] is not None)])
    decades = math.ceil(math.log10(most))

    def share_at(value: float | None) -> float | None:
        return None if value is None else TOP + (1 - value) * (HEIGHT - TOP)

    def perplexity_at(value: float | None) -> float | None:
        return None if value is None else HEIGHT + GAP + (1 - math.log10(value) / decades) * LOWER

    low, high = ([share_at(p["sensitivity"][side]) for p in steered] for side in ("low", "high"))
    chosen = task["chosen"]["multiple"]
    return Drawing(
        task=name,
        n=max(point["sensitivity"]["n"] for point in points),
        doses=[
            Mark(place, "SAE only" if point["multiple"] == 0 else f"{point['multiple']:g}×")
            for place, point in zip(places, steered, strict=True)
        ],
        chosen=next((at for at, point in zip(places, steered, strict=True) if point["multiple"] == chosen), None),
        sensitivity=line(places, [share_at(point["sensitivity"]["value"]) for point in steered]),
        interval=band(places, low, high),
        readable=line(places, [share_at(point["readable"]["value"]) for point in steered]),
        perplexity=line(places, [perplexity_at(point["perplexity"]) for point in steered]),
        unsteered=perplexity_at(unsteered[0]["perplexity"]) if unsteered else None,
        perplexities=[
            Mark(HEIGHT + GAP + (1 - power / decades) * LOWER, f"{10**power}" if power < 3 else f"{10 ** (power - 3)}k")
            for power in range(0, decades + 1, max(1, decades // 2))
        ],
        rows=[_row(point) for point in points],
    )


def band(places: Sequence[float], low: Sequence[float | None], high: Sequence[float | None]) -> str:
    """Return the path around the space between two lines; empty without points."""
    outline = line(places, high) + line(places[::-1], low[::-1]).replace("M", "L", 1)
    return outline and f"{outline}z"


def line(places: Sequence[float], heights: Sequence[float | None]) -> str:
    """Join points by lines; a missing point breaks the line."""
    parts, pen = [], "M"
    for x, y in zip(places, heights, strict=True):
        if y is None:
            pen = "M"
            continue
        parts.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return "".join(parts)


def _row(point: Mapping[str, Any]) -> tuple[str, str, str, str]:
    dose = {None: "no SAE", 0.0: "SAE only"}.get(point["multiple"]) or f"{point['multiple']:g}×"
    numbers = (point["sensitivity"]["value"], point["readable"]["value"])
    shares = ("–" if value is None else f"{value:.2f}" for value in numbers)
    perplexity = "–" if point["perplexity"] is None else f"{point['perplexity']:.3g}"
    return (dose, *shares, perplexity)  # type: ignore[return-value]
