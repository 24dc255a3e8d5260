"""Stage 1: audio clips, from a folder of files or made from a seed, into WebDataset audio shards and back."""

from ard.audio.folder import FolderClips
from ard.audio.functional import resample
from ard.audio.shards import clip_metadata, read_clips, write_audio_shards

__all__ = ["FolderClips", "clip_metadata", "read_clips", "resample", "write_audio_shards"]
