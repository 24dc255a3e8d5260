"""The two feature extractors of the embedded models, and mel features of a whole split computed once."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float16, Int
from transformers import ClapFeatureExtractor, WhisperFeatureExtractor

from ard.audio.signals import RATE_HZ
from ard.audio.synthetic import Scene, SyntheticCorpus

log = logging.getLogger(__name__)

WINDOW_S = 4
NUM_MELS = 64
CLIPS_PER_JOB = 100


def audiollm_features() -> WhisperFeatureExtractor:
    """Log-mel of a window of 4 s, 100 frames a second."""
    return WhisperFeatureExtractor(feature_size=NUM_MELS, sampling_rate=RATE_HZ, chunk_length=WINDOW_S)


def clap_features() -> ClapFeatureExtractor:
    """Log-mel of a window of 4 s, 62.5 frames a second; the same at every call for clips that fit the window."""
    return ClapFeatureExtractor(
        feature_size=NUM_MELS,
        sampling_rate=RATE_HZ,
        hop_length=RATE_HZ * 16 // 1000,
        max_length_s=WINDOW_S,
        fft_window_size=512,
        frequency_min=50,
        frequency_max=RATE_HZ // 2,
        truncation="rand_trunc",
        padding="repeatpad",
    )


class Features(NamedTuple):
    """A split as the models see it; clip ``i`` is the same in every field."""

    scenes: Sequence[Scene]
    audiollm: Float16[np.ndarray, "clips mels frames"]
    num_frames: Int[np.ndarray, " clips"]
    clap: Float16[np.ndarray, "clips frames mels"]


def compute_features(split: str, num_clips: int, *, seed: int, folder: Path, num_workers: int) -> Features:
    """Return the features of a split; what is already under ``folder`` is not computed again."""
    folder.mkdir(parents=True, exist_ok=True)
    job = partial(_compute_job, split, num_clips, seed, folder)
    starts = range(0, num_clips, CLIPS_PER_JOB)
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        parts = [np.load(path) for path in _counted(pool.map(job, starts), len(starts))]
    corpus = SyntheticCorpus(split, num_clips, seed=seed)
    return Features(
        scenes=[corpus.scene(i) for i in range(num_clips)],
        audiollm=np.concatenate([part["audiollm"] for part in parts]),
        num_frames=np.concatenate([part["num_frames"] for part in parts]),
        clap=np.concatenate([part["clap"] for part in parts]),
    )


def _counted(paths: Iterator[Path], num_jobs: int) -> Iterator[Path]:
    for done, path in enumerate(paths, start=1):
        if done % 10 == 0 or done == num_jobs:
            log.info("features: %d of %d parts", done, num_jobs)
        yield path


def _compute_job(split: str, num_clips: int, seed: int, folder: Path, start: int) -> Path:
    path = folder / f"{split}-{seed}-{start:06d}.npz"
    if not path.exists():
        torch.set_num_threads(1)
        corpus = SyntheticCorpus(split, num_clips, seed=seed)
        waveforms = [corpus[i].waveform for i in range(start, min(start + CLIPS_PER_JOB, num_clips))]
        for_audiollm = audiollm_features()(
            waveforms, sampling_rate=RATE_HZ, return_attention_mask=True, return_tensors="np"
        )
        for_clap = clap_features()(waveforms, sampling_rate=RATE_HZ, return_tensors="np")
        np.savez(
            path,
            audiollm=for_audiollm["input_features"].astype(np.float16),
            num_frames=for_audiollm["attention_mask"].sum(axis=1),
            clap=for_clap["input_features"][:, 0].astype(np.float16),
        )
    return path
