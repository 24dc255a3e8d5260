"""Extraction with a Qwen2-Audio of full size and random weights, in bfloat16."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor, WhisperFeatureExtractor

from ard.audiollm import AudioLLM, AudioPrompter
from ard.types import Clip
from experiments.bench.extraction import EMBEDDED, LAYERS, config_of
from experiments.bench_gpu.measure import Row, Shape, forget, milliseconds, peak_gb

BATCH_TOKENS = 8192
"""As in configs/paper/extract.yaml."""


def extraction(shape: Shape) -> Iterator[Row]:
    """Capture three layers of clips of one length, as `ard extract` does, without reading and writing files."""
    forget(shape.device)
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(Path(EMBEDDED))
    config = config_of(tokenizer, shape.model_divisor)
    features = WhisperFeatureExtractor(feature_size=128, sampling_rate=16000, chunk_length=30)
    prompter = AudioPrompter(Qwen2AudioProcessor(features, tokenizer), config)
    earlier = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with shape.device:
            model = AudioLLM(Qwen2AudioForConditionalGeneration(config), prompter, "of random weights")
    finally:
        torch.set_default_dtype(earlier)
    size = sum(parameter.numel() for parameter in model.model.parameters())
    yield {"what": "model", "parameters": f"{size:,}", "seconds": time.perf_counter() - started}
    rng = np.random.default_rng(0)
    for seconds in shape.durations_s:
        waveform = (0.1 * rng.standard_normal(int(16000 * seconds))).astype(np.float32)
        num_tokens = int(prompter([Clip("one", waveform, 16000, "bench")]).valid.shape[1])
        num_clips = max(1, BATCH_TOKENS // num_tokens) if shape.model_divisor == 1 else 2
        started = time.perf_counter()
        batch = prompter([Clip(str(i), waveform, 16000, "bench") for i in range(num_clips)])
        prepared = time.perf_counter() - started
        ms = milliseconds(partial(model.capture, batch, LAYERS), shape, most=5)
        audio = int(batch.audio.sum())
        yield {
            "what": f"clips of {seconds:g} s",
            "clips a batch": num_clips,
            "ms a batch": ms,
            "audio tokens a second": 1000 * audio / ms,
            "clips a second": 1000 * num_clips / ms,
            "peak GB": peak_gb(shape.device),
            "ms of one core to prepare a clip": 1000 * prepared / num_clips,
        }
