"""What one core needs to make clips the input of a model, and to read activations: the plan's figures for the CPU.

Times are the shortest that the process computes on one thread, so that a busy machine changes little. The constants of
:mod:`ard.plan.machine` are these, rounded.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ClapFeatureExtractor, WhisperFeatureExtractor

from ard.activations import ActivationDataModule
from ard.audio import read_shard, resample, write_audio_shards
from ard.audiollm import load_audiollm
from ard.types import Clip
from experiments.bench.feeding import write_store
from experiments.bench.report import Line, sorted_seconds

TITLE = "Preparing: what one core needs for clips and activations"
NUM_CLIPS, DURATION_S, RATE_HZ, WINDOW_S = 32, 10, 32_000, 30
PAIRS_HZ = ((32_000, 16_000), (44_100, 16_000), (16_000, 48_000), (32_000, 48_000), (44_100, 48_000))
D_IN, NUM_SHARDS, REPEATS = 4096, 4, 9


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def core_seconds(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the shortest time that this process computes in a call, after one that is not counted."""
    return sorted_seconds(run, repeats, time.process_time)[0]


def noise(duration_s: float, rate_hz: int) -> np.ndarray:
    """Return noise at a tenth of the full scale."""
    samples = np.random.default_rng(0).standard_normal(round(duration_s * rate_hz)) * 0.1
    return samples.astype(np.float32)


def a_tap(from_hz: int, to_hz: int) -> float:
    """Return the seconds of one tap of the filter that changes the rate, by the number of taps that a clip takes."""
    samples, shared = noise(DURATION_S, from_hz), gcd(from_hz, to_hz)
    up, down = to_hz // shared, from_hz // shared
    return core_seconds(lambda: resample(samples, from_hz, to_hz)) / (DURATION_S * to_hz * 20 * max(up, down) / up)


def main() -> list[Line]:
    """Time each part alone."""
    with one_thread(), tempfile.TemporaryDirectory() as scratch:
        return _lines(Path(scratch))


def _features_s(extractor: Any, waveform: np.ndarray, rate_hz: int) -> float:
    return core_seconds(lambda: extractor(waveform, sampling_rate=rate_hz, return_tensors="np"))


def _lines(folder: Path) -> list[Line]:
    clips = [Clip(f"c{i}", noise(DURATION_S, RATE_HZ), RATE_HZ, "bench") for i in range(NUM_CLIPS)]
    num_samples, places = NUM_CLIPS * DURATION_S * RATE_HZ, iter(range(100))
    encoding = core_seconds(lambda: write_audio_shards(clips, folder / f"audio-{next(places)}"))
    (shard,) = (folder / "audio-0").glob("*.tar")
    decoding = core_seconds(lambda: list(read_shard(shard)))
    prompter = load_audiollm(device="meta").prompter
    clip = Clip("c", noise(prompter.window_s, 16_000), 16_000, "bench")
    prompt = core_seconds(lambda: prompter([clip]))
    mel = _features_s(WhisperFeatureExtractor(128), noise(DURATION_S, 16_000), 16_000)
    window = _features_s(ClapFeatureExtractor(), noise(DURATION_S, 48_000), 48_000)
    features = _features_s(prompter.processor.feature_extractor, clip.waveform, 16_000)
    write_store(folder / "store", D_IN, NUM_SHARDS)
    data = ActivationDataModule(folder / "store", layer=0)
    batches, num_bytes = data.test_dataloader()[0], sum(x.nbytes for x in data.val_dataloader())
    probing = core_seconds(lambda: [batch.x for batch in batches])
    taps = [a_tap(*pair) for pair in PAIRS_HZ]
    rates = ", ".join(f"{a / 1000:g} to {b / 1000:g}" for a, b in PAIRS_HZ)
    return [
        Line("FLAC encoded", 1e9 * encoding / num_samples, "ns a sample", f"clips of {DURATION_S} s into audio shards"),
        Line("FLAC decoded", 1e9 * decoding / num_samples, "ns a sample", "from audio shards"),
        Line("resampled", 1e9 * statistics.median(taps), "ns a tap", f"{rates} kHz"),
        Line("mel features", 1000 * mel / WINDOW_S, "ms a second of the window", "Whisper's, filled up to 30 s"),
        Line("prompt", 1000 * (prompt - features), "ms a clip", "of the embedded model, without its features"),
        Line("CLAP's features", 1000 * window, "ms a window of 10 s"),
        Line("whole clips read for probing", probing / (num_bytes / 1e9), "s a GB", "widened to float32"),
    ]
