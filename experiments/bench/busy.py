"""A training step beside one busy process a core, with OpenMP's own way of waiting and with that of `ard` there.

A command of `ard` that starts on a quiet machine leaves OpenMP its own way, so that is what both are compared with.

Each way of waiting has a process of its own, since OpenMP reads its settings when it is loaded. In every round each of
them takes some steps while the machine is left alone, and again beside the busy processes, so that whatever else runs
meanwhile meets all of them alike.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ard.cli import WAITING
from ard.sae import SAETraining
from experiments.bench.report import Line

TITLE = "A busy machine: training steps of the demo's size (128 wide, K 16, 512 tokens), one busy process a core"
SIZES = {"expansion 8": [8], "expansions 4, 8, 16 side by side": [4, 8, 16]}
SETTINGS: Mapping[str, Mapping[str, str]] = {"OpenMP's own": {}, "of `ard`": WAITING}
ROUNDS, STEPS = 15, 20


def training_step(expansions: list[int]) -> Callable[[], object]:
    """Return a step of the demo's training, with what it logs."""
    module = SAETraining(128, expansions, k=16, robust=True, k_aux=64, dead_after_tokens=50_000)
    optimizer: Any = module.configure_optimizers()
    x = torch.randn(512, 128, generator=torch.Generator().manual_seed(0))

    def step() -> None:
        optimizer.zero_grad()
        module.training_step(x, 0).backward()
        module.on_before_optimizer_step(optimizer)
        optimizer.step()

    step()
    module._start_from = lambda x: None  # type: ignore[method-assign]  # of the first step alone
    return step


def answer() -> None:
    """Read the name of a size from stdin, take some steps of it, and print the seconds of one; until stdin ends."""
    warnings.simplefilter("ignore")  # there is no Trainer to log to
    steps = {name: training_step(expansions) for name, expansions in SIZES.items()}
    for line in sys.stdin:
        step = steps[line.strip()]
        step()
        started = time.perf_counter()
        for _ in range(STEPS):
            step()
        print(json.dumps((time.perf_counter() - started) / STEPS), flush=True)  # noqa: T201


@contextmanager
def stepping(setting: Mapping[str, str]) -> Iterator[Callable[[str], float]]:
    """Start a process with a way of waiting; give a function from the name of a size to the seconds of a step."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, "-c", "from experiments.bench.busy import answer; answer()"]
    with subprocess.Popen(
        command, env={**environment, **setting}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answered = process.stdin, process.stdout

        def seconds(size: str) -> float:
            asked.write(f"{size}\n")
            asked.flush()
            return float(json.loads(answered.readline()))

        yield seconds
        asked.close()


@contextmanager
def busy(num_processes: int) -> Iterator[None]:
    """Keep as many processes busy."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_processes)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(
    settings: Mapping[str, Mapping[str, str]], loads: Sequence[int], rounds: int = ROUNDS
) -> dict[tuple[str, str, int], float]:
    """Return the median seconds of a step, by size, setting and number of busy processes."""
    times = defaultdict(list)
    with ExitStack() as stack:
        steps = {name: stack.enter_context(stepping(setting)) for name, setting in settings.items()}
        for _ in range(rounds):
            for num_processes in loads:
                with busy(num_processes):
                    for size in SIZES:
                        for name, seconds in steps.items():
                            times[size, name, num_processes].append(seconds(size))
    return {what: statistics.median(taken) for what, taken in times.items()}


def main() -> list[Line]:
    """Compare both ways of waiting, on a quiet machine and on a busy one."""
    num_cores = len(os.sched_getaffinity(0))
    seconds = measure(SETTINGS, (0, num_cores))
    lines = []
    for size in SIZES:
        quiet = seconds[size, "OpenMP's own", 0]
        lines.append(Line(f"{size}, quiet", 1000 * quiet, "ms a step", "threads wait in OpenMP's own way"))
        for name in SETTINGS:
            about = f"threads wait in the way {name}; to reach: at most 2, a fair share of the cores"
            lines.append(Line(f"{size}, busy", seconds[size, name, num_cores] / quiet, "times as long", about))
        set_early = seconds[size, "of `ard`", 0] / quiet
        about = "had a command started while others were busy"
        lines.append(Line(f"{size}, quiet again", set_early, "times as long", about))
    return lines
