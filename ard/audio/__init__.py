"""Stage 1: audio clips, from a corpus, a folder of files or made from a seed, into WebDataset audio shards and back."""

from ard.audio.audiobench import AudioBench
from ard.audio.check import AudioCheck, check_audio_shards
from ard.audio.folder import FolderClips, read_clip
from ard.audio.fsd50k import FSD50K
from ard.audio.functional import resample
from ard.audio.iemocap import IEMOCAP
from ard.audio.shards import (
    MANIFEST,
    AudioManifest,
    clip_metadata,
    read_audio_manifest,
    read_clips,
    read_shard,
    write_audio_shards,
)
from ard.audio.sources import SOURCES, Corpora
from ard.audio.synthetic import SyntheticCorpus
from ard.audio.wavcaps import WavCaps

__all__ = [
    "FSD50K",
    "IEMOCAP",
    "MANIFEST",
    "SOURCES",
    "AudioBench",
    "AudioCheck",
    "AudioManifest",
    "Corpora",
    "FolderClips",
    "SyntheticCorpus",
    "WavCaps",
    "check_audio_shards",
    "clip_metadata",
    "read_audio_manifest",
    "read_clip",
    "read_clips",
    "read_shard",
    "resample",
    "write_audio_shards",
]
