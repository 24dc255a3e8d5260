"""The catalogue of a dictionary's names, with the evidence for each."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ard.monosemanticity import Selection
from ard.naming.functional import Evidence, name_evidence, near_duplicates
from ard.naming.namer import Embed, Name
from ard.run import Cell


def read_names(cell: Cell) -> dict[str, list[list[str | None]]]:
    """Read the names of the selected features by scorer and draw, in the order of the selections."""
    names: dict[str, list[list[str | None]]] = {}
    for row in cell.rows("names"):
        draws = names.setdefault(row["scorer"], [])
        if row["draw"] == len(draws):
            draws.append([])
        draws[row["draw"]].append(row["name"])
    return names


def read_phrases(cell: Cell) -> dict[str, list[list[list[str]]]]:
    """Read the phrases that the names join, as :func:`read_names` reads the names; none for a concept without one."""
    phrases: dict[str, list[list[list[str]]]] = {}
    for row in cell.rows("names"):
        draws = phrases.setdefault(row["scorer"], [])
        if row["draw"] == len(draws):
            draws.append([])
        whole = [row["name"]] if row["name"] is not None else []
        draws[row["draw"]].append(row.get("phrases") or whole)
    return phrases


class Named(NamedTuple):
    """A selection's features, their names, and the evidence for these; every field has one entry per concept."""

    selection: Selection
    names: list[Name]
    duplicate_of: list[int | None]  # the feature whose name it repeats
    evidence: Evidence  # NaN without a name

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per selected feature, with the columns that both files share."""
        columns = zip(
            self.selection.features.tolist(),
            self.selection.m.tolist(),
            self.names,
            self.duplicate_of,
            *(values.tolist() for values in self.evidence),
            strict=True,
        )
        return [
            {
                "feature": feature,
                "m": m,
                "name": name.name,
                "phrases": _phrases(name),
                "duplicate_of": repeated,
                **dict(zip(Evidence._fields, evidence, strict=True)),
            }
            for feature, m, name, repeated, *evidence in columns
        ]


def _phrases(name: Name) -> list[str]:
    return list(name.phrases) or ([name.name] if name.name is not None else [])


class Space(NamedTuple):
    """CLAP's space, in which names and clips are compared."""

    embed: Embed
    clips: Float[Tensor, "clips d"]  # of the probing set
    others: Int[Tensor, " others"]  # random ones among them, by their rows


def weigh(selection: Selection, names: list[Name], space: Space | None, threshold: float) -> Named:
    """Find near-duplicates among a selection's names, and compare each name with its own and with other clips.

    Without a space, only the same words are a duplicate, and there is no evidence.
    """
    rows = [row for row, name in enumerate(names) if name.name is not None]
    texts = [name.name for name in names if name.name is not None]
    evidence = Evidence(*torch.full((3, len(names)), math.nan))
    if rows and space is not None:
        of_names = name_evidence(space.embed(texts), space.clips[selection.top_ids[rows]], space.clips[space.others])
        for values, of_named in zip(evidence, of_names, strict=True):
            values[rows] = of_named
    first: dict[str, int] = {}
    for row, name in zip(rows, texts, strict=True):
        first.setdefault(name, row)
    distinct = list(first)
    if distinct and space is not None:
        repeats = near_duplicates(space.embed(distinct), threshold).tolist()
    else:
        repeats = [-1] * len(distinct)
    origin = {name: first[distinct[of] if of >= 0 else name] for name, of in zip(distinct, repeats, strict=True)}
    features = selection.features.tolist()
    duplicate_of: list[int | None] = [None] * len(names)
    for row, name in zip(rows, texts, strict=True):
        duplicate_of[row] = features[origin[name]] if origin[name] != row else None
    return Named(selection, names, duplicate_of, evidence)


def write_names(cell: Cell, named: Mapping[str, Sequence[Named]]) -> None:
    """Write the names of the selected features of every scorer and draw."""
    rows = [
        {"scorer": scorer, "draw": draw, **row}
        for scorer, draws in named.items()
        for draw, of_draw in enumerate(draws)
        for row in of_draw.rows()
    ]
    cell.save_rows("names", rows)


def write_concepts(
    cell: Cell, clip_ids: Sequence[str], captions: Mapping[str, str], named: Named, made_from: str
) -> None:
    """Write one row per feature of the dictionary, with a name if it is selected."""
    stored, scored = cell.tensors("representatives"), cell.tensors("selections")
    selected = {row["feature"]: (row, name) for row, name in zip(named.rows(), named.names, strict=True)}
    no_evidence = {"name": None, "duplicate_of": None, **dict.fromkeys(Evidence._fields, math.nan)}
    lists = zip(stored["ard/top_ids"].tolist(), stored["ard/bottom_ids"].tolist(), strict=True)
    rows = []
    for feature, (top, bottom) in enumerate(lists):
        row, name = selected.get(feature, (no_evidence, Name(None, [], math.nan)))
        rows.append(
            {
                "feature": feature,
                "layer": cell.layer,
                "name": name.name,
                "made_from": made_from if name.name is not None else None,
                "phrases": _phrases(name),
                "support": list(name.support),
                "m": float(scored["ard/m"][feature]),
                "q_value": float(scored["ard/q_value"][feature]),
                "n_active": int(stored["n_active"][feature]),
                "selected": feature in selected,
                "top_ids": [clip_ids[clip] for clip in top],
                "bottom_ids": [clip_ids[clip] for clip in bottom],
                "captions": [captions.get(clip_ids[clip], "") for clip in top]
                if feature in selected and captions
                else [],
                "candidates": name.candidates,
                "agreement": name.agreement,
                "no_name_because": name.reason,
                **{field: row[field] for field in (*Evidence._fields, "duplicate_of")},
            }
        )
    cell.save_rows("concepts", rows)


def write_name_embeddings(cell: Cell, named: Named, space: Space | None) -> None:
    """Write where the names lie in CLAP's space, by feature, so that a report can show which are near each other.

    ``name_embeddings.safetensors`` has ``features`` [concepts] and ``embeddings`` (float16) [concepts, d]. Without a
    space or a name there is no such file.
    """
    rows = [row for row, name in enumerate(named.names) if name.name is not None]
    if space is None or not rows:
        cell.path("name_embeddings").unlink(missing_ok=True)
        return
    embeddings = space.embed([str(named.names[row].name) for row in rows])
    tensors = {"features": named.selection.features[rows], "embeddings": embeddings.half()}
    cell.save_tensors("name_embeddings", tensors)
