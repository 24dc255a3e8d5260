"""Drawings of ``effects.parquet``, what features hear against what they do to an answer, in an SVG's coordinates."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ard.reports.doses import LEFT, RIGHT, TOP, WIDTH, Mark
from ard.run import Run

HEIGHT = 220
"""The bottom of the plot; the labels of its ticks are below."""
LINE, LETTER = 9.0, 4.8
"""Height of a line of text, and mean width of a letter, in the page's font of 8.5."""
LONGEST = 30  # letters of a name


class Dot(NamedTuple):
    """One feature: where it stands, what it is, and its name, which is left out where others stand in its way."""

    x: float
    y: float
    kind: str
    title: str
    label: str | None
    anchor: str  # of the label, in SVG's words


class Scatter(NamedTuple):
    """One task: its features, the scale, and the numbers as rows for a table."""

    task: str
    source: str
    target: str
    num_clips: int
    dots: list[Dot]
    effects: list[Mark]
    chance: tuple[float, float]  # top and height of the band that random directions reach
    counts: list[tuple[str, int]]
    rows: list[tuple[str, ...]]


def effect_drawings(run: Run) -> list[Scatter]:
    """Draw the features of every task of the run's own dictionary; empty where no effects were measured."""
    if not run.own.path("effects").is_file():
        return []
    tasks: dict[str, list[dict[str, Any]]] = {}
    for row in run.own.rows("effects"):
        tasks.setdefault(row["task"], []).append(row)
    return [drawn(rows) for rows in tasks.values()]


def drawn(rows: Sequence[Mapping[str, Any]]) -> Scatter:
    """Put the features of one task into coordinates: AUROC to the right, the effect upwards on both sides of 0."""
    first = rows[0]
    limit = 1.1 * max(*(abs(row["effect"]) for row in rows), first["effect_by_chance"], 1e-9)

    def at(effect: float) -> float:
        return TOP + (1 - effect / limit) / 2 * (HEIGHT - TOP)

    step = round_below(limit)
    chance = at(first["effect_by_chance"])
    ordered = sorted(rows, key=lambda row: abs(row["effect"]), reverse=True)
    places = [(LEFT + row["auroc"] * (WIDTH - LEFT - RIGHT), at(row["effect"])) for row in ordered]
    kinds = Counter(row["kind"] for row in rows)
    return Scatter(
        task=first["task"],
        source=first["source"],
        target=first["target"],
        num_clips=first["num_clips"],
        dots=_labelled(ordered, places),
        effects=[Mark(at(effect), f"{effect:+g}" if effect else "0") for effect in (step, 0.0, -step)],
        chance=(chance, at(-first["effect_by_chance"]) - chance),
        counts=[(kind, kinds[kind]) for kind in ("both", "speaks", "hears", "neither")],
        rows=[_row(row) for row in rows],
    )


def _labelled(rows: Sequence[Mapping[str, Any]], places: Sequence[tuple[float, float]]) -> list[Dot]:
    """Write names beside the dots, the largest effects first, wherever they cover no dot and no other name."""
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in places]
    dots = []
    for row, (x, y) in zip(rows, places, strict=True):
        name = row["name"] or f"feature {row['feature']}"
        text = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
        label, anchor = None, "start" if x < WIDTH / 2 else "end"
        near, far = (x + 5, x + 5 + LETTER * len(text)) if anchor == "start" else (x - 5 - LETTER * len(text), x - 5)
        box = (near, y - LINE / 2, far, y + LINE / 2)
        if row["kind"] != "neither" and not any(_overlap(box, other) for other in taken):
            label = text
            taken.append(box)
        title = f"{name} ({row['feature']}): AUROC {row['auroc']:.2f}, effect {row['effect']:+.3f}, {row['kind']}"
        dots.append(Dot(x, y, row["kind"], title, label, anchor))
    return dots


def _overlap(box: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def round_below(limit: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is not above a number."""
    power = 10.0 ** math.floor(math.log10(limit))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= limit)


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    interval = f"{row['effect']:+.3f} [{row['effect_low']:+.3f}, {row['effect_high']:+.3f}]"
    numbers = (f"{row['auroc']:.2f}", interval, f"{row['output_score']:.3f}")
    return (str(row["feature"]), row["name"] or "–", row["kind"], *numbers, row["by"])
