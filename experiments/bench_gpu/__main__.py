"""Measure a GPU, or run through at toy size: `python -m experiments.bench_gpu [--toy] [--out docs] [section ...]`."""

import argparse
import gc
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from experiments.bench.peers import PEERS
from experiments.bench_gpu.measure import TOY, Row, Shape
from experiments.bench_gpu.report import page

DOCS = Path(__file__).parent.parent.parent / "docs"
SECTIONS: dict[str, tuple[str, str, float]] = {
    "card": ("products", "The card's own matrix products", 20),
    "checks": ("checks", "What must hold on a GPU", 30),
    "exactness": ("products", "Every way of every product, against float64", 20),
    "speed": ("products", "Every part of a step, alone", 45),
    "steps": ("training", "A training step: forward, backward, clipping, fused Adam", 50),
    "loop": ("training", "A training step in the Trainer's loop, fed from shards", 75),
    "peers": ("training", "The same step of other libraries", 30),
    "extraction": ("extraction", "Extraction: Qwen2-Audio-7B of random weights, layers 5, 16 and 26 of 32", 40),
}
"""Modules, titles, and the seconds after which a section stops with what it has."""


def main(args: Sequence[str] | None = None) -> None:
    """Measure section by section. What fails is written down as what failed, and the rest goes on."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench_gpu", description=main.__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all if none are given")
    parser.add_argument("--toy", action="store_true", help="run through at toy size on the CPU")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of bench-gpu.json and bench-gpu.md")
    given = parser.parse_args(args)
    unknown = sorted(set(given.sections) - set(SECTIONS))
    if unknown:
        parser.error(f"section {unknown[0]!r} does not exist: choose of {', '.join(SECTIONS)}")
    if not given.toy and not torch.cuda.is_available():
        parser.error("there is no GPU here that torch can use: run it where there is one, or with --toy")
    shape = TOY if given.toy else Shape(torch.device("cuda", 0))
    path = given.out / "bench-gpu.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if given.sections and path.is_file() else {"sections": {}}
    kept["machine"] = machine(shape.device)
    for name in given.sections or SECTIONS:
        module, title, seconds = SECTIONS[name]
        kept["sections"][name] = {"title": title, **measured(name, module, shape, seconds)}
        given.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        (given.out / "bench-gpu.md").write_text(page(kept), encoding="utf-8")


def measured(name: str, module: str, shape: Shape, most_seconds: float) -> dict[str, Any]:
    """Collect the rows of a section until it ends, fails or has had its time."""
    started, rows, error = time.perf_counter(), [], None
    _say(f"{name} ...")
    try:
        section: Callable[[Shape], Iterator[Row]] = getattr(import_module(f"experiments.bench_gpu.{module}"), name)
        about = (section.__doc__ or "").strip()
        for row in section(shape):
            rows.append(row)
            _say(f"  {time.perf_counter() - started:5.1f} s  {_short(row)}")
            if time.perf_counter() - started > most_seconds:
                error = f"stopped after {most_seconds:.0f} s, its budget"
                break
    except Exception as problem:  # whatever it is: the other sections are measured all the same
        about = name if not rows else about
        error = f"{type(problem).__name__}: {problem}"[:500]
        _say(traceback.format_exc())
    gc.collect()
    if shape.device.type == "cuda":
        torch.cuda.empty_cache()
    seconds = time.perf_counter() - started
    return {"about": about, "seconds": round(seconds, 1), "rows": rows, **({"error": error} if error else {})}


def machine(device: torch.device) -> dict[str, str]:
    """Return the card, and the versions of what runs on it."""
    card = f"CPU ({platform.machine()})"
    if device.type == "cuda":
        of_card = torch.cuda.get_device_properties(device)
        card = f"{of_card.name}, {of_card.total_memory / 2**30:.0f} GiB"
    names = ("torch", "triton", "lightning", "transformers", "eai-sparsify", "sae-lens", "dictionary-learning")
    packages = ", ".join(f"{name} {_version(name)}" for name in names)
    return {"card": card, "cores": str(os.cpu_count()), "packages": packages, "date": str(date.today())}


def _version(name: str) -> str:
    found = next(iter(distributions(name=name, path=[*sys.path, str(PEERS)])), None)
    return found.version if found else "not installed"


def _short(row: Row) -> str:
    return " | ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
