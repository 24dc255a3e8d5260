from .callback import ActivationWriter
from .datamodule import ActivationDataModule, ClipDataModule, dry_run
from .module import Extraction
from .store import Manifest, keep_shards, read_clips_metadata, read_manifest, remove_shards, write_clips_table
from .stream import ProbeBatch

__all__ = [
    "ActivationDataModule",
    "ActivationWriter",
    "ClipDataModule",
    "Extraction",
    "Manifest",
    "ProbeBatch",
    "dry_run",
    "keep_shards",
    "read_clips_metadata",
    "read_manifest",
    "remove_shards",
    "write_clips_table",
]
