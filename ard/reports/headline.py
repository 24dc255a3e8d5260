"""The first thing said of a run's concepts: whether there is anything to see."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ard.reports.concepts import read_concepts
from ard.run import Cell, Run

EMBEDDED = "embedded"
SIMULATED = "synthetic"  # the source of the sounds that the embedded models know
USUAL_FVU = "trained ones have mostly .02 to .3"
MOST_FVU = 0.5  # above which reconstructions have little to do with the activations


def headline(run: Run) -> list[str]:
    """Return a few sentences: whether concepts are above chance, and how well the SAE reconstructs what it never saw.

    Args:
        run: the run; what it has not measured yet is not spoken of.
    """
    return [*_above_chance(run.own), *_foreign(run), *_reconstruction(run.own)]


def _above_chance(cell: Cell) -> Iterator[str]:
    result = cell.result("monosemanticity")
    if result is not None and "num_live" in result.details:
        number, live = result.details["num_above_chance"]["ard"], result.details["num_live"]
        rate = f"false-discovery rate {result.choices['false_discovery_rate']:.0%}"
        if number:
            yield f"{number:,} of {live:,} live features are above chance ({rate})."
        else:
            yield f"None of {live:,} live features is above chance ({rate}): the model may not know these sounds."
    elif cell.result("naming") is not None:
        selected = [concept for concept in read_concepts(cell) if concept["selected"]]
        named = [concept for concept in selected if concept["name"] is not None]
        what = (
            f"{len(named):,} of {len(selected):,} features have" if named else f"None of {len(selected):,} features has"
        )
        source = f" (from {named[0]['made_from']})" if named else ""
        yield f"{what} a name that chance does not explain{source}."


def _foreign(run: Run) -> Iterator[str]:
    facts: Mapping[str, Any] = run.facts
    parts = [part.get("source") for split in (facts.get("audio") or {}).values() for part in split]
    if EMBEDDED in (run.model, facts.get("clap")) and set(parts) != {SIMULATED}:
        yield "The embedded models know simulated sounds alone: what they say of other sounds means little."


def _reconstruction(cell: Cell) -> Iterator[str]:
    result, fvu = cell.result("reconstruction"), read_fvu(cell)
    if result is None or fvu is None:
        return
    held_out = "held-out" if result.choices["tokens"] == "eval" else "its own training"
    controls = [read_fvu(control) for control in cell.run.controls(cell.layer, cell.expansion or 0)]
    untrained = [value for value in controls if value is not None]
    beside = f"; {min(untrained):.2f} or more untrained" if untrained else ""
    yield f"FVU on {held_out} tokens is {fvu:.2f} ({USUAL_FVU}{beside})."
    if fvu > MOST_FVU:
        yield "That much is left unexplained that the dictionary and these activations may not belong together."


def read_fvu(cell: Cell) -> float | None:
    """Return the share of variance that the cell's dictionary leaves unexplained; None where it was not measured."""
    result = cell.result("reconstruction")
    value = result.rows[0].figures["fvu"].value if result is not None else math.nan
    return value if math.isfinite(value) else None
