"""Stage 3: activations of many clips, several layers in one pass, into shards with a manifest, and back as a stream."""

from ard.activations.callback import ActivationWriter
from ard.activations.datamodule import ActivationDataModule, ClipDataModule, dry_run
from ard.activations.module import Extraction
from ard.activations.store import Manifest, read_clips_metadata, read_manifest, write_clips_table
from ard.activations.stream import ProbeBatch

__all__ = [
    "ActivationDataModule",
    "ActivationWriter",
    "ClipDataModule",
    "Extraction",
    "Manifest",
    "ProbeBatch",
    "dry_run",
    "read_clips_metadata",
    "read_manifest",
    "write_clips_table",
]
