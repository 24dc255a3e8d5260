"""Embedding of clips by CLAP: clips decoded and prepared by workers, against all in one process.

The model is the small one of the package, which hears a clip about as fast as the clip is prepared. On a GPU, hearing
takes next to nothing: that is tried with a model that does not hear.
"""

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ard.audio import write_audio_shards
from ard.embedding import Clap, embed_clips, load_clap
from ard.types import Clip
from experiments.bench.report import Line

TITLE = "CLAP embeddings of clips of ten seconds, from audio shards"
NUM_CLIPS, CLIPS_PER_SHARD, DURATION_S, SAMPLE_RATE_HZ, ROUNDS = 96, 16, 10, 32_000, 3


def clips() -> list[Clip]:
    """Return noise of the length and sample rate of AudioSet's clips in WavCaps."""
    rng = np.random.default_rng(0)
    samples = (rng.standard_normal((NUM_CLIPS, DURATION_S * SAMPLE_RATE_HZ)) * 0.1).astype(np.float32)
    return [Clip(f"c{i:03d}", waveform, SAMPLE_RATE_HZ, "bench") for i, waveform in enumerate(samples)]


class Deaf(Clap):
    """A CLAP that takes no time to hear, as on a GPU: all that is left is to decode and to prepare."""

    def __init__(self, clap: Clap) -> None:
        super().__init__()
        self.prepare, self.d, self.name = clap.prepare, 1, "deaf"

    def hear(self, prepared: Any) -> Float[Tensor, "clips d"]:
        """Return the same for every clip."""
        return torch.ones(prepared.clip_of_window[-1] + 1, 1)

    def _read(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        return torch.ones(len(texts), 1)


def main() -> list[Line]:
    """Embed the same clips with and without workers, in turn."""
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        folder, clap = Path(scratch), load_clap()
        write_audio_shards(clips(), folder / "audio", clips_per_shard=CLIPS_PER_SHARD)
        clip_ids = [f"c{i:03d}" for i in range(NUM_CLIPS)]
        for number in range(ROUNDS):
            for name, model in (("hears", clap), ("deaf", Deaf(clap))):
                for num_workers in (0, 1, 2):
                    path = folder / f"{name}-{num_workers}-{number}.safetensors"
                    started = time.perf_counter()
                    embed_clips(model, folder / "audio", clip_ids, path, num_workers=num_workers)
                    times[name, num_workers].append(time.perf_counter() - started)
    seconds = {key: statistics.median(taken) for key, taken in times.items()}

    def faster(name: str, num_workers: int) -> float:
        return seconds[name, 0] / seconds[name, num_workers]

    return [
        Line("one process", 1000 * seconds["hears", 0] / NUM_CLIPS, "ms a clip", "as it was; the embedded model"),
        Line(
            "with one worker", faster("hears", 1), "times as fast", "the embedded model, which takes all cores itself"
        ),
        Line(
            "with two workers", faster("hears", 2), "times as fast", "the embedded model, which takes all cores itself"
        ),
        Line("one process, preparing alone", 1000 * seconds["deaf", 0] / NUM_CLIPS, "ms a clip", "as beside a GPU"),
        Line("the same with one worker", faster("deaf", 1), "times as fast", "as beside a GPU"),
        Line("the same with two workers", faster("deaf", 2), "times as fast", "as beside a GPU"),
    ]
