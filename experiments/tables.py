"""The paper's four tables: what it prints, and what its setting costs by `ard plan`."""

from collections.abc import Sequence
from pathlib import Path

from ard.plan import plan
from ard.presets import preset_files
from ard.reports import paper
from ard.reports.table import paper_text
from ard.steps import TableNumber


def cost(number: TableNumber) -> str:
    """Say what a table of the paper's setting costs alone, as a Markdown table and a line for the whole."""
    facts = preset_files("paper", {}, ("extract", "fit", "test", "steer"))
    made = plan(facts, [number], gpu="H100", cores=8, disk=Path())
    lines = [
        f"| {stage.stage} | {stage.part} "
        f"| {f'{stage.num_bytes / 1e9:,.1f} GB' if stage.num_bytes else ''} "
        f"| {f'{stage.flops:.1e}' if stage.flops else ''} | {f'{stage.hours:.2f}' if stage.hours else ''} "
        f"| {stage.longest} |"
        for stage in made.stages
    ]
    disk = sum(stage.num_bytes for stage in made.stages)
    return "\n".join(
        [
            f"**Cost of the paper's setting** by `ard plan`: {made.hours:.0f} hours of one {made.machine.gpu.name} "
            f"with {made.machine.cores} cores and a local disk, {disk / 1e9:,.0f} GB of it. A plan, not a measurement.",
            "",
            "| stage | part | disk | FLOPs | hours | most of them |",
            "| --- | --- | ---: | ---: | ---: | --- |",
            *lines,
            "",
        ]
    )


def printed(number: int) -> str:
    """Return a table of the paper as it prints it, in Markdown."""
    if number == 3:
        heads = ["Method", *(f"{source.capitalize()} → {target.capitalize()}" for source, target in paper.SHIFTS)]
        rows = [[method, *map(paper_text, row.values())] for method, row in paper.TABLE3.items()]
    elif number == 4:
        heads = ["Method", "e", *(f"l = {layer}" for layer in paper.LAYERS)]
        rows = [[method, str(e or "–"), *map(paper_text, row.values())] for (method, e), row in paper.TABLE4.items()]
    elif number == 2:
        heads = ["Method", *paper.JUDGED.values()]
        rows = [[method, *map(paper_text, row.values())] for method, row in paper.TABLE2.items()]
    else:
        heads = ["Method", "l", *paper.METRICS.values()]
        rows = [[method, str(at), *map(paper_text, row.values())] for (method, at), row in paper.TABLE1.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows))


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first row is the heads."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "| --- " * len(rows[0]) + "|", *body])
