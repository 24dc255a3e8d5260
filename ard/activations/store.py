"""Activation shards on disk: ``layer-<l>/<nnnnnn>.tar`` of safetensors, and ``manifest.json``, written last."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import webdataset as wds
from safetensors.torch import save
from torch import Tensor

from ard.types import Failure, UserError, write_json

MANIFEST = "manifest.json"


class Manifest(NamedTuple):
    """What a folder of activation shards holds."""

    model: str
    layers: tuple[int, ...]
    d_in: int
    clip_ids: tuple[str, ...]  # in the order of the shards: a clip's row is its place here
    num_tokens: int
    failures: tuple[Failure, ...]


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a finished extraction.

    Raises:
        UserError: if the extraction has not finished.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{str(folder)!r} holds no finished extraction (no {MANIFEST}): run `ard extract` (it resumes)")
    saved = json.loads(path.read_text())
    return Manifest(
        model=saved["model"],
        layers=tuple(saved["layers"]),
        d_in=saved["d_in"],
        clip_ids=tuple(clip_id for shard in saved["shards"] for clip_id in shard["clips"]),
        num_tokens=saved["num_tokens"],
        failures=tuple(Failure(**failure) for failure in saved["failures"]),
    )


def shard_path(folder: Path, layer: int, shard: int) -> Path:
    """Return where a shard of a layer lies."""
    return folder / f"layer-{layer}" / f"{shard:06d}.tar"


def stored_ids(folder: Path, layers: Sequence[int]) -> list[list[str]]:
    """Return the clip ids of every shard that is whole in all layers, in order: where an interrupted run goes on."""
    shards: list[list[str]] = []
    while all(shard_path(folder, layer, len(shards)).is_file() for layer in layers):
        with tarfile.open(shard_path(folder, layers[0], len(shards))) as tar:
            shards.append([json.load(_member(tar, name))["id"] for name in tar.getnames() if name.endswith(".json")])
    return shards


def _member(tar: tarfile.TarFile, name: str) -> Any:
    return tar.extractfile(name)


class ShardWriter:
    """Collect the activations of clips and write them shard by shard, each layer's tar whole or not at all.

    Args:
        folder: where the shards go; shards that an earlier run finished there are kept and go into the manifest.
        layers: the layers of every clip.
        clips_per_shard: how many clips make a shard; memory is bounded by one shard.
    """

    def __init__(self, folder: Path, layers: Sequence[int], clips_per_shard: int) -> None:
        self.folder = folder
        self.layers = tuple(layers)
        self.clips_per_shard = clips_per_shard
        self.shards = stored_ids(folder, layers)
        self.failures: list[Failure] = []
        self._waiting: list[tuple[dict[str, Any], Mapping[int, Tensor]]] = []

    def add(self, metadata: dict[str, Any], activations: Mapping[int, Tensor]) -> None:
        """Add one clip: its metadata (with its id) and [tokens, d_in] of every layer, on the CPU.

        A clip without tokens, or with a NaN, is left out and recorded.
        """
        first = activations[self.layers[0]]
        if len(first) == 0:
            self.failures.append(Failure(metadata["id"], "activations", "no audio tokens: the clip is too short"))
        elif not all(x.isfinite().all() for x in activations.values()):
            self.failures.append(Failure(metadata["id"], "activations", "the forward pass gave NaN or infinity"))
        else:
            self._waiting.append((metadata, activations))
        if len(self._waiting) == self.clips_per_shard:
            self._flush()

    def close(self, model: str, d_in: int, about: Mapping[str, Any]) -> None:
        """Write the last shard and, last of all, the manifest."""
        self._flush()
        shards = []
        for index, clip_ids in enumerate(self.shards):
            checksums = {
                f"layer-{layer}": hashlib.sha256(shard_path(self.folder, layer, index).read_bytes()).hexdigest()
                for layer in self.layers
            }
            shards.append({"clips": clip_ids, "sha256": checksums})
        write_json(
            self.folder / MANIFEST,
            {
                "model": model,
                "layers": list(self.layers),
                "d_in": d_in,
                **about,
                "version": version("ard-audio"),
                "num_clips": sum(map(len, self.shards)),
                "num_tokens": sum(sum(_token_counts(self.folder, self.layers[0], i)) for i in range(len(self.shards))),
                "failures": [failure._asdict() for failure in self.failures],
                "shards": shards,
            },
        )

    def _flush(self) -> None:
        if not self._waiting:
            return
        for layer in self.layers:
            path = shard_path(self.folder, layer, len(self.shards))
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            with wds.TarWriter(str(partial), mtime=0) as tar:
                for metadata, activations in self._waiting:
                    tensor = save({"x": activations[layer].contiguous()})
                    tar.write({"__key__": metadata["id"], "safetensors": tensor, "json": metadata})
            os.replace(partial, path)
        self.shards.append([metadata["id"] for metadata, _ in self._waiting])
        self._waiting.clear()


def _token_counts(folder: Path, layer: int, shard: int) -> list[int]:
    return [metadata["num_tokens"] for metadata in read_metadata(shard_path(folder, layer, shard))]


def read_metadata(path: Path) -> list[dict[str, Any]]:
    """Return the metadata of a shard's clips, in order, without reading their activations."""
    with tarfile.open(path) as tar:
        return [json.load(io.BytesIO(_member(tar, name).read())) for name in tar.getnames() if name.endswith(".json")]


def write_parquet(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write rows as parquet; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist(list(rows)), partial)
    os.replace(partial, path)


def write_clips_table(folder: Path, path: Path, split: str) -> None:
    """Write what is known of every clip of an extraction, one row a clip: the row that representatives refer to."""
    manifest = read_manifest(folder)
    shards = sorted(shard_path(folder, manifest.layers[0], 0).parent.glob("*.tar"))
    known = ({"split": split, **metadata} for shard in shards for metadata in read_metadata(shard))
    columns = ("id", "dataset", "split", "duration_s", "sample_rate_hz", "num_tokens", "seconds_per_token")
    optional = ("labels", "caption", "emotion", "gender", "transcript")
    write_parquet(({name: clip.get(name) for name in columns + optional} for clip in known), path)
