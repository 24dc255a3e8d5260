"""Which concepts come back when everything is repeated with another seed (Table 4)."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from ard.monosemanticity import read_selections
from ard.results import Figure, Result
from ard.run import Cell
from ard.sae import load_dictionary
from ard.types import UserError

CHUNK = 1024  # features compared at once


def nearest_directions(
    of: Float[Tensor, "features d_in"], among: Float[Tensor, "others d_in"]
) -> tuple[Float[Tensor, " features"], Int[Tensor, " features"]]:
    """Return each direction's highest cosine with one of the others, and the index of that one."""
    among = normalize(among, dim=-1)
    parts = [(normalize(part, dim=-1) @ among.T).max(dim=-1) for part in of.split(CHUNK)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def compare_seeds(cells: Sequence[Cell], *, cosine: float = 0.7, seed: int = 0) -> Result:
    """Find which of the selected features of the first dictionary the others have too, and write ``seeds.json`` there.

    A feature comes back in a dictionary if one of that dictionary's decoder directions has at least this cosine with
    its own. The chance level is the same measurement after shuffling the coordinates of the other dictionaries. A name
    comes back if some feature of the other dictionary has it too, whatever its direction: one sound may be written in
    several ways.

    Args:
        cells: cells of one layer and expansion, each from a run with another seed.
        cosine: least cosine of two directions that count as the same.
        seed: seed of the shuffling and the bootstrap.

    Raises:
        UserError: if there is only one dictionary, one is missing, or their widths differ.
    """
    started = time.monotonic()
    if len(cells) < 2:
        raise UserError(f"{len(cells)} run given, at least 2 are needed: the first is compared with the others")
    if len({cell.folder.resolve() for cell in cells}) < len(cells):
        raise UserError("a run is given twice: give each once")
    for cell in cells:
        if not cell.has_sae or not cell.path("selections").is_file():
            raise UserError(
                f"{str(cell.folder)!r} holds no scored SAE: run `ard table 4` with that --out and --seed first"
            )
    own, *others = [load_dictionary(cell.sae).directions() for cell in cells]
    widths = [decoder.shape[1] for decoder in (own, *others)]
    if len(set(widths)) > 1:
        raise UserError(f"the SAEs read vectors of {widths} numbers: compare runs on one model")
    selection = read_selections(cells[0])["ard"][0]
    directions, generator = own[selection.features], torch.Generator().manual_seed(seed)
    matches = [nearest_directions(directions, other) for other in others]
    shuffled = [
        nearest_directions(directions, other[:, torch.randperm(widths[0], generator=generator)]) for other in others
    ]
    share = {
        name: torch.stack([cosines >= cosine for cosines, _ in of]).all(dim=0).double().numpy()
        for name, of in (("come_back", matches), ("come_back_shuffled", shuffled))
    }
    figures = {
        name: Figure.estimate(back, np.mean, "share of the top-C", over="concepts", seed=seed)
        for name, back in share.items()
    }
    figures["come_back_shuffled"] = figures["come_back_shuffled"].of_control()
    names = [_names(cell) for cell in cells]
    if all(names):
        named = [name for feature in selection.features.tolist() if (name := names[0].get(feature))]
        back = np.array([all(name in of.values() for of in names[1:]) for name in named], dtype=float)
        figures["name_comes_back"] = Figure.estimate(back, np.mean, "share of the named", over="concepts", seed=seed)
    concepts = [
        {
            "feature": feature,
            "name": names[0].get(feature),
            "m": m,
            "elsewhere": [
                {"feature": int(nearest[i]), "cosine": float(cosines[i]), "name": of.get(int(nearest[i]))}
                for (cosines, nearest), of in zip(matches, names[1:], strict=True)
            ],
        }
        for i, (feature, m) in enumerate(zip(selection.features.tolist(), selection.m.tolist(), strict=True))
    ]
    choices = {"same": "cosine of decoder directions", "cosine": cosine, "in": "all of the other runs"}
    details = {"runs": [str(cell.folder) for cell in cells], "concepts": concepts}
    seconds = time.monotonic() - started
    result = Result("seeds", (cells[0].row(figures),), choices, details, seed, seconds)
    result.save(cells[0].result_path("seeds"))
    return result


def _names(cell: Cell) -> dict[int, str | None]:
    """Return the names of a cell's features; empty where none were named."""
    if not cell.path("concepts").is_file():
        return {}
    return {row["feature"]: row["name"] for row in cell.rows("concepts")}
