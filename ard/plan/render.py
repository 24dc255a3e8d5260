"""A plan as a table and sentences."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ard.console import size_text
from ard.plan.planner import Plan


def render_plan(made: Plan) -> RenderableType:
    """Return a plan as a table, sentences on the GPU and the disk, and what was assumed."""
    table = Table(title=f"On one {made.gpu.name} at {made.utilisation:.0%} of its data sheet")
    for column in ("stage", "part", "precision"):
        table.add_column(column)
    for column in ("clips", "tokens", "disk", "FLOPs", "hours", "GPU memory"):
        table.add_column(column, justify="right")
    for stage in made.stages:
        table.add_row(
            stage.stage,
            stage.part,
            stage.precision,
            f"{stage.num_clips:,}" if stage.num_clips else "",
            f"{stage.num_tokens / 1e6:,.2f} M" if stage.num_tokens else "",
            size_text(stage.num_bytes) if stage.num_bytes else "",
            f"{stage.flops:.2e}" if stage.flops else "",
            f"{stage.hours:,.2f}" if stage.hours else "",
            size_text(stage.gpu_bytes) if stage.gpu_bytes else "",
        )
    num_bytes, flops = (sum(getattr(stage, name) for stage in made.stages) for name in ("num_bytes", "flops"))
    table.add_section()
    table.add_row("all", "", "", "", "", size_text(num_bytes), f"{flops:.2e}", f"{made.hours:,.2f}", "")
    most = max(made.stages, key=lambda stage: stage.gpu_bytes)
    fits = "enough" if most.gpu_bytes <= made.gpu.memory_gb * 1e9 else "not enough"
    lines = [
        f"{made.num_clips:,} probing clips, {made.num_tokens / 1e6:.1f} M audio tokens, "
        f"{size_text(made.bytes_per_layer)} of activations a layer; "
        f"an SAE's training sees them {made.epochs:.1f} times.",
        f"GPU: {most.stage} needs at least {size_text(most.gpu_bytes)} of {made.gpu.memory_gb:g} GB: {fits}",
        f"Disk: {disk_verdict(made)}",
        "Assumed:",
        *(f"- {assumption}" for assumption in made.assumptions),
    ]
    return Group(table, Text("\n".join(lines)))


def disk_verdict(made: Plan) -> str:
    """Say in one sentence whether the plan fits on the disk."""
    needed = f"needs {size_text(made.missing_bytes)}, {made.disk} has {size_text(made.free_bytes)} free"
    if made.missing_bytes <= made.free_bytes:
        return f"{needed}: enough"
    fits = "fits" if made.missing_bytes_by_layer <= made.free_bytes else "does not fit either"
    return f"{needed}: not enough; one layer at a time {fits} ({size_text(made.missing_bytes_by_layer)})"
