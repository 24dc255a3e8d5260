"""The page of docs/bench-gpu.json."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.bench_gpu.measure import Row


def page(kept: Mapping[str, Any]) -> str:
    """Return the page: what machine it was, and a table for every section."""
    about = kept["machine"]
    made = f"Made by `make bench-gpu` on {about['date']}, {about['cores']} cores; {about['packages']}."
    shape = "The shape is the paper's: d_in 4096, K 250, 4096 tokens a step, d_sae = e * d_in."
    head = f"# Benchmarks on a GPU: {about['card']}\n\n{made} {shape}\n"
    sections = kept["sections"]
    return "\n".join([head, *summary(sections), *(_section(section) for section in sections.values())])


def summary(sections: Mapping[str, Any]) -> Iterator[str]:
    """Say what a step takes in bfloat16, and what the fastest other library takes, as far as it was measured."""
    loop, peers, steps = ([*sections.get(name, {}).get("rows", [])] for name in ("loop", "peers", "steps"))
    alone = {
        str(row["training"]): row
        for row in loop
        if row.get("arithmetic") == "bfloat16" and str(row["training"]).removeprefix("e ").isdigit()
    }
    if alone:
        times = ", ".join(f"{_text(row['ms a step'])} ms at {e}" for e, row in alone.items())
        idle = ", ".join(f"{row['idle GPU']:.0%}" for row in alone.values())
        yield f"In the Trainer's loop a training step in bfloat16 takes {times}; the GPU is idle for {idle} of it."
    shares = [row["share of peak"] for row in steps if (row["arithmetic"], row["products"]) == ("bfloat16", "fastest")]
    if shares:
        listed = ", ".join(f"{share:.0%}" for share in shares)
        yield f"As if all five products were dense, the step alone makes {listed} of the FLOP/s of one large product."
    measured = [row for row in peers if "ms a step" in row]
    if measured and "e 8" in alone:
        best = min(measured, key=lambda row: row["ms a step"])
        times = best["ms a step"] / alone["e 8"]["ms a step"]
        name, ms = f"{best['library']} in {best['arithmetic']}", _text(best["ms a step"])
        yield f"At e 8 the fastest other library, {name}, takes {ms} ms: {times:.2g} times as long."
    yield ""


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
