"""A plan as tables and sentences, of at most 80 columns."""

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ard.console import size_text
from ard.plan.stages import Plan


def render_plan(made: Plan) -> RenderableType:
    """Return a plan: its stages and their times, sentences, what would be faster, the GPU's work, the assumptions."""
    on = made.machine
    most = max(made.stages, key=lambda stage: stage.gpu_bytes)
    fits = "enough" if most.gpu_bytes <= on.gpu.memory_gb * 1e9 else "not enough"
    lines = [
        f"{made.num_clips:,} probing clips, {made.num_tokens / 1e6:.1f} M {made.kind_of_tokens}, "
        f"{size_text(made.bytes_per_layer)} of activations a layer; "
        f"an SAE's training sees them {made.epochs:.1f} times.",
        f"GPU: {most.stage} needs at least {size_text(most.gpu_bytes)} of {on.gpu.memory_gb:g} GB: {fits}",
        f"Disk: {disk_verdict(made)}",
        "What would be faster" + (":" if made.faster else ": nothing that is known here saves much"),
        *(f"- {change.what}: {time_text(change.hours)} in all" for change in made.faster),
    ]
    assumed = ["Assumed:", *(f"- {assumption}" for assumption in made.assumptions)]
    return Group(_times(made), Text("\n".join(lines)), _work(made), Text("\n".join(assumed)))


def _times(made: Plan) -> Table:
    """Return what each kind of stage leaves on the disk and takes, all its parts together."""
    on = made.machine
    machine = f"one {on.gpu.name}, {on.cores} {'core' if on.cores == 1 else 'cores'}, a disk of {on.disk_gb_s:g} GB/s"
    rows = []
    for name, parts in groupby(made.stages, key=lambda stage: stage.stage):
        of_stage = list(parts)
        size = sum(stage.num_bytes for stage in of_stage)
        times = [
            time_text(sum(getattr(stage, of) for stage in of_stage))
            for of in ("gpu_hours", "cpu_hours", "disk_hours", "hours")
        ]
        part = of_stage[0].part if len(of_stage) == 1 else f"{len(of_stage)} parts"
        longest = max(of_stage, key=lambda stage: stage.hours).longest
        rows.append([name, part, size_text(size) if size else "", *times, longest])
    size = sum(stage.num_bytes for stage in made.stages)
    total = ["all", "", size_text(size), "", "", "", time_text(made.hours), ""]
    heads = ["stage", "part", "disk", "GPU", "CPU", "files", "takes", "most"]
    return _table(f"On {machine}", heads, rows, total, left=2)


def _work(made: Plan) -> Table:
    """Return the GPU's work on every part."""
    heads = ["stage", "part", "dtype", "clips", "tokens", "FLOPs", "memory"]
    rows = [
        [
            stage.stage,
            stage.part,
            stage.precision,
            f"{stage.num_clips:,}" if stage.num_clips else "",
            f"{stage.num_tokens / 1e6:,.2f} M" if stage.num_tokens else "",
            f"{stage.flops:.2e}",
            size_text(stage.gpu_bytes) if stage.gpu_bytes else "",
        ]
        for stage in made.stages
        if stage.flops
    ]
    total = ["all", "", "", "", "", f"{sum(stage.flops for stage in made.stages):.2e}", ""]
    return _table("What the GPU does", heads, rows, total, left=3)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str], left: int) -> Table:
    """Return a table whose first columns are words."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for place, head in enumerate(heads):
        least = max(len(row[place]) for row in [heads, *rows, total]) if place != 1 else None
        table.add_column(head, justify="left" if place < left else "right", no_wrap=True, min_width=least)
    for row in rows:
        table.add_row(*row)
    table.add_section()
    table.add_row(*total)
    return table


def time_text(hours: float) -> str:
    """Return a time in words: hours, minutes or seconds."""
    if hours >= 1:
        return f"{hours:,.1f} h"
    if hours * 3600 >= 100:
        return f"{hours * 60:.0f} min"
    return f"{hours * 3600:.0f} s" if hours * 3600 >= 0.5 else "< 1 s" if hours else ""


def disk_verdict(made: Plan) -> str:
    """Say in one sentence whether the plan fits on the disk."""
    needed = f"needs {size_text(made.missing_bytes)}, {made.disk} has {size_text(made.free_bytes)} free"
    if made.missing_bytes <= made.free_bytes:
        return f"{needed}: enough"
    fits = "fits" if made.missing_bytes_by_layer <= made.free_bytes else "does not fit either"
    return f"{needed}: not enough; one layer at a time {fits} ({size_text(made.missing_bytes_by_layer)})"
