"""What the controls cost: an untrained dictionary is drawn, encodes all clips, and its lists and scores are kept.

Activations are drawn at random, at the demo's size; the SAE is a random one too, since training changes no cost.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from ard.activations import ActivationDataModule
from ard.activations.store import write_manifest, write_shard
from ard.probing import Encoding, KeepScores, draw_control
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


def measure(cells: list[Cell]) -> None:
    """Encode all clips once for some cells; keep the lists and scores of each."""
    data = ActivationDataModule(cells[0].run.activations("probe"), layer=0)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    evaluators: list[Callback] = [RetrieveRepresentatives(), KeepScores()]
    trainer = Trainer(callbacks=evaluators, enable_checkpointing=False, accelerator="cpu", devices=1, **quiet)
    trainer.test(Encoding([cell.folder for cell in cells], D_IN), datamodule=data, verbose=False)


def main() -> list[Line]:
    """Time the pass of the trained dictionary, the draw of each control, and the pass of all of them together."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(Path(scratch))
        write_activations(run.activations("probe"))
        own = run.cell(0, EXPANSION)
        TopKSAE(D_IN, EXPANSION * D_IN, k=K, pre_bias=True).save_pretrained(own.sae)
        untrained, tokens = (
            [run.cell(0, f"e{EXPANSION}-{name}-{draw}") for draw in range(number)]
            for name, number in (("untrained", 3), ("tokens", 1))
        )
        controls = [*untrained, *tokens]
        drawn = [median_seconds(partial(draw_control, cell, seed=0), 1) for cell in controls]
        with_controls = [own, *controls, run.cell(0, "half-waves")]
        trained, together = (median_seconds(partial(measure, cells), 3) for cells in ([own], with_controls))
    return [
        Line("pass of the trained dictionary", trained, "s", "two evaluators"),
        Line("draw of an untrained one", drawn[0], "s", ""),
        Line("draw of random tokens", drawn[-1], "s", "a pass over the activations"),
        Line(
            "the same pass with three untrained ones, random tokens and half-waves",
            together / trained,
            "of the trained one's",
            "the clips are read once; every half-wave's coordinate is active",
        ),
    ]
