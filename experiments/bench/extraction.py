"""Extraction of three layers at once, against a plain full forward pass for each; and of one layer of an encoder.

The model has the proportions of Qwen2-Audio-7B at an eighth of its width: 32 encoder and 32 decoder layers, a window of
30 s. The clips are as long as the paper's: ten seconds of AudioSet, and a few seconds of speech. The encoder has the
shape of Whisper base.
"""

import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Trainer
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoTokenizer,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from ard.activations import ActivationWriter, ClipDataModule, Extraction
from ard.audio import write_audio_shards
from ard.audiollm import load_audiollm
from ard.types import Clip
from experiments.bench.report import Line, gemm_flops

TITLE = "Extraction: layers 5, 16 and 26 of 32"
LAYERS = [5, 16, 26]
DURATIONS_S = [10.0, 10.0, 4.1, 10.0, 10.0, 10.0, 2.7, 10.0, 10.0, 6.3, 10.0, 10.0]
CLIPS_PER_BATCH = 4
ENCODER_LAYER = 3
EMBEDDED = Path(__file__).parent.parent.parent / "ard" / "audiollm" / "embedded"


def save_model(folder: Path, shrink: int = 8) -> None:
    """Save a Qwen2-Audio of random weights, ``shrink`` times as narrow as the real one."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    Qwen2AudioForConditionalGeneration(config_of(tokenizer, shrink)).save_pretrained(folder)
    features = WhisperFeatureExtractor(feature_size=128, sampling_rate=16000, chunk_length=30)
    Qwen2AudioProcessor(features, tokenizer).save_pretrained(folder)


def config_of(tokenizer: Any, shrink: int) -> Qwen2AudioConfig:
    """Return the configuration of a Qwen2-Audio that is ``shrink`` times as narrow as the real one."""
    return Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": 128,
            "d_model": 1280 // shrink,
            "encoder_layers": 32,
            "encoder_attention_heads": 20 // min(shrink, 4),
            "encoder_ffn_dim": 5120 // shrink,
            "max_source_positions": 1500,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": 156032 // shrink,
            "hidden_size": 4096 // shrink,
            "intermediate_size": 11008 // shrink,
            "num_hidden_layers": 32,
            "num_attention_heads": 32 // shrink,
            "num_key_value_heads": 32 // shrink,
        },
        audio_token_index=int(tokenizer.convert_tokens_to_ids("<|AUDIO|>")),
    )


def save_encoder(folder: Path) -> None:
    """Save an encoder of Whisper base's shape, of random weights; the decoder is as small as it may be."""
    config = WhisperConfig(
        d_model=512,
        encoder_layers=6,
        encoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_layers=1,
        decoder_attention_heads=8,
        decoder_ffn_dim=8,
        vocab_size=8,
        max_target_positions=8,
        pad_token_id=0,
    )
    WhisperModel(config).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)


def encoder_pace(folder: str, window: str | None) -> float:
    """Return how many clips a second an encoder takes, features included, at its best of three times."""
    model, clips, times = load_audiollm(folder, window=window), make_clips(), []
    for _ in range(3):
        started = time.perf_counter()
        for first in range(0, len(clips), CLIPS_PER_BATCH):
            model.capture(clips[first : first + CLIPS_PER_BATCH], [ENCODER_LAYER])
        times.append(time.perf_counter() - started)
    return len(clips) / min(times)


class Measured(NamedTuple):
    """One way of extraction."""

    seconds: float  # a clip
    peak_bytes: int  # beyond the loaded model
    flops: float  # a clip


def measure(folder: str, plain: bool) -> Measured:
    """Time one way in this process, which is to be a fresh one: its peak memory counts."""
    model = load_audiollm(folder)
    clips = make_clips()
    if not plain:
        clips = sorted(clips, key=lambda clip: -clip.duration_s)
    batches = [model.prompter(clips[i : i + CLIPS_PER_BATCH]) for i in range(0, len(clips), CLIPS_PER_BATCH)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @torch.inference_mode()
    def run() -> None:
        for batch in batches:
            if plain:
                hidden = model.model(**batch.features, output_hidden_states=True).hidden_states[LAYERS[-1] + 1]
                assert hidden[batch.audio].isfinite().all()
            else:
                model.capture(batch, LAYERS)

    with FlopCounterMode(display=False) as counter:
        run()
    times = []
    for _ in range(2):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return Measured(min(times) / len(clips), peak, counter.get_total_flops() / len(clips))


def whole_extraction(folder: str, scratch: Path) -> float:
    """Return the seconds a clip of `ard extract` itself: decoding, features, passes and writing."""
    clips = make_clips()
    write_audio_shards(clips, scratch / "audio" / "probe", clips_per_shard=len(DURATIONS_S) // 2)
    writer = ActivationWriter(scratch / "activations")
    data = ClipDataModule(
        scratch / "audio" / "probe",
        activations=scratch / "activations",
        batch_tokens=CLIPS_PER_BATCH * 300,
        num_workers=1,
    )
    trainer = Trainer(
        accelerator="cpu", logger=False, callbacks=[writer], enable_progress_bar=False, enable_model_summary=False
    )
    module = Extraction(LAYERS, folder)
    started = time.perf_counter()
    trainer.predict(module, data, return_predictions=False)
    return (time.perf_counter() - started) / len(clips)


def make_clips(repeats: int = 1) -> list[Clip]:
    """Return noise of the lengths of the paper's clips."""
    rng = np.random.default_rng(0)
    return [
        Clip(f"clip-{i:03d}", (rng.standard_normal(int(16000 * s)) * 0.1).astype(np.float32), 16000, "bench")
        for i, s in enumerate(DURATIONS_S * repeats)
    ]


def main() -> list[Line]:
    """Measure both ways, each in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(Path(scratch) / "model")
        save_model(Path(folder))
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as fresh:
            plain = fresh.submit(measure, folder, True).result()
            ours = fresh.submit(measure, folder, False).result()
            whole = fresh.submit(whole_extraction, folder, Path(scratch)).result()
            encoder = str(Path(scratch) / "encoder")
            save_encoder(Path(encoder))
            window, clip = (fresh.submit(encoder_pace, encoder, of).result() for of in (None, "clip"))
    peak = gemm_flops()
    return [
        Line("one plain pass for one layer", plain.seconds, "s a clip", "all layers, output_hidden_states, logits"),
        Line("three layers at once", ours.seconds, "s a clip", "stops after layer 26; frames and lengths as needed"),
        Line("faster than one plain pass", plain.seconds / ours.seconds, "times", "to reach: 1.5"),
        Line("faster than three plain passes", 3 * plain.seconds / ours.seconds, "times"),
        Line("work of a plain pass", plain.flops / 1e9, "GFLOP a clip"),
        Line("work of three layers at once", ours.flops / 1e9, "GFLOP a clip"),
        Line("speed of a plain matrix product", peak / 1e9, "GFLOP/s", "2048 x 2048, float32"),
        Line("share of that speed, a plain pass", plain.flops / plain.seconds / peak, "share"),
        Line("share of that speed, three layers at once", ours.flops / ours.seconds / peak, "share"),
        Line("memory of a plain pass", plain.peak_bytes / 1e6, "MB", "beyond the model"),
        Line("memory of three layers at once", ours.peak_bytes / 1e6, "MB", "beyond the model"),
        Line(
            "Whisper base's encoder, layer 3 of 6, its window of 30 s", window, "clips/s", "on a CPU, features included"
        ),
        Line("the same with --window clip", clip, "clips/s", f"clips of {np.mean(DURATIONS_S):.1f} s on average"),
        Line("`ard extract`, from audio shards to activation shards", whole, "s a clip", "model loading included"),
    ]
