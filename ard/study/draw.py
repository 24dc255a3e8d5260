"""Which concepts a study asks about."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from ard.study.store import Concept
from ard.types import UserError

KEY_BYTES = 6


class Dictionary(NamedTuple):
    """A method by the paper's name, its expansion (None for raw coordinates), and the folder of its results."""

    method: str
    expansion: int | None
    folder: Path


def draw_concepts(dictionaries: Sequence[Dictionary], num_concepts: int, seed: int) -> list[Concept]:
    """Draw as many named concepts of every method, without replacement, and mix them.

    Keys say nothing of the method. A method that has fewer named concepts gives all it has; one whose folder has no
    ``concepts.parquet`` gives none.

    Args:
        dictionaries: the methods' own.
        num_concepts: of each method (the paper's 50).
        seed: of the draw, the keys and the order.

    Raises:
        UserError: if there is nothing to draw, or nothing to draw from.
    """
    if num_concepts < 1:
        raise UserError(f"{num_concepts} concepts make no study: give a number from 1 on")
    generator = np.random.default_rng(seed)
    drawn: list[tuple[Dictionary, dict[str, Any]]] = []
    for dictionary in dictionaries:
        path = dictionary.folder / "concepts.parquet"
        rows = pq.read_table(path).to_pylist() if path.is_file() else []
        named = [row for row in rows if row["selected"] and (row["name"] or "").strip() and row["top_ids"]]
        chosen = generator.permutation(len(named))[:num_concepts]
        drawn += [(dictionary, named[index]) for index in sorted(chosen.tolist())]
    if not drawn:
        looked = ", ".join(str(dictionary.folder) for dictionary in dictionaries)
        raise UserError(
            f"no concept of this run has a name (looked for concepts.parquet in {looked}): run `ard table 2`, "
            "`ard demo` or `ard run` to the end first"
        )
    keys: dict[str, None] = {}
    while len(keys) < len(drawn):
        keys[generator.bytes(KEY_BYTES).hex()] = None
    mixed = [drawn[index] for index in generator.permutation(len(drawn)).tolist()]
    return [
        Concept(
            key=key,
            method=dictionary.method,
            layer=row["layer"],
            expansion=dictionary.expansion,
            feature=row["feature"],
            name=row["name"].strip(),
            clips=tuple(row["top_ids"]),
            captions=tuple(row["captions"] or ()),
        )
        for key, (dictionary, row) in zip(keys, mixed, strict=True)
    ]
