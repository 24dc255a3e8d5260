"""What a preset's run will read, as far as it is known before anything runs: settings, clips, models' dimensions."""

import inspect
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig

import ard.embedding
from ard.audio import SyntheticCorpus, write_audio_shards
from ard.audiollm import AudioPrompter, load_prompter
from ard.audiollm.prompter import load_config
from ard.plan.cost import BLOCK, PerClip, padded
from ard.types import Clip, UserError

RATE_HZ = 16_000  # at which Qwen2-Audio hears
TEMPLATE_TOKENS = 27  # its chat template around the audio (facts of transformers 5.23), piece by piece
_QWEN2 = {"intermediate_size": 11008, "vocab_size": 156032}
_QWEN2_5 = {"hidden_size": 3584, "intermediate_size": 18944, "vocab_size": 152064, "num_hidden_layers": 28}
PUBLISHED: dict[str, dict[str, Any]] = {
    name: {"model_type": "qwen2_audio", "dtype": "bfloat16", "text_config": {"model_type": "qwen2", **decoder}}
    for name, decoder in {
        "Qwen/Qwen2-Audio-7B-Instruct": _QWEN2,
        "SeaLLMs/SeaLLMs-Audio-7B": {**_QWEN2_5, "num_attention_heads": 28, "num_key_value_heads": 4},
    }.items()
}
"""What the hub's ``config.json`` says, so that the paper is planned without the hub; the rest is transformers' default.

SeaLLMs-Audio is Qwen2-Audio with the decoder of Qwen2.5-7B-Instruct by its README; its own file was not seen.
"""
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "Extraction": {"store_dtype": "bfloat16", "dtype": "auto"},
    "ActivationDataModule": {"batch_tokens": 4096},
    "SAETraining": {"robust": False, "k_aux": 256},
    "ModelCheckpoint": {"save_top_k": 1},
    "ScoreMonosemanticity": {"num_draws": 10},
    "NameConcepts": {"namer": None, "audiollm": "embedded", "max_new_tokens": 128, "clips_per_batch": 32},
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
"""What classes of the stage files take where a file does not say; they are not imported, since they bring Lightning."""
_HTSAT_BASE = {"patch_embeds_hidden_size": 128, "hidden_size": 1024, "depths": [2, 2, 12, 2]}


class Preset(NamedTuple):
    """The facts of a preset, and under their names its stage files."""

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
        """Look up a setting in a stage's file, else what the class that it configures takes without it."""
        config = self.fact(stage)
        parts = [config["model"], config["data"], *config.get("trainer", {}).get("callbacks", [])]
        of_part = [p.get("init_args", {}) for p in parts if p["class_path"].rpartition(".")[2] == part]
        if not of_part or (name not in of_part[0] and name not in DEFAULTS.get(part, {})):
            raise UserError(f"the preset's {stage}.yaml does not say {part}.{name}: add it")
        return of_part[0][name] if name in of_part[0] else DEFAULTS[part][name]


class Corpus(NamedTuple):
    """The clips of a split in the order of their shards, and what their audio shards take."""

    num_samples: PerClip
    rates_hz: PerClip
    shard_sizes: list[int]  # in clips
    num_bytes: int
    present_bytes: int
    source: str


def read_corpus(preset: Preset, split: str) -> Corpus:
    """Take a split's clips from its audio shards, else from the seed that will make them, else from the preset."""
    folder = Path(preset.fact("out")) / "audio" / split
    if (folder / "manifest.json").is_file():
        return _stored(folder)
    parts = preset.fact("audio").get(split, [])
    if [part["source"] for part in parts] == ["synthetic"]:
        made = SyntheticCorpus(**{key: value for key, value in parts[0].items() if key != "source"})
        num_samples = np.array([made.scene(index).num_samples for index in range(len(made))])
        return _bounded(num_samples, np.full(len(made), made[0].sample_rate_hz), "made from the seed")
    stated = (preset.facts.get("corpora") or {}).get(split)
    if not stated:
        raise UserError(
            f"nothing is known of the clips of split {split!r}: there are no audio shards in {str(folder)!r} "
            f"and the preset states none. Make them with `ard shards`, or add `corpora.{split}` to its run.yaml"
        )
    try:
        known = [(part["num_clips"], part["duration_s"], part["sample_rate_hz"]) for part in stated]
    except KeyError as error:
        raise UserError(
            f"`corpora.{split}` of the preset lacks {error}: each entry says num_clips, duration_s and sample_rate_hz"
        ) from error
    counts, durations_s, rates_hz = (np.array(column) for column in zip(*known, strict=True))
    num_samples = np.rint(durations_s * rates_hz).astype(np.int64)
    said = ", ".join(f"{num_clips:,} of {duration_s:g} s" for num_clips, duration_s, _ in known)
    source = f"as the preset states, all at its mean length: {said}"
    return _bounded(num_samples.repeat(counts), rates_hz.repeat(counts), source)


def _bounded(num_samples: PerClip, rates_hz: PerClip, source: str) -> Corpus:
    """Bound what shards that are not there yet will take."""
    size = inspect.signature(write_audio_shards).parameters["clips_per_shard"].default
    sizes = [min(size, len(num_samples) - start) for start in range(0, len(num_samples), size)]
    num_bytes = int((padded(2 * num_samples, BLOCK) + 3 * BLOCK).sum())
    return Corpus(num_samples, rates_hz, sizes, num_bytes, 0, f"{source}; FLAC as large as 16-bit PCM")


def _stored(folder: Path) -> Corpus:
    """Read how long the clips of finished audio shards are from their JSON, passing over their samples."""
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


class Model(NamedTuple):
    """An AudioLLM that is only planned: its configuration, what makes its input where it can be had, and the source."""

    config: Any
    prompter: AudioPrompter | None
    source: str

    @property
    def dtype(self) -> str:
        """The dtype of its checkpoint."""
        return str(self.config.dtype or torch.float32).removeprefix("torch.")

    def num_text_tokens(self, prompt: str) -> int:
        """Return the positions of a prompt that are not audio."""
        if self.prompter is None:
            return TEMPLATE_TOKENS + len(prompt.split())
        clip = Clip("c", np.zeros(RATE_HZ // 2, np.float32), RATE_HZ, "silence")
        batch = self.prompter([clip], [prompt])
        return int((batch.valid & ~batch.audio).sum())


def read_model(preset: Preset, name: str) -> Model:
    """Take a model's dimensions from the preset, else as published, else from its own configuration."""
    stated = (preset.facts.get("dimensions") or {}).get(name)
    known = stated or PUBLISHED.get(name)
    try:
        config = AutoConfig.for_model(**known) if known else load_config(name)
    except (UserError, ValueError, TypeError) as error:
        raise UserError(
            f"the dimensions of model {name!r} cannot be read: give a local folder, or state the content of its "
            "config.json (with model_type) under `dimensions` in the preset's run.yaml"
        ) from error
    if config.model_type != "qwen2_audio":
        raise UserError(f"model {name!r} is a {config.model_type}: a plan can be made of a qwen2_audio only")
    if not known:
        return Model(config, load_prompter(name), "its own")
    said = "the preset's" if stated else "as published"
    return Model(config, None, f"{said}; its prompt taken as {TEMPLATE_TOKENS} tokens and one a word")


def read_clap_config(name: str) -> tuple[Any, str]:
    """Take CLAP's dimensions from this machine, else those of LAION's larger audio encoder, and say which."""
    source = str(Path(ard.embedding.__file__).parent / name) if name == ard.embedding.EMBEDDED else name
    try:
        return AutoConfig.from_pretrained(source, local_files_only=True), "its own"
    except (OSError, ValueError):
        return AutoConfig.for_model("clap", audio_config=_HTSAT_BASE), "HTSAT-base"
