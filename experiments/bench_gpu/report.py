"""The page of docs/bench-gpu.json."""

from collections.abc import Mapping
from typing import Any

from experiments.bench_gpu.measure import Row


def page(kept: Mapping[str, Any]) -> str:
    """Return the page: what machine it was, and a table for every section."""
    about = kept["machine"]
    made = f"Made by `make bench-gpu` on {about['date']}, {about['cores']} cores; {about['packages']}."
    shape = "The shape is the paper's: d_in 4096, K 250, 4096 tokens a step, d_sae = e * d_in."
    head = f"# Benchmarks on a GPU: {about['card']}\n\n{made} {shape}\n"
    return "\n".join([head, *(_section(section) for section in kept["sections"].values())])


def _section(section: Mapping[str, Any]) -> str:
    about = " ".join(str(section["about"]).split())
    failed = [f"Not complete: {section['error']}", ""] if "error" in section else []
    return "\n".join([f"## {section['title']}", "", about, "", *failed, *_table(section["rows"]), ""])


def _table(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    columns = list(dict.fromkeys(key for row in rows for key in row))
    numeric = [all(isinstance(row.get(column, 0), int | float) for row in rows) for column in columns]
    rule = "|".join(" ---: " if right else " --- " for right in numeric)
    lines = [" | ".join(_text(row.get(column, "")) for column in columns) for row in rows]
    return [f"| {' | '.join(columns)} |", f"|{rule}|", *(f"| {line} |" for line in lines)]


def _text(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value).replace("|", "/")
