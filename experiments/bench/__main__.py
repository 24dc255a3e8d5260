"""Run the benchmarks, or those that are named: `python -m experiments.bench [extraction ...]`.

`python -m experiments.bench [sae ...] --against COMMIT` compares parts of this code with those of another commit.
"""

import argparse

from rich.console import Console
from rich.markdown import Markdown

from experiments.bench import (
    against,
    busy,
    checks,
    controls,
    embedding,
    extraction,
    feeding,
    hearing,
    matching,
    planning,
    preparing,
    reporting,
    retrieval,
    sae,
    stages,
    steering,
    table3,
    timing,
    truth,
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
    "hearing": hearing,
    "matching": matching,
    "planning": planning,
    "preparing": preparing,
    "reporting": reporting,
    "retrieval": retrieval,
    "sae": sae,
    "stages": stages,
    "steering": steering,
    "table3": table3,
    "timing": timing,
    "truth": truth,
    "writing": writing,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; with --against of {', '.join(against.PARTS)}"
    )
    parser.add_argument("--against", metavar="COMMIT", help="a commit of this repository")
    asked = parser.parse_args()
    if asked.against:
        Console().print(Markdown(keep("against", against.TITLE, against.main(asked.against, asked.names))))
    for name in () if asked.against else asked.names or BENCHMARKS:
        if name not in BENCHMARKS:
            raise SystemExit(f"benchmark {name!r} does not exist: choose of {', '.join(BENCHMARKS)}")
        Console().print(Markdown(keep(name, BENCHMARKS[name].TITLE, BENCHMARKS[name].main())))
