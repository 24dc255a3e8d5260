"""What stands around the models: captions kept, clips read for a question, and labels looked for, against as it was.

Each is the stage's own work, without a model: a captioner that answers at once, the clips of a question without the
answers, and the scores of all features without their AUROC.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ard.audio import StoredClips, read_clips, write_audio_shards
from ard.naming.captions import caption_clips
from ard.probing import SCORERS, SparseScores
from ard.run import write_parquet
from ard.types import Clip
from experiments.bench.matching import scored_clips
from experiments.bench.report import Line, median_seconds

TITLE = "Stages around the models: captions, steering, FindLabels"
NUM_CLIPS, NUM_ASKED, CLIPS_PER_BATCH, FEATURES_AT_ONCE, NUM_SCANS = 2_048, 64, 32, 256, 8
LONGEST_S, RATE_HZ = 2.0, 8_000


def clips() -> list[Clip]:
    """Return noise of many lengths."""
    rng = np.random.default_rng(0)
    lengths = (rng.uniform(0.25, LONGEST_S, NUM_CLIPS) * RATE_HZ).astype(int)
    return [
        Clip(f"c{i:05d}", rng.uniform(-0.5, 0.5, length).astype(np.float32), RATE_HZ, "bench")
        for i, length in enumerate(lengths)
    ]


def captioner(heard: Sequence[Clip]) -> list[str]:
    """Return as long a caption as a model's."""
    return [f"{clip.id}: a sound that somebody describes at the length of some twenty words. " * 3 for clip in heard]


def caption_plainly(audio: Path, clip_ids: Sequence[str], path: Path) -> list[list[float]]:
    """Caption clips in their own order and write the file for every batch; return the lengths in each batch."""
    captions: dict[str, str] = {}
    batches, wanted = [], set(clip_ids)
    of_folder = (clip for clip in read_clips(audio) if clip.id in wanted)
    while batch := list(islice(of_folder, CLIPS_PER_BATCH)):
        captions |= dict(zip([clip.id for clip in batch], captioner(batch), strict=True))
        write_parquet(({"id": name, "caption": text, "model": "m"} for name, text in captions.items()), path)
        batches.append([clip.duration_s for clip in batch])
    return batches


def padding(batches: Sequence[Sequence[float]]) -> float:
    """Return the share of padding in batches of clips of these lengths."""
    return 1 - sum(map(sum, batches)) / sum(len(batch) * max(batch) for batch in batches)


def scan(scores: SparseScores, features: Tensor) -> Tensor:
    """Return the dense scores of a few features, found by looking at the feature of every entry."""
    columns = torch.full((scores.num_features,), -1, dtype=torch.int32)
    columns[features] = torch.arange(len(features), dtype=torch.int32)
    column = columns[scores.features]
    chosen = column >= 0
    dense = torch.zeros(scores.num_clips, len(features))
    dense[scores.clips[chosen].long(), column[chosen].long()] = scores.values[:, SCORERS.index("ard")][chosen]
    return dense


def seconds(run: Callable[[], object]) -> float:
    """Return the time of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> list[Line]:
    """Measure each of the three both ways."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        audio = folder / "audio"
        write_audio_shards(clips(), audio)
        ids = list(StoredClips(audio).durations_s)
        lengths: list[list[float]] = []
        plain = seconds(lambda: lengths.extend(caption_plainly(audio, ids, folder / "plain.parquet")))
        of_batches: list[list[float]] = []

        def noted(heard: Sequence[Clip]) -> list[str]:
            of_batches.append([clip.duration_s for clip in heard])
            return captioner(heard)

        ours = seconds(lambda: caption_clips(ids, audio, folder / "ours.parquet", "m", lambda: noted, CLIPS_PER_BATCH))
        asked = ids[:: NUM_CLIPS // NUM_ASKED]
        whole = median_seconds(lambda: [clip for clip in read_clips(audio) if clip.id in set(asked)], 3)
        stored = StoredClips(audio)
        alone = median_seconds(lambda: list(stored(asked)), 3)
        index = median_seconds(lambda: StoredClips(audio), 3)
    scores = scored_clips([f"class_{i}" for i in range(200)]).scores
    parts = torch.arange(scores.num_features).split(FEATURES_AT_ONCE)
    scanned = seconds(lambda: [scan(scores, part) for part in parts[:NUM_SCANS]]) / NUM_SCANS * len(parts)
    first = seconds(lambda: scores.dense("ard", parts[0]))
    rest = seconds(lambda: [scores.dense("ard", part) for part in parts[1:]])
    assert all(torch.equal(scan(scores, part), scores.dense("ard", part)) for part in parts[:2])
    many, few = f"{NUM_CLIPS:,} clips", f"{NUM_ASKED} of {NUM_CLIPS:,} clips"
    return [
        Line(
            "captions kept, the file anew for every batch", plain, "s", f"as it was; {many}, {CLIPS_PER_BATCH} at once"
        ),
        Line("captions kept, appended", ours, "s", "clips read one by one"),
        Line("faster", plain / ours, "times", "grows with the number of clips"),
        Line("padding in a batch, clips in order", padding(lengths), "share", f"as it was; up to {LONGEST_S} s"),
        Line("padding in a batch, by length", padding(of_batches), "share"),
        Line("a question's clips, the folder decoded", whole, "s", f"as it was; {few}"),
        Line("a question's clips alone", alone, "s"),
        Line("faster", whole / alone, "times"),
        Line("headers and descriptions of the folder", index, "s", "once a run"),
        Line("scores of all features, scanned", scanned, "s", f"as it was; from {NUM_SCANS} of {len(parts)} scans"),
        Line("scores of all features, sorted once", first + rest, "s", f"{len(scores.clips):,} scores"),
        Line("faster", scanned / (first + rest), "times"),
    ]
