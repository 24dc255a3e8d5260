"""What it costs to measure concepts in time and to keep their activations, at the demo's size and at the paper's.

Activations are drawn at random, with events at random times: no cost depends on their truth.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ard.activations.layer import read_layer
from ard.activations.store import write_manifest, write_shard
from ard.evaluation import KeepTimelines, TimeConcepts
from ard.evaluation.functional import auroc
from ard.evaluation.timing import Entries, auroc_in_time
from ard.run import Run
from ard.sae import TopKSAE
from experiments.bench.report import Line, median_seconds

TITLE = "Concepts in time: 800 clips of 75 tokens, 1,024 features, K 16; a clip of 250 tokens, 32,768 features, K 250"
NUM_CLIPS, NUM_TOKENS, D_IN, EXPANSION, K, P, NUM_SELECTED = 400, 75, 128, 8, 16, 4, 200
PAPER_TOKENS, PAPER_FEATURES, PAPER_K, PAPER_LABELS = 250, 32_768, 250, 5
SECONDS_PER_TOKEN, LABELS = 0.04, tuple(f"label {number}" for number in range(30))


def write_activations(folder: Path, seed: int) -> None:
    """Write activations of clips in each of which two labels are heard, four times each."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    about = {"model": "none", "layers": [0], "dtype": "float32"}
    clips = []
    for number in range(NUM_CLIPS):
        onsets_s = rng.uniform(0, NUM_TOKENS * SECONDS_PER_TOKEN - 0.3, size=(2, 4))
        heard = rng.choice(len(LABELS), 2, replace=False)
        events = [
            {"onset_s": onset_s, "offset_s": onset_s + 0.3, "label": LABELS[label]}
            for label, of_label in zip(heard, onsets_s.tolist(), strict=True)
            for onset_s in of_label
        ]
        timed = {"num_tokens": NUM_TOKENS, "seconds_per_token": SECONDS_PER_TOKEN, "events": events}
        x = torch.randn(NUM_TOKENS, D_IN, generator=generator)
        clips.append(({"id": f"c{number}", **timed}, {0: x}))
    for shard in range(0, NUM_CLIPS, 128):
        write_shard(folder, shard // 128, clips[shard : shard + 128], [], about)
    write_manifest(folder, -(-NUM_CLIPS // 128), D_IN, about)


def clip_of_the_paper() -> tuple[Entries, np.ndarray]:
    """Return the codes of a clip as wide as the paper's, and where five labels are heard in it."""
    rng = np.random.default_rng(0)
    features = np.stack([rng.choice(PAPER_FEATURES, PAPER_K, replace=False) for _ in range(PAPER_TOKENS)])
    tokens = np.repeat(np.arange(PAPER_TOKENS), PAPER_K)
    values = rng.exponential(size=len(tokens)).astype(np.float32)
    heard = rng.random((PAPER_LABELS, PAPER_TOKENS)) < 0.3
    return Entries(tokens, features.reshape(-1), values), heard


def by_dense_ranks(entries: Entries, heard: np.ndarray) -> np.ndarray:
    """Return the same AUROC from the ranks of the dense activations of the features that are active."""
    dense = entries.dense(np.unique(entries.features), heard.shape[1])
    return auroc(dense, heard.T)


def main() -> list[Line]:
    """Time the evaluators at the demo's size, and the AUROC of one clip at the paper's both ways."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(Path(scratch))
        for seed, split in enumerate(("probe", "eval")):
            write_activations(run.activations(split), seed)
        cell, sae = run.cell(0, EXPANSION), TopKSAE(D_IN, EXPANSION * D_IN, k=K)
        generator = torch.Generator().manual_seed(0)
        features = torch.randperm(EXPANSION * D_IN, generator=generator)[:NUM_SELECTED]
        top_ids = torch.randint(NUM_CLIPS, (NUM_SELECTED, P), generator=generator)
        selection = {"features": features, "m": torch.ones(NUM_SELECTED), "top_ids": top_ids}
        cell.save_tensors("selections", {f"ard/0/{name}": tensor for name, tensor in selection.items()})
        timed = median_seconds(lambda: TimeConcepts()(cell, sae), 3)
        kept = median_seconds(lambda: KeepTimelines()(cell, sae), 3)
        size = cell.path("timelines").stat().st_size
        layer, few = read_layer(run.activations("probe"), 0), list(range(0, NUM_CLIPS, 40))
        alone = median_seconds(lambda: list(layer.read_clips(few)), 5)
        whole = median_seconds(lambda: list(layer.read()), 5)
    entries, heard = clip_of_the_paper()
    sparse = median_seconds(partial(auroc_in_time, entries, heard), 5)
    dense = median_seconds(partial(by_dense_ranks, entries, heard), 3)
    assert np.allclose(auroc_in_time(entries, heard)[1], by_dense_ranks(entries, heard).T)
    return [
        Line("TimeConcepts on a cell", timed, "s", f"{NUM_CLIPS} probing clips and {NUM_CLIPS} others"),
        Line("KeepTimelines on a cell", kept, "s", f"{NUM_SELECTED} concepts of {P} clips, {size / 1e3:.0f} kB"),
        Line("ten clips read alone", alone * 1e3, "ms", ""),
        Line("all shards read for them", whole * 1e3, "ms", f"{NUM_CLIPS} clips"),
        Line("token AUROC of a clip of the paper's width", sparse * 1e3, "ms", f"{len(entries.values):,} codes"),
        Line("the same by ranks of dense activations", dense * 1e3, "ms", "of the features that are active"),
        Line("faster", dense / sparse, "times"),
    ]
