"""What a benchmark returns, and how it is shown and kept."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

FOLDER = Path(__file__).parent.parent.parent / "docs"


class Line(NamedTuple):
    """One figure: what was measured, what came out, its unit, and what it is compared with."""

    what: str
    value: float
    unit: str
    note: str = ""


def sorted_seconds(
    run: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the times of some calls by a clock, the shortest first, after one call that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        started = clock()
        run()
        times.append(clock() - started)
    return sorted(times)


def median_seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Return the median time of a call, after one that is not counted."""
    return sorted_seconds(run, repeats)[repeats // 2]


def gemm_flops(size: int = 2048, dtype: torch.dtype = torch.float32) -> float:
    """Return the FLOP/s of a plain square matrix product, the most that this machine gives."""
    a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    return 2 * size**3 / median_seconds(lambda: a @ b)


def machine() -> str:
    """Return in words the machine and the packages."""
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
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    kept[name] = {"title": title, "machine": machine(), "lines": [line._asdict() for line in lines]}
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    (FOLDER / "bench.md").write_text(page(kept), encoding="utf-8")
    return _table(kept[name])


def page(kept: Mapping[str, Any]) -> str:
    """Return the page of all benchmarks, from what ``docs/bench.json`` keeps."""
    parts = ["# Benchmarks\n\nMade by `make bench`; each table is one run, and its ratios are within that run.\n"]
    for name, saved in sorted(kept.items()):
        parts += [_table(saved), *(f"![{name}]({plot.name})\n" for plot in sorted(FOLDER.glob(f"{name}_*.png")))]
    return "\n".join(parts)


def _table(saved: Mapping[str, Any]) -> str:
    rows = [f"| {x['what']} | {_number(x['value'])} {x['unit']} | {x['note']} |" for x in saved["lines"]]
    return "\n".join([f"## {saved['title']}", "", saved["machine"], "", "| | | |", "| --- | ---: | --- |", *rows, ""])


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []
