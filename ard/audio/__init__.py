"""Stage 1: audio clips, from a folder of files or made from a seed, into WebDataset audio shards and back."""

from ard.audio.folder import FolderClips
from ard.audio.functional import resample
from ard.audio.shards import (
    AudioManifest,
    clip_metadata,
    read_audio_manifest,
    read_clips,
    read_samples,
    write_audio_shards,
)
from ard.audio.synthetic import SyntheticCorpus

__all__ = [
    "AudioManifest",
    "FolderClips",
    "SyntheticCorpus",
    "clip_metadata",
    "read_audio_manifest",
    "read_clips",
    "read_samples",
    "resample",
    "write_audio_shards",
]
