"""What ``run.json`` of a run's folder says, and the result files beside it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ard.results import Result
from ard.types import UserError


@dataclass(frozen=True)
class Run:
    """A run's folder and what was run: model, clips (``data``, one sentence), layers, and where the figures are from.

    ``p`` is the number of representative clips of a feature, ``num_selected`` the paper's C.
    """

    folder: Path
    preset: str
    seed: int
    model: str
    data: str
    layers: tuple[int, ...]
    expansions: tuple[int, ...]
    layer: int
    expansion: int
    p: int
    num_selected: int

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """Read ``run.json``; a :class:`UserError` where the folder holds none or it lacks something."""
        path = folder / "run.json"
        if not path.is_file():
            raise UserError(f"'{folder}' holds no run.json: give the --out folder of `ard demo` or `ard run`")
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            found: dict[str, Any] = {field.name: saved[field.name] for field in fields(cls) if field.name != "folder"}
            sets = {key: tuple(found.pop(key)) for key in ("layers", "expansions")}
            return cls(folder=folder, layers=sets["layers"], expansions=sets["expansions"], **found)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"'{path}' is no run.json of ard ({error!r}): run `ard demo` or `ard run` again") from error

    def sae_folder(self, layer: int, expansion: int | None) -> Path:
        """Return where the results of one SAE lie; an expansion of None is ``Poly. Feats.``, which has no SAE."""
        return self.folder / f"layer-{layer}" / ("poly" if expansion is None else f"e{expansion}")

    @property
    def own_folder(self) -> Path:
        """Where the run's own layer and expansion lie: its concepts and its results but for Table 4."""
        return self.sae_folder(self.layer, self.expansion)

    def results(self, evaluation: str, layers: Iterable[int], expansions: Iterable[int]) -> list[Result]:
        """Read one evaluation's results, layer by layer, ``Poly. Feats.`` first, but for files that are not there."""
        saes = [(layer, expansion) for layer in sorted(layers) for expansion in (None, *sorted(expansions))]
        paths = [self.sae_folder(*sae) / f"{evaluation}.json" for sae in saes]
        return [Result.load(path) for path in paths if path.is_file()]
