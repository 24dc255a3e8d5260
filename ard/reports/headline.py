"""The first thing said of a run's concepts: whether there is anything to see."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

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
    return [*_spoken(above_chance(run.own)), *_passing(run.own), *_foreign(run), *_reconstruction(run.own)]


class AboveChance(NamedTuple):
    """How many features chance does not explain: by m, or where clips have no embedding by their names."""

    number: int
    of: int  # live ones, or of names those selected
    why: str  # the rate, or what the names are from; empty if there are none
    by_name: bool


def above_chance(cell: Cell) -> AboveChance | None:
    """Count the features of a cell that are above chance; None if that has not been measured."""
    result = cell.result("monosemanticity")
    if result is not None and "num_live" in result.details:
        rate = f"false-discovery rate {result.choices['false_discovery_rate']:.0%}"
        return AboveChance(result.details["num_above_chance"]["ard"], result.details["num_live"], rate, by_name=False)
    if cell.result("naming") is None:
        return None
    selected = [concept for concept in read_concepts(cell) if concept["selected"]]
    named = [concept for concept in selected if concept["name"] is not None]
    return AboveChance(len(named), len(selected), f"from {named[0]['made_from']}" if named else "", by_name=True)


def _spoken(counted: AboveChance | None) -> Iterator[str]:
    if counted is None:
        return
    number, of, why, by_name = counted
    many = f"{number:,} of {of:,}" if number else f"None of {of:,}"
    reason = f" ({why})" if why else ""
    if by_name:
        yield f"{many} features {'have' if number else 'has'} a name that chance does not explain{reason}."
    elif number:
        yield f"{many} live features are above chance{reason}."
    else:
        yield f"{many} live features is above chance{reason}: the model may not know these sounds."


def _passing(cell: Cell) -> Iterator[str]:
    passing = read_passing(cell)
    if passing is None:
        return
    number, of = passing
    controls = cell.run.controls(cell.layer, cell.expansion or 0)
    untrained = [read_passing(control) for control in controls if control.control == "untrained"]
    shares = [many / told for many, told in filter(None, untrained)]
    beside = f" ({number / of:.0%}; untrained {min(shares):.0%} to {max(shares):.0%})" if shares else ""
    yield f"{number:,} of {of:,} names pass all tests on clips that naming never saw{beside}."


def read_passing(cell: Cell) -> tuple[int, int] | None:
    """Return how many of the cell's names pass their tests, and how many could be tested; None where none was."""
    result = cell.result("name_axes")
    if result is None:
        return None
    number, failing = result.details["num_pass"], result.details["num_fail"]
    return (number, number + failing) if number + failing else None


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
