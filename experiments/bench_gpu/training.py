"""Training steps: bare, in the Trainer's loop with batches from shards, and those of other libraries."""

import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ard.activations import ActivationDataModule
from ard.activations.layer import read_layer
from ard.activations.store import write_manifest, write_shard
from ard.activations.stream import ShuffledOnDevice
from ard.sae import SAETraining, TopKSAE
from ard.sae.functional import rounded, squared_error
from ard.sae.products import ALL_PRODUCTS, measure, using, ways
from experiments.bench.peers import find_peers
from experiments.bench_gpu.measure import (
    ARITHMETICS,
    Row,
    Shape,
    arithmetic,
    forget,
    milliseconds,
    peak_gb,
    peak_tflops,
    wait,
)

CLIPS_PER_SHARD, TOKENS_PER_CLIP = 64, 256
PRECISIONS = {"float32": "32-true", "tf32": "32-true", "bfloat16": "bf16-mixed"}


def steps(shape: Shape) -> Iterator[Row]:
    """A step alone: forward, backward, clipping and fused Adam, on a batch that is there already.

    Its share of the peak counts the five products as if all were dense, as the peers make them.
    """
    peak = peak_tflops(shape)
    for e in shape.expansions:
        for name in ARITHMETICS:
            with arithmetic(name, shape.device):
                table, how = _table(shape, e)
                for label, chosen in {
                    "fastest": table,
                    **{way: {ALL_PRODUCTS: way} for way in _ways(name, shape)},
                }.items():
                    forget(shape.device)
                    step = _ours(shape, e, chosen)
                    ms = milliseconds(step, shape, most=20)
                    flops = 5 * 2 * shape.tokens * shape.d_in**2 * e
                    row: Row = {"e": e, "arithmetic": name, "products": label, "ms a step": ms}
                    yield {
                        **row,
                        "share of peak": flops / ms / 1e9 / peak[name],
                        "peak GB": peak_gb(shape.device),
                        "ways": how if label == "fastest" else "",
                    }
                    del step


def _ways(name: str, shape: Shape) -> list[str]:
    """Return the ways in which to time whole steps; torch's gather is timed by the product only, for it is slow."""
    every = ways(torch.empty(0, device=shape.device, dtype=torch.bfloat16 if name == "bfloat16" else torch.float32))
    return [way for way in every if way != "gather"]


def _sae(shape: Shape, e: int) -> TopKSAE:
    with shape.device:
        return TopKSAE(shape.d_in, e * shape.d_in, k=shape.k)


def _table(shape: Shape, e: int) -> tuple[dict[str, str], str]:
    """Measure the products as the first batch of a training does, and say what came out."""
    sae, x = _sae(shape, e), torch.randn(shape.tokens, shape.d_in, device=shape.device)
    started = time.perf_counter()
    with torch.no_grad():
        table, _ = measure(sae.encode(x), rounded(x), rounded(sae.W_dec))
    seconds = time.perf_counter() - started
    return table, "; ".join(f"{key.partition(',')[0]} {way}" for key, way in table.items()) + f" ({seconds:.2f} s)"


def _ours(shape: Shape, e: int, table: dict[str, str]) -> Callable[[], None]:
    sae, x = _sae(shape, e), torch.randn(shape.tokens, shape.d_in, device=shape.device)
    weights = [p for p in sae.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with using(table):
            squared_error(x, sae(x)).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    return step


class Clock(Callback):
    """Time the second half of a training; before it, list what the host waits for, and then what the GPU does."""

    WATCHED = 4
    """Steps for which the host and the GPU are watched, one after the other."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self.first, self.device = steps // 2, device
        self.seconds = 0.0
        self.waits: list[str] = []
        self.kernels: dict[str, float] = {}  # milliseconds a step
        self.profile: Any = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Go on to what is next."""
        before = self.first - batch_idx
        if before == 0:
            wait(self.device)
            self.seconds = -time.perf_counter()
        elif self.device.type == "cuda" and before == 2 * self.WATCHED + 1:
            self._list(True)
        elif self.device.type == "cuda" and before == self.WATCHED + 1:
            self._list(False)
            wait(self.device)
            self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]).__enter__()
        elif self.profile and before == 1:
            wait(self.device)
            self.profile.__exit__(None, None, None)
            events = [e for e in self.profile.key_averages() if "emcpy" not in e.key and e.self_device_time_total]
            self.kernels = {e.key: e.self_device_time_total / 1000 / self.WATCHED for e in events}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        wait(self.device)
        self.seconds += time.perf_counter()

    def longest(self) -> str:
        """Return the kernels that take longest, in milliseconds a step."""
        longest = sorted(self.kernels.items(), key=lambda item: -item[1])[:8]
        return "; ".join(f"{name[:60]} {ms:.2f}" for name, ms in longest)

    def _list(self, on: bool) -> None:
        torch.cuda.set_sync_debug_mode("warn" if on else "default")
        warnings.showwarning = self._note if on else _SHOW
        warnings.simplefilter("always" if on else "default")

    def _note(self, message: Any, *_: Any, **__: Any) -> None:
        if "synchroniz" in str(message):
            own = [f for f in traceback.extract_stack()[:-1] if "/ard/" in f.filename or "/lightning/" in f.filename]
            place = own[-1] if own else traceback.extract_stack()[-2]
            self.waits.append(f"{'/'.join(Path(place.filename).parts[-2:])}:{place.lineno}")


_SHOW = warnings.showwarning


def loop(shape: Shape) -> Iterator[Row]:
    """The step in the Trainer's loop, with batches from shards on disk: what a training really takes.

    ``waits`` are the places where the host waited for the GPU, over four steps; the kernels of four other steps are
    compared with the time of a step that nothing watches: the rest of it, the GPU is idle.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        num_shards = max(1, 2 * shape.buffer_tokens // (CLIPS_PER_SHARD * TOKENS_PER_CLIP))
        write_store(folder, shape.d_in, num_shards)
        reading = iter(_data(folder, shape).train_dataloader())
        for _ in range(4):
            next(reading)
        started = time.perf_counter()
        for _ in range(shape.loop_steps):
            next(reading)
        ms = 1000 * (time.perf_counter() - started) / shape.loop_steps
        yield {"training": "batches alone, mixed by the CPU", "ms a step": ms, "GB/s": _gb(shape) / ms * 1000}
        if shape.device.type == "cuda":
            ms = _mixed_by_the_gpu(folder, shape)
            yield {"training": "batches alone, mixed by the GPU", "ms a step": ms, "GB/s": _gb(shape) / ms * 1000}
        runs: list[tuple[Any, str, dict[str, Any]]] = [
            *((e, "bfloat16", {}) for e in shape.expansions),
            (shape.middle, "float32", {}),
            (shape.middle, "tf32", {"float32_products": "high"}),
            (shape.middle, "bfloat16", {"robust": True}),
            (list(shape.expansions), "bfloat16", {}),
        ]
        for e, name, options in runs:
            forget(shape.device)
            clock = Clock(shape.loop_steps, shape.device)
            module = SAETraining(shape.d_in, e, k=shape.k, **options)
            trainer = Trainer(
                max_steps=shape.loop_steps,
                accelerator=shape.device.type,
                devices=1,
                precision=PRECISIONS[name],  # type: ignore[arg-type]
                gradient_clip_val=1.0,
                log_every_n_steps=1000,
                logger=False,
                callbacks=[clock],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                limit_val_batches=0,
            )
            trainer.fit(module, _data(folder, shape))
            ms = 1000 * clock.seconds / (shape.loop_steps - clock.first)
            yield {
                "training": f"e {e}{', robust' if options.get('robust') else ''}",
                "arithmetic": name,
                "ms a step": ms,
                "GB/s": _gb(shape) / ms * 1000,
                "peak GB": peak_gb(shape.device),
                "idle GPU": max(0.0, 1 - sum(clock.kernels.values()) / ms) if clock.kernels else float("nan"),
                "waits": "; ".join(sorted(set(clock.waits))) or "none",
                "ways": ", ".join(f"{key.partition(',')[0]} {way}" for key, way in module.table.items()),
                "longest kernels, ms": clock.longest(),
            }


def _mixed_by_the_gpu(folder: Path, shape: Shape) -> float:
    layer = read_layer(folder, 0)
    batches = iter(ShuffledOnDevice(layer, shape.tokens, shape.buffer_tokens, 0, False, device=shape.device))
    next(batches)
    wait(shape.device)
    started = time.perf_counter()
    for _ in range(2 * shape.loop_steps):
        next(batches)
    wait(shape.device)
    ms = 1000 * (time.perf_counter() - started) / (2 * shape.loop_steps)
    batches.close()  # type: ignore[attr-defined]
    return ms


def _gb(shape: Shape) -> float:
    return shape.tokens * shape.d_in * 2 / 1e9


def _data(folder: Path, shape: Shape) -> ActivationDataModule:
    return ActivationDataModule(folder, layer=0, batch_tokens=shape.tokens, buffer_tokens=shape.buffer_tokens)


def write_store(folder: Path, d_in: int, num_shards: int) -> None:
    """Write shards of random tokens, all of them with the same ones: only their number matters here."""
    generator, about = torch.Generator().manual_seed(0), {"model": "none", "layers": [0], "dtype": "bfloat16"}
    x = torch.randn(CLIPS_PER_SHARD * TOKENS_PER_CLIP, d_in, generator=generator).bfloat16().split(TOKENS_PER_CLIP)
    for shard in range(num_shards):
        clips = [({"id": f"{shard}-{i}", "num_tokens": TOKENS_PER_CLIP}, {0: clip}) for i, clip in enumerate(x)]
        write_shard(folder, shard, clips, [], about)
    write_manifest(folder, num_shards, d_in, about)


def peers(shape: Shape) -> Iterator[Row]:
    """A step of the other libraries at e 8, without and with autocast, and with fused Adam (by default theirs)."""
    problem = ""
    try:
        find_peers(kernels=shape.device.type == "cuda")
    except (SystemExit, ImportError) as error:  # one of them; the others may be there
        problem = str(error)
    for name, make in {
        "sparsify": _sparsify,
        "SAELens": _sae_lens,
        "dictionary_learning": _dictionary_learning,
    }.items():
        for precision in ("float32", "bfloat16"):
            forget(shape.device)
            row: Row = {"library": name, "arithmetic": precision}
            try:
                with arithmetic("tf32" if precision == "float32" and name == "sparsify" else precision, shape.device):
                    step = make(shape)
                    ms = milliseconds(step, shape, most=10)
                yield {**row, "ms a step": ms, "peak GB": peak_gb(shape.device)}
            except Exception as error:  # another library's, of whatever kind: it is written down
                yield {**row, "not measured": f"{type(error).__name__}: {error} {problem}"[:300]}


def _sparsify(shape: Shape) -> Callable[[], object]:
    peer = import_module("sparsify")
    config = peer.SparseCoderConfig(num_latents=shape.middle * shape.d_in, k=shape.k)
    sae = peer.SparseCoder(shape.d_in, config, device=shape.device)
    return _with_adam(shape, sae, lambda x: sae(x).fvu)


def _sae_lens(shape: Shape) -> Callable[[], object]:
    peer, given = import_module("sae_lens.saes.topk_sae"), import_module("sae_lens.saes.sae")
    config = peer.TopKTrainingSAEConfig(
        d_in=shape.d_in, d_sae=shape.middle * shape.d_in, k=shape.k, device=str(shape.device)
    )
    sae = peer.TopKTrainingSAE(config).to(shape.device)

    def loss(x: Tensor) -> Tensor:
        step = given.TrainStepInput(
            sae_in=x, coefficients={}, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
        )
        return sae.training_forward_pass(step).loss

    return _with_adam(shape, sae, loss)


def _dictionary_learning(shape: Shape) -> Callable[[], object]:
    peer = import_module("dictionary_learning.trainers.top_k")
    sizes = (10**6, shape.d_in, shape.middle * shape.d_in, shape.k)
    trainer = peer.TopKTrainer(*sizes, 0, "none", lr=1e-5, warmup_steps=1, seed=0, device=str(shape.device))
    x = torch.randn(shape.tokens, shape.d_in, device=shape.device)
    return lambda: trainer.update(1, x)


def _with_adam(shape: Shape, sae: Any, loss: Callable[[Tensor], Tensor]) -> Callable[[], object]:
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-5, fused=True)
    x = torch.randn(shape.tokens, shape.d_in, device=shape.device)

    def step() -> None:
        optimizer.zero_grad()
        loss(x).backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()

    return step
