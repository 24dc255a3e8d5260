"""What the controls cost: an untrained dictionary is drawn, encodes all clips, and its lists and scores are kept.

Activations are drawn at random, at the demo's size; the SAE is a random one too, since training changes no cost.
"""

import tempfile
from functools import partial
from pathlib import Path

import torch

from ard.activations.store import write_manifest, write_shard
from ard.probing import KeepScores, draw_control
from ard.representatives import RetrieveRepresentatives
from ard.run import Cell, Run
from ard.sae import TopKSAE
from experiments.bench.report import Line, median_seconds

TITLE = "Controls beside a dictionary: 1,200 clips of 70 tokens, 1,024 features, K 16"
NUM_CLIPS, NUM_TOKENS, D_IN, EXPANSION, K = 1200, 70, 128, 8, 16


def write_activations(folder: Path) -> None:
    """Write activations of one layer."""
    generator = torch.Generator().manual_seed(0)
    about = {"model": "none", "layers": [0], "dtype": "float32"}
    clips = [
        ({"id": f"c{n}", "num_tokens": NUM_TOKENS}, {0: torch.randn(NUM_TOKENS, D_IN, generator=generator)})
        for n in range(NUM_CLIPS)
    ]
    write_shard(folder, 0, clips, [], about)
    write_manifest(folder, 1, D_IN, about)


def measure(cell: Cell) -> None:
    """Encode all clips of a cell; keep its lists and scores."""
    RetrieveRepresentatives()(cell)
    KeepScores()(cell)


def main() -> list[Line]:
    """Time the trained dictionary's pass, the draw of each control, and its pass."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(Path(scratch))
        write_activations(run.activations("probe"))
        own = run.cell(0, EXPANSION)
        TopKSAE(D_IN, EXPANSION * D_IN, k=K, pre_bias=True).save_pretrained(own.sae)
        controls = [run.cell(0, f"e{EXPANSION}-{name}-0") for name in ("untrained", "tokens")]
        drawn = [median_seconds(partial(draw_control, cell, seed=0), 3) for cell in controls]
        trained, *others = (
            median_seconds(partial(measure, cell), 3) for cell in (own, *controls, run.cell(0, "half-waves"))
        )
    all_of_them = 3 * (drawn[0] + others[0]) + drawn[1] + others[1] + others[2]
    return [
        Line("pass of the trained dictionary", trained, "s", "two evaluators, a pass each"),
        Line("draw of an untrained one", drawn[0], "s", ""),
        Line("draw of random tokens", drawn[1], "s", "a pass over the activations"),
        Line("pass of an untrained one", others[0] / trained, "of the trained one's", ""),
        Line("pass of the half-waves", others[2] / trained, "of the trained one's", "every coordinate is active"),
        Line("three untrained, tokens, half-waves", all_of_them / trained, "of the trained one's", "all in all"),
    ]
