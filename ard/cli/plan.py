"""`ard plan`: what a preset will cost."""

from pathlib import Path

from rich.console import Console

from ard.plan import plan as plan_preset
from ard.plan import render_plan
from ard.presets import preset_files
from ard.steps import TableNumber


def plan(
    preset: str = "paper",
    gpu: str = "H100",
    utilisation: float = 0.4,
    out: Path | None = None,
    tables: list[TableNumber] = [1, 2, 3, 4],  # noqa: B006
) -> None:
    """Estimate what a preset will cost: clips, tokens, bytes, FLOPs, hours, and whether it fits on the disk.

    Args:
        preset: a folder of `configs`, or the path of one of your own.
        gpu: the GPU by name.
        utilisation: the share of the GPU's peak that is reached.
        out: the run's folder, ``runs/<preset>`` if not given; what it holds already is not counted again.
        tables: the tables to plan for.
    """
    folder = out or Path("runs") / Path(preset).name
    facts = preset_files(preset, {"out": str(folder)}, ("extract", "fit", "test", "steer"))
    Console().print(render_plan(plan_preset(facts, tables, gpu=gpu, utilisation=utilisation, disk=folder)))
