"""A layer's tar of one shard: JSON and safetensors for each clip, as webdataset writes them."""

import json
import math
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash
from torch import Tensor

from ard.results import replacing

SAFETENSORS_DTYPE = {torch.bfloat16: "BF16", torch.float32: "F32"}


class Written(NamedTuple):
    """A tar that was written."""

    num_bytes: int
    xxh3: str
    offsets: tuple[int, ...]  # byte at which the activations of each clip begin


def write_tar(path: Path, samples: Iterable[tuple[dict[str, Any], Tensor]]) -> Written:
    """Write one tar, whole or not at all, with the checksum taken on the way.

    It is what webdataset's ``TarWriter`` makes of safetensors and JSON, without its copies.
    """
    digest, num_bytes, offsets = xxhash.xxh3_64(), 0, []
    with replacing(path) as partial, partial.open("wb") as file:

        def put(*parts: bytes | memoryview) -> None:
            nonlocal num_bytes
            for part in parts:
                digest.update(part)
                file.write(part)
                num_bytes += len(part)

        for metadata, x in samples:
            brief = {name: value for name, value in metadata.items() if name != "events"}  # as long as the clip
            description = json.dumps(brief).encode()
            tensor = x.contiguous().reshape(-1).view(torch.uint8).numpy().data
            header = safetensors_header(x.dtype, x.shape)
            put(_member(f"{metadata['id']}.json", len(description)), description, _padding(len(description)))
            put(_member(f"{metadata['id']}.safetensors", len(header) + len(tensor)), header)
            offsets.append(num_bytes)
            put(tensor, _padding(len(header) + len(tensor)))
        put(bytes(2 * tarfile.BLOCKSIZE))
        put(bytes(-num_bytes % tarfile.RECORDSIZE))
    return Written(num_bytes, digest.hexdigest(), tuple(offsets))


def _member(name: str, num_bytes: int) -> bytes:
    """Return the header of a file in a tar, as webdataset writes it."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = num_bytes, 0o444, "bigdata", "bigdata"
    return info.tobuf(encoding="utf-8")


def _padding(num_bytes: int) -> bytes:
    """Return what fills the last block of a file in a tar."""
    return bytes(-num_bytes % tarfile.BLOCKSIZE)


def safetensors_header(dtype: torch.dtype, shape: Sequence[int]) -> bytes:
    """Return what stands before the bytes of a tensor in a safetensors file that holds it alone, under ``x``."""
    num_bytes = math.prod(shape) * dtype.itemsize
    about = {"dtype": SAFETENSORS_DTYPE[dtype], "shape": list(shape), "data_offsets": [0, num_bytes]}
    header = json.dumps({"x": about}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header
