"""Embeddings of clips on disk: one row a clip, in the order of the clips table."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ard.audio import read_audio_manifest, read_shard
from ard.console import Progress
from ard.embedding.base import Clap
from ard.results import replacing
from ard.types import Clip, UserError

CLIPS_PER_BATCH = 32


def embed_clips(
    clap: Clap,
    audio: Path,
    clip_ids: Sequence[str],
    path: Path,
    *,
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
        with Progress("embeddings", len(clip_ids), done=done, disable=rank > 0) as progress:
            for shard, part in unfinished.items():
                wanted = [clip for clip in read_shard(shard) if isinstance(clip, Clip) and clip.id in row]
                rows = torch.tensor([row[clip.id] for clip in wanted], dtype=torch.int64)
                embeddings = [torch.empty(0, clap.d)]
                for start in range(0, len(wanted), CLIPS_PER_BATCH):
                    batch = wanted[start : start + CLIPS_PER_BATCH]
                    embeddings.append(clap.audio(batch))
                    progress.advance(len(batch) * world_size)
                _write(part, {"rows": rows, "embeddings": torch.cat(embeddings)}, metadata)
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


def _holds(path: Path, metadata: Mapping[str, str]) -> bool:
    """Say whether a file exists and has exactly this metadata."""
    if not path.is_file():
        return False
    with safe_open(path, framework="pt") as stored:
        return stored.metadata() == metadata


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    with replacing(path) as partial:
        save_file(tensors, partial, metadata=metadata)
