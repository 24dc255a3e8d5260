"""Draw the concepts that a study asks about."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ard.run import Cell
from ard.study.store import Concept
from ard.types import UserError

KEY_BYTES = 6


def draw_concepts(cells: Sequence[Cell], num_concepts: int, seed: int) -> list[Concept]:
    """Draw the same number of named concepts from every method, without replacement, and mix them.

    Keys do not reveal the method. A method with fewer named concepts gives all it has; one whose cell has no concepts
    gives none.

    Args:
        cells: one cell for each method.
        num_concepts: how many from each method (the paper's 50).
        seed: seed of the draw, the keys and the order.

    Raises:
        UserError: if no concepts are asked for, or there are none to draw from.
    """
    if num_concepts < 1:
        raise UserError(f"a study cannot have {num_concepts} concepts: give 1 or more")
    generator = np.random.default_rng(seed)
    drawn: list[tuple[Cell, dict[str, Any]]] = []
    for cell in cells:
        rows = cell.rows("concepts") if cell.path("concepts").is_file() else []
        named = [row for row in rows if row["selected"] and (row["name"] or "").strip() and row["top_ids"]]
        chosen = generator.permutation(len(named))[:num_concepts]
        drawn += [(cell, named[index]) for index in sorted(chosen.tolist())]
    if not drawn:
        paths = ", ".join(str(cell.path("concepts")) for cell in cells)
        raise UserError(
            f"no concept of this run has a name (looked for {paths}): run `ard table 2`, "
            "`ard demo` or `ard run` to the end first"
        )
    keys: dict[str, None] = {}
    while len(keys) < len(drawn):
        keys[generator.bytes(KEY_BYTES).hex()] = None
    mixed = [drawn[index] for index in generator.permutation(len(drawn)).tolist()]
    return [
        Concept(
            key=key,
            method=cell.method,
            layer=row["layer"],
            expansion=cell.expansion,
            feature=row["feature"],
            name=row["name"].strip(),
            clips=tuple(row["top_ids"]),
            captions=tuple(row["captions"] or ()),
        )
        for key, (cell, row) in zip(keys, mixed, strict=True)
    ]
