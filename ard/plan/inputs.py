"""What a preset says of its run before anything runs: its settings and its clips."""

import inspect
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ard.audio import SyntheticCorpus, write_audio_shards
from ard.plan.cost import BLOCK, PerClip, padded
from ard.types import UserError

RATE_HZ = 16_000  # the sampling rate of Qwen2-Audio
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "Extraction": {"store_dtype": "bfloat16", "dtype": "auto", "tokens": "audio"},
    "ClipDataModule": {"num_workers": 0},
    "ActivationDataModule": {"batch_tokens": 4096, "buffer_tokens": 131072, "num_workers": 0},
    "SAETraining": {"robust": False, "k_aux": 256, "float32_products": "highest"},
    "ModelCheckpoint": {"save_top_k": 1, "every_n_train_steps": None},
    "ScoreMonosemanticity": {"num_draws": 10},
    "NameConcepts": {
        "namer": None,
        "audiollm": "embedded",
        "captioner": None,
        "max_new_tokens": 128,
        "clips_per_batch": 32,
        "num_evaluation_clips": 200,
    },
    "HearOrRead": {"num_concepts": None, "num_pairs": 8},
    "MeasureSteering": {
        "audio": None,
        "selection": None,
        "selection_share": 0.1,
        "design": {},
        "max_new_tokens": 16,
        "clips_per_batch": 64,
    },
    "Design": {
        "num_features": [1],
        "multiples": [1.0],
        "doses": [0.25, 0.5, 1.0, 2.0, 4.0, 8.0],
        "num_draws": 3,
        "most_clips": None,
    },
}
"""Defaults of the classes in the stage files, which are not imported here, since they bring in Lightning."""


class Preset(NamedTuple):
    """The facts of a preset, and its stage files under their names."""

    facts: Mapping[str, Any]

    def fact(self, name: str) -> Any:
        """Look up a fact."""
        if name not in self.facts:
            raise UserError(f"the preset does not say {name!r}: add it to its run.yaml")
        return self.facts[name]

    def trainer(self, name: str, otherwise: Any = None) -> Any:
        """Look up a setting of the Trainer that trains SAEs."""
        value = self.fact("fit").get("trainer", {}).get(name, otherwise)
        if value is None:
            raise UserError(f"the preset's fit.yaml does not say trainer.{name}: add it")
        return value

    def setting(self, stage: str, part: str, name: str) -> Any:
        """Look up a setting in a stage's file, or else the default of the class that it configures."""
        config = self.fact(stage)
        parts = [config["model"], config["data"], *config.get("trainer", {}).get("callbacks", [])]
        of_part = [p.get("init_args", {}) for p in parts if p["class_path"].rpartition(".")[2] == part]
        if not of_part or (name not in of_part[0] and name not in DEFAULTS.get(part, {})):
            raise UserError(f"the preset's {stage}.yaml does not say {part}.{name}: add it")
        return of_part[0][name] if name in of_part[0] else DEFAULTS[part][name]


class Corpus(NamedTuple):
    """The clips of a split in the order of their shards, and the size of their audio shards."""

    num_samples: PerClip
    rates_hz: PerClip
    shard_sizes: list[int]  # in clips
    num_bytes: int
    present_bytes: int
    source: str


def read_corpus(preset: Preset, split: str) -> Corpus:
    """Take a split's clips from its audio shards, or else from the seed that makes them, or else from the preset."""
    folder = Path(preset.fact("out")) / "audio" / split
    if (folder / "manifest.json").is_file():
        return _from_shards(folder)
    parts = preset.fact("audio").get(split, [])
    if [part["source"] for part in parts] == ["synthetic"]:
        made = SyntheticCorpus(**{key: value for key, value in parts[0].items() if key != "source"})
        num_samples = np.array([made.scene(index).num_samples for index in range(len(made))])
        return _upper_bound(num_samples, np.full(len(made), made[0].sample_rate_hz), "made from the seed")
    entries = (preset.facts.get("corpora") or {}).get(split)
    if not entries:
        raise UserError(
            f"the clips of split {split!r} are unknown: there are no audio shards in {str(folder)!r} "
            f"and the preset states none. Make them with `ard shards`, or add `corpora.{split}` to its run.yaml"
        )
    try:
        rows = [(entry["num_clips"], entry["duration_s"], entry["sample_rate_hz"]) for entry in entries]
    except KeyError as error:
        raise UserError(
            f"`corpora.{split}` of the preset lacks {error}: each entry has num_clips, duration_s and sample_rate_hz"
        ) from error
    counts, durations_s, rates_hz = (np.array(column) for column in zip(*rows, strict=True))
    num_samples = np.rint(durations_s * rates_hz).astype(np.int64)
    lengths = ", ".join(f"{num_clips:,} of {duration_s:g} s" for num_clips, duration_s, _ in rows)
    source = f"as the preset states, all at its mean length: {lengths}"
    return _upper_bound(num_samples.repeat(counts), rates_hz.repeat(counts), source)


def _upper_bound(num_samples: PerClip, rates_hz: PerClip, source: str) -> Corpus:
    """Bound the size of shards that do not exist yet."""
    size = inspect.signature(write_audio_shards).parameters["clips_per_shard"].default
    sizes = [min(size, len(num_samples) - start) for start in range(0, len(num_samples), size)]
    num_bytes = int((padded(2 * num_samples, BLOCK) + 3 * BLOCK).sum())
    return Corpus(num_samples, rates_hz, sizes, num_bytes, 0, f"{source}; FLAC as large as 16-bit PCM")


def _from_shards(folder: Path) -> Corpus:
    """Read the lengths of clips in finished audio shards from their JSON, skipping the samples."""
    paths, shards = sorted(folder.glob("*.tar")), []
    for path in paths:
        with tarfile.open(path) as tar:
            files = (tar.extractfile(member) for member in tar if member.name.endswith(".json"))
            shards.append([json.load(file) for file in files if file])
    durations_s = np.array([clip["duration_s"] for clips in shards for clip in clips], dtype=float)
    rates_hz = np.array([clip["sample_rate_hz"] for clips in shards for clip in clips], dtype=np.int64)
    num_samples, sizes = np.rint(durations_s * rates_hz).astype(np.int64), [len(clips) for clips in shards]
    num_bytes = sum(path.stat().st_size for path in paths)
    return Corpus(num_samples, rates_hz, sizes, num_bytes, num_bytes, f"the audio shards in {folder}")
