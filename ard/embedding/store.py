"""Embeddings of clips on disk: one row a clip, in the order of the clips table."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ard.audio import read_audio_manifest, read_shard
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
    """Return the embeddings of clips in the given order, from ``path`` if it holds just these, else computed and kept.

    The work goes audio shard by audio shard, each rank its own. What a shard gave is kept beside ``path`` until all are
    there: a run that was stopped computes none of them twice.

    Args:
        clap: the model.
        audio: folder of audio shards that hold the clips, and maybe others.
        clip_ids: the clips wanted.
        path: a safetensors file; its metadata says which model it is of, and which audio and clips.
        rank: of this process among those that call this together.
        world_size: how many these are.
        barrier: waits for all of them.

    Raises:
        UserError: if a clip is not in the audio shards.
    """
    clips = hashlib.sha256("\n".join(clip_ids).encode()).hexdigest()
    about = {"model": clap.name, "audio": read_audio_manifest(audio).xxh3, "clips": clips}
    parts = path.with_name(f"{path.name}.parts")
    if not _holds(path, about):
        shards = sorted(audio.glob("*.tar"))
        row = {clip_id: index for index, clip_id in enumerate(clip_ids)}
        for shard in track(shards[rank::world_size], "embeddings", transient=True, disable=rank > 0):
            part = parts / f"{shard.stem}.safetensors"
            if not _holds(part, about):
                wanted = [clip for clip in read_shard(shard) if isinstance(clip, Clip) and clip.id in row]
                rows = torch.tensor([row[clip.id] for clip in wanted], dtype=torch.int64)
                batches = [wanted[start : start + CLIPS_PER_BATCH] for start in range(0, len(wanted), CLIPS_PER_BATCH)]
                heard = torch.cat([torch.empty(0, clap.d), *(clap.audio(batch) for batch in batches)])
                _write(part, {"rows": rows, "embeddings": heard}, about)
        barrier()
        if rank == 0:
            joined = torch.full((len(clip_ids), clap.d), torch.nan)
            for shard in shards:
                found = load_file(parts / f"{shard.stem}.safetensors")
                joined[found["rows"]] = found["embeddings"]
            missing = joined.isnan().any(dim=1).nonzero()[:, 0].tolist()
            if missing:
                raise UserError(
                    f"clip {clip_ids[missing[0]]!r} and {len(missing) - 1} more of the activations are not in "
                    f"{str(audio)!r}: give the folder of audio shards that the activations were extracted from"
                )
            _write(path, {"embeddings": joined}, about)
            for shard in shards:
                (parts / f"{shard.stem}.safetensors").unlink()
            parts.rmdir()
        barrier()
    return load_file(path)["embeddings"]


def _holds(path: Path, about: Mapping[str, str]) -> bool:
    """Say whether a file is there, and of just this."""
    if not path.is_file():
        return False
    with safe_open(path, framework="pt") as stored:
        return stored.metadata() == about


def _write(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    with replacing(path) as partial:
        save_file(tensors, partial, metadata=about)
