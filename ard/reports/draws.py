"""Drawings of how often random draws turn the answer, and where a dictionary's own features stand among them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ard.reports.doses import LEFT, RIGHT, WIDTH
from ard.run import Run

STRIP, BARS = 50.0, 30.0
"""Height of a strip, from its heading to its base, and of its highest bar."""
NUM_BINS = 20
"""Bars from 0 to 1; answers of few clips have fewer shares than that."""
KINDS = {"random_features": "features", "random_directions": "directions"}


class Bar(NamedTuple):
    """How many draws have a share like this: a rectangle of an SVG."""

    x: float
    y: float
    width: float
    height: float


class Strip(NamedTuple):
    """The draws of one kind for one dictionary: its heading, bars, its base, and where ours is."""

    title: str
    bars: list[Bar]
    base: float
    ours: float


class Drawing(NamedTuple):
    """One task: a strip for each kind of draw and dictionary, and the numbers as rows for a table."""

    task: str
    n: int
    height: float
    strips: list[Strip]
    rows: list[tuple[str, ...]]


class Drawn(NamedTuple):
    """What a strip shows: the sensitivity of every draw, and ours on the same clips."""

    method: str
    kind: str
    shares: Sequence[float]
    ours: float
    p: float
    n: int


def draw_drawings(run: Run) -> list[Drawing]:
    """Draw the random draws of every task, of the run's own dictionary and of untrained ones; empty without any."""
    tasks: dict[str, list[Drawn]] = {}
    for cell in (run.own, *run.controls(run.layer, run.expansion)):
        result = cell.result("steering")
        for name, task in (result.details.get("tasks", {}) if result is not None else {}).items():
            tasks.setdefault(name, []).extend(_drawn(cell.method, task))
    return [drawn(name, of_task) for name, of_task in tasks.items() if of_task]


def drawn(name: str, of_task: Sequence[Drawn]) -> Drawing:
    """Put the draws of one task into coordinates: the share of answers turned to the right, how many draws upwards."""
    strips = [_strip(one, base=(index + 1) * STRIP) for index, one in enumerate(of_task)]
    return Drawing(name, max(one.n for one in of_task), len(strips) * STRIP, strips, [_row(one) for one in of_task])


def _drawn(method: str, task: Mapping[str, Any]) -> Iterator[Drawn]:
    """Read the draws of one task that have a rank."""
    for key, kind in KINDS.items():
        found = task.get(key)
        if found and found["p"] is not None and found["ours"]["value"] is not None:
            values = [draw["sensitivity"]["value"] for draw in found["draws"]]
            shares = [value for value in values if value is not None]
            yield Drawn(method, kind, shares, found["ours"]["value"], found["p"], found["ours"]["n"])


def _strip(one: Drawn, base: float) -> Strip:
    counts, edges = np.histogram(one.shares, NUM_BINS, (0, 1))
    unit = BARS / counts.max()
    return Strip(
        title=f"{one.method} among {len(one.shares)} random {one.kind}: p = {one.p:.2f}",
        bars=[
            Bar(_at(edge), base - unit * count, _at(1 / NUM_BINS) - LEFT - 1, unit * count)
            for edge, count in zip(edges.tolist(), counts.tolist(), strict=False)
            if count
        ],
        base=base,
        ours=_at(one.ours),
    )


def _at(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _row(one: Drawn) -> tuple[str, ...]:
    spread = (f"{share:.2f}" for share in np.quantile(one.shares, [0, 0.25, 0.5, 0.75, 1]))
    return (f"{one.method}, {one.kind}", *spread, f"{one.ours:.2f}", f"{one.p:.2f}")
