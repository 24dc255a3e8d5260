"""What a benchmark returns, and how it is shown and kept."""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

FOLDER = Path(__file__).parent.parent.parent / "docs"


class Line(NamedTuple):
    """One figure: what was measured, what came out, its unit, and what it is to be held against."""

    what: str
    value: float
    unit: str
    note: str = ""


def median_seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Return the median time of a call, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return sorted(times)[repeats // 2]


def gemm_flops(size: int = 2048, dtype: torch.dtype = torch.float32) -> float:
    """Return the FLOP/s of a plain square matrix product, the most that this machine gives."""
    a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    return 2 * size**3 / median_seconds(lambda: a @ b)


def machine() -> str:
    """Say in words what was measured on."""
    processor = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "lightning"))
    return f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; {packages}; {date.today()}"


def keep(name: str, title: str, lines: Sequence[Line]) -> str:
    """Put a benchmark's lines into ``docs/bench.json`` and all benchmarks into ``docs/bench.md``; return the table.

    The plots of a benchmark are the PNG files in ``docs`` whose names begin with its own.
    """
    path = FOLDER / "bench.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known[name] = {"title": title, "machine": machine(), "lines": [line._asdict() for line in lines]}
    path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    tables = {key: _table(saved) for key, saved in sorted(known.items())}
    head = "# Benchmarks\n\nMade by `make bench`; each table is one run, and its ratios are within that run.\n"
    shown = {key: [f"![{key}]({plot.name})\n" for plot in sorted(FOLDER.glob(f"{key}_*.png"))] for key in tables}
    (FOLDER / "bench.md").write_text(
        "\n".join([head, *("\n".join([tables[key], *shown[key]]) for key in tables)]), encoding="utf-8"
    )
    return tables[name]


def _table(saved: dict) -> str:
    rows = [f"| {x['what']} | {_number(x['value'])} {x['unit']} | {x['note']} |" for x in saved["lines"]]
    return "\n".join([f"## {saved['title']}", "", saved["machine"], "", "| | | |", "| --- | ---: | --- |", *rows, ""])


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []
