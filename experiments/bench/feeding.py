"""Activation shards into shuffled training batches, against a plain webdataset pipeline; how well they are mixed."""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import webdataset as wds
from safetensors.torch import load
from torch import Tensor
from torch.utils.data import DataLoader

from ard.activations import ActivationDataModule
from ard.activations.store import shard_path, write_manifest, write_shard
from ard.sae import SAETraining
from experiments.bench.report import Line

TITLE = "Feeding: activation shards into shuffled batches of 4096 tokens"
TOKENS_PER_CLIP, D_IN, CLIPS_PER_SHARD, NUM_SHARDS = 250, 1024, 128, 16
BATCH_TOKENS, BUFFER_TOKENS, NUM_BATCHES = 4096, 131072, 160
PAPER_GB_S = 3.4  # 4096 tokens of 4096 in bf16 every 10 ms
ABOUT = {"model": "none", "layers": [0], "dtype": "bfloat16"}


def write_store(folder: Path, d_in: int, num_shards: int) -> None:
    """Write clips whose tokens are alike: a direction of the clip's own, and as much noise."""
    generator = torch.Generator().manual_seed(0)
    for shard in range(num_shards):
        clips = []
        for clip in range(CLIPS_PER_SHARD):
            x = torch.randn(1, d_in, generator=generator) + torch.randn(TOKENS_PER_CLIP, d_in, generator=generator)
            known = {"id": f"clip-{shard}-{clip}", "num_tokens": TOKENS_PER_CLIP}
            clips.append((known, {0: x.bfloat16()}))
        write_shard(folder, shard, clips, [], ABOUT)
    write_manifest(folder, num_shards, d_in, ABOUT)


def plain_batches(folder: Path, num_workers: int) -> Iterator[Tensor]:
    """The plain way: webdataset decodes clips in workers; they are put together, permuted and cut."""
    shards = [str(shard_path(folder, 0, shard)) for shard in range(NUM_SHARDS)]
    clips = wds.WebDataset(shards, shardshuffle=NUM_SHARDS, resampled=True).map(_decode)
    waiting: list[Tensor] = []
    num_waiting = 0
    for x in DataLoader(clips, batch_size=None, num_workers=num_workers):
        waiting.append(x)
        num_waiting += len(x)
        if num_waiting >= BUFFER_TOKENS:
            joined = torch.cat(waiting)
            joined = joined[torch.randperm(len(joined))]
            *whole, rest = joined.split(BATCH_TOKENS)
            yield from whole
            waiting, num_waiting = [rest], len(rest)


def our_batches(folder: Path, num_workers: int) -> Iterator[Tensor]:
    """The project's way."""
    data = ActivationDataModule(
        folder, layer=0, batch_tokens=BATCH_TOKENS, buffer_tokens=BUFFER_TOKENS, num_workers=num_workers
    )
    return iter(data.train_dataloader())


def throughput(batches: Iterator[Tensor]) -> float:
    """Return GB/s into batches, once they flow."""
    for _ in range(40):
        next(batches)
    started, size = time.perf_counter(), 0
    for _ in range(NUM_BATCHES):
        size += next(batches).nbytes
    return size / 1e9 / (time.perf_counter() - started)


def memory(batches: Iterator[Tensor]) -> float:
    """Return the bytes that this process holds more, at most, while it is fed."""

    def held() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = held()
    return max(held() for _ in islice(batches, NUM_BATCHES)) - before


def neighbours(batches: Iterator[Tensor]) -> float:
    """Return the mean cosine of neighbouring tokens in a batch."""
    x = torch.nn.functional.normalize(torch.stack([next(batches) for _ in range(20)]).float(), dim=-1)
    return float((x[:, 1:] * x[:, :-1]).sum(dim=-1).mean())


def waiting_share(folder: Path) -> float:
    """Return the share of training steps that is spent waiting for a batch, at the shape of the SAE's benchmark."""
    write_store(folder, 512, 4)
    data = ActivationDataModule(folder, layer=0, batch_tokens=2048, buffer_tokens=65536)
    batches = iter(data.train_dataloader())
    training = SAETraining(512, expansion=8, k=32)
    optimizer = training.configure_optimizers()
    waited, started = 0.0, time.perf_counter()
    for _ in range(100):
        asked = time.perf_counter()
        x = next(batches)
        waited += time.perf_counter() - asked
        codes = training.sae.encode(x.float())
        loss = (training.sae.decode(codes) - x.float()).pow(2).sum(dim=-1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return waited / (time.perf_counter() - started)


def main() -> list[Line]:
    """Measure both ways with no worker, one and two."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "store"
        write_store(folder, D_IN, NUM_SHARDS)
        lines = []
        for num_workers in (0, 1, 2):
            plain, ours = throughput(plain_batches(folder, num_workers)), throughput(our_batches(folder, num_workers))
            said = f"{num_workers} worker{'s' * (num_workers != 1)}"
            lines += [
                Line(f"{said}: plain webdataset pipeline", plain, "GB/s"),
                Line(f"{said}: ours", ours, "GB/s"),
                Line(f"{said}: faster", ours / plain, "times", "to reach: 3"),
            ]
        stated = f"its buffer is {BUFFER_TOKENS * D_IN * 2 / 1e6:.0f} MB, a shard {_shard_size(folder) / 1e6:.0f} MB"
        in_order = iter(ActivationDataModule(folder, layer=0, batch_tokens=BATCH_TOKENS).val_dataloader())
        everything = torch.cat(list(ActivationDataModule(folder, layer=0, batch_tokens=BATCH_TOKENS).val_dataloader()))
        mixed = everything[torch.randperm(len(everything))].split(BATCH_TOKENS)
        return [
            *lines,
            Line("0 workers: memory of ours", memory(our_batches(folder, 0)) / 1e6, "MB", stated),
            Line("likeness of neighbours, in order", neighbours(in_order), "cosine"),
            Line("likeness of neighbours, plain", neighbours(plain_batches(folder, 0)), "cosine"),
            Line("likeness of neighbours, ours", neighbours(our_batches(folder, 0)), "cosine"),
            Line("likeness of neighbours, everything mixed", neighbours(iter(mixed)), "cosine"),
            Line(
                "for 3.4 GB/s: the paper's shape, 10 ms a step", 2 * PAPER_GB_S / ours, "workers", "by the pace of two"
            ),
            Line("waiting, of a training step", waiting_share(Path(scratch) / "small"), "share", "to reach: 0.05"),
        ]


def _shard_size(folder: Path) -> int:
    return shard_path(folder, 0, 0).stat().st_size


def _decode(sample: dict[str, bytes]) -> Tensor:
    json.loads(sample["json"])
    return load(sample["safetensors"])["x"]
