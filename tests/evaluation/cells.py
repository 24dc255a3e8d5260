"""What matching reads of a dictionary, made at random in any size; `experiments.bench.matching` takes the paper's."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ard.probing import SCORERS
from ard.run import Cell

D_CLAP = 512


class Size(NamedTuple):
    """How large a dictionary's results are made."""

    num_features: int
    num_concepts: int
    num_draws: int


class Space:
    """Texts as unit vectors: a label's is drawn once, and a name's lies close to the label that it begins with."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._known = {label: torch.randn(D_CLAP, generator=self._generator) for label in labels}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embed texts."""
        for text in texts:
            if text not in self._known:
                noise = torch.randn(D_CLAP, generator=self._generator)
                self._known[text] = self._known[text.partition(" no. ")[0]] + float(len(text) % 3) * noise
        return (
            normalize(torch.stack([self._known[text] for text in texts]), dim=-1) if texts else torch.empty(0, D_CLAP)
        )


def write_cell(cell: Cell, size: Size, names: Sequence[str | None], seed: int = 0) -> None:
    """Write what matching reads of a dictionary, at random: scores of H^k, selections, and their names."""
    generator = torch.Generator().manual_seed(seed)
    representatives = {f"{s}/top_scores": torch.rand(size.num_features, 4, generator=generator) for s in SCORERS}
    cell.save_tensors("representatives", representatives)
    selections: dict[str, Tensor] = {}
    named: list[dict[str, object]] = []
    for scorer in (*SCORERS, "random"):
        features = torch.randperm(size.num_features, generator=generator)[: size.num_concepts]
        for draw in range(size.num_draws if scorer == "random" else 1):
            chosen = selections["ard/0/features"] if scorer == "random" else features
            selections[f"{scorer}/{draw}/features"] = chosen.clone()
            selections[f"{scorer}/{draw}/m"] = torch.rand(size.num_concepts, generator=generator)
            selections[f"{scorer}/{draw}/top_ids"] = torch.zeros(size.num_concepts, 4, dtype=torch.int64)
            drawn = torch.randint(len(names), (size.num_concepts,), generator=generator).tolist()
            named += [{"scorer": scorer, "draw": draw, "name": names[index]} for index in drawn]
    cell.save_tensors("selections", selections)
    cell.save_rows("names", named)
