"""`ard plan`: what a preset will cost."""

from pathlib import Path
from typing import Any

from rich.console import Console

from ard.plan import plan as plan_preset
from ard.plan import render_plan
from ard.plan.machine import LOCAL_GB_S
from ard.presets import preset_files, table_facts
from ard.steps import TableNumber


def plan(
    preset: str = "paper",
    gpu: str = "H100",
    utilisation: float = 0.4,
    cores: int | None = None,
    disk_gb_s: float = LOCAL_GB_S,
    out: Path | None = None,
    tables: list[TableNumber] = [1, 2, 3, 4],  # noqa: B006
    model: str | None = None,
    clap: str | None = None,
    run: dict[str, Any] | None = None,
) -> None:
    """Estimate what a preset will cost: clips, tokens, bytes, FLOPs, hours, and whether it fits on the disk.

    Args:
        preset: a folder of `configs`, or the path of one of your own.
        gpu: the GPU by name.
        utilisation: the share of the GPU's peak that the layers of models reach.
        cores: the cores beside the GPU, by default as many as this machine has.
        disk_gb_s: the speed of the disk in GB/s, by default a local NVMe's; NFS has about 1.
        out: the run's folder, ``runs/<preset>`` if not given; what it holds already is not counted again.
        tables: the tables to plan for.
        model: the model, with the layer that `ard run` takes; by default the preset's model and layers.
        clap: the CLAP model, by default the preset's.
        run: facts that differ from those in the preset's run.yaml, such as ``--run.layer 16``.
    """
    facts = table_facts(preset, out, 0, run)
    if model is not None:
        facts = {**_facts_of_model(model), **facts}
    if clap is not None:
        facts["clap"] = clap
    files = preset_files(preset, facts, ("extract", "fit", "test", "steer"))
    made = plan_preset(
        files, tables, gpu=gpu, utilisation=utilisation, cores=cores, disk_gb_s=disk_gb_s, disk=Path(facts["out"])
    )
    Console().print(render_plan(made))


def _facts_of_model(model: str) -> dict[str, Any]:
    """Return what `ard run` takes from a model: its width and a layer."""
    from ard.audiollm import load_audiollm  # with transformers, which is slow to import
    from ard.cli.run import choose_layer

    loaded = load_audiollm(model, device="meta")
    layer = choose_layer(loaded, None, None)
    return {"model": model, "d_in": loaded.d_in, "layers": [layer], "layer": layer}
