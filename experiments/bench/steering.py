"""Generation with features set, against plain generation.

The model has the proportions of Qwen2-Audio-7B at a sixteenth of its width, 256, and of its vocabulary: 32 encoder and
32 decoder layers, so that the SAE (e = 8, K 250 of 32768, after layer 26) is the same share of its work, 2 %. One clip
of ten seconds, 250 audio tokens, is answered with 32 tokens. In every round each kind of steering is timed once.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ard.audiollm import AudioLLM, load_audiollm
from ard.sae import TopKSAE
from ard.steering import steer
from experiments.bench.extraction import make_clips, save_model
from experiments.bench.report import Line

TITLE = "Steering: answers of 32 tokens, layer 26 of 32, d_in 256, d_sae 2048, K 16"
LAYER, EXPANSION, K_SHARE, NUM_TOKENS, SHRINK = 26, 8, 250 / 32768, 32, 16
NUM_ROUNDS = 5
CLAMP = {7: 20.0, 1000: 10.0}
PROMPT = "What emotion does the speaker show (neutral, happy, sad, angry)?"

Block = Callable[[], AbstractContextManager[None]]


def seconds(model: AudioLLM, blocks: Mapping[str, Block]) -> dict[str, list[float]]:
    """Return the time of an answer inside each kind of block, round by round."""
    batch = model.prompter(make_clips()[:1], [PROMPT])
    times: dict[str, list[float]] = {name: [] for name in blocks}
    for round_number in range(NUM_ROUNDS + 1):
        for name, block in blocks.items():
            started = time.perf_counter()
            with block():
                model.generate(batch, max_new_tokens=NUM_TOKENS)
            if round_number:  # the first is not counted
                times[name].append(time.perf_counter() - started)
    return times


def main() -> list[Line]:
    """Measure the paper's procedure, the mode that keeps the error, and setting features at every step."""
    with tempfile.TemporaryDirectory() as scratch:
        save_model(Path(scratch), SHRINK)
        model = load_audiollm(scratch)
    model.model.generation_config.eos_token_id = None  # every answer is as long
    d_sae = EXPANSION * model.d_in
    sae = TopKSAE(model.d_in, d_sae, k=round(K_SHARE * d_sae), generator=torch.Generator().manual_seed(0))

    def steered(**options: Any) -> Block:
        return lambda: steer(model, sae, LAYER, CLAMP, **options)

    blocks = {
        "the paper's procedure": steered(),
        "the error kept": steered(keep_error=True),
        "features set at every step": steered(phase="every"),
    }
    times = seconds(model, {"plain": nullcontext, **blocks})
    ratios = {
        name: statistics.median(ours / plain for ours, plain in zip(times[name], times["plain"], strict=True))
        for name in blocks
    }
    return [
        Line("plain generation", statistics.median(times["plain"]), "s an answer", "10 s of audio, 32 tokens"),
        *(Line(f"more for {name}", ratios[name] - 1, "share", "to reach: 0.1") for name in blocks),
    ]
