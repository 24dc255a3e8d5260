"""Drawings of the effect by layer: where the classes' difference still moves the answer, in an SVG's coordinates."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ard.reports.doses import LEFT, RIGHT, TOP, WIDTH, Mark, band, line
from ard.run import Run

HEIGHT = 130
"""The bottom of the plot; the labels of its ticks are below."""
MOST_LABELS = 12
LEAST_APART = 0.1
"""Labels that are nearer to that of 0 than this share of the height would cover it."""


class Drawing(NamedTuple):
    """One task: paths (``d`` of SVG), ticks, and the numbers as rows for a table."""

    task: str
    n: int
    layers: list[Mark]
    own: float | None
    """Where the run's own layer is."""
    effect: str
    interval: str
    nats: list[Mark]
    rows: list[tuple[str, str, str]]


def layer_drawings(run: Run) -> list[Drawing]:
    """Draw the effect by layer of every task of the run's own dictionary; empty if none was measured."""
    results = run.results("steering", [run.layer], [run.expansion])
    tasks = [task for result in results for task in result.details.get("tasks", {}).items()]
    return [drawn(name, task["layers"], run.layer) for name, task in tasks if task.get("layers")]


def drawn(name: str, layers: Sequence[Mapping[str, Any]], own: int) -> Drawing:
    """Put the layers of one task into coordinates: at equal distances, the effect upwards from the least or 0."""
    effects = [at["effect"] for at in layers]
    step = (WIDTH - LEFT - RIGHT) / max(len(layers) - 1, 1)
    places = [LEFT + index * step for index in range(len(layers))]
    ends = [0.0, *(value for of in effects for side in ("low", "value", "high") if (value := of[side]) is not None)]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def at(nats: float | None) -> float | None:
        return None if nats is None else TOP + (high - nats) / span * (HEIGHT - TOP)

    every = -(-len(layers) // MOST_LABELS)
    labels = [str(one["layer"]) if index % every == 0 else "" for index, one in enumerate(layers)]
    return Drawing(
        task=name,
        n=max(of["n"] for of in effects),
        layers=[Mark(place, label) for place, label in zip(places, labels, strict=True) if label],
        own=next((place for place, one in zip(places, layers, strict=True) if one["layer"] == own), None),
        effect=line(places, [at(of["value"]) for of in effects]),
        interval=band(places, *([at(of[side]) for of in effects] for side in ("low", "high"))),
        nats=[
            Mark(TOP + (high - nats) / span * (HEIGHT - TOP), f"{nats:.2g}")
            for nats in sorted({low, 0.0, high})
            if nats == 0 or abs(nats) > LEAST_APART * span
        ],
        rows=[(str(one["layer"]), _effect(one["effect"]), f"{one['norm']:.3g}") for one in layers],
    )


def _effect(figure: Mapping[str, Any]) -> str:
    interval = "" if figure["low"] is None else f" [{figure['low']:+.2f}, {figure['high']:+.2f}]"
    return f"{figure['value']:+.2f}{interval}"
