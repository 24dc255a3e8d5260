"""Writing a shard of activations of three layers, against webdataset's writer, one layer after the other, read again.

The shard has the paper's width and 32 of its 128 clips. The folder is a temporary one, in memory on many machines: a
disk may be slower than either.
"""

import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import webdataset as wds
import xxhash
from safetensors.torch import save
from torch import Tensor

from ard.activations.module import unusable
from ard.activations.store import finished_shards, shard_path, write_shard
from ard.results import replacing
from experiments.bench.report import Line, median_seconds

TITLE = "Writing activation shards: 32 clips of 250 tokens, three layers 4096 wide, bfloat16"
LAYERS, NUM_CLIPS, NUM_TOKENS, D_IN, ROUNDS = [5, 16, 26], 32, 250, 4096, 5
ABOUT = {"model": "bench", "layers": LAYERS, "dtype": "bfloat16", "audio": "noise"}
Clips = Sequence[tuple[dict[str, Any], Mapping[int, Tensor]]]


def write_plainly(folder: Path, clips: Clips) -> tuple[dict[int, str], list[int]]:
    """Write the tars as webdataset does, then read each again for its checksum and offsets, as it was done before."""
    checksums = {}
    for layer in LAYERS:
        path = shard_path(folder, layer, 0)
        with replacing(path) as partial:
            with partial.open("wb") as file, wds.TarWriter(file, mtime=0) as tar:
                for known, activations in clips:
                    tar.write({"__key__": known["id"], "safetensors": save({"x": activations[layer]}), "json": known})
            content = partial.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            starts = [member.offset_data for member in tar if member.name.endswith(".safetensors")]
        offsets = [start + 8 + int.from_bytes(content[start : start + 8], "little") for start in starts]
        checksums[layer] = xxhash.xxh3_64_hexdigest(content)
    return checksums, offsets


def main() -> list[Line]:
    """Write the same shard both ways in turn, and check it for NaN and infinity both ways."""
    generator = torch.Generator().manual_seed(0)
    shape = NUM_TOKENS, D_IN
    clips: Clips = [
        (
            {"id": f"c{number}", "num_tokens": NUM_TOKENS},
            {layer: torch.randn(shape, generator=generator).bfloat16() for layer in LAYERS},
        )
        for number in range(NUM_CLIPS)
    ]
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    with tempfile.TemporaryDirectory() as scratch:
        plain, ours = Path(scratch) / "plain", Path(scratch) / "ours"
        for _ in range(ROUNDS):
            started = time.perf_counter()
            checksums, offsets = write_plainly(plain, clips)
            times["plain"].append(time.perf_counter() - started)
            started = time.perf_counter()
            write_shard(ours, 0, clips, (), ABOUT)
            times["ours"].append(time.perf_counter() - started)
        shard = finished_shards(ours, ABOUT)[0]
        assert (dict(shard.xxh3), list(shard.offsets)) == (checksums, offsets)
    seconds = {name: statistics.median(taken) for name, taken in times.items()}
    gigabytes = sum(shard.num_bytes.values()) / 1e9
    by_element = median_seconds(lambda: [x.isfinite().all().item() for _, of in clips for x in of.values()])
    by_extremes = median_seconds(lambda: [unusable(of) for _, of in clips])
    return [
        Line("layer after layer, and read again", gigabytes / seconds["plain"], "GB/s", "as it was"),
        Line("a thread a layer, checksums on the way", gigabytes / seconds["ours"], "GB/s", "to the byte the same"),
        Line("faster", seconds["plain"] / seconds["ours"], "times"),
        Line("looking for NaN, element by element", gigabytes / by_element, "GB/s", "as it was"),
        Line("looking for NaN by the extremes", gigabytes / by_extremes, "GB/s"),
        Line("faster", by_element / by_extremes, "times"),
    ]
