"""`ard jobs`: what runs which cell of a run where, as a script for one machine or for SLURM."""

import json
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ard.chain import Agenda
from ard.cli.run import check_table
from ard.presets import table_facts
from ard.steps import jobs as divided
from ard.types import UserError

MACHINE = """\
#!/bin/bash
# Fills {out} on this machine: what all cells share; the cells, {gpus} at once, each on a card of its own; the tables.
# After a kill, run it again: what is done is not done again.
set -e
cd {here}
{shared}
xargs -P {gpus} --process-slot-var=CUDA_VISIBLE_DEVICES -d '\\n' -I '{{}}' bash -c '{{}}' <<'CELLS'
{cells}
CELLS
{tables}
"""

SLURM = """\
#!/bin/bash
# Hands the jobs that fill {out} to SLURM: what all cells share; an array of the cells; the tables.
# Its arguments are options of sbatch for all of them, such as --partition, --time and --cpus-per-task.
# After a kill, run it again: what is done is not done again.
set -e
cd {here}
options=("$@")
submit() {{
  sbatch --parsable --ntasks=1 --requeue --kill-on-invalid-dep=yes "$@" "${{options[@]}}" | cut -d ';' -f 1
}}
shared=$(submit --job-name=ard-shared --gpus=1 <<'JOB'
#!/bin/bash
export SRUN_CPUS_PER_TASK=${{SLURM_CPUS_PER_TASK:-1}}
{shared}
JOB
)
cells=$(submit --job-name=ard-cells --gpus=1 --dependency="afterok:$shared" --array=0-{last} <<'JOB'
#!/bin/bash
export SRUN_CPUS_PER_TASK=${{SLURM_CPUS_PER_TASK:-1}}
case $SLURM_ARRAY_TASK_ID in
{cells}
esac
JOB
)
submit --job-name=ard-tables --dependency="afterok:$cells" <<'JOB'
#!/bin/bash
export SRUN_CPUS_PER_TASK=${{SLURM_CPUS_PER_TASK:-1}}
{tables}
JOB
"""


def jobs(
    preset: str = "demo",
    out: Path | None = None,
    seed: int = 0,
    *,
    tables: list[int] = [1, 2, 3, 4],  # noqa: B006
    gpus: int | None = None,
    slurm: bool = False,
    run: dict[str, Any] | None = None,
) -> None:
    """Print a script that fills a run's folder by several processes: what all cells share, the cells, the tables.

    Args:
        preset: a folder of `configs`, or the path of one of your own.
        out: the run's folder, ``runs/<preset>`` if not given.
        seed: seed of the sounds, the SAEs and every draw.
        tables: the tables to make.
        gpus: how many cells are worked on at once, on cards 0 and up; by default as many as this machine has.
        slurm: print a script that hands the jobs to SLURM.
        run: facts that differ from those in the preset's run.yaml, such as ``--run.root /data`` or ``--run.layer 16``.
    """
    if gpus is not None and gpus < 1:
        raise UserError(f"gpus {gpus} is too few: give 1 or more; without a GPU it is the number of processes")
    numbers = [check_table(number) for number in tables]
    agenda = Agenda(preset, table_facts(preset, out, seed, run))
    given = ["--preset", preset, "--out", str(agenda.run.folder), "--seed", str(seed)]
    given += [f"--run.{name}={_spelled(value)}" for name, value in (run or {}).items()]
    starter = ["srun"] if slurm else []

    def job(of: Iterable[int], *options: str) -> str:
        """Return the command line of a job, which makes its part of some tables."""
        ard = [*starter, sys.executable, "-m", "ard", "table"]
        return " && ".join(shlex.join([*ard, str(number), *given, *options]) for number in of)

    work = divided(agenda.facts, numbers)
    cells = [job(of, "--cells", f"{layer}/{expansion}") for (layer, expansion), of in work.cells.items()]
    parts = {
        "out": shlex.quote(str(agenda.run.folder)),
        "here": shlex.quote(os.getcwd()),
        "shared": job([work.shares], "--until", "extract"),
        "tables": job(work.tables),
    }
    if slurm:
        cases = "\n".join(f"{place}) {line} ;;" for place, line in enumerate(cells))
        script = SLURM.format(**parts, cells=cases, last=len(cells) - 1)
    else:
        script = MACHINE.format(**parts, cells="\n".join(cells), gpus=gpus or torch.cuda.device_count() or 1)
    Console().print(script, markup=False, highlight=False, soft_wrap=True, end="")


def _spelled(value: Any) -> str:
    """Return a fact as it is given on a command line."""
    return value if isinstance(value, str) else json.dumps(value)
