"""Search and sort the concepts of a run, for `ard concepts`."""

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from rich.markup import escape
from rich.table import Table

from ard.run import Cell
from ard.types import UserError

MODALITY = {"": "hearing", "_low": "hearing_low", "_high": "hearing_high"}
Order = Literal["m", "name", "n_active", "agreement", "clap", "detection", "score"]


def read_concepts(cell: Cell) -> list[dict[str, Any]]:
    """Read the concepts of a cell, a row per feature, joined with what else is known of them.

    Of ``detection.parquet``, ``axes.parquet`` and ``timing.parquet`` these are their columns. Of ``modality.parquet``
    they are ``modality`` (0 if the feature reads, 1 if it hears), ``modality_low`` and ``modality_high``. Of
    ``effects.parquet`` they are ``effect <task>``, and the classes that a feature ``hears`` and that it ``speaks`` for;
    the lists are empty where nothing was measured. But for those of detection, there are no such columns without the
    file.
    """
    nothing: dict[str, Any] = {"detection": math.nan, "n_active_unseen": None}
    others = [_by_feature(cell, file) for file in ("detection", "axes", "timing")]
    modality = _by_feature(cell, "modality").items()
    others.append({feature: {f"modality{end}": row[of] for end, of in MODALITY.items()} for feature, row in modality})
    if cell.path("axes").is_file():
        nothing |= {"score": math.nan, "passes": None, "fails": []}
    if cell.path("timing").is_file():
        nothing |= {"event": None, "event_auroc": math.nan}
    if cell.path("effects").is_file():
        nothing |= {"hears": [], "speaks": []}
        others.append(_effects(cell.rows("effects")))
    joined = []
    for row in cell.rows("concepts"):
        measured: dict[str, Any] = {}
        for other in others:
            measured |= other.get(row["feature"], {})
        joined.append({**nothing, **measured, **row})
    return joined


def _by_feature(cell: Cell, file: str) -> dict[int, dict[str, Any]]:
    return {row["feature"]: row for row in cell.rows(file)} if cell.path(file).is_file() else {}


def read_timelines(cell: Cell) -> dict[int, list[Float[np.ndarray, " tokens"]]]:
    """Read the activations along the representative clips: by selected feature, those of each clip of ``top_ids``.

    Token t covers the time from t to t + 1 times the clip's ``seconds_per_token`` in clips.parquet. It is empty for a
    cell without ``timelines.safetensors``, as runs of older versions are.
    """
    if not cell.path("timelines").is_file():
        return {}
    stored = {name: tensor.numpy() for name, tensor in cell.tensors("timelines").items()}
    features, pieces = stored["features"].tolist(), np.split(stored["values"], stored["offsets"][1:-1])
    p = len(pieces) // max(len(features), 1)
    return {feature: pieces[i * p : (i + 1) * p] for i, feature in enumerate(features)}


def _effects(rows: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return by feature its effect on each task, and the classes that it hears and speaks for."""
    effects: dict[int, dict[str, Any]] = {}
    for row in rows:
        own = effects.setdefault(row["feature"], {"hears": [], "speaks": []})
        own[f"effect {row['task']}"] = row["effect"]
        for kind, towards in (("hears", row["auroc"] > 0.5), ("speaks", row["effect"] > 0)):
            name = row["target"] if towards else row["source"]
            if row["kind"] in (kind, "both") and name not in own[kind]:
                own[kind].append(name)
    return effects


def find_concepts(cell: Cell, search: str = "", sort: Order = "m") -> list[Any]:
    """Return the named concepts of a dictionary whose name or captions contain a word, ignoring case; best first.

    Args:
        cell: the dictionary's cell.
        search: the word or phrase; if empty, all concepts are returned.
        sort: the column to sort by: names from a to z, numbers from the largest, missing ones last; ties by feature.

    Raises:
        UserError: if the cell has no ``concepts.parquet``; it names those that have one.
    """
    if not cell.path("concepts").is_file():
        others = cell.run.cells_with("concepts")
        raise UserError(
            f"{str(cell.path('concepts'))!r} does not exist: the dictionaries of this run with concepts are {others}"
        )
    named = [concept for concept in read_concepts(cell) if concept["name"] is not None]
    matches = [c for c in named if search.casefold() in "\n".join((c["name"], *c["captions"])).casefold()]
    if sort == "name":
        return sorted(matches, key=lambda concept: concept["name"].casefold())
    return sorted(matches, key=lambda concept: _number(concept.get(sort)), reverse=True)


def concept_names(cell: Cell) -> dict[int, str]:
    """Return the names of a dictionary's named features, the highest m first; empty if nothing was named."""
    if not cell.path("concepts").is_file():
        return {}
    return {concept["feature"]: concept["name"] for concept in find_concepts(cell)}


def shown_names(cell: Cell) -> dict[int, str]:
    """Return the names of :func:`concept_names` as people are shown them: those that fail their tests say so."""
    if not cell.path("concepts").is_file():
        return {}
    return {
        concept["feature"]: concept["name"] + (" [fails its tests]" if concept.get("passes") is False else "")
        for concept in find_concepts(cell)
    }


def find_feature(names: Mapping[int, str], name: str) -> int:
    """Return the feature of that name in any case, or else the one of the shortest name that has its words.

    Words are whole: `man speaking` is not in `woman speaking`. Of features with the same name, the first is returned.

    Raises:
        UserError: if no name has these words; it lists the closest names.
    """
    words = f" {name.casefold()} "
    matches = [feature for feature, other in names.items() if words in f" {other.casefold()} "]
    if not matches:
        alike = get_close_matches(name, dict.fromkeys(names.values()), cutoff=0.0)
        raise UserError(
            f"no feature has {name!r} in its name (`ard concepts` lists all names); the closest are {alike}"
        )
    return min(matches, key=lambda feature: len(names[feature]))


def render_concepts(concepts: list[Any]) -> Table:
    """Return a table for the terminal: a line per concept, with what supports its name or else its first caption."""
    sources = dict.fromkeys(concept["made_from"] for concept in concepts if concept.get("made_from"))
    caption = f"names from {', '.join(sources)}" if sources else None
    table = Table(box=None, pad_edge=False, expand=True, caption=caption, caption_justify="left")
    table.add_column("feature", justify="right", no_wrap=True, min_width=7)
    table.add_column("name", no_wrap=True, min_width=14)
    for head in ("m", "clips", "clap", "detection"):  # numbers stay whole where the terminal is narrow
        table.add_column(head, justify="right", no_wrap=True, min_width=5)
    tested = any("passes" in concept for concept in concepts)
    if tested:
        table.add_column("tests", no_wrap=True, min_width=6)
    roles = [kind for kind in ("hears", "speaks") if any(kind in concept for concept in concepts)]
    for kind in roles:
        table.add_column(kind, no_wrap=True)
    supported = any(concept.get("support") for concept in concepts)
    table.add_column("support" if supported else "a caption", no_wrap=True, ratio=1)  # as much as there is room for
    for concept in concepts:
        m, clap, detection = (_number(concept.get(column)) for column in ("m", "clap", "detection"))
        numbers = (m, concept["n_active"], clap, detection)
        shown = ("–" if x == -math.inf else f"{x:.2f}" if isinstance(x, float) else str(x) for x in numbers)
        classes = (escape(", ".join(concept[kind])) for kind in roles)
        text = "; ".join(concept.get("support") or concept["captions"][:1])
        verdict = (_verdict(concept),) if tested else ()
        table.add_row(
            str(concept["feature"]),
            escape(concept["name"]),
            *shown,
            *verdict,
            *classes,
            escape(text),
            style="dim" if concept.get("passes") is False else None,
        )
    return table


def _verdict(concept: Mapping[str, Any]) -> str:
    """Return whether a concept's name passes its tests, if that can be told."""
    passes = concept["passes"]
    return "–" if passes is None else "passes" if passes else "fails"


def finite(value: float | int | None) -> float | None:
    """Return a number; None if it is missing, NaN or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None


def _number(value: float | None) -> float:
    return -math.inf if value is None or math.isnan(value) else value
