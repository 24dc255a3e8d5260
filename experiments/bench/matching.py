"""Table 1 at the size of the paper: 10,231 clips, 200 classes, 5,000 concepts, all methods, ten random draws.

Scores, names and embeddings are drawn at random with the sparseness that the paper's setting has; what is timed is the
evaluator's own work once embeddings exist, bootstrap included, in a process of its own.
"""

import resource
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ard.evaluation import MatchLabels
from ard.evaluation.scores import Labelled
from ard.probing import SCORERS, SparseScores
from ard.run import Cell, Run
from experiments.bench.report import Line

TITLE = "Matching for Table 1: 10,231 clips, 200 classes, 5,000 concepts, 13 selections, null and ceiling"
NUM_CLIPS, NUM_LABELS, NUM_FEATURES, NUM_CONCEPTS, NUM_DRAWS, D_CLAP = 10_231, 200, 32_768, 5_000, 10, 512
ACTIVE_PER_CLIP, LABELS_PER_CLIP, CLIPS_PER_BATCH = 3_000, 3.77, 32


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


def scored_clips(labels: Sequence[str]) -> Labelled:
    """Score clips at random, each with as many active features as all."""
    generator, rng = torch.Generator().manual_seed(1), np.random.default_rng(1)
    first, step = torch.randint(NUM_FEATURES, (2, NUM_CLIPS, 1), generator=generator)
    features = (first + (2 * step + 1) * torch.arange(ACTIVE_PER_CLIP)) % NUM_FEATURES  # odd steps meet none twice
    clips = torch.arange(NUM_CLIPS, dtype=torch.int32).repeat_interleave(ACTIVE_PER_CLIP)
    values = torch.rand(len(clips), len(SCORERS), generator=generator)
    sizes = np.minimum(1 + rng.poisson(LABELS_PER_CLIP - 1, NUM_CLIPS), 20)
    of_clips = [rng.choice(labels, size, replace=False).tolist() for size in sizes]
    return Labelled(SparseScores(clips, features.flatten().int(), values, NUM_CLIPS, NUM_FEATURES), of_clips)


def measured() -> tuple[float, float]:
    """Return the seconds that matching takes, and the most memory of the process in GB."""
    torch.set_num_threads(2)
    labels = [f"class_{i}" for i in range(NUM_LABELS)]
    names = [f"class {i % NUM_LABELS} no. {i}" for i in range(NUM_CONCEPTS)]
    scores, space = scored_clips(labels), Space([label.replace("_", " ") for label in labels])
    with tempfile.TemporaryDirectory() as scratch:
        cell = Run(Path(scratch)).cell(26, 8)
        write_cell(cell, Size(NUM_FEATURES, NUM_CONCEPTS, NUM_DRAWS), names)
        space(names)  # embeddings exist
        started = time.perf_counter()
        MatchLabels().match(cell, scores, space)
        seconds = time.perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> list[Line]:
    """Run in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        seconds, gigabytes = pool.submit(measured).result()
    return [
        Line("whole evaluation, once embeddings exist", seconds, "s", "at most 60 asked; 2 cores"),
        Line("most memory, the clips' scores included", gigabytes, "GB", "at most 4 asked"),
    ]
