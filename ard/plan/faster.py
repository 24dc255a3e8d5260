"""What would make a run shorter, by the plan's own figures."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ard.plan.answers import steering
from ard.plan.machine import LOCAL_GB_S
from ard.plan.stages import Change, StagePlan
from ard.plan.training import own_arithmetic, trained, training, trainings

if TYPE_CHECKING:
    from ard.plan.planner import Planner

WORKED_ON = ("extraction", "CLAP embedding")  # whose batches are prepared by num_workers
SHARED = ("audio shards", "extraction", "activation shards")  # done before the cells
OF_ONE_CELL = ("CLAP embedding", "captions", "hearing or reading", "steering")
"""What is done for the run's own cell, counted as if it did that alone."""
MOST_GPUS, MOST_SHOWN, LEAST = 8, 3, 0.02


def changes(planner: "Planner", stages: Sequence[StagePlan]) -> tuple[Change, ...]:
    """Return the few changes that save most, each alone; those that save less than a fiftieth are left out."""
    hours = _hours(stages)
    found = [*_workers(planner, stages), *_disk(planner, stages), *_settings(planner, stages), *_gpus(planner, stages)]
    worth = [change for change in found if hours - change.hours >= LEAST * hours]
    return tuple(sorted(worth, key=lambda change: change.hours)[:MOST_SHOWN])


def _hours(stages: Sequence[StagePlan]) -> float:
    return sum(stage.hours for stage in stages)


def _workers(planner: "Planner", stages: Sequence[StagePlan]) -> list[Change]:
    """A worker a core, then twice as many of both."""
    used = max((stage.processes for stage in stages if stage.stage in WORKED_ON), default=1)
    all_work = all(stage.overlaps for stage in stages if stage.stage in WORKED_ON)
    found = []
    for cores in (planner.on.cores, 2 * planner.on.cores):
        if cores < used or (cores == used and all_work):
            continue
        on = planner.on._replace(cores=cores)
        more = [
            (replace(stage, processes=cores, overlaps=True) if stage.stage in WORKED_ON else stage).on(on)
            for stage in stages
        ]
        where = f", on {cores} cores" if on != planner.on else ""
        found.append(Change(f"num_workers {cores} in extract.yaml and test.yaml{where}", _hours(more)))
    return found


def _disk(planner: "Planner", stages: Sequence[StagePlan]) -> list[Change]:
    """A local disk, or one of twice the speed."""
    is_slow = planner.on.disk_gb_s < LOCAL_GB_S
    on = planner.on._replace(disk_gb_s=LOCAL_GB_S if is_slow else 2 * planner.on.disk_gb_s)
    what = f"{'a local disk' if is_slow else 'a disk'} of {on.disk_gb_s:g} GB/s"
    return [Change(what, _hours([stage.on(on) for stage in stages]))]


def _settings(planner: "Planner", stages: Sequence[StagePlan]) -> list[Change]:
    """Training in bfloat16, larger batches of answers, captions made elsewhere."""
    found = []

    def instead(what: str, stage_name: str, others: Sequence[StagePlan]) -> None:
        kept = [stage for stage in stages if stage.stage != stage_name]
        if len(kept) < len(stages):
            found.append(Change(what, _hours([*kept, *(stage.on(planner.on) for stage in others)])))

    if own_arithmetic(planner) != "bfloat16":
        instead("SAEs trained with --trainer.precision bf16-mixed", "SAE training", trainings(planner, "bfloat16"))
    if any(stage.stage == "steering" for stage in stages):
        batch = 4 * planner.setting("steer", "MeasureSteering", "clips_per_batch")
        instead(f"clips_per_batch {batch} in steer.yaml", "steering", steering(planner, batch))
    instead("captions by a served model (`captioner` of NameConcepts)", "captions", [])
    return found


def _gpus(planner: "Planner", stages: Sequence[StagePlan]) -> list[Change]:
    """A GPU a cell, with the same cores and disk for all: the longest job first, each to the first GPU that is free."""
    cells = [(layer, e) for layer, of in trained(planner).items() for e in of]
    num_gpus = min(MOST_GPUS, len(cells))
    if num_gpus < 2:
        return []
    alone = [training(planner, layer, [e]).on(planner.on) for layer, e in cells]
    shared, of_one = (_hours([s for s in stages if s.stage in names]) for names in (SHARED, OF_ONE_CELL))
    probing = [stage for stage in stages if stage.stage == "probing"]
    own = (planner.fact("layer"), planner.fact("expansion"))
    jobs = [stage.hours + _hours(probing) / len(cells) for stage in alone]
    jobs[cells.index(own) if own in cells else 0] += of_one
    busy = [0.0] * num_gpus
    for job in sorted(jobs, reverse=True):
        busy[busy.index(min(busy))] += job
    of_cells = [*alone, *probing]
    disk, cpu = (sum(stage.disk_hours for stage in of_cells), sum(stage.cpu_s for stage in of_cells) / 3600)
    hours = shared + max(*busy, disk, cpu / planner.on.cores)
    return [Change(f"{num_gpus} GPUs, a cell on each (`ard jobs`)", hours)]
