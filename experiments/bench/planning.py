"""What `ard plan` says of a small run on one core of this machine, and what its stages take.

The core stands in for the GPU: its FLOP/s are those of a large matrix product, its bandwidth that of a copy. Loading
models is not timed, as it is not planned. Times are those that the process computes on one thread, so that a busy
machine changes little.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from ard.activations import ActivationDataModule, ActivationWriter, ClipDataModule, Extraction, read_manifest
from ard.audio import SyntheticCorpus, write_audio_shards
from ard.audiollm import load_audiollm
from ard.embedding import embed_clips, load_clap
from ard.plan import Machine, planned
from ard.plan.gpus import Gpu
from ard.plan.machine import LOCAL_GB_S
from ard.presets import preset_files
from ard.probing.module import score
from ard.sae import SAETraining, TopKSAE
from experiments.bench.preparing import core_seconds, one_thread
from experiments.bench.report import Line

TITLE = "Plan: a small run of the embedded models, as planned and as measured on one core"
NUM_CLIPS, LAYERS, EXPANSIONS, STEPS = 240, [1, 3], [8, 16], 100
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "accelerator": "cpu",
}
FACTS = {
    "audio": {"probe": [{"source": "synthetic", "split": "bench", "seed": 0, "num_clips": NUM_CLIPS}]},
    "layers": LAYERS,
    "layer": LAYERS[0],
    "expansions": EXPANSIONS,
    "expansion": EXPANSIONS[0],
    "evaluation": None,
    "num_untrained": 0,
    "tasks": [],
}


def this_core() -> Machine:
    """Return one core of this machine, itself in the place of a GPU."""
    block, other, a, b = torch.zeros(2**26), torch.zeros(2**26), torch.randn(2048, 2048), torch.randn(2048, 2048)
    copied = 2 * block.nbytes / core_seconds(lambda: other.copy_(block))
    tflops = 2 * 2048**3 / core_seconds(lambda: a @ b) / 1e12
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpu = Gpu("one core", tflops, tflops, tflops, memory / 1e9, copied / 1e9)
    return Machine(gpu, 1, LOCAL_GB_S, utilisation=0.4)


def small_run(out: Path) -> dict[str, Any]:
    """Return the facts and files of the demo for this run, with batches prepared by the process that uses them."""
    files = preset_files("demo", {**FACTS, "out": str(out)}, ("extract", "fit", "test", "steer"))
    files["extract"]["data"]["init_args"]["num_workers"] = 0
    files["fit"]["model"]["init_args"]["robust"] = False
    files["fit"]["trainer"] |= {"max_steps": STEPS, "enable_checkpointing": False}
    return files


def probe(saes: Sequence[TopKSAE], data: ActivationDataModule) -> None:
    """Encode and score all clips of a layer."""
    for batch in data.test_dataloader()[0]:
        for sae in saes:
            score(sae, batch)


def measured(out: Path, files: dict[str, Any]) -> dict[str, float]:
    """Run the stages and return the seconds that this process computes."""
    seconds: dict[str, float] = {}

    def timed(stage: str, run: Callable[[], object]) -> None:
        started = time.process_time()
        run()
        seconds[stage] = seconds.get(stage, 0.0) + time.process_time() - started

    clips, audio, activations = list(SyntheticCorpus("bench", NUM_CLIPS)), out / "audio" / "probe", out / "activations"
    clap, d_in, k = load_clap(), files["d_in"], files["k"]
    timed("audio shards", lambda: write_audio_shards(clips, audio))
    extraction, source = Extraction(LAYERS, model="embedded"), ClipDataModule(audio, activations=activations)
    extraction.load(device="cpu")
    trainer = Trainer(callbacks=[ActivationWriter(activations)], **QUIET)
    timed("extraction", lambda: trainer.predict(extraction, source))
    batch_tokens = files["fit"]["data"]["init_args"]["batch_tokens"]
    for layer in LAYERS:
        in_batches = {"batch_tokens": batch_tokens, "buffer_tokens": 16 * batch_tokens}
        data, training = (
            ActivationDataModule(activations, layer=layer, **in_batches),
            SAETraining(d_in, EXPANSIONS, k=k),
        )
        timed("SAE training", partial(Trainer(max_steps=STEPS, limit_val_batches=0, **QUIET).fit, training, data))
        timed("probing", partial(probe, [TopKSAE(d_in, e * d_in, k=k) for e in EXPANSIONS], data))
    clip_ids = read_manifest(activations).clip_ids
    timed("CLAP embedding", lambda: embed_clips(clap, audio, clip_ids, out / "embeddings.safetensors"))
    return seconds


def main() -> list[Line]:
    """Plan the run, then run it."""
    load_audiollm()  # what is loaded for the first time takes longer
    lines = []
    with one_thread(), tempfile.TemporaryDirectory() as scratch:
        out, on = Path(scratch) / "run", this_core()
        files = small_run(out)
        made = planned(files, (4,), on, out)
        taken = measured(out, files)
    for stage, seconds in taken.items():
        hours = sum(one.hours for one in made.stages if one.stage == stage)
        lines += [
            Line(f"{stage}, planned", 3600 * hours, "s"),
            Line(f"{stage}, measured", seconds, "s"),
            Line(f"{stage}, measured", seconds / (3600 * hours), "of the plan"),
        ]
    return [
        Line("speed of the core", on.gpu.fp32_tflops * 1000, "GFLOP/s", "a large matrix product"),
        Line("bandwidth of its memory", on.gpu.bandwidth_gb_s, "GB/s", "a copy, read and written"),
        *lines,
    ]
