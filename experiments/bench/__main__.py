"""Run the benchmarks, or those that are named: `python -m experiments.bench [extraction ...]`."""

import sys

from rich.console import Console
from rich.markdown import Markdown

from experiments.bench import (
    busy,
    checks,
    controls,
    embedding,
    extraction,
    feeding,
    matching,
    planning,
    preparing,
    reporting,
    retrieval,
    sae,
    stages,
    steering,
    table3,
    writing,
)
from experiments.bench.report import keep

BENCHMARKS = {
    "busy": busy,
    "checks": checks,
    "controls": controls,
    "embedding": embedding,
    "extraction": extraction,
    "feeding": feeding,
    "matching": matching,
    "planning": planning,
    "preparing": preparing,
    "reporting": reporting,
    "retrieval": retrieval,
    "sae": sae,
    "stages": stages,
    "steering": steering,
    "table3": table3,
    "writing": writing,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHMARKS:
        if name not in BENCHMARKS:
            raise SystemExit(f"benchmark {name!r} does not exist: choose of {', '.join(BENCHMARKS)}")
        Console().print(Markdown(keep(name, BENCHMARKS[name].TITLE, BENCHMARKS[name].main())))
