"""What is near a concept: by the direction that it writes, by the clips that activate it most, and by its name."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import normalize

from ard.run import Cell

MOST = 6
ROWS_AT_ONCE = 512


class Near(NamedTuple):
    """One concept near another: its feature, and how near it is: a cosine, or a number of clips."""

    feature: int
    nearness: float


def by_cosine(vectors: Float[Tensor, "concepts d"], features: Sequence[int]) -> dict[int, list[Near]]:
    """Return by feature the others of highest cosine, the nearest first."""
    unit, near = normalize(vectors.float(), dim=1), dict[int, list[Near]]()
    most = min(MOST, len(features) - 1)
    for start in range(0, len(features), ROWS_AT_ONCE):
        cosines = unit[start : start + ROWS_AT_ONCE] @ unit.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -torch.inf
        nearest = cosines.topk(most)
        for row, (values, places) in enumerate(zip(nearest.values.tolist(), nearest.indices.tolist(), strict=True)):
            near[features[start + row]] = [Near(features[at], value) for at, value in zip(places, values, strict=True)]
    return near


def by_clips(rows: Sequence[Mapping[str, Any]]) -> dict[int, list[Near]]:
    """Return by feature the others that share most of its representative clips."""
    holders: dict[str, list[int]] = {}
    for row in rows:
        for clip_id in dict.fromkeys(row["top_ids"] or ()):
            holders.setdefault(clip_id, []).append(row["feature"])
    near = {}
    for row in rows:
        shared = Counter(other for clip_id in dict.fromkeys(row["top_ids"] or ()) for other in holders[clip_id])
        del shared[row["feature"]]
        near[row["feature"]] = [Near(feature, float(count)) for feature, count in shared.most_common(MOST)]
    return near


def by_name(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> dict[int, list[Near]]:
    """Return by feature the others whose names are nearest in CLAP's space; without one, those of the same name."""
    if (embedded := name_embeddings(cell, [row["feature"] for row in rows])) is not None:
        return by_cosine(embedded[1], embedded[0])
    namesakes: dict[str, list[int]] = {}
    for row in rows:
        if row["name"] is not None:
            namesakes.setdefault(row["name"].casefold(), []).append(row["feature"])
    return {
        feature: [Near(other, 1.0) for other in of_name if other != feature][:MOST]
        for of_name in namesakes.values()
        for feature in of_name
    }


def name_embeddings(cell: Cell, features: Sequence[int]) -> tuple[list[int], Float[Tensor, "concepts d"]] | None:
    """Return which of some features have a name whose CLAP text embedding is kept, and these; None if there are none.

    They are in ``name_embeddings.safetensors``: ``features`` [concepts] and ``embeddings`` [concepts, d].
    """
    if not cell.path("name_embeddings").is_file():
        return None
    stored, wanted = cell.tensors("name_embeddings"), set(features)
    rows = [row for row, feature in enumerate(stored["features"].tolist()) if feature in wanted]
    return (stored["features"][rows].tolist(), stored["embeddings"][rows].float()) if rows else None


def directions(cell: Cell, features: Sequence[int]) -> Float[Tensor, "concepts d"] | None:
    """Return the decoder's rows of some features; None for a cell without an SAE."""
    if not cell.has_sae:
        return None
    with safe_open(cell.sae / "sae_weights.safetensors", framework="pt") as stored:
        return stored.get_tensor("W_dec")[list(features)].float()
