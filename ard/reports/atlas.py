"""The map of a run's concepts: a point each, near to those of alike names, laid out once and kept in a file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ard.reports.nearness import directions, name_embeddings
from ard.results import write_json
from ard.run import Cell

SEED = 0
LEAST_POINTS = 3  # fewer have no layout
PERPLEXITY = 30.0
NUM_ITERATIONS = 500
BY_NAME = "the text embeddings of their names"
BY_DIRECTION = "the directions that they write"


class Atlas(NamedTuple):
    """Where concepts lie on a map: coordinates from 0 to 1 by feature, and what makes two of them near."""

    places: dict[int, tuple[float, float]]
    by: str


def atlas(cell: Cell, features: Sequence[int], path: Path) -> Atlas | None:
    """Lay out some concepts by t-SNE, of the embeddings of their names or else of their decoder's rows.

    The layout is read back from a file if it was made from the same vectors; otherwise the file is written. It is None
    if there is nothing to lay out.
    """
    embedded, by = name_embeddings(cell, features), BY_NAME
    if embedded is None:
        rows = directions(cell, features)
        embedded, by = None if rows is None else (list(features), rows), BY_DIRECTION
    if embedded is None or len(embedded[0]) < LEAST_POINTS:
        return None
    laid_out, vectors = embedded
    stamp = _stamp(laid_out, vectors)
    kept = _kept(path)
    if kept.get("stamp") != stamp:
        x, y = layout(vectors).T.round(4).tolist()
        kept = {"stamp": stamp, "by": by, "features": laid_out, "x": x, "y": y}
        write_json(path, kept)
    points = zip(kept["x"], kept["y"], strict=True)
    return Atlas(dict(zip(kept["features"], points, strict=True)), by)


def _kept(path: Path) -> dict[str, Any]:
    """Return the layout in a file; nothing if there is none that can be read."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def layout(vectors: Float[Tensor, "concepts d"]) -> Float[np.ndarray, "concepts 2"]:
    """Return coordinates from 0 to 1 by t-SNE on cosines, the same ones for the same vectors.

    Equal vectors, as those of equal names, would lie on one point; a little noise keeps them apart.
    """
    from sklearn.manifold import TSNE  # it takes a second to import

    unit = normalize(vectors.double(), dim=1).numpy()
    unit = unit + np.random.default_rng(SEED).normal(scale=0.05 / np.sqrt(unit.shape[1]), size=unit.shape)
    perplexity = min(PERPLEXITY, (len(unit) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, max_iter=NUM_ITERATIONS, init="pca", random_state=SEED)
    found = tsne.fit_transform(unit.astype(np.float32)).astype(np.float64)
    low, high = found.min(axis=0), found.max(axis=0)
    return (found - low) / np.maximum(high - low, 1e-12)


def _stamp(features: Sequence[int], vectors: Float[Tensor, "concepts d"]) -> str:
    settings = json.dumps([SEED, PERPLEXITY, NUM_ITERATIONS, list(features)]).encode()
    return xxhash.xxh3_64_hexdigest(settings + vectors.to(torch.float32).contiguous().numpy().tobytes())
