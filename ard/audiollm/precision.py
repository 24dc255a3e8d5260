"""The device on which a model is computed, and the precision."""

import logging
import os
from pathlib import Path
from typing import Any

import torch

from ard.types import UserError

HALF = (torch.float16, torch.bfloat16)


def usable_device(device: str | None = None) -> str:
    """Return a device that is there: the given one, or by default a GPU if there is one.

    Raises:
        UserError: if the given one is not there.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {chosen!r} is not there: give cpu, or a GPU that torch sees, as cuda:0") from error
    return chosen


def widen_on_cpu(network: Any, name: str) -> None:
    """Convert half-precision weights on a CPU to float32, in which most CPUs are many times as fast, and log it.

    The weights stay as they are if float32 does not fit into memory.
    """
    weights = [*network.parameters(), *network.buffers()]
    halves = [x for x in weights if x.dtype in HALF and x.device.type == "cpu"]
    if not halves:
        return
    log, half = logging.getLogger(__name__), str(halves[0].dtype).removeprefix("torch.")
    needed, available = sum(x.nbytes for x in halves) + 4 * max(x.numel() for x in halves), available_memory()
    if needed > available:
        log.warning(
            "%s is computed in %s, which is slow on a CPU: float32 needs %.1f GB more, and %.1f GB are free",
            *(name, half, needed / 1e9, available / 1e9),
        )
        return
    network._apply(lambda x: x.float() if x.dtype in HALF else x)
    log.warning("%s is stored in %s and computed in float32, which is faster on a CPU", name, half)


def available_memory(root: Path = Path("/")) -> int:
    """Return how many bytes can still be used: what the machine has left, or what its container may use if less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    machine = _fields(root / "proc/meminfo")
    if "MemAvailable:" in machine:
        limits.append(1024 * machine["MemAvailable:"])
    container = root / "sys/fs/cgroup"
    ceiling = container / "memory.max"
    if ceiling.is_file() and (limit := ceiling.read_text(encoding="utf-8").strip()) != "max":
        limits.append(int(limit) - _fields(container / "memory.stat").get("anon", 0))
    return min(limits)


def _fields(path: Path) -> dict[str, int]:
    """Return a file's lines of names and numbers, as a dict; an empty one if there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {line.split()[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
