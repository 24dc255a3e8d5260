"""Retrieval of representative clips against encoding alone; memory at a million clips; monosemanticity in bulk.

Encoding is the encoder's product and TopK on the same tokens, in turn with the whole pass in every round. What is said
of memory is measured in processes of their own.
"""

import multiprocessing
import re
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from ard.monosemanticity import WeightedMonosemanticity, score_lists
from ard.monosemanticity.chance import compare_with_chance, random_lists
from ard.probing import clip_scores
from ard.representatives import RepresentativeClips
from ard.sae import TopKSAE
from ard.types import Codes
from experiments.bench.report import Line

TITLE = "Retrieval: d_in 512, d_sae 4096, K 32, clips of 250 tokens, p 4"
D_IN, D_SAE, K, TOKENS_PER_CLIP, P = 512, 4096, 32, 250, 4
CLIPS_PER_BATCH, NUM_ROUNDS = 32, 7
MANY, MANY_PER_BATCH, MANY_FEATURES = 1_000_000, 200, 512
PAPER_FEATURES, NUM_EMBEDDINGS, D_CLAP, NUM_NULL_DRAWS = 32768, 100_000, 512, 20_000
NUM_LOWEST = 3_000  # distinct L^k: most features share theirs


class Speed(NamedTuple):
    """Tokens a second."""

    encoding: float
    retrieval: float  # encoding included
    first_batches: float  # likewise, while the lists still fill
    weighted: float  # encoding and the activation-weighted score


@torch.no_grad()
def speed() -> Speed:
    """Time encoding alone and encoding with retrieval, in turn, on clips that no one has seen yet."""
    generator = torch.Generator().manual_seed(0)
    sae = TopKSAE(D_IN, D_SAE, k=K, generator=generator)
    metric = RepresentativeClips(D_SAE, P)
    clip_of_token = torch.arange(CLIPS_PER_BATCH).repeat_interleave(TOKENS_PER_CLIP)
    weighted_metric, embeddings = WeightedMonosemanticity(D_SAE, D_CLAP), torch.randn(CLIPS_PER_BATCH, D_CLAP)
    encoding, retrieval, weighted = [], [], []
    for number in range(NUM_ROUNDS + 1):
        x = torch.randn(CLIPS_PER_BATCH, 1, D_IN, generator=generator)
        x = (x + torch.randn(CLIPS_PER_BATCH, TOKENS_PER_CLIP, D_IN, generator=generator)).flatten(0, 1)
        rows = torch.arange(CLIPS_PER_BATCH) + number * CLIPS_PER_BATCH
        started = time.perf_counter()
        sae.encode(x)
        encoded = time.perf_counter()
        metric.update(sae.encode(x), clip_of_token, rows)
        encoding.append(encoded - started)
        retrieved = time.perf_counter()
        codes = sae.encode(x)
        weighted_metric.update(clip_scores(codes, clip_of_token, CLIPS_PER_BATCH, D_SAE).mean, embeddings)
        weighted.append(time.perf_counter() - retrieved)
        retrieval.append(retrieved - encoded)
    tokens = len(clip_of_token)
    return Speed(
        tokens / statistics.median(encoding[1:]),
        tokens / statistics.median(retrieval[1:]),
        tokens / statistics.mean(retrieval[1:4]),
        tokens / statistics.median(weighted[1:]),
    )


class Memory(NamedTuple):
    """What the lists take."""

    state_bytes: int
    growth_bytes: int  # of the process's peak, from the first hundredth of the clips to the last
    seconds: float


def many_clips() -> Memory:
    """Retrieve from a million simulated clips of one token; to run in a fresh process, for its peak memory counts."""
    torch.set_num_threads(1)  # the batches are small
    generator = torch.Generator().manual_seed(0)
    metric = RepresentativeClips(MANY_FEATURES, P)
    clip_of_token = torch.arange(MANY_PER_BATCH)
    started, early = time.perf_counter(), 0
    for first in range(0, MANY, MANY_PER_BATCH):
        indices = torch.randint(0, MANY_FEATURES // 8, (MANY_PER_BATCH, 8), generator=generator)
        indices = indices + torch.arange(8) * (MANY_FEATURES // 8)  # no feature twice
        metric.update(
            Codes(torch.rand(indices.shape, generator=generator), indices), clip_of_token, clip_of_token + first
        )
        if first == MANY // 100:
            early = _peak_bytes()
    size = sum(getattr(metric, name).nbytes for name in metric.metric_state)
    return Memory(size, _peak_bytes() - early, time.perf_counter() - started)


class Scored(NamedTuple):
    """Monosemanticity of all features."""

    seconds: float
    peak_bytes: int  # beyond the embeddings and the lists
    chance_seconds: float  # of their p-values


def many_features() -> Scored:
    """Score the paper's number of features; to run in a fresh process, for its peak memory counts."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(NUM_EMBEDDINGS, D_CLAP, generator=generator)
    embeddings /= embeddings.norm(dim=1, keepdim=True)
    top, bottom = torch.randint(0, NUM_EMBEDDINGS, (2, PAPER_FEATURES, P), generator=generator)
    score_lists(embeddings, top[:1], bottom[:1])
    before, times = _peak_bytes(), []
    for _ in range(3):
        started = time.perf_counter()
        score_lists(embeddings, top, bottom)
        times.append(time.perf_counter() - started)
    peak = _peak_bytes() - before
    started = time.perf_counter()
    lowest = bottom[torch.randint(0, NUM_LOWEST, (PAPER_FEATURES,), generator=generator)]
    m = score_lists(embeddings, top, lowest)
    drawn = random_lists(embeddings, P, NUM_NULL_DRAWS, generator=generator)
    compare_with_chance(m, top, lowest, embeddings, drawn, generator=generator)
    return Scored(statistics.median(times), peak, time.perf_counter() - started)


def _peak_bytes() -> int:
    """Return the peak of this process; on Linux not by getrusage, which begins with the peak of the parent."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8")) if status.is_file() else None
    return 1024 * (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> list[Line]:
    """Measure speed here, and memory in fresh processes."""
    found = speed()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as fresh:
        memory = fresh.submit(many_clips).result()
        scored = fresh.submit(many_features).result()
    state = memory.state_bytes / (MANY_FEATURES * P)
    return [
        Line("encoding alone", found.encoding, "tokens/s", "the encoder's product and TopK"),
        Line("encoding and retrieval", found.retrieval, "tokens/s", "three scorers, statistics, places of activity"),
        Line("of encoding alone", found.retrieval / found.encoding, "share", "to reach: 0.7"),
        Line("of encoding alone, first three batches", found.first_batches / found.encoding, "share"),
        Line("encoding and the weighted score", found.weighted / found.encoding, "share", "of encoding alone"),
        Line("state of the lists and statistics", state, "bytes", "a feature and clip of a list"),
        Line("state at the paper's size", state * PAPER_FEATURES * P / 1e6, "MB", f"{PAPER_FEATURES} features, p {P}"),
        Line("growth of peak memory", memory.growth_bytes / 1e6, "MB", f"from 10,000 to {MANY:,} simulated clips"),
        Line("the million clips", memory.seconds, "s", f"{MANY_FEATURES} features, {MANY_PER_BATCH} clips a batch"),
        Line("monosemanticity", scored.seconds, "s", f"{PAPER_FEATURES} features, {NUM_EMBEDDINGS:,} x {D_CLAP}"),
        Line("memory of it", scored.peak_bytes / 1e6, "MB", "beyond the embeddings"),
        Line(
            "p-values of all features",
            scored.chance_seconds,
            "s",
            f"{NUM_NULL_DRAWS:,} random H, {NUM_LOWEST:,} distinct L",
        ),
    ]
