"""Embeddings of clips on disk: one row a clip, in the order of the clips table."""

import hashlib
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ard.audio import read_clips
from ard.embedding.clap import Clap


def embed_clips(clap: Clap, audio: Path, clip_ids: Sequence[str], path: Path) -> Float[Tensor, "clips d"]:
    """Return the embeddings of clips in the given order, from ``path`` if it holds just these, else computed and kept.

    Args:
        clap: the model.
        audio: folder of audio shards that hold the clips, and maybe others.
        clip_ids: the clips wanted.
        path: a safetensors file, which names the model and the clips in its metadata.
    """
    about = {"model": clap.name, "clips": hashlib.sha256("\n".join(clip_ids).encode()).hexdigest()}
    if path.is_file():
        with safe_open(path, framework="pt") as stored:
            if stored.metadata() == about:
                return stored.get_tensor("embeddings")
    row = {clip_id: index for index, clip_id in enumerate(clip_ids)}
    wanted = (clip for clip in read_clips(audio) if clip.id in row)
    embeddings: dict[int, Tensor] = {}
    while clips := list(islice(wanted, 32)):
        embeddings.update(zip((row[clip.id] for clip in clips), clap.audio(clips), strict=True))
    stacked = torch.stack([embeddings[index] for index in range(len(clip_ids))])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file({"embeddings": stacked}, partial, metadata=about)
    os.replace(partial, path)
    return stacked
