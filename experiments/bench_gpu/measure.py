"""The shape that is measured, and clocks that know that a GPU works behind the program's back."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

Row = dict[str, str | float]


class Shape(NamedTuple):
    """What is measured, and for how long."""

    device: torch.device
    d_in: int = 4096
    k: int = 250
    tokens: int = 4096
    expansions: Sequence[int] = (4, 8, 16)
    loop_steps: int = 40
    buffer_tokens: int = 65536
    model_divisor: int = 1  # of Qwen2-Audio's width
    durations_s: Sequence[float] = (10.0, 30.0)  # of clips
    seconds: float = 0.15  # for a product or a step, after one run that is not counted

    @property
    def middle(self) -> int:
        """The expansion at which what is measured once is measured: 8."""
        return self.expansions[len(self.expansions) // 2]


TOY = Shape(
    torch.device("cpu"),
    d_in=32,
    k=4,
    tokens=64,
    expansions=(2,),
    loop_steps=4,
    buffer_tokens=256,
    model_divisor=32,
    durations_s=(0.5,),
    seconds=0.0,
)
"""A shape whose code runs through on any CPU, in a test."""

ARITHMETICS = ("float32", "tf32", "bfloat16")


@contextmanager
def arithmetic(name: str, device: torch.device) -> Iterator[None]:
    """Multiply in float32, in TF32 or, by autocast, in bfloat16."""
    earlier = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16"):
            yield
    finally:
        torch.set_float32_matmul_precision(earlier)


def operand(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor as it is multiplied in an arithmetic."""
    return tensor.bfloat16() if name == "bfloat16" else tensor


def wait(device: torch.device) -> None:
    """Wait until a GPU has done all it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(run: Callable[[], object], shape: Shape, most: int = 30) -> float:
    """Return the median time of a call by the device's own clock; its first call is not counted."""
    run()
    wait(shape.device)
    started = time.perf_counter()
    run()
    wait(shape.device)
    once = time.perf_counter() - started
    repeats = max(3, min(most, int(shape.seconds / once)))
    if shape.device.type != "cuda":
        return statistics.median(_on_the_host(run) for _ in range(repeats))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    wait(shape.device)
    return statistics.median(a.elapsed_time(b) for a, b in pairwise(events))


def _on_the_host(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def forget(device: torch.device) -> None:
    """Give memory back, and start to watch its peak anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float:
    """Return the most memory that was held since :func:`forget`."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else float("nan")


def peak_tflops(shape: Shape) -> dict[str, float]:
    """Return the TFLOP/s of the device's own square matrix product, in every arithmetic: the most that it gives."""
    size = 128 if shape.model_divisor > 1 else 8192
    a, b = (torch.randn(size, size, device=shape.device) for _ in range(2))
    found = {}
    for name in ARITHMETICS:
        with arithmetic(name, shape.device):
            x, y = operand(a, name), operand(b, name)
            ms = milliseconds(partial(torch.mm, x, y), shape)
            found[name] = 2 * size**3 / ms / 1e9
    return found
