"""Table 1 at the size of the paper: 10,231 clips, 200 classes, 5,000 concepts, all methods, ten random draws.

Scores, names and embeddings are drawn at random with the sparseness that the paper's setting has; what is timed is the
callback's own work once embeddings exist, bootstrap included, in a process of its own.
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

from ard.activations import ProbeBatch
from ard.evaluation import MatchLabels
from ard.evaluation.scores import LabelledScores
from ard.results import Row
from ard.types import Codes
from experiments.bench.report import Line
from tests.evaluation.cells import Cell, Space, write_cell

TITLE = "Matching for Table 1: 10,231 clips, 200 classes, 5,000 concepts, 13 selections, null and ceiling"
NUM_CLIPS, NUM_LABELS, NUM_FEATURES, NUM_CONCEPTS, NUM_DRAWS = 10_231, 200, 32_768, 5_000, 10
ACTIVE_PER_CLIP, LABELS_PER_CLIP, CLIPS_PER_BATCH = 3_000, 3.77, 32


def scored_clips(labels: Sequence[str]) -> LabelledScores:
    """Score clips in batches as the callback would, with one token a clip that is active in the features of all."""
    generator, rng = torch.Generator().manual_seed(1), np.random.default_rng(1)
    scores = LabelledScores(NUM_FEATURES)
    for start in range(0, NUM_CLIPS, CLIPS_PER_BATCH):
        count = min(CLIPS_PER_BATCH, NUM_CLIPS - start)
        first, step = torch.randint(NUM_FEATURES, (2, count, 1), generator=generator)
        indices = (
            first + (2 * step + 1) * torch.arange(ACTIVE_PER_CLIP)
        ) % NUM_FEATURES  # odd steps meet no feature twice
        codes = Codes(torch.rand(count, ACTIVE_PER_CLIP, generator=generator), indices)
        sizes = np.minimum(1 + rng.poisson(LABELS_PER_CLIP - 1, count), 20)
        metadata = [{"labels": rng.choice(labels, size, replace=False).tolist()} for size in sizes]
        clips = torch.arange(count)
        scores.add(codes, ProbeBatch(torch.empty(count, 0), clips, clips + start, metadata))
    return scores


def measured() -> tuple[float, float]:
    """Return the seconds that matching takes, and the most memory of the process in GB."""
    torch.set_num_threads(2)
    labels = [f"class_{i}" for i in range(NUM_LABELS)]
    names = [f"class {i % NUM_LABELS} no. {i}" for i in range(NUM_CONCEPTS)]
    scores, space = scored_clips(labels), Space([label.replace("_", " ") for label in labels])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_cell(folder, Cell(NUM_FEATURES, NUM_CONCEPTS, NUM_DRAWS), names)
        space(names)  # embeddings exist
        started = time.perf_counter()
        MatchLabels(folder).match(scores, space, Row("AR&D", 26, 8, {}))
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
