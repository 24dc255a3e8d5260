"""The concepts of a run, searched and sorted: `ard concepts`."""

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

import pyarrow.parquet as pq
from rich.markup import escape
from rich.table import Table

from ard.reports.run import Run
from ard.types import UserError

CONCEPTS = "concepts.parquet"
Order = Literal["m", "name", "n_active", "agreement", "clap", "detection"]


def find_concepts(run: Run, layer: int, expansion: int | None, search: str = "", sort: Order = "m") -> list[Any]:
    """Return the named concepts of a dictionary whose name or captions contain a word, in any case; best first.

    Args:
        run: whose they are.
        layer: of the dictionary.
        expansion: likewise; None for the raw coordinates.
        search: the word, or several as they stand; all concepts where it is empty.
        sort: by which column: names from a to z, numbers from the largest, what has none last; equal ones by feature.

    Raises:
        UserError: if the run has no concepts there.
    """
    path = run.sae_folder(layer, expansion) / CONCEPTS
    if not path.is_file():
        known = sorted(str(found.parent.relative_to(run.folder)) for found in run.folder.glob("layer-*/*/" + path.name))
        raise UserError(f"{str(path)!r} does not exist: of this run's dictionaries {known} have concepts")
    named = [concept for concept in pq.read_table(path).to_pylist() if concept["name"] is not None]
    found = [c for c in named if search.casefold() in "\n".join((c["name"], *c["captions"])).casefold()]
    if sort == "name":
        return sorted(found, key=lambda concept: concept["name"].casefold())
    return sorted(found, key=lambda concept: _number(concept.get(sort)), reverse=True)


def concept_names(run: Run, layer: int, expansion: int | None) -> dict[int, str]:
    """Return the names of a dictionary's features that have one, the highest m first; none where nothing was named."""
    if not (run.sae_folder(layer, expansion) / CONCEPTS).is_file():
        return {}
    return {concept["feature"]: concept["name"] for concept in find_concepts(run, layer, expansion)}


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
