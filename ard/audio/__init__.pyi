from .audiobench import AudioBench
from .check import AudioCheck, check_audio_shards
from .folder import FolderClips, read_clip
from .fsd50k import FSD50K
from .functional import resample
from .iemocap import IEMOCAP
from .labels import Annotation, Labels, held_out, read_labels
from .mixed import MixedClips
from .shards import (
    AudioManifest,
    StoredClips,
    clip_metadata,
    read_audio_manifest,
    read_clips,
    read_shard,
    write_audio_shards,
)
from .sources import SOURCES, Corpora, corpus_class
from .synthetic import SyntheticCorpus
from .wavcaps import WavCaps

__all__ = [
    "FSD50K",
    "IEMOCAP",
    "SOURCES",
    "Annotation",
    "AudioBench",
    "AudioCheck",
    "AudioManifest",
    "Corpora",
    "FolderClips",
    "Labels",
    "MixedClips",
    "StoredClips",
    "SyntheticCorpus",
    "WavCaps",
    "check_audio_shards",
    "clip_metadata",
    "corpus_class",
    "held_out",
    "read_audio_manifest",
    "read_clip",
    "read_clips",
    "read_labels",
    "read_shard",
    "resample",
    "write_audio_shards",
]
