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

import numpy as np
import torch

from ard.evaluation import MatchLabels
from ard.evaluation.scores import Labelled
from ard.probing import SCORERS, SparseScores
from ard.run import Run
from experiments.bench.report import Line
from tests.evaluation.cells import Size, Space, write_cell

TITLE = "Matching for Table 1: 10,231 clips, 200 classes, 5,000 concepts, 13 selections, null and ceiling"
NUM_CLIPS, NUM_LABELS, NUM_FEATURES, NUM_CONCEPTS, NUM_DRAWS = 10_231, 200, 32_768, 5_000, 10
ACTIVE_PER_CLIP, LABELS_PER_CLIP, CLIPS_PER_BATCH = 3_000, 3.77, 32


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
