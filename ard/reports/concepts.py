"""The concepts of a run, searched and sorted: `ard concepts`."""

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from ard.run import Cell
from ard.types import UserError

Order = Literal["m", "name", "n_active", "agreement", "clap", "detection"]


def read_concepts(cell: Cell) -> list[dict[str, Any]]:
    """Read the concepts of a cell, a row a feature, with the detection of their names where that was measured."""
    detection: dict[int, dict[str, Any]] = {}
    if cell.path("detection").is_file():
        detection = {row["feature"]: row for row in cell.rows("detection")}
    nothing = {"detection": math.nan, "n_active_unseen": None}
    return [{**nothing, **row, **detection.get(row["feature"], {})} for row in cell.rows("concepts")]


def find_concepts(cell: Cell, search: str = "", sort: Order = "m") -> list[Any]:
    """Return the named concepts of a dictionary whose name or captions contain a word, in any case; best first.

    Args:
        cell: the dictionary's.
        search: the word, or several as they stand; all concepts where it is empty.
        sort: by which column: names from a to z, numbers from the largest, what has none last; equal ones by feature.

    Raises:
        UserError: if there are none.
    """
    if not cell.path("concepts").is_file():
        others = cell.run.cells_with("concepts")
        raise UserError(
            f"{str(cell.path('concepts'))!r} does not exist: of this run's dictionaries {others} have concepts"
        )
    named = [concept for concept in read_concepts(cell) if concept["name"] is not None]
    found = [c for c in named if search.casefold() in "\n".join((c["name"], *c["captions"])).casefold()]
    if sort == "name":
        return sorted(found, key=lambda concept: concept["name"].casefold())
    return sorted(found, key=lambda concept: _number(concept.get(sort)), reverse=True)


def concept_names(cell: Cell) -> dict[int, str]:
    """Return the names of a dictionary's features that have one, the highest m first; none where nothing was named."""
    if not cell.path("concepts").is_file():
        return {}
    return {concept["feature"]: concept["name"] for concept in find_concepts(cell)}


def find_feature(names: Mapping[int, str], name: str) -> int:
    """Return the feature of that name, in any case; where there is none, that of the shortest name with its words.

    Words are whole ones: a `man speaking` is in no `woman speaking`. Of features with the same name it is the first.

    Raises:
        UserError: if no name has these words, with the names that are most like it.
    """
    words = f" {name.casefold()} "
    found = [feature for feature, known in names.items() if words in f" {known.casefold()} "]
    if not found:
        alike = get_close_matches(name, dict.fromkeys(names.values()), cutoff=0.0)
        raise UserError(f"no feature has {name!r} in its name (`ard concepts` lists all); most like it are {alike}")
    return min(found, key=lambda feature: len(names[feature]))


def render_concepts(concepts: list[Any]) -> Table:
    """Return a table for the terminal: a line a concept, with the first of its captions."""
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("feature", justify="right")
    table.add_column("name", no_wrap=True)
    for head in ("m", "clips", "clap", "detection"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("a caption", no_wrap=True, ratio=1)  # as much as there is room for
    for concept in concepts:
        m, clap, detection = (_number(concept.get(column)) for column in ("m", "clap", "detection"))
        numbers = (m, concept["n_active"], clap, detection)
        shown = ("–" if x == -math.inf else f"{x:.2f}" if isinstance(x, float) else str(x) for x in numbers)
        caption = next(iter(concept["captions"]), "")
        table.add_row(str(concept["feature"]), escape(concept["name"]), *shown, escape(caption))
    return table


def _number(value: float | None) -> float:
    return -math.inf if value is None or math.isnan(value) else value
