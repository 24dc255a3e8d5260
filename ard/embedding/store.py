"""Embeddings of clips on disk: one row a clip, in the order of the clips table."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import IterableDataset

from ard.audio import read_audio_manifest, read_shard
from ard.console import Progress
from ard.embedding.base import Clap
from ard.results import replacing
from ard.types import Clip, UserError
from ard.workers import prepared, share

CLIPS_PER_BATCH = 32


def embed_clips(
    clap: Clap,
    audio: Path,
    clip_ids: Sequence[str],
    path: Path,
    *,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    barrier: Callable[[], object] = lambda: None,
) -> Float[Tensor, "clips d"]:
    """Return the embeddings of clips in the given order: read from ``path`` if it holds just these, else computed.

    Computed embeddings are stored at ``path``. The ranks divide the audio shards among them. The results of each shard
    are kept beside ``path`` until all are there, so a resumed run computes none of them twice.

    Args:
        clap: the model.
        audio: folder of audio shards that hold the clips, and possibly others.
        clip_ids: ids of the clips.
        path: a safetensors file; its metadata identifies the model, the audio and the clips.
        num_workers: processes that decode and prepare clips, while this one embeds others; a shard is prepared by one.
        rank: rank of this process among those that make this call together.
        world_size: number of these processes.
        barrier: waits for all of them.

    Raises:
        UserError: if a clip is not in the audio shards.
    """
    clips = hashlib.sha256("\n".join(clip_ids).encode()).hexdigest()
    metadata = {"model": clap.name, "audio": read_audio_manifest(audio).xxh3, "clips": clips}
    parts = path.with_name(f"{path.name}.parts")
    if not _holds(path, metadata):
        shards = sorted(audio.glob("*.tar"))
        row = {clip_id: index for index, clip_id in enumerate(clip_ids)}
        mine = {shard: parts / f"{shard.stem}.safetensors" for shard in shards[rank::world_size]}
        unfinished = {shard: part for shard, part in mine.items() if not _holds(part, metadata)}
        done = len(clip_ids) * (len(mine) - len(unfinished)) // max(1, len(mine))  # shards hold about as many each
        batches = prepared(_Batches(clap.prepare, list(unfinished), row), min(num_workers, len(unfinished)))
        rows: dict[Path, list[int]] = defaultdict(list)
        embeddings: dict[Path, list[Tensor]] = defaultdict(list)
        with Progress("embeddings", len(clip_ids), done=done, disable=rank > 0) as progress:
            for batch in batches:
                if batch.rows:
                    rows[batch.shard] += batch.rows
                    embeddings[batch.shard].append(clap.hear(batch.prepared))
                    progress.advance(len(batch.rows) * world_size)
                else:
                    of_shard = {
                        "rows": torch.tensor(rows[batch.shard], dtype=torch.int64),
                        "embeddings": torch.cat([torch.empty(0, clap.d), *embeddings.pop(batch.shard, [])]),
                    }
                    _write(unfinished[batch.shard], of_shard, metadata)
        barrier()
        if rank == 0:
            joined = torch.full((len(clip_ids), clap.d), torch.nan)
            for shard in shards:
                stored = load_file(parts / f"{shard.stem}.safetensors")
                joined[stored["rows"]] = stored["embeddings"]
            missing = joined.isnan().any(dim=1).nonzero()[:, 0].tolist()
            if missing:
                raise UserError(
                    f"clip {clip_ids[missing[0]]!r} and {len(missing) - 1} more of the activations are not in "
                    f"{str(audio)!r}: give the folder of audio shards that the activations were extracted from"
                )
            _write(path, {"embeddings": joined}, metadata)
            for shard in shards:
                (parts / f"{shard.stem}.safetensors").unlink()
            parts.rmdir()
        barrier()
    return load_file(path)["embeddings"]


class _Batch(NamedTuple):
    """Clips of one audio shard, prepared for a CLAP model."""

    shard: Path
    rows: list[int]  # of the clips among the embeddings; none marks the end of the shard
    prepared: Any


class _Batches(IterableDataset[_Batch]):
    """The batches of this worker's share of audio shards, each prepared as it is asked for."""

    def __init__(
        self, prepare: Callable[[Sequence[Clip]], Any], shards: Sequence[Path], row: Mapping[str, int]
    ) -> None:
        self.prepare, self.shards, self.row = prepare, shards, row

    def __iter__(self) -> Iterator[_Batch]:
        """Decode the shards; clips that have no row are left out."""
        for shard in share(self.shards):
            wanted = (clip for clip in read_shard(shard) if isinstance(clip, Clip) and clip.id in self.row)
            while clips := list(islice(wanted, CLIPS_PER_BATCH)):
                yield _Batch(shard, [self.row[clip.id] for clip in clips], self.prepare(clips))
            yield _Batch(shard, [], None)


def _holds(path: Path, metadata: Mapping[str, str]) -> bool:
    """Say whether a file exists and has exactly this metadata."""
    if not path.is_file():
        return False
    with safe_open(path, framework="pt") as stored:
        return stored.metadata() == metadata


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    with replacing(path) as partial:
        save_file(tensors, partial, metadata=metadata)
