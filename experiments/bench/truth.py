"""How many known features each trainer recovers at toy size, and what a step of it costs, tokens included.

The whole comparison is that of ``python -m experiments.truth``, which takes minutes.
"""

import time

from experiments.bench.report import Line
from experiments.truth.generator import Setting, World
from experiments.truth.measures import measure
from experiments.truth.trainers import BOUNDS, TRAINERS, Size, Task, ready

SETTING, SIZE, K = Setting(32, 64), Size(800, 256), 3
TITLE = f"Known truth: {SETTING.num_features} features in {SETTING.width} dimensions, K {K}, {SIZE.steps} steps"


def main() -> list[Line]:
    """Train and measure with every trainer."""
    world, lines = World(SETTING, 0), []
    for name in TRAINERS:
        train = ready(name)
        started = time.process_time()
        coder = train(Task(world, SIZE, K, 0))
        milliseconds = 1000 * (time.process_time() - started) / SIZE.steps
        note = "" if name in BOUNDS else f"{milliseconds:.2f} ms of CPU time a step"
        recall = measure(coder, world, 4, 1024)["recall"]
        lines.append(Line(f"{name}: recall of directions", recall, "share", note))
    return lines
